"""Restoring the buffers of a model that ZeRO-3 sharded while it loaded."""

from __future__ import annotations

import copy
from typing import Any

import torch


def restore_buffers(model: Any, dtype: torch.dtype) -> None:
    """Recompute the buffers that no file holds, such as the frequencies of rotary embeddings.

    `deepspeed.zero.Init` gives every tensor that is made while the model is put together the dtype of its
    weights. In bfloat16 the frequencies are then off by up to 0.4 %, and angles with them by position times
    that: at position 1,000 they point anywhere. The buffers are taken from a second model of the same
    configuration, put together without DeepSpeed and without memory for its weights.
    """
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=False):
        plain = type(model)._from_config(copy.deepcopy(model.config), dtype=dtype)
    for name, buffer in plain.named_non_persistent_buffers():
        module, _, attribute = name.rpartition(".")
        owner = model.get_submodule(module)
        setattr(owner, attribute, buffer.to(getattr(owner, attribute).device))
