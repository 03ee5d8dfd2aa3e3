"""The teacher in the ranks: frozen, a copy on each or sharded with ZeRO-3, hidden states out.

Dimensions: T tokens of packed sequences, N response tokens of them, G the teacher's hidden size, V its
(padded) vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from distillctl.errors import ConfigError
from distillctl.machine import require_quantization
from distillctl.samples import MicroBatch, Scored
from distillctl.teacher.buffers import restore_buffers
from distillctl.teacher.compat import require_plain_head
from distillctl.teacher.dropout import switch_off, without_rates
from distillctl.teacher.loadable import require_whole
from distillctl.teacher.packed import PACKED, packed_arguments
from distillctl.teacher.tensor_faults import faults


class LocalTeacher:
    """A frozen causal language model next to the student.

    With `offload` its backbone is on `device` only while it scores; the head is always there. `quantization`
    is `none`, `int8` or `int4`, of the backbone's linear layers (see `load_quantized`). Neither goes together
    with `shard`, which makes every method a collective.
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
            model = _load_sharded(path, dtype)
        elif quantization != "none":
            model = load_quantized(path, dtype, device, quantization)
        else:
            model = load_model(path, dtype)
        require_plain_head(model.config, "teacher.model")
        model.eval().requires_grad_(False)
        self._backbone, self._head = model.base_model, model.get_output_embeddings().weight
        self._device, self._shard, self._offload = device, shard, offload
        if not shard:
            _move(self._backbone, torch.device("cpu") if offload else device)
            # After the backbone: a tied head shares its embeddings' memory unless they are offloaded.
            self._head = self._head.detach().to(device)

    @property
    def config(self) -> Any:
        """The teacher's transformers configuration."""
        return self._backbone.config

    def score(self, batches: list[MicroBatch]) -> list[Scored]:
        """Run the teacher over all micro-batches of a step; it keeps its hidden states at their rows."""
        hidden = self.hidden_states([batch.inputs for batch in batches])
        return [Scored(batch, hidden_NG) for batch, hidden_NG in zip(batches, hidden, strict=True)]

    @torch.no_grad()
    def hidden_states(self, inputs: Sequence[tuple[Tensor, Sequence[int], Tensor]]) -> list[Tensor]:
        """Last hidden states [N, G] of packed token ids [T], their sequences' lengths, and rows [N] of them.

        With `offload` the backbone is brought to the device before the first and taken away after the last.
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

    @contextmanager
    def head(self) -> Iterator[Tensor]:
        """The head's weight [V, G] on the device, gathered while the context lasts when it is sharded."""
        if not self._shard:
            yield self._head
            return
        from deepspeed import zero

        with zero.GatheredParameters([self._head]):
            yield self._head.detach()


def _move(model: Any, device: torch.device) -> None:
    """Move every module by its own `to`.

    bitsandbytes' 8-bit layers keep a second reference to their weight, which only their own `to` moves: left
    to the model's `to`, it would hold on to the device's memory.
    """
    for module in model.modules():
        module.to(device)


def load_model(path: str, dtype: torch.dtype, zero3: dict[str, Any] | None = None, **options: Any) -> Any:
    """A causal language model from safetensors that takes `packed_arguments`; with a DeepSpeed configuration,
    sharded while it loads. Its dropout is off.

    `options` are further arguments of transformers' `from_pretrained`. Raises ConfigError for a model of
    which tensors are missing or have another shape, and for one whose head has a bias, which the chunked
    objective would leave out.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # of loading and saving: they would stand in the ranks' logs

    # transformers holds only a weak reference; while it is alive, from_pretrained loads sharded parameters.
    holder = HfDeepSpeedConfig(zero3) if zero3 is not None else None
    given = AutoConfig.from_pretrained(path, trust_remote_code=False)
    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        config=without_rates(given),
        dtype=dtype,
        attn_implementation=PACKED,
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are named here
        **options,
    )
    if holder is not None:
        unset_hf_deepspeed_config()
        restore_buffers(model, dtype)
    require_whole(faults(model, info), path)
    switch_off(model, given)
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise ConfigError(
            f"{path}: the head of {model.config.model_type} has a bias, which the objective does not add",
            "use a model of the Llama or Qwen families",
        )
    return model


def load_quantized(path: str, dtype: torch.dtype, device: torch.device, quantization: str) -> Any:
    """A causal language model on `device`, its linear layers except the head quantised by bitsandbytes.

    `int8` is LLM.int8(): weights in 8 bits and activations too, but for outliers, so that a score depends a
    little on the sequences beside it. `int4` is NF4, weights only. Everything else has `dtype`. Raises
    EnvironmentUnfit without bitsandbytes.
    """
    require_quantization()
    from transformers import BitsAndBytesConfig

    # Its 8-bit layers log at every call that they compute in float16, its import that a kernel is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantization == "int8":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return load_model(path, dtype, quantization_config=settings, device_map={"": str(device)})


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
