"""Memory a run will need, per process and phase, from the models' dimensions. An estimate, said to be one."""

from __future__ import annotations

from dataclasses import dataclass

from distillctl.launch import Plan
from distillctl.machine import ModelShape, model_shape
from distillctl.rollout.process import kv_cache_bytes

_BYTES = {"float32": 4, "bfloat16": 2}
_LOSS_BUFFERS = 8
"""Float32 [chunk, vocabulary] tensors alive at the peak of the chunked loss: two logits, two log-softmax, two
probabilities, their difference, the gradient."""
_ENGINE_BYTES, _RANK_BYTES = 2 << 30, 1 << 30
"""Libraries and code: resident memory of a CPU run of the tiny pair (three engine processes, one rank)."""
_LAYER_ACTIVATIONS = 16
"""Hidden-size vectors kept per token and layer for the backward pass, besides three of the MLP's width."""


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes of one process in one phase."""

    phase: str
    num_bytes: int
    what: str


def memory_estimate(plan: Plan) -> list[Memory]:
    """Peak memory of the rollout engine, of the teacher's forward and the update (per rank), of the push."""
    config, ranks = plan.config, plan.world_size
    student, teacher = model_shape(plan.student), model_shape(plan.teacher)
    size, teacher_size = _BYTES[plan.student_dtype], _BYTES[plan.teacher_dtype]
    weights = student.num_parameters * size
    cache = kv_cache_bytes(student, plan.max_model_len, config.rollout.max_num_seqs)
    held_teacher = teacher.num_parameters * teacher_size // (ranks if config.teacher.shard else 1)
    held_student = _student_state(student, plan)
    micro = config.train.micro_batch_tokens
    per_rank = config.data.train_batch_size * config.rollout.n / ranks
    hidden = int(per_rank * config.data.max_response_length * teacher.hidden_size * teacher_size)
    forward = micro * (2 * teacher.hidden_size + 3 * teacher.intermediate_size) * teacher_size
    logits = _LOSS_BUFFERS * min(config.loss.chunk_size, micro) * student.vocab_size * 4
    head_gradient = student.vocab_size * student.hidden_size * 4
    update = _activations(student, plan) + logits + head_gradient
    base = _RANK_BYTES if plan.device == "cpu" else 0
    engine = Memory("rollout", _ENGINE_BYTES + weights + cache, "engine: processes, weights, KV cache")
    if plan.device == "cuda":
        share = config.rollout.gpu_memory_utilization
        engine = Memory("rollout", weights, f"weights; vLLM takes {share:.0%} of the GPU in all")
    return [
        engine,
        Memory("teacher", base + held_teacher + held_student + forward + hidden, "per rank"),
        Memory("update", base + held_teacher + held_student + hidden + update, "per rank"),
        Memory("sync", weights, "weight buckets in /dev/shm"),
    ]


def _student_state(student: ModelShape, plan: Plan) -> int:
    """Parameters, gradients, AdamW's moments (and float32 masters under bfloat16), as ZeRO shards them."""
    stage, ranks, size = plan.config.zero.stage, plan.world_size, _BYTES[plan.student_dtype]
    count = student.num_parameters
    parameters = count * size // (ranks if stage == 3 else 1)
    gradients = count * size // (ranks if stage >= 2 else 1)
    optimizer = count * (8 if size == 4 else 12) // (ranks if stage >= 1 else 1)
    offload = plan.config.zero.offload
    return (parameters if offload != "all" else 0) + gradients + (0 if offload != "none" else optimizer)


def _activations(student: ModelShape, plan: Plan) -> int:
    """Activations of one micro-batch kept for the backward pass."""
    size, tokens = _BYTES[plan.student_dtype], plan.config.train.micro_batch_tokens
    per_layer = _LAYER_ACTIVATIONS * student.hidden_size + 3 * student.intermediate_size
    if plan.config.student.gradient_checkpointing:
        return tokens * (student.num_layers * student.hidden_size + per_layer) * size
    return tokens * student.num_layers * per_layer * size
