"""The user's own Python files, which are executed: only those that the configuration or the command names.

Imports no torch, so that a launcher can look at a file before it starts anything.
"""

from __future__ import annotations

import importlib.util
import sys
import traceback
from pathlib import Path
from types import ModuleType

from distillctl.errors import ConfigError


def split_name(spec: str) -> tuple[str, str | None]:
    """Path and name of `FILE.py:NAME`; the name is None where only a path is given."""
    path, _, name = spec.rpartition(":")
    return (path, name) if path.endswith(".py") else (spec, None)


def run_file(path: str, key: str) -> ModuleType:
    """Execute the Python file `path`, which the configuration key `key` names, and return it as a module.

    Raises ConfigError where there is no such file, where it cannot be imported, and where its own code
    raises an exception.
    """
    file = Path(path).expanduser()
    if not file.is_file():
        raise ConfigError(f"{key}: {path}: no such file", "name a Python file that has the function")
    module_name = f"distillctl_{key.replace('.', '_')}"
    spec = importlib.util.spec_from_file_location(module_name, file.resolve())
    if spec is None or spec.loader is None:
        raise ConfigError(f"{key}: {path} is not a Python file", "its name has to end in .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module  # dataclasses and pickle look a class's module up there
    try:
        spec.loader.exec_module(module)
    except SyntaxError as error:
        where = f"{error.filename}:{error.lineno}" if error.filename else path
        raise ConfigError(f"{key}: {where}: {error.msg}", "correct the file") from None
    except ImportError as error:
        hint = "install what it imports into this environment; its own directory is not searched"
        raise ConfigError(f"{key}: {path} cannot be imported: {error}", hint) from error
    except SystemExit as error:
        hint = 'put what it runs as a script under `if __name__ == "__main__":`'
        raise ConfigError(f"{key}: {path} ends the process when it is imported", hint) from error
    except Exception as error:  # it is the user's program, which may raise anything
        line = failed_line(error, file) or 1
        message = f"{key}: {path}:{line}: raised when it was imported: {one_line(error)}"
        raise ConfigError(message, "correct the file") from error
    return module


def failed_line(error: BaseException, file: Path) -> int | None:
    """The innermost line of `file` that an exception came through; None where it did not."""
    frames = reversed(traceback.extract_tb(error.__traceback__))
    return next((frame.lineno for frame in frames if frame.filename == str(file.resolve())), None)


def one_line(error: BaseException) -> str:
    """Type and text of an exception on one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())
