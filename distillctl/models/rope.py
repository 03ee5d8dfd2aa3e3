"""The length at which the frequencies of some rotary embeddings change.

transformers picks the frequencies of `longrope` and `dynamic` by the longest sequence of a row. vLLM picks
those of `longrope` by its `max_model_len`. While all these lengths lie on the same side of the switch, both
give a sequence the same score, whatever other sequences are in the row. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_LONG = ("longrope", "su")
"""`su`: the name of `longrope` in older configurations."""
_KEYS = ("rope_parameters", "rope_scaling")


def switch_length(config: Mapping[str, Any]) -> tuple[str, int] | None:
    """The type of the rotary embedding, and the longest sequence in tokens before its frequencies change.

    None for a config.json whose frequencies never change. Where types of layers have embeddings of their own,
    the shortest length counts.
    """
    positions = config.get("max_position_embeddings")
    found = []
    for parameters in _parameters(config):
        kind = str(parameters.get("rope_type", parameters.get("type")))
        if kind not in _LONG and "dynamic" not in kind:
            continue
        own = parameters.get("original_max_position_embeddings")
        given = config.get("original_max_position_embeddings") or own
        lengths = [length for length in (given, positions) if type(length) is int and length > 0]
        if lengths:
            found.append((kind, min(lengths)))
    return min(found, key=lambda one: one[1], default=None)


def _parameters(config: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The parameters for all layers, and those for each type of layer."""
    given = [config[key] for key in _KEYS if isinstance(config.get(key), dict)]
    return given + [nested for one in given for nested in one.values() if isinstance(nested, dict)]
