"""Make a validated `Config` from presets, files and KEY=VALUE overrides, and write it back as YAML."""

from __future__ import annotations

import difflib
import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from distillctl.config.schema import Config, RoutedTeacher
from distillctl.config.yaml_file import read_mapping
from distillctl.errors import ConfigError
from distillctl.errors.redact import without_logins

_PACKAGED = Path(__file__).parents[1] / "presets_data"
_REPOSITORY = Path(__file__).parents[2] / "presets"
_EITHER = {
    "loss.kind": "loss.path",
    "loss.path": "loss.kind",
    "train.steps": "train.epochs",
    "train.epochs": "train.steps",
}
"""Pairs of keys of which a run has exactly one. An override of one key removes the other that a file sets."""
_JSON = """e.g. 'train.logger=["tensorboard","wandb"]'"""


def presets_dir() -> Path:
    """The folder of the preset files, in the installed package or at the top of a checkout."""
    return _PACKAGED if _PACKAGED.is_dir() else _REPOSITORY


def preset_names() -> list[str]:
    """Names of all presets, sorted."""
    return sorted(path.stem for path in presets_dir().glob("*.yaml"))


def preset_path(name: str) -> Path:
    """File of a preset. Raises ConfigError that suggests the nearest name when there is no such preset."""
    path = presets_dir() / f"{name}.yaml"
    if name not in preset_names():
        hint = _nearest(name, preset_names()) or "distillctl inspect presets lists them"
        raise ConfigError(f"no preset is named {name!r}", hint)
    return path


def preset_header(name: str) -> str:
    """The comment at the top of a preset: purpose, hardware, time, expected result."""
    lines = []
    for line in preset_path(name).read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return "\n".join(lines)


def load_preset(name: str, overrides: Sequence[str] = ()) -> Config:
    """A preset with overrides applied."""
    return load_config(preset_path(name), overrides)


def load_config(path: Path, overrides: Sequence[str] = ()) -> Config:
    """A YAML file with overrides applied. Raises ConfigError that lists all problems at once."""
    tree = read_mapping(path)
    origin: dict[str, str] = {}
    for override in overrides:
        _apply(tree, override, origin)
    _clear_replaced(tree, origin)
    try:
        return Config.model_validate(tree)
    except ValidationError as error:
        hint = (
            _json_hint(error, overrides)
            or "docs/config.md and `distillctl inspect schema` describe every key"
        )
        raise ConfigError("\n".join(_explain(error, str(path), origin)), hint) from None


def to_yaml(config: Config) -> str:
    """The whole configuration, defaults included; `load_config` reads it back unchanged."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False)


def all_keys() -> list[str]:
    """Every dotted key of the schema, except the keys of `teachers`, whose names users choose."""
    return [key for key, _ in _leaves(Config, "")]


def _leaves(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _leaves(field.annotation, f"{prefix}{name}.")
        elif typing.get_origin(field.annotation) is not dict:
            yield f"{prefix}{name}", field.annotation


def _apply(tree: dict[str, Any], override: str, origin: dict[str, str]) -> None:
    """Set one KEY=VALUE in `tree`. The first `=` splits. The value is JSON if it parses, else a string."""
    key, equals, text = override.partition("=")
    if not equals or not key.strip() or not key.isprintable():
        raise ConfigError(f"{override!r} is not an override of the form KEY=VALUE", "e.g. optim.lr=1e-5")
    annotations = dict(_leaves(Config, ""))
    *path, leaf = key.split(".")
    if path[:1] == ["teachers"] and len(path) > 1:
        name = ".".join(path[1:])
        path = ["teachers", name]
        annotations |= _leaves(RoutedTeacher, f"teachers.{name}.")
    if key not in annotations:
        hint = _nearest(key, list(annotations)) or "distillctl inspect config PRESET shows them all"
        raise ConfigError(f"{key!r} (command line) is not a configuration key", hint)
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):  # not JSON, or a number or a nesting beyond Python's limits
        value = text
    if _is_list(annotations[key]) and not isinstance(value, list | None):
        value = [value]  # data.train_files=my.parquet
    for depth, part in enumerate(path, start=1):
        tree = tree.setdefault(part, {})
        if not isinstance(tree, dict):
            section = ".".join(path[:depth])
            hint = f"make it a section, or leave {key} out"
            raise ConfigError(f"{key} (command line): {section} is {_shown(tree)} in the file", hint)
    tree[leaf] = value
    origin[key] = "command line"


def _clear_replaced(tree: dict[str, Any], origin: dict[str, str]) -> None:
    """Remove from `tree` each key of a pair whose other key is overridden."""
    for key in origin:
        section, _, leaf = key.rpartition(".")
        other = _EITHER.get(key)
        if other is not None and other not in origin and tree[section][leaf] is not None:
            tree[section].pop(other.removeprefix(f"{section}."), None)


def _is_list(annotation: Any) -> bool:
    options = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    return any(typing.get_origin(option) is list for option in options)


def _explain(error: ValidationError, file: str, origin: dict[str, str]) -> Iterator[str]:
    """One line per problem: the dotted key, the source of its value, what is wrong, and the nearest key."""
    for problem in error.errors():
        key = ".".join(str(part) for part in problem["loc"])
        source = _source(key, file, origin)
        if problem["type"] == "extra_forbidden":
            hint = _nearest(key, all_keys())
            yield f"{key} ({source}): is not a configuration key" + (f"; {hint}" if hint else "")
        elif problem["type"] == "missing":
            yield f"{key} ({source}): is required"
        elif problem["type"] == "value_error":
            yield f"{key or 'config'} ({source}): {problem['ctx']['error']}"
        else:
            yield f"{key} ({source}): {problem['msg']}, not {_shown(problem['input'])}"


def _source(key: str, file: str, origin: dict[str, str]) -> str:
    """Where the value of `key` came from: an override, or the file, or both for a section or all keys."""
    for given in origin:
        if _is_of(key, given):
            return origin[given]
    inside = next((origin[given] for given in origin if not key or _is_of(given, key)), None)
    return file if inside is None else f"{file} and {inside}"


def _is_of(key: str, given: str) -> bool:
    """Whether `key` is `given` or inside of it, such as an item of its list."""
    return f"{key}.".startswith(f"{given}.")


def _json_hint(error: ValidationError, overrides: Sequence[str]) -> str:
    """How to write a list or a section on the command line, if a value that looks like one is not JSON."""
    faulty = [".".join(map(str, problem["loc"])) for problem in error.errors()]
    for override in overrides:
        given, _, text = override.partition("=")
        if text.startswith(("[", "{")) and any(_is_of(key, given) for key in faulty):
            try:
                json.loads(text)
            except (ValueError, RecursionError):
                return f"{given}: the value is not JSON, which needs double quotes around each text, {_JSON}"
    return ""


def _shown(value: Any) -> str:
    """A value for an error message. A list or a section may be long, so only its kind and size are shown."""
    if isinstance(value, dict | list):
        return f"a {'section' if isinstance(value, dict) else 'list'} of {len(value)}"
    return without_logins(json.dumps(value, default=str))[:80]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    return f"did you mean {close[0]}?" if close else ""
