"""From the configuration to what the objective needs."""

from __future__ import annotations

from distillctl.config.schema import Config
from distillctl.objective.inputs import Objective

LOGITS_BYTES = 128 << 20
"""float32 logits of one chunk by default. The loss holds about six tensors of that size at its peak, so that
with a vocabulary of 152k and 896 hidden units it stays under 1.5 GB, the head's gradient included."""

MAX_RATIO = 2.0
"""Truncation of the importance weights of stale tokens, as verl's rollout correction has it (F. Yao et al.,
"Your Efficient RL Framework Secretly Brings You Off-Policy RL Training", 2025)."""


def make_objective(config: Config, vocab_size: int) -> Objective:
    """The objective of a run, for a shared vocabulary of `vocab_size`."""
    loss = config.loss
    return Objective(
        vocab_size=vocab_size,
        kind=loss.kind,
        beta=loss.beta,
        topk=loss.topk,
        topk_divergence=loss.topk_divergence,
        estimator=loss.estimator,
        policy_gradient=loss.update == "policy_gradient",
        clip_ratio=loss.clip_ratio,
        kl_loss_coef=loss.kl_loss_coef,
        entropy_coeff=loss.entropy_coeff,
        temperature=loss.temperature,
        rollout_temperature=config.rollout.temperature,
        max_ratio=MAX_RATIO if config.train.async_depth else None,
        max_clamp=loss.max_clamp,
        chunk_size=loss.chunk_size or max(1, LOGITS_BYTES // (4 * vocab_size)),
    )
