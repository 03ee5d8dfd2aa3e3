"""The one configuration schema: every key, its bounds, its default and what it means.

Presets, `--dry-run`, `docs/config.md` and the JSON schema all come from this package. Leaf names follow verl
where it has one. Reading files and applying overrides is `loading.py`. Imports nothing heavy.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from distillctl.config.guards import GuardsConfig
from distillctl.config.loss import LossConfig, RewardConfig
from distillctl.config.models import (
    DEFAULT_TEACHER,
    RoutedTeacher,
    StudentConfig,
    TeacherConfig,
    teacher_section,
)
from distillctl.config.section import Fraction, OneOrMore, Section

__all__ = [
    "DEFAULT_TEACHER", "MIN_TEMPERATURE", "CheckpointConfig", "Config", "DataConfig", "EvalConfig",
    "GuardsConfig", "LossConfig", "OptimConfig", "RewardConfig", "RolloutConfig", "RoutedTeacher",
    "SamplesConfig", "StudentConfig", "TeacherConfig", "TrainConfig", "ZeroConfig", "teacher_section",
]  # fmt: skip


class DataConfig(Section):
    """Prompts: parquet files in verl's schema, as `distillctl prep` writes them."""

    train_files: Annotated[list[str], OneOrMore] = Field(min_length=1)
    """Parquet (or .jsonl) files with a `prompt` column: text or a chat, see `docs/data.md`."""
    val_files: Annotated[list[str], OneOrMore] = Field(default=[])
    """Files for `eval.every` and for `distillctl eval` without `--data`, each once: two names of one file are
    refused. A training file may be repeated, which shows its prompts more often."""
    max_prompt_length: int = Field(default=512, ge=1)
    """Tokens; longer prompts are left out and counted in a warning."""
    max_response_length: int = Field(default=512, ge=1)
    """Tokens; a response is cut here (`finish_reason` is then `length`)."""
    train_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step, over all ranks."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seeds the order of the prompts and every sampled token."""
    teacher_key: str = "data_source"
    """Column that chooses between several `teachers`."""


MIN_TEMPERATURE = 0.01
"""vLLM silently samples at this temperature where a lower one is asked for (0 alone is greedy)."""


class RolloutConfig(Section):
    """How the student's answers are sampled, and the vLLM engine that does it."""

    n: int = Field(default=1, ge=1)
    """Answers per prompt."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Sampling temperature, at least 0.01, vLLM's lowest; 1.0 samples from the distribution that is
    trained."""
    top_p: Fraction = 1.0
    """Nucleus sampling; below 1.0 the samples are no longer the student's own distribution."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Sequences the engine decodes at the same time."""
    gpu_memory_utilization: Fraction = 0.4
    """Share of a GPU's memory the engine may take (weights and KV cache); unused on a CPU."""
    gpus: list[int] | None = None
    """GPUs of the engine, tensor-parallel over all of them, counted among the visible ones; null is GPU 0.
    Unused on a CPU."""
    enforce_eager: bool = True
    """False lets vLLM compile and capture graphs: slower start, faster decoding on a GPU. Unused on a CPU."""
    max_restarts: int = Field(default=3, ge=0)
    """How often an engine that dies or hangs is started anew before the run fails."""
    timeout_s: float = Field(default=300.0, gt=0.0)
    """Longest silence of the engine in seconds, after which it counts as hung; it reports as it decodes."""

    @field_validator("temperature")
    @classmethod
    def _is_sampled_at(cls, value: float) -> float:
        if value < MIN_TEMPERATURE:
            raise ValueError(f"{value:g} would be sampled at {MIN_TEMPERATURE}, vLLM's lowest temperature")
        return value


class OptimConfig(Section):
    """AdamW and its schedule."""

    lr: float = Field(default=1e-5, gt=0.0)
    """Peak learning rate."""
    warmup_steps: int = Field(default=0, ge=0)
    """Linear warm-up; step k of it runs at k / warmup_steps of the peak, so the first step is not zero."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """What follows the warm-up; `linear` and `cosine` fall to zero after the last step."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay, of matrices (embeddings too); biases and the weights of norms do not decay."""
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
    """Keep the optimizer state (`optimizer`) or also the parameters (`all`, stage 3) in host memory.
    Unused on a CPU."""


