"""Loading a causal language model from safetensors: whole, quantised, or sharded with ZeRO-3."""

from __future__ import annotations

import logging
from typing import Any

import torch

from distillctl.errors import ConfigError
from distillctl.host.packages import require_quantization
from distillctl.models.buffers import restore_buffers
from distillctl.models.dropout import switch_off, without_rates
from distillctl.models.loadable import require_whole
from distillctl.models.packed_attention import PACKED
from distillctl.models.supported import USE_SUPPORTED
from distillctl.models.tensor_faults import faults


def load_model(path: str, dtype: torch.dtype, zero3: dict[str, Any] | None = None, **options: Any) -> Any:
    """A causal language model from safetensors that takes `packed_arguments`, without dropout.

    With a DeepSpeed configuration (`zero3`) it is sharded while it loads. `options` are further arguments of
    transformers' `from_pretrained`. Raises ConfigError where tensors are missing or have another shape, and
    for an LM head with a bias, which the objective would leave out.
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
            USE_SUPPORTED,
        )
    return model


def load_quantized(path: str, dtype: torch.dtype, device: torch.device, quantization: str) -> Any:
    """A causal language model on `device`, its linear layers except the head quantised by bitsandbytes.

    `int8` is LLM.int8(): weights and activations in 8 bits, except outliers, so that a score depends slightly
    on the sequences beside it. `int4` is NF4: weights only. Everything else has `dtype`. Raises
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


def load_sharded(path: str, dtype: torch.dtype) -> Any:
    """A causal language model that ZeRO-3 shards over the ranks, without an optimizer."""
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
    engine, *_ = deepspeed.initialize(model=load_model(path, dtype, config), config=config)
    return engine.module
