"""Distributions over K listed tokens and one bucket, the tail, for all others.

Merging outcomes never increases a KL divergence (data processing inequality). So a divergence over K + 1
buckets is a divergence in its own right and a lower bound of the full one. A sum over the listed tokens alone
is neither: the student could push it below zero by moving probability out of the list.

Dimensions: C tokens, V vocabulary, K listed tokens (-1: no token), B = K + 1 buckets, the tail last.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from distillctl.objective.log_probs import LOG_FLOOR


def coarsen(log_q_CV: Tensor, ids_CK: Tensor) -> Tensor:
    """Log-probabilities [C, B] of the listed tokens and of the tail.

    The tail is summed over all other tokens. Computing 1 minus the listed ones would lose its digits.
    """
    columns_CK, missing_CK = _columns(log_q_CV, ids_CK)
    padded_CX = F.pad(log_q_CV, (0, 1), value=-torch.inf)
    listed_CK = padded_CX.gather(-1, columns_CK)
    tail_C1 = padded_CX.scatter_(-1, columns_CK, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([listed_CK.masked_fill(missing_CK, -torch.inf), tail_C1], -1).clamp_(min=LOG_FLOOR)


def with_tail(logp_CK: Tensor, ids_CK: Tensor, vocab_size: int) -> Tensor:
    """Log-probabilities [C, B] when only the listed ones are known: the tail is 1 minus their sum.

    The difference is computed in float64. When rounding of the listed values alone can explain it, the tail
    is set to the largest value that the dtype hides: a server's softmax in float32 gives the log-probability
    0 to a token that has all probability but 6e-8.
    """
    missing_CK = ids_CK < 0
    listed_CK = logp_CK.masked_fill(missing_CK, -torch.inf)
    lists_all_C1 = (~missing_CK).sum(-1, keepdim=True) == vocab_size
    tail_C1 = _complement(listed_CK).log().to(logp_CK.dtype).masked_fill(lists_all_C1, -torch.inf)
    return torch.cat([listed_CK, tail_C1], -1).clamp_(min=LOG_FLOOR)


def _complement(logp_CK: Tensor) -> Tensor:
    """float64 [C, 1]: 1 - sum of exp(logp), or half the dtype's epsilon where that is within rounding of 0.

    Rounding moves a log-probability by at most half the epsilon times its size, and therefore the probability
    p by at most half the epsilon times p |log p|.
    """
    half_epsilon = torch.finfo(logp_CK.dtype).eps / 2
    wide_CK = logp_CK.double()
    left_C1 = -torch.expm1(wide_CK.logsumexp(-1, keepdim=True))
    rounding_C1 = half_epsilon * torch.special.entr(wide_CK.exp()).abs().sum(-1, keepdim=True)
    return left_C1.where(left_C1 > rounding_C1, half_epsilon)


def spread(slope_CB: Tensor, log_q_CV: Tensor, log_q_CB: Tensor, ids_CK: Tensor) -> Tensor:
    """Slope [C, V] of the tokens from the buckets' slope. The tail's slope is shared in proportion to q."""
    columns_CK, _ = _columns(log_q_CV, ids_CK)
    share_CV = (log_q_CV - log_q_CB[:, -1:]).clamp_(max=0.0).exp_()
    slope_CX = F.pad(share_CV.mul_(slope_CB[:, -1:]), (0, 1))
    return slope_CX.scatter_(-1, columns_CK, slope_CB[:, :-1])[:, :-1]


def overlap(ids_CK: Tensor, other_ids_CK: Tensor, vocab_size: int) -> Tensor:
    """Share [C] of the tokens in `ids_CK` that `other_ids_CK` also holds. `ids_CK` holds no -1."""
    member_CX = torch.zeros(len(ids_CK), vocab_size + 1, dtype=torch.bool, device=ids_CK.device)
    member_CX.scatter_(-1, other_ids_CK.masked_fill(other_ids_CK < 0, vocab_size), True)
    return member_CX.gather(-1, ids_CK).float().mean(-1)


def _columns(log_q_CV: Tensor, ids_CK: Tensor) -> tuple[Tensor, Tensor]:
    """The ids, with -1 replaced by a column after the vocabulary, and the mask of these places."""
    missing_CK = ids_CK < 0
    return ids_CK.masked_fill(missing_CK, log_q_CV.shape[-1]), missing_CK
