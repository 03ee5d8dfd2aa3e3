"""From token losses to one number: every token gets a weight, and the loss is the weighted sum.

Sequences and tokens are counted over the global batch (all ranks, all micro-batches), so the loss does not
depend on how the batch is split. Modes are verl's `loss_agg_mode` (its `agg_loss`).
"""

from __future__ import annotations

from collections.abc import Sequence


def token_weights(mode: str, lengths: Sequence[int], scale_factor: float) -> list[float]:
    """The weight of each token of a sequence, one number for each sequence of the global batch.

    `lengths` counts the trained tokens of every sequence. A sequence without any has weight 0 and is not
    counted. `scale_factor` is the divisor of `seq-mean-token-sum-norm`.
    """
    num_sequences = sum(length > 0 for length in lengths)
    num_tokens = sum(lengths)
    if not num_tokens:
        return [0.0] * len(lengths)
    if mode == "seq-mean-token-mean":
        return [1.0 / (length * num_sequences) if length else 0.0 for length in lengths]
    weight = {
        "token-mean": 1.0 / num_tokens,
        "token-sum": 1.0,
        "seq-mean-token-sum": 1.0 / num_sequences,
        "seq-mean-token-sum-norm": 1.0 / scale_factor,
    }[mode]
    return [weight if length else 0.0 for length in lengths]
