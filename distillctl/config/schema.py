"""The configuration schema: every key with its bounds, its default and its meaning.

Presets, `--dry-run`, `docs/config.md` and the JSON schema all use this package. Leaf names follow verl where
verl has the same setting. `loading.py` reads files and applies overrides. Imports nothing heavy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, field_validator, model_validator

from distillctl.config.guards import GuardsConfig
from distillctl.config.loss import LossConfig, RewardConfig
from distillctl.config.models import RoutedTeacher, StudentConfig, TeacherConfig, teacher_section
from distillctl.config.section import Fraction, OneOrMore, Section
from distillctl.data_types import DEFAULT_TEACHER
from distillctl.monitor.trackers import TRACKERS

__all__ = [
    "DEFAULT_TEACHER", "MIN_TEMPERATURE", "CheckpointConfig", "Config", "DataConfig", "EvalConfig",
    "GuardsConfig", "LossConfig", "OptimConfig", "RewardConfig", "RolloutConfig", "RoutedTeacher",
    "SamplesConfig", "StudentConfig", "TeacherConfig", "TrainConfig", "ZeroConfig", "teacher_section",
]  # fmt: skip
if TYPE_CHECKING:
    TrackerName = str
else:
    TrackerName = Literal[tuple(TRACKERS)]


class DataConfig(Section):
    """Prompts: parquet files in verl's schema, as `distillctl prep` writes them."""

    train_files: Annotated[list[str], OneOrMore] = Field(min_length=1)
    """Parquet (or .jsonl) files with a `prompt` column: text or a chat, see `docs/data.md`. A file may be
    repeated, which shows its prompts more often."""
    val_files: Annotated[list[str], OneOrMore] = Field(default=[])
    """Files for `eval.every`, and for `distillctl eval` without `--data`. Each file may stand here once. A
    training file may be listed several times, which shows its prompts as often."""
    max_prompt_length: int = Field(default=512, ge=1)
    """Tokens. Longer prompts are left out; a warning says how many."""
    max_response_length: int = Field(default=512, ge=1)
    """Tokens. A longer response is cut here, with `finish_reason` `length`."""
    train_batch_size: int = Field(default=128, ge=1)
    """Prompts per optimizer step, over all ranks."""
    seed: int = Field(default=0, ge=0, lt=2**31)
    """Seed of the order of the prompts and of every sampled token."""
    teacher_key: str = "data_source"
    """Column of the data that chooses among several `teachers`."""


MIN_TEMPERATURE = 0.01
"""vLLM silently samples at this temperature when it is asked for a lower one, except 0, which is greedy."""


class RolloutConfig(Section):
    """How the student's responses are sampled, and the vLLM engine that samples them."""

    n: int = Field(default=1, ge=1)
    """Responses per prompt."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Sampling temperature, at least 0.01 (vLLM's lowest). At 1.0 the samples come from the distribution that
    is trained."""
    top_p: Fraction = 1.0
    """Nucleus sampling. Below 1.0 the samples no longer come from the student's whole distribution."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Most sequences that the engine decodes at the same time."""
    gpu_memory_utilization: Fraction = 0.4
    """Share of a GPU's memory that the engine may take for weights and KV cache. Without effect on a CPU."""
    gpus: list[int] | None = None
    """GPUs of the engine, which is tensor-parallel over all of them. They are counted from 0 among the
    visible ones; null means GPU 0. Without effect on a CPU."""
    enforce_eager: bool = True
    """`false` lets vLLM compile the model and capture CUDA graphs: a slower start and faster decoding.
    Without effect on a CPU."""
    max_restarts: int = Field(default=3, ge=0)
    """How many times the run restarts an engine that dies or hangs, before the run fails."""
    timeout_s: float = Field(default=300.0, gt=0.0)
    """Seconds without a report after which the engine counts as hung. The engine reports while it decodes."""

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
    """Steps of linear warm-up. Step k has k / warmup_steps of the peak rate, so the first one is not zero."""
    schedule: Literal["constant", "linear", "cosine"] = "constant"
    """Schedule after the warm-up. `linear` and `cosine` reach zero after the last step."""
    weight_decay: float = Field(default=0.0, ge=0.0)
    """Decoupled weight decay of matrices and embeddings; biases and norm weights do not decay."""
    betas: tuple[Annotated[float, Field(ge=0.0, lt=1.0)], Annotated[float, Field(ge=0.0, lt=1.0)]] = (
        0.9,
        0.999,
    )
    """AdamW's decay rates of the first and second moment."""
    clip_grad: float = Field(default=1.0, gt=0.0)
    """Gradients are scaled down to this global norm where theirs is larger."""


