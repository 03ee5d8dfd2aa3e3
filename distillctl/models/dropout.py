"""Switch dropout off. Models score and train without it, whatever their configuration says.

With dropout, the student's distribution in an update would differ from the one that was sampled from, and
the KL would be that of a different model. The saved model keeps the rates of its configuration.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any


def without_rates(config: Any) -> Any:
    """A copy of a transformers configuration with every dropout rate at 0, in nested configurations too."""
    copy = deepcopy(config)
    left = [vars(copy)]
    seen = set()
    while left:
        space = left.pop()
        if id(space) in seen:
            continue
        seen.add(id(space))
        for name, value in space.items():
            if _is_rate(name, value):
                space[name] = 0.0
            nested = vars(value) if hasattr(value, "to_dict") else value
            if isinstance(nested, dict):
                left.append(nested)
    return copy


def switch_off(model: Any, given: Any) -> None:
    """Set the rates to 0 that the model's class sets itself, in dropout layers and in plain attributes.

    `given` is the configuration to save the model with (see `saved_as_given`).
    """
    from torch.nn.modules.dropout import _DropoutNd

    for module in model.modules():
        if isinstance(module, _DropoutNd):
            module.p = 0.0
        for name in [name for name, value in vars(module).items() if _is_rate(name, value)]:
            setattr(module, name, 0.0)
    model.config_as_given = given


@contextmanager
def saved_as_given(model: Any) -> Iterator[None]:
    """Within the context, the model has its original configuration, so that it is saved with it."""
    own = model.config
    model.config = model.config_as_given
    try:
        yield
    finally:
        model.config = own


def _is_rate(name: object, value: object) -> bool:
    """Whether an attribute is a dropout rate other than 0.

    Decided by the names that transformers uses: `attention_dropout`, `dropout_rate`, `resid_pdrop`, …
    """
    named = isinstance(name, str) and ("dropout" in name or name.endswith(("pdrop", "layerdrop")))
    return named and isinstance(value, int | float) and not isinstance(value, bool) and value != 0
