"""Log-probabilities from hidden states and an LM head.

Dimensions: C tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from torch import Tensor

from distillctl.objective.matmul import logits

LOG_FLOOR = -1e4
"""The log-probability, in nats, that stands for probability 0. A token that one model rules out gives a large
finite loss instead of an infinite one. A token that both rule out gives none. exp(-104) is already 0 in
float32."""


def log_probs(hidden_CH: Tensor, head_VH: Tensor, temperature: float) -> Tensor:
    """log softmax(hidden head^T / temperature) [C, V] in at least float32, never below `LOG_FLOOR`."""
    logits_CV = logits(hidden_CH, head_VH)
    if temperature != 1.0:
        logits_CV /= temperature
    return logits_CV.log_softmax(-1).clamp_(min=LOG_FLOOR)
