"""The matrix products with an LM head: logits and the two gradients, in at least float32.

On a GPU the factors of 16-bit models stay in 16 bits. On a CPU they are converted to float32, some rows of
the LM head at a time: torch's 16-bit products on a CPU have 16-bit results and are several times slower.

Dimensions: C tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_PIECE = 8192
"""Rows of a 16-bit LM head that are in float32 at the same time: 29 MB for 896 hidden units."""


def logits(hidden_CH: Tensor, head_VH: Tensor) -> Tensor:
    """hidden head^T [C, V], never rounded to 16 bits (steps of 0.125 for logits from 16 to 32)."""
    if not _is_short(hidden_CH):
        return hidden_CH @ head_VH.T
    if hidden_CH.is_cuda:  # not yet run on a GPU
        return torch.mm(hidden_CH, head_VH.T, out_dtype=torch.float32)
    logits_CV = torch.empty(len(hidden_CH), len(head_VH))
    wide_CH = hidden_CH.float()
    for rows, piece_RH in _pieces(head_VH):
        torch.mm(wide_CH, piece_RH.T, out=logits_CV[:, rows])
    return logits_CV


def hidden_gradient(grad_CV: Tensor, head_VH: Tensor) -> Tensor:
    """The gradient [C, H] of the hidden states, from the gradient of the logits."""
    if not _is_short(head_VH):
        return grad_CV @ head_VH
    if head_VH.is_cuda:
        return grad_CV.to(head_VH.dtype) @ head_VH
    grad_CH = torch.zeros(len(grad_CV), head_VH.shape[1])
    for rows, piece_RH in _pieces(head_VH):
        grad_CH.addmm_(grad_CV[:, rows], piece_RH)
    return grad_CH


def add_head_gradient(total_VH: Tensor, grad_CV: Tensor, hidden_CH: Tensor) -> None:
    """Add the gradient of the LM head to `total_VH`, from the gradient of the logits.

    `total_VH` must not be in 16 bits.
    """
    if _is_short(hidden_CH) and hidden_CH.is_cuda:
        total_VH += grad_CV.to(hidden_CH.dtype).T @ hidden_CH
    else:
        total_VH.addmm_(grad_CV.T, hidden_CH.to(total_VH.dtype))  # needs no second [V, H] tensor


def _is_short(tensor: Tensor) -> bool:
    return tensor.dtype in (torch.bfloat16, torch.float16)


def _pieces(head_VH: Tensor) -> Iterator[tuple[slice, Tensor]]:
    for start in range(0, len(head_VH), _PIECE):
        rows = slice(start, start + _PIECE)
        yield rows, head_VH[rows].float()
