"""Load a causal language model from safetensors: as it is, quantised, or sharded with ZeRO-3."""

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
    """Load a causal language model from safetensors, without dropout. It takes `packed_arguments`.

    With a DeepSpeed configuration (`zero3`), ZeRO-3 shards the model while it loads. `options` are further
    arguments of transformers' `from_pretrained`. Raises ConfigError when tensors are missing or have another
    shape, and for an LM head with a bias, because the objective does not add a bias.
    """
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.integrations import HfDeepSpeedConfig
    from transformers.integrations.deepspeed import unset_hf_deepspeed_config
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # the bars of loading and saving would fill the ranks' logs

    # While this object is alive, from_pretrained loads sharded parameters. transformers holds only a weak
    # reference to it.
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
        ignore_mismatched_sizes=True,  # `require_whole` reports them by name
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
    """Load a causal language model onto `device`. bitsandbytes quantises all linear layers but the LM head.

    `int8` is LLM.int8(): weights and activations have 8 bits, except outliers. A score therefore depends
    slightly on the other sequences of the micro-batch. `int4` is NF4, which quantises weights only.
    Everything else has `dtype`. Raises EnvironmentUnfit when bitsandbytes is not installed.
    """
    require_quantization()
    from transformers import BitsAndBytesConfig

    # bitsandbytes logs at every call of an 8-bit layer that it computes in float16, and on import that a
    # kernel is missing.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    if quantization == "int8":
        settings = BitsAndBytesConfig(load_in_8bit=True)
    else:
        settings = BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        )
    return load_model(path, dtype, quantization_config=settings, device_map={"": str(device)})


def load_sharded(path: str, dtype: torch.dtype) -> Any:
    """Load a causal language model that ZeRO-3 shards over the ranks, without an optimizer."""
    import deepspeed

    config = {
        "train_micro_batch_size_per_gpu": 1,
        "zero_optimization": {"stage": 3},
        "bf16": {"enabled": dtype == torch.bfloat16},
    }
    engine, *_ = deepspeed.initialize(model=load_model(path, dtype, config), config=config)
    return engine.module
