"""The reference pages of docs/, made from the code: `python .ci/docs/reference.py` writes all of them.

`PAGES` maps each file to its function; tests/test_reference.py compares the files with what these return.
"""

from __future__ import annotations

import inspect
import json
import re
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import typer

from distillctl.cli.app import app
from distillctl.cli.prep_commands import register
from distillctl.cli.typer_app import App
from distillctl.config.loading import preset_names
from distillctl.config.schema import Config, TeacherConfig
from distillctl.data import sets
from distillctl.objective.divergences import NAMES
from distillctl.run.event_form import HEAD, KINDS
from distillctl.run.metrics import METRICS

DOCS = Path(__file__).parents[2] / "docs"
_HTML = re.compile(r"<(?=[a-z])(?=[^`]*(?:`[^`]*`[^`]*)*$)")
"""A `<` before a letter, outside of code."""
_MADE = "<!-- Made from the code by: python .ci/docs/reference.py -->\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; what Markdown or HTML would take for its own in a cell is escaped."""
    cells = [[_HTML.sub("&lt;", cell).replace("|", "\\|") for cell in line] for line in [head, *rows]]
    lines = ["| " + " | ".join(line) + " |\n" for line in cells]
    return "".join([lines[0], "|" + "---|" * len(head) + "\n", *lines[1:]])


# The command line

_CLI = f"""\
# Command line

{_MADE}
Every command takes `-h`, which prints the same. stdout has only the result; progress and
messages go to stderr. With `--json`, stdout has exactly one JSON document, errors included.
[Exit codes](runs.md#exit-codes) are the same for all commands.
"""


def cli_markdown() -> str:
    """Every command with its arguments and options, from the signatures that typer reads."""
    root = _Command("distillctl", app.registered_callback)
    return "\n".join([_CLI, root.markdown(), *(one.markdown() for one in _commands(app, "distillctl"))])


def _commands(group: typer.Typer, path: str) -> Iterator[_Command]:
    """The commands of a group, then those of the groups in it."""
    for command in group.registered_commands:
        yield _Command(f"{path} {command.name or getattr(command.callback, '__name__', '')}", command)
    for nested in group.registered_groups:
        assert nested.typer_instance is not None
        found = _data_sets() if nested.name == "prep" else nested.typer_instance
        yield from _commands(found, f"{path} {nested.name}")


def _data_sets() -> App:
    """`prep` with the command of each data set, which the command line makes only when it is asked for."""
    group = App()
    for name in sets.names():
        register(group, name)
    return group


class _Command:
    """One command: its name as typed, and what its function's signature says."""

    def __init__(self, name: str, info: Any) -> None:
        self.name = name
        self.about = inspect.getdoc(info.callback) or ""
        self.example = (info.epilog or "").removeprefix("Example: ") if hasattr(info, "epilog") else ""
        hints = typing.get_type_hints(info.callback, include_extras=True)
        signature = inspect.signature(info.callback)
        self.parameters = [
            _Parameter(name, hints[name], parameter.default)
            for name, parameter in signature.parameters.items()
        ]

    def markdown(self) -> str:
        """Heading, purpose, usage, example, and a table of arguments and options."""
        arguments = [one for one in self.parameters if one.is_argument]
        usage = " ".join([self.name, *(one.usage for one in arguments), "[OPTIONS]"])
        parts = [f"## {self.name}\n", f"{self.about}\n" if self.about else "", f"    {usage}\n"]
        if self.example:
            parts.append(f"Example: `{self.example}`\n")
        rows = [one.row() for one in sorted(self.parameters, key=lambda one: not one.is_argument)]
        parts.append(table(["option", "value", "default", "meaning"], rows))
        return "\n".join(part for part in parts if part)


