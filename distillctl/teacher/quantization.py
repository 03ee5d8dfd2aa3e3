"""The cost of quantising a teacher, in nats.

Dimensions: T tokens of a sequence, C of them at a time, G the teacher's hidden size, V the shared vocabulary.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distillctl.objective.log_probs import log_probs
from distillctl.teacher.local import LocalTeacher

_CHUNK = 64
"""Positions whose logits exist at the same time: 40 MB in float32 for a vocabulary of 152,000."""


def quantization_kl(
    path: str,
    dtype: torch.dtype,
    device: torch.device,
    quantized: LocalTeacher,
    token_ids: list[list[int]],
    vocab_size: int,
) -> float:
    """KL(full || quantised) in nats per token, over all positions of the sequences `token_ids`.

    In this direction, it is the log-likelihood that text of the full teacher loses under the quantised one.
    The full teacher (`path`, `dtype`) is loaded for the measurement only, on `device`. The quantised teacher
    may be on another device. Both LM heads are cut to `vocab_size`.
    """
    total = _total_kl(LocalTeacher(path, dtype, device), quantized, token_ids, vocab_size)
    return total / sum(map(len, token_ids))


def _total_kl(
    full: LocalTeacher, quantized: LocalTeacher, token_ids: list[list[int]], vocab_size: int
) -> float:
    total = 0.0
    full_head_VG = full.head_VG[:vocab_size]
    quantized_head_VG = quantized.head_VG[:vocab_size]
    full_hidden = _hidden(full, token_ids, full_head_VG.device)
    quantized_hidden = _hidden(quantized, token_ids, quantized_head_VG.device)
    for full_TG, quantized_TG in zip(full_hidden, quantized_hidden, strict=True):
        for start in range(0, len(full_TG), _CHUNK):
            span = slice(start, start + _CHUNK)
            logp_CV = log_probs(full_TG[span], full_head_VG, 1.0)
            logq_CV = log_probs(quantized_TG[span], quantized_head_VG, 1.0).to(logp_CV.device)
            total += float(F.kl_div(logq_CV, logp_CV, reduction="sum", log_target=True))
    return total


def _hidden(teacher: LocalTeacher, token_ids: list[list[int]], device: torch.device) -> list[Tensor]:
    """Hidden states [T, G] of each sequence, at all positions."""
    inputs = [
        (torch.tensor(ids, device=device), (len(ids),), torch.arange(len(ids), device=device))
        for ids in token_ids
    ]
    return teacher.hidden_states(inputs)
