"""Estimators of KL(student || teacher) from the sampled token alone, under verl's names and with its clamps.

With d = log q - log p on the sampled token (J. Schulman, "Approximating KL divergence", 2020; verl's
`kl_penalty`):

    k1, kl           d                         k2, mse          d^2 / 2
    abs              |d|                       k3, low_var_kl   exp(-d) - 1 + d
    X+               the value of X with the gradient of k2 (straight through)

The expected value and the expected gradient of an estimator can belong to two different divergences;
`docs/objectives.md` lists both.
"""

from __future__ import annotations

import torch
from torch import Tensor

MAX_LOG_RATIO = 20.0
"""|d| is clipped to this before it is exponentiated, as in verl's k3 (e^20 is 5e8)."""
MAX_K3 = 10.0
"""k3 as a loss is clipped to this, as in verl; a clipped token has no gradient. Below it |d| is below 20."""
_ALIASES = {"kl": "k1", "mse": "k2", "low_var_kl": "k3"}


def k3(log_ratio_N: Tensor) -> Tensor:
    """exp(-d) - 1 + d [N] for d = `log_ratio_N`; never negative."""
    bounded = log_ratio_N.clamp(-MAX_LOG_RATIO, MAX_LOG_RATIO)
    return torch.expm1(-bounded) + bounded


def estimate(name: str, log_ratio_N: Tensor) -> tuple[Tensor, Tensor]:
    """An estimator's value and its derivative with respect to log q, both [N], from d = `log_ratio_N`."""
    plain = name.removesuffix("+")
    value_N, slope_N = _estimate(_ALIASES.get(plain, plain), log_ratio_N)
    return value_N, log_ratio_N if name.endswith("+") else slope_N


def _estimate(name: str, d_N: Tensor) -> tuple[Tensor, Tensor]:
    if name == "k1":
        return d_N, torch.ones_like(d_N)
    if name == "abs":
        return d_N.abs(), d_N.sign()
    if name == "k2":
        return d_N.square() / 2, d_N
    assert name == "k3", name
    value_N = k3(d_N)
    return value_N.clamp(max=MAX_K3), torch.where(value_N < MAX_K3, -torch.expm1(-d_N), 0.0)
