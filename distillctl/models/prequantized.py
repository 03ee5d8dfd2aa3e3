"""Checks by tensor names alone, for a model whose files are quantised (`quantization_config`).

Each method replaces a matrix by tensors of its own (`weight` and `weight_scale`; `qweight`, `qzeros` and
`scales`; …), under the name of the module that has the matrix. Everything else keeps its name. So whatever
the method, the files must hold each matrix in some form. They must hold it in the same parts as the same
matrix of other layers, except for parts that a method writes for some layers only. A part that all layers
lack is not noticed here; loading the model shows it.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from distillctl.models.weight_files import is_beyond, layer_of

PLAIN = ("F16", "BF16", "F32", "F64")
"""safetensors' names of the dtypes of weights that are not quantised."""
_OPTIONAL = re.compile(r"(?:weight_)?(?:zero_point|g_idx)|(?:input|output|[qkv])_\w+")
"""Parts that a method writes for some layers only: for asymmetric or reordered weights, and for static
scales of activations and caches."""
Parts = dict[str, str]
"""The tensors that hold a quantised matrix: from the name within the module to the dtype."""


def quantized_modules(model: Any, where: Mapping[str, Any]) -> dict[str, Parts]:
    """The modules whose matrix the files do not hold as a plain `weight`, with its parts.

    `where` holds the tensors of the files by transformers' names.
    """
    matrices = _matrices(model)
    found: dict[str, Parts] = {module: {} for module in matrices}
    for name, tensor in where.items():
        module = _within(name, matrices)
        if module and name != f"{module}.bias":
            found[module][name.removeprefix(f"{module}.")] = tensor.get_dtype()
    return {
        module: parts
        for module, parts in found.items()
        if parts.keys() - {"weight"} or not {*parts.values()} <= {*PLAIN}
    }


def as_quantized(
    model: Any, info: Mapping[str, Any], where: Mapping[str, Any], quantized: Mapping[str, Parts]
) -> dict[str, Any]:
    """transformers' loading information of the unquantised `model`, corrected for the quantised files.

    Differences that quantisation explains are removed, and parts that are missing are added.
    """

    def stands(name: str) -> bool:
        """Whether other tensors take the place of this one."""
        module, _, last = name.rpartition(".")
        return last == "weight" and module in quantized

    def is_unused(name: str) -> bool:
        """False also for the scales of caches, which belong to a layer but to none of its modules."""
        is_within_layer = layer_of(name) is not None and not is_beyond(name, model.config.num_hidden_layers)
        return not _within(name, quantized) and not is_within_layer

    missing = {name for name in info["missing_keys"] if not stands(name)}
    return {
        "missing_keys": missing | _lost_parts(quantized),
        "mismatched_keys": [
            entry
            for entry in info["mismatched_keys"]
            if not stands(entry[0]) or where[entry[0]].get_dtype() in PLAIN
        ],
        "unexpected_keys": set(filter(is_unused, info["unexpected_keys"])),
    }


def unpacked(
    model: Any, where: Mapping[str, Any], quantized: Mapping[str, Parts], method: str
) -> dict[str, str]:
    """Matrices, with their dtypes, of a model that bitsandbytes should have quantised but did not.

    transformers would read them as packed matrices. Other methods may leave all matrices unquantised.
    """
    if method != "bitsandbytes" or quantized:
        return {}
    from torch.nn import Linear

    names = (f"{name}.weight" for name, module in model.named_modules() if isinstance(module, Linear))
    return {name: where[name].get_dtype() for name in names if name in where}


def _matrices(model: Any) -> set[str]:
    """Modules that have a matrix as their weight."""
    named = model.named_parameters(remove_duplicate=False)
    return {name.removesuffix(".weight") for name, p in named if name.endswith(".weight") and p.dim() == 2}


def _within(name: str, modules: Container[str]) -> str:
    """The module of `modules` that a tensor belongs to; empty when it belongs to none."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _lost_parts(quantized: Mapping[str, Parts]) -> set[str]:
    """Parts that a module lacks and that the same module of another layer has."""
    of_role: dict[str, set[frozenset[tuple[str, str]]]] = {}
    for module, parts in quantized.items():
        of_role.setdefault(_role(module), set()).add(frozenset(parts.items()))
    return {
        f"{module}.{name}"
        for module, parts in quantized.items()
        for other in of_role[_role(module)]
        if parts.items() < other
        for name, _ in other - parts.items()
        if not _OPTIONAL.fullmatch(name)
    }


def _role(module: str) -> str:
    """A module's name without the number of its layer."""
    return re.sub(r"\.\d+\.", ".*.", module)
