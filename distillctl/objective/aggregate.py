"""From token losses to one number: a weight for every token, so that the loss is the weighted sum.

The counts are those of the global batch (all ranks, all micro-batches), which makes the loss independent of
how the batch is split. Modes are verl's `loss_agg_mode` (its `agg_loss`).
"""

from __future__ import annotations

from collections.abc import Sequence


def token_weights(mode: str, lengths: Sequence[int], scale_factor: float) -> list[float]:
    """Weight of each token of a sequence, one number per sequence of the global batch.

    `lengths` counts the trained tokens of every sequence; one without any has weight 0 and does not count as
    a sequence. `scale_factor` is the divisor of `seq-mean-token-sum-norm`.
    """
    num_sequences, num_tokens = sum(length > 0 for length in lengths), sum(lengths)
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
