"""The divergences of two distributions. Each is a file, named as in `loss.kind` and `loss.topk_divergence`.

A file NAME.py defines

    value_and_slope(log_q_CV, q_CV, log_p_CV, objective) -> (value_C, slope_CV)

for C tokens over V outcomes (the vocabulary, or the K + 1 buckets of `topk`). It gets the student's
log-probabilities log q and probabilities q, the teacher's log p, and the `Objective` with the parameters that
a divergence may have. The value is in nats. The slope is the derivative of the value with respect to log q,
up to any multiple of q (see the package `objective`). Both are new tensors in the dtype of `log_q_CV`, which
the caller may overwrite. The function does not change its arguments. `docs/extending.md` adds a file step by
step. No other place lists the names. Imports no torch.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from distillctl.objective.inputs import ValueAndSlope

NAMES = tuple(module.name for module in pkgutil.iter_modules(__path__))
"""Names of the files, sorted."""


def divergence(name: str) -> ValueAndSlope:
    """The function `value_and_slope` of the file `name`."""
    assert name in NAMES, name
    function: ValueAndSlope = importlib.import_module(f"{__name__}.{name}").value_and_slope
    return function
