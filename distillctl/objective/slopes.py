"""Slopes by automatic differentiation, for losses without a slope of their own.

Dimensions: C tokens, V outcomes.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

PerToken = Callable[[Tensor, Tensor], Tensor]
"""Takes the log-probabilities of student and teacher, both [C, V], and gives the loss of each token [C]."""


def differentiate(function: PerToken, log_q_CV: Tensor, log_p_CV: Tensor) -> tuple[Tensor, Tensor]:
    """Value [C] of `function` and its slope [C, V] with respect to the student's log-probabilities.

    `function` must be differentiable in its first argument, and the loss of a token must depend on that token
    alone. This takes about twice the memory of a slope that is written out.
    """
    leaf_CV = log_q_CV.detach().requires_grad_()
    with torch.enable_grad():
        value_C = function(leaf_CV, log_p_CV)
        (slope_CV,) = torch.autograd.grad(value_C.sum(), leaf_CV)
    return value_C.detach(), slope_CV.contiguous()  # the gradient of a sum is a view of one repeated number