class _Parameter:
    """An argument or option."""

    def __init__(self, name: str, hint: Any, default: object) -> None:
        self.type_, self.info = typing.get_args(hint)[:2]
        self.default = default
        self.is_argument = isinstance(self.info, typer.models.ArgumentInfo)
        # In Annotated the first flag is in `default`, where typer looks for it too.
        declared = [str(text) for text in (self.info.default, *(self.info.param_decls or ()))]
        declared = [text for text in declared if text.startswith("-")]
        self.name = (self.info.metavar or name.upper()) if self.is_argument else ""
        self.flags = ", ".join(f"`{text}`" for text in declared or [f"--{name.replace('_', '-')}"])

    @property
    def usage(self) -> str:
        """`RUN`, `[RUN]`, `RUN...`."""
        text = self.name + ("..." if self._is_list else "")
        return text if self.default is inspect.Parameter.empty else f"[{text}]"

    @property
    def _is_list(self) -> bool:
        return typing.get_origin(self._plain) is list

    @property
    def _plain(self) -> Any:
        """The type without None."""
        if typing.get_origin(self.type_) not in (types.UnionType, typing.Union):
            return self.type_
        (plain,) = [option for option in typing.get_args(self.type_) if option is not types.NoneType]
        return plain

    def row(self) -> list[str]:
        """Its line in the table."""
        return [
            f"`{self.name}`" if self.is_argument else self.flags,
            self._value(),
            self._shown(),
            self.info.help,
        ]

    def _value(self) -> str:
        plain = typing.get_args(self._plain)[0] if self._is_list else self._plain
        if plain is bool:
            return "flag"
        if typing.get_origin(plain) is typing.Literal:
            return ", ".join(f"`{value}`" for value in typing.get_args(plain))
        word = {int: "int", float: "float", str: "text", Path: "path"}[plain]
        bound = f" >= {self.info.min:g}" if getattr(self.info, "min", None) is not None else ""
        return word + bound + (", several" if self._is_list else "")

    def _shown(self) -> str:
        if self.default is inspect.Parameter.empty:
            return "required"
        return "" if self.default is None or self.default is False else f"`{self.default}`"


# Configuration keys

_CONFIG = """\
# Configuration

{made}
A run is described by one YAML file with the sections below. A preset is such a file that is shipped with
distillctl. `distillctl inspect presets` lists the presets. `distillctl inspect config NAME > mine.yaml`
writes one to a file, defaults included, and `distillctl train --config mine.yaml` trains with it.
The presets:

{presets}

Overrides follow on the command line, as many as needed:

```
distillctl train --preset tiny-from-small-arith optim.lr=5e-4 data.train_files=my.parquet eval.limit=null
```

The first `=` splits key and value. The value is JSON if it parses (`1e-5`, `true`, `null`, `[0, 1]`),
otherwise it is text; a single value for a list is a list of one. The command line beats the file, and
the file beats the default. A run has one of `loss.kind` and `loss.path`, and one of `train.steps` and
`train.epochs`; an override of one replaces the other if the file sets it. An unknown key is an error that
names the nearest one. All problems are reported at once, before anything starts.

`distillctl train ... --dry-run` prints the result with the commands and the memory that it would take.
`distillctl inspect schema` prints the JSON schema.
"""
_BOUNDS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}


def config_markdown() -> str:
    """Every configuration key, a table per section, from the JSON schema."""
    schema = Config.model_json_schema()
    presets = "\n".join(f"- `{name}`" for name in preset_names())
    parts = [_CONFIG.format(made=_MADE, presets=presets)]
    for name in schema["properties"]:
        parts.append(_section_markdown(schema, name))
    return "\n".join(parts)


