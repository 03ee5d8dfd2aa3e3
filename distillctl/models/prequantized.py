"""What can be checked by names alone of a model whose files are quantised (`quantization_config`).

Each method writes its own tensors in place of a matrix (`weight` and `weight_scale`; `qweight`, `qzeros` and
`scales`; …), under the name of the module that has the matrix. Everything else keeps its name. So for any
method the files must hold each matrix in some form, in the same parts as that matrix of the other layers,
except parts that a method writes for some layers only. Whether the method needs other parts is not checked:
what all layers lack shows when the model is loaded.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping
from typing import Any

from distillctl.models.weight_files import is_beyond, layer_of

PLAIN = ("F16", "BF16", "F32", "F64")
"""safetensors' names of the dtypes of weights that are not quantised."""
_OPTIONAL = re.compile(r"(?:weight_)?(?:zero_point|g_idx)|(?:input|output|[qkv])_\w+")
"""Parts that a method writes for some layers only: for asymmetric or reordered weights, static activations
and caches."""
Parts = dict[str, str]
"""The tensors that hold a quantised matrix: names within the module, and their dtypes."""


def quantized_modules(model: Any, where: Mapping[str, Any]) -> dict[str, Parts]:
    """The modules with a matrix that the files hold in other parts than a plain `weight`.

    `where`: the tensors of the files, by transformers' names.
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
    """transformers' loading information of the unquantised `model`, corrected for a quantised one: without
    differences that belong there, and with the parts that are missing."""

    def stands(name: str) -> bool:
        """Whether other tensors take the place of this one."""
        module, _, last = name.rpartition(".")
        return last == "weight" and module in quantized

    def is_unused(name: str) -> bool:
        """Not for scales of caches, which stand in layers beside the modules."""
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

    transformers would take them for packed matrices. Other methods may leave all matrices as they are.
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
    """The one of `modules` that a tensor stands in; empty for none."""
    while name and name not in modules:
        name = name.rpartition(".")[0]
    return name


def _lost_parts(quantized: Mapping[str, Parts]) -> set[str]:
    """Parts that a module lacks of those that the same module of another layer has."""
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
