"""The teacher in the ranks: frozen, and either a copy on each rank or sharded with ZeRO-3.

It gives hidden states. The loss computes log-probabilities from them and the teacher's LM head.

Dimensions: T tokens of packed sequences, N response tokens of them, G the teacher's hidden size, V its
(padded) vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor

from distillctl.data_types import MicroBatch
from distillctl.models.compatibility import require_plain_head
from distillctl.models.load import load_model, load_quantized, load_sharded
from distillctl.models.packed_attention import packed_arguments
from distillctl.objective.teacher_scores import Dense


class LocalTeacher:
    """A frozen causal language model next to the student.

    With `offload`, the backbone is on `device` only while it scores; the LM head is always there.
    `quantization` is `none`, `int8` or `int4`, and applies to the backbone's linear layers (see
    `load_quantized`). Neither can be combined with `shard`, which makes every method collective.
    """

    def __init__(
        self,
        path: str,
        dtype: torch.dtype,
        device: torch.device,
        *,
        shard: bool = False,
        offload: bool = False,
        quantization: str = "none",
    ) -> None:
        if shard:
            model = load_sharded(path, dtype)
        elif quantization != "none":
            model = load_quantized(path, dtype, device, quantization)
        else:
            model = load_model(path, dtype)
        require_plain_head(model.config, "teacher.model")
        model.eval().requires_grad_(False)
        self._backbone = model.base_model
        self._head: Tensor = model.get_output_embeddings().weight
        self._device = device
        self._shard = shard
        self._offload = offload
        if not shard:
            _move(self._backbone, torch.device("cpu") if offload else device)
            # After the backbone: a tied head shares memory with the embeddings unless they are offloaded.
            self._head = self._head.detach().to(device)

    @property
    def config(self) -> Any:
        """The teacher's transformers configuration."""
        return self._backbone.config

    @property
    def asks_for_topk_ids(self) -> bool:
        """False: it scores all tokens."""
        return False

    @property
    def head_VG(self) -> Tensor:
        """Weight of the LM head, on the device. A sharded teacher's is whole only within `gather_head()`."""
        return self._head

    def gather_head(self) -> AbstractContextManager[object]:
        """A context within which `head_VG` is whole."""
        if not self._shard:
            return nullcontext()
        from deepspeed import zero

        gathered: AbstractContextManager[object] = zero.GatheredParameters([self._head])
        return gathered

    def score(self, batches: Sequence[MicroBatch]) -> list[Dense]:
        """Run the teacher over the micro-batches, and keep its hidden states at their rows."""
        hidden = self.hidden_states([batch.inputs for batch in batches])
        return [Dense(hidden_NG, self.head_VG, self.gather_head) for hidden_NG in hidden]

    @torch.no_grad()
    def hidden_states(self, inputs: Sequence[tuple[Tensor, Sequence[int], Tensor]]) -> list[Tensor]:
        """Last hidden states [N, G] for each of `inputs`.

        An input is packed token ids [T], the lengths of their sequences, and the rows [N] to keep. With
        `offload`, the backbone moves to the device before the first input and away after the last.
        """
        if self._offload:
            _move(self._backbone, self._device)
        hidden = []
        for input_ids_T, lengths, rows_N in inputs:
            hidden_1TG = self._backbone(**packed_arguments(input_ids_T, lengths)).last_hidden_state
            hidden.append(hidden_1TG[0, rows_N])
        if self._offload:
            _move(self._backbone, torch.device("cpu"))
        return hidden


def _move(model: Any, device: torch.device) -> None:
    """Move every module by its own `to`.

    8-bit layers of bitsandbytes keep a second reference to their weight, which only their own `to` moves.
    After the model's `to`, this reference would keep the device's memory occupied.
    """
    for module in model.modules():
        module.to(device)