def _section_markdown(schema: dict[str, Any], name: str) -> str:
    section = Config.model_fields[name].annotation
    known = set[str]()
    about = ""
    assert section is not None
    if typing.get_origin(section) is dict:  # of several teachers: only what `teacher` has not
        about = schema["properties"][name]["description"].replace("\n", " ")
        section = typing.get_args(section)[1]
        known = set(TeacherConfig.model_fields)
        name = f"{name}.NAME"
    definition = schema["$defs"][section.__name__]
    required = definition.get("required", [])
    rows = [
        [
            f"`{name}.{key}`",
            _type(field),
            _default(field, key in required),
            " ".join(field["description"].split()),
        ]
        for key, field in definition["properties"].items()
        if key not in known
    ]
    about = about or inspect.cleandoc(section.__doc__ or "")
    return f"## {name}\n{about}\n\n" + table(["key", "type", "default", "meaning"], rows)


def _type(field: dict[str, Any]) -> str:
    """A JSON schema's type and bounds in words."""
    if "anyOf" in field:
        return " or ".join(_type(option) for option in field["anyOf"])
    values = field.get("enum", [field["const"]] if "const" in field else [])
    if set(NAMES) <= set(values):  # a divergence is added without a change to the page
        values = [value for value in values if value not in NAMES]
        return ", ".join(["a [divergence](objectives.md)", *(f"`{value}`" for value in values)])
    if values:
        return ", ".join(f"`{value}`" for value in values)
    if field["type"] == "array":
        items = field.get("items") or field["prefixItems"][0]
        count = f"{field['maxItems']} x " if "maxItems" in field else ""
        return f"list of {count}{_type(items)}" + (", not empty" if field.get("minItems") == 1 else "")
    bounds = [f"{sign}{_plain(field[word])}" for word, sign in _BOUNDS.items() if word in field]
    word = {"integer": "int", "number": "float", "boolean": "bool", "string": "text"}
    return " ".join([word.get(field["type"], field["type"]), ", ".join(bounds)]).rstrip()


def _plain(bound: float) -> str:
    return str(int(bound)) if bound == int(bound) else str(bound)


def _default(field: dict[str, Any], required: bool) -> str:
    return "required" if required else f"`{json.dumps(field['default']).strip(chr(34))}`"


# Metrics and events

_METRICS = f"""\
# Metrics

{_MADE}
Every training step writes these numbers to [events.jsonl](events.md); `distillctl inspect run`
shows them, and `--export` writes them as a table. Metrics of the loss are means over the trained
response tokens. [The algorithm](algorithm.md#metrics) has their formulas.

With several teachers, `kl/reverse/NAME` is the KL on the rows of that teacher. `gpu/used_bytes/N` and
`gpu/utilization/N` are those of GPU N. `val/acc` and `val/kl` come from evaluations."""
_EVENTS = f"""\
# Events

{_MADE}
`events.jsonl` in the run directory holds everything that happened, one JSON object per line.
Each line has the keys of the first table, and those of its kind. Readers ignore unknown kinds and keys,
and a line that a crash cut short. A line of a known kind with a key that is missing or of another type
is left out and counted. A metric that is not finite, or beyond 1e100, counts as missing.

## Every line
"""


def metrics_markdown() -> str:
    """Every metric with its unit and meaning."""
    rows = [[f"`{name}`", metric.unit, metric.meaning] for name, metric in METRICS.items()]
    return f"{_METRICS}\n{table(['metric', 'unit', 'meaning'], rows)}"


def events_markdown() -> str:
    """Every kind of event with its keys."""
    parts = [_EVENTS + "\n" + _fields_markdown({**HEAD})]
    for name, kind in KINDS.items():
        parts.append(f"## {name}\n\n{kind.meaning}\n\n{_fields_markdown(kind.fields)}")
    return "\n".join(parts)


def _fields_markdown(fields: Any) -> str:
    return table(["key", "meaning"], [[f"`{name}`", field.meaning] for name, field in fields.items()])


PAGES: dict[str, Callable[[], str]] = {
    "cli.md": cli_markdown,
    "config.md": config_markdown,
    "metrics.md": metrics_markdown,
    "events.md": events_markdown,
}


if __name__ == "__main__":
    for name, markdown in PAGES.items():
        (DOCS / name).write_text(markdown())
