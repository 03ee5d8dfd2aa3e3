"""What the loss takes: what is minimised, the tokens, and what is known of the teacher at each of them.

Dimensions: N response tokens, G the teacher's hidden size, V its (padded) vocabulary, K listed tokens.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """What is minimised; `LossConfig` says what each field means."""

    vocab_size: int
    """Size of the vocabulary both models share; both heads are cut to it before the softmax."""
    kind: str = "reverse_kl"
    """A `loss.kind`."""
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
    """Bound on the importance weights of tokens from older weights; None where there are none."""
    max_clamp: float | None = None
    chunk_size: int = 1024
    """Tokens whose logits exist at the same time."""


@dataclass(frozen=True, slots=True)
class Tokens:
    """N response tokens."""

    target_ids_N: Tensor
    """int64: the sampled token."""
    weights_N: Tensor
    """Weight of each token's loss in the total; the aggregation lies in it."""
    rollout_logp_N: Tensor
    """Nats: log-probability with which the engine sampled it."""
    advantages_N: Tensor | None = None
    """Advantage of the token's sample under a task reward; None without one."""

    def __getitem__(self, span: slice) -> Tokens:
        advantages_N = None if self.advantages_N is None else self.advantages_N[span]
        return Tokens(self.target_ids_N[span], self.weights_N[span], self.rollout_logp_N[span], advantages_N)


@dataclass(frozen=True, slots=True)
class Dense:
    """A teacher at hand: its whole distribution follows from hidden states and head."""

    hidden_NG: Tensor
    head_VG: Tensor

    def __getitem__(self, rows: slice | Tensor) -> Dense:
        return Dense(self.hidden_NG[rows], self.head_VG)


@dataclass(frozen=True, slots=True)
class TopK:
    """A teacher elsewhere: some of its log-probabilities (nats, temperature 1, float32)."""

    target_logp_N: Tensor
    """log p of the sampled token."""
    ids_NK: Tensor
    """int64: the tokens listed, each at most once per row; -1 fills up short rows. K may be 0. They are the
    teacher's K most likely ones, or the student's for `student_topk`."""
    logp_NK: Tensor
    """log p of each; any value where the id is -1."""

    def __getitem__(self, rows: slice | Tensor) -> TopK:
        return TopK(self.target_logp_N[rows], self.ids_NK[rows], self.logp_NK[rows])


Teacher = Dense | TopK | None
"""None where there is no teacher: the cross-entropy on reference answers."""
