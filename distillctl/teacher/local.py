"""The teacher in the ranks: frozen, a copy on each or sharded with ZeRO-3, hidden states out.

Dimensions: N response tokens, G the teacher's hidden size, V its (padded) vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distillctl.samples import MicroBatch, Scored
from distillctl.teacher.compat import require_plain_head


class LocalTeacher:
    """A frozen causal language model next to the student."""

    def __init__(self, path: str, dtype: torch.dtype, device: torch.device, *, shard: bool) -> None:
        model = _load_sharded(path, dtype) if shard else load_model(path, dtype).to(device)
        require_plain_head(model.config, "teacher.model")
        self._model = model.eval().requires_grad_(False)

    @property
    def config(self) -> Any:
        """The teacher's transformers configuration."""
        return self._model.config

    @torch.no_grad()
    def score(self, batch: MicroBatch) -> Scored:
        """Run the teacher over a micro-batch and keep its hidden states at the response rows."""
        hidden_BTG = self._model.base_model(input_ids=batch.input_ids_BT, use_cache=False).last_hidden_state
        return Scored(batch, hidden_BTG.flatten(0, 1)[batch.rows_N])

    @contextmanager
    def head(self) -> Iterator[Tensor]:
        """The head's weight [V, G], gathered while the context lasts (a collective when sharded)."""
        from deepspeed import zero

        weight = self._model.get_output_embeddings().weight
        with zero.GatheredParameters([weight]):
            yield weight.detach()


def load_model(path: str, dtype: torch.dtype, zero3: dict[str, Any] | None = None) -> Any:
    """A causal language model from safetensors; with a DeepSpeed configuration, sharded while it loads."""
    from transformers import AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config

    # transformers holds only a weak reference; while it is alive, from_pretrained loads sharded parameters.
    holder = HfDeepSpeedConfig(zero3) if zero3 is not None else None
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, use_safetensors=True, trust_remote_code=False
    )
    if holder is not None:
        unset_hf_deepspeed_config()
    return model


def _load_sharded(path: str, dtype: torch.dtype) -> Any:
    """ZeRO-3 without an optimizer."""
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
    engine, *_ = deepspeed.initialize(model=load_model(path, dtype, config), config=config)
    return engine.module
