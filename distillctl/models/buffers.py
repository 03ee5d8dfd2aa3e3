"""Restoring the buffers of a model that ZeRO-3 sharded while it loaded."""

from __future__ import annotations

import copy
from typing import Any

import torch


def restore_buffers(model: Any, dtype: torch.dtype) -> None:
    """Recompute the buffers that no file holds, such as the frequencies of rotary embeddings.

    `deepspeed.zero.Init` gives every tensor that is created while the model is built the dtype of the
    weights. In bfloat16 the frequencies are then off by up to 0.4 %. The error of an angle grows with the
    position, so at position 1,000 the angle is meaningless. The correct buffers come from a second model of
    the same configuration, which is built without DeepSpeed and without memory for its weights.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        plain = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    for name, buffer in plain.named_non_persistent_buffers():
        module, _, attribute = name.rpartition(".")
        owner = model.get_submodule(module)
        setattr(owner, attribute, buffer.to(getattr(owner, attribute).device))
