"""Sequences packed into one row without padding. Causal attention stays within each sequence.

This module registers an attention function with transformers
(https://huggingface.co/docs/transformers/attention_interface). Layers that work token by token see one long
row; attention sees the separate sequences. On a GPU in 16 bits, one call of torch's variable-length
FlashAttention handles all sequences. Elsewhere, transformers' SDPA handles one sequence at a time.

Dimensions: T tokens of the row, H heads, D head size, S sequences.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from distillctl.errors import ConfigError
from distillctl.models.supported import ATTENTION_EXTRAS, USE_SUPPORTED

PACKED = "distillctl_packed"
"""Name of the attention function, for `attn_implementation`."""


def packed_arguments(input_ids_T: Tensor, lengths: Sequence[int]) -> dict[str, Any]:
    """Arguments of a model loaded with `PACKED`, for consecutive sequences of `lengths` tokens.

    They also fix what the model returns and caches, whatever its config.json says.
    """
    device = input_ids_T.device
    ends_S = torch.tensor([0, *lengths]).cumsum(0, dtype=torch.int32)
    return {
        "input_ids": input_ids_T[None],
        "position_ids": torch.cat([torch.arange(length, device=device) for length in lengths])[None],
        "cu_seq_lens_q": ends_S.to(device),
        "lengths": tuple(lengths),
        "use_cache": False,
        "output_attentions": False,
        "output_hidden_states": False,
        "return_dict": True,
    }


def _attention(
    module: Any,
    query_1HTD: Tensor,
    key_1HTD: Tensor,
    value_1HTD: Tensor,
    attention_mask: None,
    *,
    scaling: float,
    lengths: tuple[int, ...],
    cu_seq_lens_q: Tensor,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Output [1, T, H, D]. A token attends to itself and to the tokens before it in its own sequence.

    Raises ConfigError for a model whose attention takes one of `ATTENTION_EXTRAS`.
    """
    for name in ATTENTION_EXTRAS:
        if others.get(name) is not None:
            raise ConfigError(
                f"{module.config.model_type}: its attention has {name}, which distillctl does not support",
                USE_SUPPORTED,
            )
    if query_1HTD.is_cuda and query_1HTD.dtype != torch.float32:  # not yet run on a GPU
        window = -1 if sliding_window is None else sliding_window - 1
        query, key, value = (x[0].transpose(0, 1) for x in (query_1HTD, key_1HTD, value_1HTD))
        output_THD = varlen_attn(
            query, key, value, cu_seq_lens_q, cu_seq_lens_q, max(lengths), max(lengths),
            scale=scaling, window_size=(window, 0), enable_gqa=True,
        )  # fmt: skip
        assert isinstance(output_THD, Tensor)
        return output_THD[None], None
    parts = zip(*(torch.split(x, [*lengths], 2) for x in (query_1HTD, key_1HTD, value_1HTD)), strict=True)
    outputs = [
        sdpa_attention_forward(module, *part, _window(part[0], sliding_window), dropout, scaling)[0]
        for part in parts
    ]
    return torch.cat(outputs, 1), None


def _window(query_1HTD: Tensor, sliding_window: int | None) -> Tensor | None:
    """The mask [1, 1, T, T] of a window shorter than the sequence; None for plain causal attention."""
    length = query_1HTD.shape[2]
    if sliding_window is None or length <= sliding_window:
        return None
    seen_TT = torch.ones(length, length, dtype=torch.bool, device=query_1HTD.device).tril()
    return seen_TT.triu(1 - sliding_window)[None, None]


AttentionInterface.register(PACKED, _attention)