class TrainConfig(Section):
    """Length of the run and how it is split."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; give either this or `train.epochs`."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the training prompts; give either this or `train.steps`. The last batch is filled from the
    next pass."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Most tokens in one forward and backward pass of a rank."""
    world_size: int | None = Field(default=None, ge=1)
    """Ranks; null is one per visible GPU, or one on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` takes the GPUs when any are visible."""
    async_depth: Literal[0, 1] = 0
    """1: the engine samples the next batch while the ranks train on this one, from weights that are one
    optimizer step older (one-step-off). Faster where the engine has GPUs of its own (`rollout.gpus`); a run
    that is resumed or loses its engine does not repeat bit for bit."""
    logger: Annotated[list[Literal["tensorboard", "wandb", "trackio"]], OneOrMore] = Field(default=[])
    """Where the numbers go live besides `events.jsonl`; each needs the extra of its name."""

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
    best: bool = False
    """Also write and keep the checkpoint of the evaluation with the highest accuracy (`eval.every`), for
    `distillctl eval --checkpoint RUN@best`."""
    grace_s: float | None = Field(default=None, gt=0.0)
    """Seconds that a run may take to checkpoint after SIGINT, SIGTERM or SIGHUP; then its processes are
    killed, and it can be resumed from the checkpoint before. Set it below the time after which a scheduler
    sends SIGKILL (Slurm's KillWait: 30 s); null waits."""


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
    teachers: dict[str, RoutedTeacher] = Field(default={})
    """More teachers by name, each with the keys of `teacher` and `key`; rows that none of them claims go to
    `teacher`."""
    data: DataConfig
    rollout: RolloutConfig = RolloutConfig()
    loss: LossConfig = LossConfig()
    reward: RewardConfig = RewardConfig()
    optim: OptimConfig = OptimConfig()
    zero: ZeroConfig = ZeroConfig()
    train: TrainConfig
    checkpoint: CheckpointConfig = CheckpointConfig()
    eval: EvalConfig = EvalConfig()
    samples: SamplesConfig = SamplesConfig()
    guards: GuardsConfig = GuardsConfig()

    @model_validator(mode="after")
    def _consistent(self) -> Config:
        if self.eval.every and not self.data.val_files:
            raise ValueError("eval.every needs data.val_files")
        if self.zero.offload == "all" and self.zero.stage != 3:
            raise ValueError("zero.offload=all needs zero.stage=3")
        if self.zero.offload != "none" and self.zero.stage == 0:
            raise ValueError("zero.offload needs zero.stage 1 to 3")
        if self.reward.path is not None and self.rollout.n < 2:
            raise ValueError("reward.path needs rollout.n of 2 or more: advantages are relative to the group")
        self._check_teachers()
        return self

    def _check_teachers(self) -> None:
        if DEFAULT_TEACHER in self.teachers:
            raise ValueError(f"teachers.{DEFAULT_TEACHER}: that name stands for `teacher` itself")
        routes = [teacher.key or name for name, teacher in self.teachers.items()]
        if len(set(routes)) < len(routes):
            raise ValueError(f"teachers: two of them claim the same rows ({', '.join(routes)})")

    @property
    def all_teachers(self) -> dict[str, TeacherConfig]:
        """`teacher` under the name `default`, and all of `teachers`."""
        return {DEFAULT_TEACHER: self.teacher, **self.teachers}

    def num_steps(self, num_prompts: int) -> int:
        """Optimizer steps of the run on so many prompts.

        With `train.epochs` these are as few whole batches as show each prompt that often; the last one may
        reach into the next pass.
        """
        if self.train.steps is not None:
            return self.train.steps
        assert self.train.epochs is not None
        return -(-self.train.epochs * num_prompts // self.data.train_batch_size)

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens, prompt and response together."""
        return self.data.max_prompt_length + self.data.max_response_length
