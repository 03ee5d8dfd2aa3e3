"""The data sets of `distillctl prep`: one file each. The file's name is the command's name.

A file defines `data_set`, a function that returns a `prep.DataSet`. Its parameters are the command's own
options (annotated with `typer.Option`), and its docstring is the command's help. `docs/extending.md` has an
example.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from inspect import signature
from pkgutil import iter_modules
from typing import TYPE_CHECKING, cast

from distillctl.errors import ConfigError

if TYPE_CHECKING:
    from distillctl.data.prep import DataSet


def names() -> list[str]:
    """The names of all data sets, in alphabetical order. Imports none of them."""
    return sorted(module.name for module in iter_modules(__path__))


def load(name: str) -> Callable[..., DataSet]:
    """The function `data_set` of a data set, one of `names()`. Raises ConfigError for a file without one."""
    assert name in names()
    module = import_module(f"{__name__}.{name}")
    found = getattr(module, "data_set", None)
    if not callable(found):
        hint = "define the function data_set, or move the file"
        raise ConfigError(f"{module.__file__}: defines no data_set", hint)
    return cast("Callable[..., DataSet]", found)


def needs_options(name: str) -> bool:
    """Whether `prep NAME` needs options of its own."""
    parameters = signature(load(name)).parameters.values()
    return any(parameter.default is parameter.empty for parameter in parameters)
