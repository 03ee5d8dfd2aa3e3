"""The inputs of the loss besides the models: the objective, and the tokens.

Dimensions: N response tokens.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True, kw_only=True)
class Objective:
    """The loss and its settings. `LossConfig` says what each field means."""

    vocab_size: int
    """Size of the vocabulary that both models share. Both LM heads are cut to it before the softmax."""
    kind: str | None = "reverse_kl"
    """A `loss.kind`; None with `custom`."""
    custom: ValueAndSlope | None = None
    """The loss of `loss.path`, in the form of a divergence."""
    beta: float = 0.5
    topk: int = 64
    topk_divergence: str = "forward_kl"
    estimator: str = "k3+"
    policy_gradient: bool = False
    clip_ratio: float = 0.2
    kl_loss_coef: float = 1.0
    entropy_coeff: float = 0.0
    temperature: float = 1.0
    rollout_temperature: float = 1.0
    max_ratio: float | None = None
    """Upper bound of the importance weights of tokens from older weights; None without such tokens."""
    max_clamp: float | None = None
    chunk_size: int = 1024
    """Tokens whose logits exist at the same time."""


ValueAndSlope = Callable[[Tensor, Tensor, Tensor, Objective], tuple[Tensor, Tensor]]
"""A divergence (see `divergences`): takes log q, q, log p and the objective, and gives value and slope."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """N response tokens."""

    target_ids_N: Tensor
    """int64: the sampled token."""
    weights_N: Tensor
    """Weight of each token's loss in the total, as the aggregation sets it."""
    rollout_logp_N: Tensor
    """Nats: the log-probability with which the rollout engine sampled the token."""
    advantages_N: Tensor | None = None
    """Advantage of the token's response under a task reward; None without a task reward."""

    def __getitem__(self, span: slice) -> Tokens:
        advantages_N = None if self.advantages_N is None else self.advantages_N[span]
        return Tokens(self.target_ids_N[span], self.weights_N[span], self.rollout_logp_N[span], advantages_N)
