"""What is wrong with the tensors of models, according to the classes that would load them.

The models are built on torch's meta device, where tensors have shapes but no memory. The classes, the
renaming of tensors and the ties are transformers' own. As a program, this module checks several models.
"""

from __future__ import annotations

import json
import signal
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from distillctl.files.memory_limit import limited
from distillctl.host.parent_death import die_with_parent
from distillctl.models.model_dir import ModelDir
from distillctl.models.prequantized import PLAIN, Parts, as_quantized, quantized_modules, unpacked
from distillctl.models.weight_files import loaded_files

BUILD_TIMEOUT_S = 50
"""Longest time, in seconds, to build one model on the meta device."""
BUILD_BYTES = 2 << 30
"""Most memory for building one model: buffers such as rotary frequencies are not on the meta device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What is wrong with a model's tensors; the names are transformers', sorted."""

    missing: list[str]
    """The model needs them, but no file has them: they would get random values."""
    misshapen: list[str]
    """`NAME [file's shape] instead of [model's]`, or `NAME of DTYPE` for values that cannot be weights."""
    unused: list[str]
    """The files have them, but the model that config.json describes does not."""
    untied: list[str]
    """config.json ties them, but the files hold other values for them."""
    renamed: list[str]
    """config.json ties them, and the files hold them but not the tensors that they are tied to."""
    foreign: list[str]
    """The files hold them under names that transformers translates when it loads, but would never write."""
    doubled: list[str]
    """Foreign tensors that transformers maps to the same name as another tensor."""
    classes: list[str]
    """Empty unless `architectures` lacks the class of model_type. Then the first class of `architectures`,
    which vLLM runs, and the class of model_type."""


def faults(model: Any, info: Mapping[str, Any]) -> Faults:
    """The faults in the loading information that transformers returned with `model`."""
    misshapen = (
        f"{name} {list(file)} instead of {list(own)}" for name, file, own in info.get("mismatched_keys", ())
    )
    return Faults(
        missing=sorted(info["missing_keys"]),
        misshapen=sorted(misshapen),
        unused=sorted(info.get("unexpected_keys", ())),
        untied=[],
        renamed=[],
        foreign=[],
        doubled=[],
        classes=[],
    )


def main() -> None:
    """Entry point of the child process: takes a JSON list of paths and prints one line of `Faults` for each.

    An error ends the process. The parent shows the error's last line.
    """
    die_with_parent()
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()  # the loading information holds what transformers would log
    for directory in map(ModelDir, map(Path, json.loads(sys.argv[1]))):
        signal.alarm(BUILD_TIMEOUT_S)
        with limited(directory.path, BUILD_BYTES):
            model, info = load_on_meta(directory.path)
        found = _all_faults(directory, model, info)
        signal.alarm(0)
        print(json.dumps(asdict(found)), flush=True)


def load_on_meta(path: Path) -> tuple[Any, dict[str, Any]]:
    """A model whose tensors have shapes but no memory, and transformers' loading information for `faults`.

    For a quantised model, the result is the model before quantisation.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(path, trust_remote_code=False)
    if getattr(config, "quantization_config", None):
        del config.quantization_config
    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        config=config,
        device_map="meta",
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # `faults` reports them by name
    )
    return model, info


def tensor_names(path: Path) -> set[str]:
    """Names of all tensors in the files that a model directory is loaded from."""
    return set(_tensors(ModelDir(path)))


def _tensors(directory: ModelDir) -> dict[str, Any]:
    """Slices of a model's tensors by name; nothing is read yet."""
    from safetensors import safe_open

    files = (directory.path / name for name in loaded_files(directory))
    opened: list[Any] = [safe_open(file, framework="pt") for file in files]
    return {name: file.get_slice(name) for file in opened for name in file.offset_keys()}


def _all_faults(directory: ModelDir, model: Any, info: dict[str, Any]) -> Faults:
    """The faults that transformers reports, and the faults that it ignores when it loads."""
    tensors = _tensors(directory)
    settings = directory.config.get("quantization_config")
    named = directory.config.get("architectures") or []
    targets = _targets(model, tensors)
    where = {targets[name]: tensor for name, tensor in tensors.items()}
    quantized = quantized_modules(model, where) if settings else {}
    if settings:
        info = as_quantized(model, info, where, quantized)
    wrong = _no_floats(model, where, quantized)
    wrong |= unpacked(model, where, quantized, str((settings or {}).get("quant_method")))
    found = faults(model, info)
    ties = model.all_tied_weights_keys.items()
    foreign, doubled = _other_names(model, targets)
    own = type(model).__name__
    return replace(
        found,
        misshapen=found.misshapen + [f"{name} of {dtype}" for name, dtype in sorted(wrong.items())],
        untied=_untied(ties, where),
        renamed=sorted(tied for tied, to in ties if tied in where and to not in where),
        foreign=foreign,
        doubled=doubled,
        classes=[named[0], own] if named and own.lower() not in (str(one).lower() for one in named) else [],
    )


def _targets(model: Any, names: Iterable[str]) -> dict[str, str]:
    """The name that transformers gives each tensor of the files when it loads them into `model`."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    known = getattr(model, "_weight_conversions", None) or []
    converters = [one for one in known if isinstance(one, WeightConverter)]
    renamings = [one for one in known if isinstance(one, WeightRenaming)]
    state = model.state_dict()
    found = {
        name: rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0]
        for name in names
    }
    # As in transformers: a tensor keeps its name when the model has that name but not the new one.
    return {name: name if to not in state and name in state else to for name, to in found.items()}


def _other_names(model: Any, targets: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """`Faults.foreign` and `Faults.doubled`."""
    from transformers.core_model_loading import revert_weight_conversion

    state = model.state_dict()
    saved = set(revert_weight_conversion(model, dict(model.named_parameters())))
    foreign = sorted(n for n, to in targets.items() if n != to and to in state and n not in saved)
    count = Counter(targets.values())
    return foreign, [name for name in foreign if count[targets[name]] > 1]


def _no_floats(model: Any, where: Mapping[str, Any], quantized: Mapping[str, Parts]) -> dict[str, str]:
    """Weights, with their dtypes, that are integers, complex or narrower than 16 bits in the files.

    Either the model is quantised and its config.json does not say so, or the files lack the scales.
    """
    named = [(name, where[name].get_dtype()) for name, _ in model.named_parameters() if name in where]
    return {
        name: dtype
        for name, dtype in named
        if dtype not in PLAIN and not quantized.get(name.rpartition(".")[0], {}).keys() - {"weight"}
    }


def _untied(ties: Iterable[tuple[str, str]], where: Mapping[str, Any]) -> list[str]:
    """Tensors that config.json ties to another tensor, but for which the files hold other values.

    The values are compared here, because transformers does not compare them on the meta device.
    """
    import torch

    pairs = [(tied, to) for tied, to in ties if tied in where and to in where]
    return sorted(tied for tied, to in pairs if not torch.equal(where[tied][:], where[to][:]))


if __name__ == "__main__":
    main()
