"""What is wrong with the tensors in model directories, by the classes that would load them.

The models are built on torch's meta device, where tensors have shapes and no memory: transformers' own class
for the configuration, its own renaming of tensors, its own ties. Run as a program it does so for several.
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
from distillctl.files.reading import read_json
from distillctl.host.parent_death import die_with_parent
from distillctl.models.prequantized import PLAIN, Parts, as_quantized, quantized_modules, unpacked
from distillctl.models.weight_files import loaded_files

BUILD_TIMEOUT_S = 50
"""Longest time to build one model without memory."""
BUILD_BYTES = 2 << 30
"""Most memory to build one: buffers such as rotary frequencies are real."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a model's tensors; the names are transformers', sorted."""

    missing: list[str]
    """Needed, and in no file: they would have random values."""
    misshapen: list[str]
    """`NAME [file's shape] instead of [model's]`, or `NAME of DTYPE` for values that are no weights."""
    unused: list[str]
    """In the files, and not part of the model that config.json describes."""
    untied: list[str]
    """Tied by config.json, but with values of their own in the files."""
    renamed: list[str]
    """Tied by config.json, and in the files under this name only instead of that of what it is tied to."""
    foreign: list[str]
    """In the files under names that transformers maps to the model's and would not save it with."""
    doubled: list[str]
    """Of the foreign ones, those that transformers maps to what another tensor is mapped to as well."""
    classes: list[str]
    """The first class of `architectures`, which vLLM runs, and that of model_type where it is not there."""


def faults(model: Any, info: Mapping[str, Any]) -> Faults:
    """From a transformers model and the loading information that came with it."""
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
    """Entry point of the child: paths as a JSON list; prints the `Faults` of each, a line each.

    An error ends it; its last line is shown.
    """
    die_with_parent()
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()  # what it would log is in the loading information
    for path in map(Path, json.loads(sys.argv[1])):
        signal.alarm(BUILD_TIMEOUT_S)
        with limited(path, BUILD_BYTES):
            model, info = load_on_meta(path)
        found = _all_faults(path, model, info)
        signal.alarm(0)
        print(json.dumps(asdict(found)), flush=True)


def load_on_meta(path: Path) -> tuple[Any, dict[str, Any]]:
    """A model whose tensors have shapes and no memory, and transformers' loading info, for `faults`.

    Of a quantised model it is the one that was quantised.
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
        ignore_mismatched_sizes=True,  # so that they are named by `faults`
    )
    return model, info


def tensor_names(path: Path) -> set[str]:
    """Names of all tensors in the files that a model directory is loaded from."""
    return set(_tensors(path))


def _tensors(path: Path) -> dict[str, Any]:
    """Slices of a model directory's tensors by name; nothing is read yet."""
    from safetensors import safe_open

    opened: list[Any] = [safe_open(path / file, framework="pt") for file in loaded_files(path)]
    return {name: file.get_slice(name) for file in opened for name in file.offset_keys()}


def _all_faults(path: Path, model: Any, info: dict[str, Any]) -> Faults:
    """Those that transformers knows, and those that its loading passes over."""
    tensors, config = _tensors(path), read_json(path / "config.json")
    settings, named = config.get("quantization_config"), config.get("architectures") or []
    targets = _targets(model, tensors)
    where = {targets[name]: tensor for name, tensor in tensors.items()}
    quantized = quantized_modules(model, where) if settings else {}
    if settings:
        info = as_quantized(model, info, where, quantized)
    wrong = _no_floats(model, where, quantized)
    wrong |= unpacked(model, where, quantized, str((settings or {}).get("quant_method")))
    found, ties = faults(model, info), model.all_tied_weights_keys.items()
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
    """What transformers calls each tensor of the files when it loads them into `model`."""
    from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

    known = getattr(model, "_weight_conversions", None) or []
    converters = [one for one in known if isinstance(one, WeightConverter)]
    renamings = [one for one in known if isinstance(one, WeightRenaming)]
    state = model.state_dict()
    found = {
        name: rename_source_key(name, renamings, converters, model.base_model_prefix, state)[0]
        for name in names
    }
    # As transformers does: what is no name after all of them and was one before is left as it was.
    return {name: name if to not in state and name in state else to for name, to in found.items()}


def _other_names(model: Any, targets: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """`Faults.foreign` and `Faults.doubled`."""
    from transformers.core_model_loading import revert_weight_conversion

    state, saved = model.state_dict(), set(revert_weight_conversion(model, dict(model.named_parameters())))
    foreign = sorted(n for n, to in targets.items() if n != to and to in state and n not in saved)
    count = Counter(targets.values())
    return foreign, [name for name in foreign if count[targets[name]] > 1]


def _no_floats(model: Any, where: Mapping[str, Any], quantized: Mapping[str, Parts]) -> dict[str, str]:
    """Weights, with their dtypes, that are integers, complex or narrower than 16 bits in the files.

    They are those of a quantised model whose config.json does not say so, or lack what they are scaled with.
    """
    named = [(name, where[name].get_dtype()) for name, _ in model.named_parameters() if name in where]
    return {
        name: dtype
        for name, dtype in named
        if dtype not in PLAIN and not quantized.get(name.rpartition(".")[0], {}).keys() - {"weight"}
    }


def _untied(ties: Iterable[tuple[str, str]], where: Mapping[str, Any]) -> list[str]:
    """Tensors that config.json ties to another one and that have values of their own in the files.

    Read here, because on the meta device transformers does not compare them.
    """
    import torch

    pairs = [(tied, to) for tied, to in ties if tied in where and to in where]
    return sorted(tied for tied, to in pairs if not torch.equal(where[tied][:], where[to][:]))


if __name__ == "__main__":
    main()
