"""An estimate of the memory that a run needs, per process and phase, from the models' dimensions."""

from __future__ import annotations

from dataclasses import dataclass

from distillctl.launch.plan import Plan
from distillctl.models.architecture import ModelShape
from distillctl.rollout.start import kv_cache_bytes
from distillctl.teacher.server import MAX_BATCHED_TOKENS, MAX_NUM_SEQS

DTYPE_BYTES = {"float32": 4, "bfloat16": 2}
"""Bytes of one value of a model's weights."""
_QUANTIZED_BYTES = {"int8": 1.0, "int4": 0.5}
_LOSS_BUFFERS = 8
"""Float32 [chunk, vocabulary] tensors alive at the peak of the chunked loss: two of logits, two of
log-softmax, two of probabilities, their difference, and the gradient."""
_CHUNK_BYTES = 128 << 20
"""Size of one float32 [chunk, vocabulary] tensor when `loss.chunk_size` is null."""
_ENGINE_BYTES = 1 << 30
_SERVER_BYTES = 2 << 30
_RANK_BYTES = 1 << 30
"""Libraries and code: resident memory of the rollout engine, a teacher server (three processes) and a rank in
a CPU run of the tiny pair."""
_LAYER_ACTIVATIONS = 16
"""Vectors of the hidden size kept per token and layer for the backward pass, besides three of MLP width."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process in one phase."""

    phase: str
    num_bytes: int
    what: str


@dataclass(frozen=True, slots=True)
class _Teachers:
    """Bytes of each rank's memory that the teachers in the ranks take."""

    scoring: int
    """While a teacher scores: weights, and activations of its forward pass."""
    held: int
    """During the update: the weights that stay."""
    hidden: int
    """Hidden states of the rank's share of the batch."""


def memory_estimate(plan: Plan) -> list[Memory]:
    """Peak memory of each phase.

    The phases are rollout, teacher servers (on a CPU), the teachers' forward pass and the update (both per
    rank), and the push of weights.
    """
    config = plan.config
    student = plan.student.shape
    weights = student.num_parameters * DTYPE_BYTES[plan.student_dtype]
    cache = kv_cache_bytes(student, plan.max_model_len, config.rollout.max_num_seqs)
    teachers = _local_teachers(plan)
    student_state = _student_state(student, plan)
    head_gradient = student.vocab_size * student.hidden_size * 4
    update = _activations(student, plan) + _loss_buffers(student, plan) + head_gradient
    base = _RANK_BYTES if plan.device == "cpu" else 0
    engine = Memory("rollout", _ENGINE_BYTES + weights + cache, "engine: libraries, weights, KV cache")
    if plan.device == "cuda":
        share = config.rollout.gpu_memory_utilization
        engine = Memory("rollout", weights, f"weights; vLLM takes {share:.0%} of the GPU in all")
    return [
        engine,
        *_servers(plan),
        Memory("teacher", base + student_state + teachers.scoring + teachers.hidden, "per rank"),
        Memory("update", base + student_state + teachers.held + teachers.hidden + update, "per rank"),
        Memory("sync", weights, "weight buckets in /dev/shm"),
    ]


def _local_teachers(plan: Plan) -> _Teachers:
    """The teachers in the ranks. All weights stay on a rank's device, but of an offloaded teacher only the LM
    head while it does not score."""
    config = plan.config
    ranks = plan.world_size
    rows = int(config.data.train_batch_size * config.rollout.n / ranks * config.data.max_response_length)
    held = 0
    extra = [0]
    hidden = [0]
    for name, teacher in config.all_teachers.items():
        if teacher.is_served:
            continue
        job = plan.teachers[name]
        shape = job.model.shape
        size = DTYPE_BYTES[job.dtype]
        per_parameter = _QUANTIZED_BYTES.get(teacher.quantization, size)
        weights = int(shape.num_parameters * per_parameter) // (ranks if teacher.shard else 1)
        head = shape.vocab_size * shape.hidden_size * size
        resident = head if teacher.offload == "cpu" else weights
        forward = (
            config.train.micro_batch_tokens * (2 * shape.hidden_size + 3 * shape.intermediate_size) * size
        )
        held += resident
        extra.append(max(0, weights - resident) + forward)
        hidden.append(rows * shape.hidden_size * size)
    return _Teachers(scoring=held + max(extra), held=held, hidden=max(hidden))


def _servers(plan: Plan) -> list[Memory]:
    """All teacher servers of the run together. Servers on GPUs are left out: they share no GPU."""
    if plan.device == "cuda" or not plan.served:
        return []
    total = 0
    length = plan.config.max_length + 1
    for name in plan.served:
        job = plan.teachers[name]
        shape = job.model.shape
        logits = min(length, MAX_BATCHED_TOKENS) * shape.vocab_size * (DTYPE_BYTES[job.dtype] + 4)
        total += _SERVER_BYTES + shape.num_parameters * DTYPE_BYTES[job.dtype] + logits
        total += kv_cache_bytes(shape, length, MAX_NUM_SEQS)
    return [Memory("teacher server", total, f"{len(plan.served)}: processes, weights, KV cache, logits")]


def _loss_buffers(student: ModelShape, plan: Plan) -> int:
    """Tensors of one chunk of the loss."""
    tokens = plan.config.train.micro_batch_tokens
    chunk = plan.config.loss.chunk_size
    row = student.vocab_size * 4
    return _LOSS_BUFFERS * min(_CHUNK_BYTES if chunk is None else chunk * row, tokens * row)


def _student_state(student: ModelShape, plan: Plan) -> int:
    """Parameters, gradients, AdamW's moments (and float32 masters under bfloat16), as ZeRO shards them."""
    stage = plan.config.zero.stage
    ranks = plan.world_size
    size = DTYPE_BYTES[plan.student_dtype]
    count = student.num_parameters
    parameters = count * size // (ranks if stage == 3 else 1)
    gradients = count * size // (ranks if stage >= 2 else 1)
    optimizer = count * (8 if size == 4 else 12) // (ranks if stage >= 1 else 1)
    offload = plan.config.zero.offload
    return (parameters if offload != "all" else 0) + gradients + (0 if offload != "none" else optimizer)


def _activations(student: ModelShape, plan: Plan) -> int:
    """Activations of one micro-batch kept for the backward pass."""
    size = DTYPE_BYTES[plan.student_dtype]
    tokens = plan.config.train.micro_batch_tokens
    per_layer = _LAYER_ACTIVATIONS * student.hidden_size + 3 * student.intermediate_size
    if plan.config.student.gradient_checkpointing:
        return tokens * (student.num_layers * student.hidden_size + per_layer) * size
    return tokens * student.num_layers * per_layer * size