class ZeroConfig(Section):
    """DeepSpeed ZeRO."""

    stage: Literal[0, 1, 2, 3] = 3
    """What is sharded over the ranks: 0 nothing; 1 optimizer state; 2 also gradients; 3 also parameters."""
    offload: Literal["none", "optimizer", "all"] = "none"
    """Keep the optimizer state (`optimizer`), or the parameters too (`all`, with stage 3), in CPU memory.
    Without effect on a CPU."""


class TrainConfig(Section):
    """Length of the run, and how its work is divided."""

    steps: int | None = Field(default=None, ge=1)
    """Optimizer steps; give either this or `train.epochs`."""
    epochs: int | None = Field(default=None, ge=1)
    """Passes over the training prompts; give either this or `train.steps`. The last batch is filled up from
    another pass."""
    micro_batch_tokens: int = Field(default=16384, ge=1)
    """Most tokens in one micro-batch: one forward and backward pass of a rank."""
    world_size: int | None = Field(default=None, ge=1)
    """Number of ranks; null means one per visible GPU, or one on a CPU."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """`auto` uses GPUs where any are visible."""
    async_depth: Literal[0, 1] = 0
    """With 1 the engine samples the next batch while the ranks train on this one, from weights that are one
    optimizer step older (one-step-off). This is faster where the engine has GPUs of its own (`rollout.gpus`).
    A run that is resumed, or loses its engine, then does not repeat bit for bit."""
    logger: Annotated[list[TrackerName], OneOrMore] = Field(default=[])
    """Trackers that receive the metrics besides `events.jsonl`. One whose package does not come with Python
    needs the extra of the same name."""

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("give exactly one of train.steps and train.epochs")
        return self


class CheckpointConfig(Section):
    """Checkpoints. One is always written after the last step."""

    every: int = Field(default=0, ge=0)
    """Steps between checkpoints; 0 writes only the last one."""
    keep: int = Field(default=2, ge=1)
    """How many of the newest checkpoints are kept."""
    best: bool = False
    """Also write and keep a checkpoint at the evaluation with the highest accuracy (`eval.every`), for
    `distillctl eval --checkpoint RUN@best`."""
    grace_s: float | None = Field(default=None, gt=0.0)
    """Seconds that a run may take to write a checkpoint after SIGINT, SIGTERM or SIGHUP. After that its
    processes are killed, and the run resumes from the checkpoint before. Set it below the time after which a
    scheduler sends SIGKILL (Slurm's KillWait: 30 s). null waits as long as it takes."""


class EvalConfig(Section):
    """Evaluations during training: greedy accuracy on `data.val_files`, with the engine of the run."""

    every: int = Field(default=0, ge=0)
    """Steps between evaluations; 0 means none."""
    limit: int | None = Field(default=None, ge=1)
    """Evaluate on the first rows of the validation data only; null means all rows."""


class SamplesConfig(Section):
    """Rollouts saved in `samples/` of the run directory."""

    every: int = Field(default=10, ge=1)
    """Steps between saved batches. The first and the last step are always saved."""


class Config(Section):
    """A whole run."""

    student: StudentConfig
    teacher: TeacherConfig
    teachers: dict[str, RoutedTeacher] = Field(default={})
    """More teachers by name, each with the keys of `teacher` and a `key`. `teacher` scores all other rows."""
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
            raise ValueError(f"teachers: two teachers claim the same rows ({', '.join(routes)})")

    @property
    def all_teachers(self) -> dict[str, TeacherConfig]:
        """`teacher` under the name `default`, and all of `teachers`."""
        return {DEFAULT_TEACHER: self.teacher, **self.teachers}

    def num_steps(self, num_prompts: int) -> int:
        """Number of optimizer steps of a run with `num_prompts` training prompts.

        With `train.epochs`, it is the smallest number of whole batches that shows each prompt that often. The
        last batch may reach into another pass.
        """
        if self.train.steps is not None:
            return self.train.steps
        assert self.train.epochs is not None
        return -(-self.train.epochs * num_prompts // self.data.train_batch_size)

    @property
    def max_length(self) -> int:
        """Longest sequence in tokens, prompt and response together."""
        return self.data.max_prompt_length + self.data.max_response_length
