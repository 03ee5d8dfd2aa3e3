"""The objective and the task reward."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from distillctl.config.section import Fraction, Section

Divergence = Literal["reverse_kl", "forward_kl", "jsd"]
LossKind = Literal["reverse_kl", "forward_kl", "jsd", "sampled", "topk", "student_topk"]
KlLossType = Literal[
    "kl", "k1", "abs", "mse", "k2", "low_var_kl", "k3",
    "kl+", "k1+", "abs+", "mse+", "k2+", "low_var_kl+", "k3+",
]  # fmt: skip
Aggregation = Literal[
    "token-mean", "token-sum", "seq-mean-token-sum", "seq-mean-token-sum-norm", "seq-mean-token-mean"
]


class LossConfig(Section):
    """The objective; `docs/objectives.md` has formulas, gradients and when to use which."""

    kind: LossKind = "reverse_kl"
    """`reverse_kl`, `forward_kl`, `jsd`: exact, over the full vocabulary; `topk`: the teacher's most likely
    tokens and one bucket for the rest; `student_topk`: the student's most likely tokens exactly and the rest
    by the sampled token; `sampled`: the sampled token alone."""
    beta: float = Field(default=0.5, ge=0.0, le=1.0)
    """Of the generalised Jensen-Shannon divergence: 0 is the forward KL, 1 the reverse KL."""
    topk: int = Field(default=64, ge=1)
    """Tokens of `topk` and `student_topk`."""
    topk_divergence: Divergence = "forward_kl"
    """Divergence that `topk` takes over its `topk` + 1 buckets."""
    kl_loss_type: KlLossType | None = None
    """Estimator of `sampled`, by verl's names; null is `k3+` (`k1` under `policy_gradient`)."""
    update: Literal["supervised", "policy_gradient"] = "supervised"
    """How `sampled` learns: differentiate the estimator, or take -(log q - log p) as a token's advantage."""
    clip_ratio: float = Field(default=0.2, gt=0.0, lt=1.0)
    """Of policy gradients: the importance ratio counts up to 1 +- this."""
    kl_loss_coef: float = Field(default=1.0, ge=0.0)
    """Weight of the divergence."""
    entropy_coeff: float = Field(default=0.0, ge=0.0)
    """Weight of the student's exact entropy, subtracted from the loss (an exploration bonus)."""
    sft_coef: float = Field(default=0.0, ge=0.0)
    """Weight of the cross-entropy on the data's reference answers (`extra_info.answer`, or the assistant's
    turn that a chat ends with)."""
    temperature: float = Field(default=1.0, gt=0.0, le=10.0)
    """Divides the logits of both models before the softmax."""
    aggregate: Aggregation = "token-mean"
    """How token losses become one number, always over the global batch; verl's `loss_agg_mode`."""
    loss_scale_factor: float | None = Field(default=None, gt=0.0)
    """Divisor of `seq-mean-token-sum-norm`; null is `data.max_response_length`."""
    token_fraction: Fraction = 1.0
    """Train on the first part of each response only; the rest is not computed at all."""
    max_clamp: float | None = Field(default=None, gt=0.0)
    """Bound on the divergence of one token; beyond it the token has no gradient."""
    chunk_size: int | None = Field(default=None, ge=1)
    """Response tokens whose logits exist at the same time; bounds the loss's memory, not its value. null is
    as many as make 128 MiB of float32 logits."""

    @property
    def estimator(self) -> KlLossType:
        """`kl_loss_type` with its default filled in."""
        if self.kl_loss_type is not None:
            return self.kl_loss_type
        return "k1" if self.update == "policy_gradient" else "k3+"

    @property
    def num_listed(self) -> int:
        """Tokens per position that a served teacher is asked for, besides the sampled one."""
        return self.topk if self.kind in ("topk", "student_topk") else 0

    @model_validator(mode="after")
    def _has_a_gradient(self) -> LossConfig:
        is_k1 = self.estimator in ("k1", "kl")
        if self.kl_loss_type is not None and self.kind != "sampled":
            raise ValueError(f"kl_loss_type={self.kl_loss_type} needs kind=sampled, not {self.kind}")
        if self.update == "policy_gradient":
            if self.kind != "sampled":
                raise ValueError("update=policy_gradient needs kind=sampled")
            if not is_k1:
                raise ValueError(
                    f"update=policy_gradient takes k1 as its reward; with {self.estimator} the expected "
                    "gradient is that of no divergence: use kl_loss_type=k1"
                )
        elif self.kind == "sampled" and is_k1:
            raise ValueError(
                f"{self.estimator} as a loss trains nothing: its expected gradient is zero. Use "
                "kl_loss_type=k3+ (same value, gradient of the reverse KL) or update=policy_gradient"
            )
        return self


class RewardConfig(Section):
    """A task reward beside the divergence, as a policy gradient; none by default."""

    path: str | None = None
    """Python file with the reward function. It is run: name only files that you trust."""
    name: str = "compute_score"
    """The function: `(data_source, solution_str, ground_truth, extra_info=None, **kwargs)` to a number, or to
    a dict with `score`."""
