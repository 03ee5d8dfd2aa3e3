"""The one configuration schema: every key, its bounds, its default and what it means.

Presets, `--dry-run`, `docs/config.md` and the JSON schema all come from this module. Leaf names follow verl
where it has one. Reading files and applying overrides is `presets.py`. Imports nothing heavy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Dtype = Literal["auto", "float32", "bfloat16"]
Fraction = Annotated[float, Field(gt=0.0, le=1.0)]


class Section(BaseModel):
    """A frozen group of keys; unknown keys and NaN are errors."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        coerce_numbers_to_str=True,
        use_attribute_docstrings=True,
    )


class StudentConfig(Section):
    """The model that is trained."""

    model: str
    """Model directory, hub id, or `builtin:NAME` for a model shipped with distillctl."""
    dtype: Dtype = "auto"
    """Compute precision; `auto` is float32 on a CPU and bfloat16 (with float32 master weights) on a GPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""


class TeacherConfig(Section):
    """The frozen model whose distribution is matched."""

    model: str
    """Model directory, hub id, or `builtin:NAME`. Its tokenizer must agree with the student's id by id."""
    dtype: Dtype = "auto"
    """Precision of the teacher's forward pass; `auto` as for the student."""
    shard: bool = False
    """Shard the teacher over the ranks with ZeRO-3 instead of a copy on each: less memory, more traffic."""


class DataConfig(Section):
    """Prompts: parquet files in verl's schema, as `distillctl prep` writes them."""

    train_files: list[str] = Field(min_length=1)
    """Parquet (or .jsonl) files with a `prompt` column of chat messages."""
    val_files: list[str] = []
    """Files for `eval.every` and for `distillctl eval` without `--data`."""
    max_prompt_length: int = Field(default=512, ge=1)
    """Tokens; longer prompts are left out and counted in a warning."""
    max_response_length: int = Field(default=512, ge=1)
    """Tokens; a response is cut here (`finish_reason` is then `length`)."""
    train_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step, over all ranks."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the order of the prompts and every sampled token."""


class RolloutConfig(Section):
    """How the student's answers are sampled, and the vLLM engine that does it."""

    n: int = Field(default=1, ge=1)
    """Answers per prompt."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Sampling temperature; 1.0 samples from the distribution that is trained."""
    top_p: Fraction = 1.0
    """Nucleus sampling; below 1.0 the samples are no longer the student's own distribution."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences the engine decodes at the same time."""
    gpu_memory_utilization: Fraction = 0.4
    """Share of a GPU's memory the engine may take (weights and KV cache); unused on a CPU."""
    gpus: list[int] | None = None
    """GPUs of the engine, tensor-parallel over all of them; null is GPU 0. Unused on a CPU."""
    enforce_eager: bool = True
    """False lets vLLM compile and capture graphs: slower start, faster decoding on a GPU."""


class LossConfig(Section):
    """The objective."""

    kind: Literal["reverse_kl"] = "reverse_kl"
    """`reverse_kl`: exact full-vocabulary KL(student || teacher) per response token."""
    kl_loss_coef: float = Field(default=1.0, ge=0.0)
    """Weight of the KL term."""
    entropy_coeff: float = Field(default=0.0, ge=0.0)
    """Weight of the student's exact entropy, subtracted from the loss (an exploration bonus)."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Divides the logits of both models before the softmax."""
    aggregate: Literal["token-mean"] = "token-mean"
    """Mean over all response tokens of the global batch."""
    chunk_size: int = Field(default=1024, ge=1)
    """Response tokens whose logits exist at the same time; bounds the loss's memory, not its value."""


class OptimConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-5, gt=0.0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Linear warm-up; step k of it runs at k / warmup_steps of the peak, so the first step is not zero."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up; `linear` and `cosine` fall to zero after the last step."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (
        0.9,
        0.999,
    )
    """AdamW's moment decay rates."""
    clip_grad: float = Field(default=1.0, gt=0.0)
    """Largest global gradient norm."""


class ZeroConfig(Section):
    """DeepSpeed ZeRO."""

    stage: Literal[0, 1, 2, 3] = 3
    """What is sharded over the ranks: 0 nothing, 1 optimizer, 2 and gradients, 3 and parameters."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Keep the optimizer state (`optimizer`) or also the parameters (`all`, stage 3) in host memory."""


class TrainConfig(Section):
    """Length of the run and how it is split."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; give either this or `train.epochs`."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the training prompts; give either this or `train.steps`."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Most tokens (padding included) in one forward and backward pass of a rank."""
    world_size: int | None = Field(default=None, ge=1)
    """Ranks; null is one per GPU, or one on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPUs when there are any."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        return self


class CheckpointConfig(Section):
    """Checkpoints: one is always written after the last step."""

    every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 writes only the last."""
    keep: int = Field(default=2, ge=1)
    """Newest checkpoints kept."""


class EvalConfig(Section):
    """Greedy accuracy on `data.val_files` during training, with the engine already in memory."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 turns them off."""
    limit: int | None = Field(default=None, ge=1)
    """First rows of the validation data only; null is all."""


class SamplesConfig(Section):
    """Saved rollouts, see `samples/` in the run directory."""

    every: int = Field(default=10, ge=1)
    """Steps between saved batches; the first and the last step are always saved."""


class Config(Section):
    """A whole run."""

    student: StudentConfig
    teacher: TeacherConfig
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    loss: LossConfig = LossConfig()
    optim: OptimConfig = OptimConfig()
    zero: ZeroConfig = ZeroConfig()
    train: TrainConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    samples: SamplesConfig = SamplesConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.eval.every and not self.data.val_files:
            raise ValueError("eval.every needs data.val_files")
        if self.zero.offload == "all" and self.zero.stage != 3:
            raise ValueError("zero.offload=all needs zero.stage=3")
        if self.zero.offload != "none" and self.zero.stage == 0:
            raise ValueError("zero.offload needs zero.stage 1 to 3")
        return self

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens, prompt and response together."""
        return self.data.max_prompt_length + self.data.max_response_length
