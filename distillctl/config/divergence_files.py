"""What a file of `objective/divergences` has to be, as far as its name and source tell. Imports no torch."""

from __future__ import annotations

import ast
from collections.abc import Sequence
from pathlib import Path

from distillctl.errors import ConfigError
from distillctl.objective import divergences

OTHER_KINDS = ("sampled", "topk", "student_topk")
"""Values of `loss.kind` that are no divergence of the package."""
_FUNCTION = "value_and_slope"
_SIGNATURE = f"{_FUNCTION}(log_q_CV, q_CV, log_p_CV, objective)"
_HINT = f"define {_SIGNATURE}; docs/extending.md has an example"


def file_of(name: str) -> Path:
    """The file of the divergence `name`."""
    return Path(divergences.__file__).with_name(f"{name}.py")


def require_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a file name that cannot be a value of `loss.kind`."""
    for name in names:
        if not name.isidentifier():
            raise ConfigError(
                f"{file_of(name)}: {name!r} is not a name for a divergence",
                "rename the file: letters, digits and underscores, and no digit first",
            )
        if name in OTHER_KINDS:
            raise ConfigError(
                f"{file_of(name)}: loss.kind={name} is another objective", "give the file another name"
            )


def require_function(key: str, file: Path) -> None:
    """Raise ConfigError where a divergence's file does not define `value_and_slope` of four parameters.

    `key` is the configuration key that chose it. The source is read and not executed.
    """
    try:
        body = ast.parse(file.read_bytes()).body
    except SyntaxError as error:
        raise ConfigError(f"{key}: {file}:{error.lineno}: {error.msg}", "correct the file") from None
    functions = {node.name: node for node in body if isinstance(node, ast.FunctionDef)}
    function = functions.get(_FUNCTION)
    if function is None:
        found = f"; its functions: {', '.join(functions)}" if functions else ""
        raise ConfigError(f"{key}: {file} defines no function {_FUNCTION}{found}", _HINT)
    if len(function.args.posonlyargs + function.args.args) != 4:
        raise ConfigError(
            f"{key}: {file}:{function.lineno}: its parameters are not those of {_SIGNATURE}", _HINT
        )
