"""Dropout off: models score and train as they are, whatever rates their configuration holds.

With dropout the student's distribution in an update is not the one that was sampled from, and the KL is that
of another model. What is saved keeps the configuration's rates.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any


def without_rates(config: Any) -> Any:
    """A copy of a transformers configuration with every rate at 0, those of nested ones too."""
    copy = deepcopy(config)
    left, seen = [vars(copy)], set()
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
    """Set the rates to 0 that the model's class has by itself: of its dropout layers, and plain attributes.

    `given`: the configuration to save the model with (`saved_as_given`).
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
    """While the context lasts the model has the configuration that it was given, to be saved with."""
    own, model.config = model.config, model.config_as_given
    try:
        yield
    finally:
        model.config = own


def _is_rate(name: object, value: object) -> bool:
    """By the names that transformers uses: `attention_dropout`, `dropout_rate`, `resid_pdrop`, …"""
    named = isinstance(name, str) and ("dropout" in name or name.endswith(("pdrop", "layerdrop")))
    return named and isinstance(value, int | float) and not isinstance(value, bool) and value != 0
