"""The objective and the task reward."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from distillctl.config.divergence_files import OTHER_KINDS, require_names
from distillctl.config.section import Fraction, Scores, Section
from distillctl.objective.divergences import NAMES

require_names(NAMES)
if TYPE_CHECKING:
    Divergence = str
    LossKind = str
else:  # the names are those of the modules in `divergences`, which a type checker cannot know
    Divergence = Literal[NAMES]
    LossKind = Literal[(*NAMES, *OTHER_KINDS)]
KlLossType = Literal[
    "kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3",
    "kl+", "k1+", "abs+", "mse+", "k2+", "low_var_kl+", "k3+",
]  # fmt: skip
Aggregation = Literal[
    "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"
]


class LossConfig(Section):
    """The objective; `docs/objectives.md` has formulas, gradients and when to use which."""

    kind: LossKind | None = "reverse_kl"
    """What the student minimises at each token. A divergence (`reverse_kl`, `forward_kl`, `jsd`, ...) is
    exact, over the full vocabulary. `topk` takes a divergence over the teacher's most likely tokens and one
    bucket for all others. `student_topk` is exact on the student's most likely tokens and estimates the rest
    from the sampled token. `sampled` uses the sampled token alone. null with `loss.path`."""
    path: str | None = None
    """Your own loss in place of `loss.kind`: `FILE.py` or `FILE.py:NAME`, a function `(student_log_p,
    teacher_log_p) -> per_token` on float32 tensors [N, V] that returns [N]; torch differentiates it. The file
    is executed: name only files that you trust. See `docs/extending.md`."""
    beta: float = Field(default=0.5, ge=0.0, le=1.0)
    """Weight beta of `jsd`, the generalised Jensen-Shannon divergence: 0 is the forward KL, 1 the reverse
    KL."""
    topk: int = Field(default=64, ge=1)
    """Number K of tokens that `topk` takes from the teacher and `student_topk` from the student."""
    topk_divergence: Divergence = "forward_kl"
    """The divergence that `topk` takes over its K + 1 buckets."""
    kl_loss_type: KlLossType | None = None
    """KL estimator of `sampled`, under verl's names; null means `k3+`, or `k1` with
    `update=policy_gradient`."""
    update: Literal["supervised", "policy_gradient"] = "supervised"
    """How `sampled` learns: `supervised` differentiates the estimator; `policy_gradient` takes
    -(log q - log p) as the advantage of each token."""
    clip_ratio: float = Field(default=0.2, gt=0.0, lt=1.0)
    """PPO clip range e of policy gradients: the importance ratio is clipped to [1 - e, 1 + e]."""
    kl_loss_coef: float = Field(default=1.0, ge=0.0)
    """Coefficient of the divergence, or of the loss in `loss.path`."""
    entropy_coeff: float = Field(default=0.0, ge=0.0)
    """Coefficient of the entropy bonus: the student's exact entropy times this is subtracted from the
    loss."""
    sft_coef: float = Field(default=0.0, ge=0.0)
    """Coefficient of the cross-entropy on the data's reference answers (`extra_info.answer`, or the
    assistant turn that ends a chat)."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Softmax temperature of the loss: the logits of student and teacher are divided by it."""
    aggregate: Aggregation = "token-mean"
    """How token losses are averaged or summed, always over the global batch; verl's `loss_agg_mode`."""
    loss_scale_factor: float | None = Field(default=None, gt=0.0)
    """Divisor of `seq-mean-token-sum-norm`; null means `data.max_response_length`."""
    token_fraction: Fraction = 1.0
    """Train on this first part of each response only; the rest is neither scored nor trained on."""
    max_clamp: float | None = Field(default=None, gt=0.0)
    """Clip the divergence of a token to [-max_clamp, max_clamp]; a token beyond has no gradient."""
    chunk_size: int | None = Field(default=None, ge=1)
    """Response tokens whose logits are in memory at the same time. It limits the memory of the loss and does
    not change its value; null means as many tokens as give 128 MiB of float32 logits."""

    @property
    def estimator(self) -> KlLossType:
        """`kl_loss_type` with its default filled in."""
        if self.kl_loss_type is not None:
            return self.kl_loss_type
        return "k1" if self.policy_gradient else "k3+"

    @property
    def policy_gradient(self) -> bool:
        """Whether `sampled` learns by a policy gradient."""
        return self.update == "policy_gradient"

    @property
    def needs(self) -> Scores:
        """The scores that the loss needs for each token. `TeacherConfig.gives` is the counterpart."""
        if self.kind == "topk":
            return "listed tokens"
        if self.kind == "student_topk":
            return "chosen tokens"
        return "sampled token" if self.kind == "sampled" else "whole distribution"

    @property
    def num_listed(self) -> int:
        """Number of tokens per position that a served teacher is asked for, besides the sampled token."""
        return self.topk if self.needs in ("listed tokens", "chosen tokens") else 0

    @property
    def label(self) -> str:
        """The key and value that choose the loss: `loss.kind=KIND` or `loss.path=FILE`."""
        return f"loss.kind={self.kind}" if self.path is None else f"loss.path={self.path}"

    @model_validator(mode="before")
    @classmethod
    def _path_takes_the_place_of_kind(cls, value: Any) -> Any:
        if isinstance(value, dict) and value.get("path") is not None:
            return {"kind": None, **value}
        return value

    @model_validator(mode="after")
    def _is_one_loss(self) -> LossConfig:
        if (self.kind is None) == (self.path is None):
            raise ValueError("give exactly one of loss.kind and loss.path")
        return self

    @model_validator(mode="after")
    def _has_a_gradient(self) -> LossConfig:
        is_k1 = self.estimator in ("k1", "kl")
        if self.kind != "sampled":
            if self.kl_loss_type is not None:
                raise ValueError(f"kl_loss_type={self.kl_loss_type} needs kind=sampled, not {self.label}")
            if self.policy_gradient:
                raise ValueError("update=policy_gradient needs kind=sampled")
        elif self.policy_gradient and not is_k1:
            raise ValueError(
                f"update=policy_gradient takes k1 as its reward. With {self.estimator} the expected "
                "gradient is not that of any divergence: use kl_loss_type=k1"
            )
        elif is_k1 and not self.policy_gradient:
            raise ValueError(
                f"{self.estimator} as a loss trains nothing: its expected gradient is zero. Use "
                "kl_loss_type=k3+ (same value, gradient of the reverse KL) or update=policy_gradient"
            )
        return self


class RewardConfig(Section):
    """A task reward besides the divergence, trained by a policy gradient; off by default."""

    path: str | None = None
    """Python file with the reward function. The file is executed: name only files that you trust."""
    name: str = "compute_score"
    """Name of the function in that file. It is called as `(data_source, solution_str, ground_truth,
    extra_info=None, **kwargs)` and returns a number, or a dict with a number as `score`."""
