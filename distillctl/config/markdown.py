"""docs/config.md from the schema: `python -m distillctl.config.markdown > docs/config.md`."""

from __future__ import annotations

import inspect
import json
import typing
from typing import Any

from distillctl.config.loading import preset_names
from distillctl.config.schema import Config, TeacherConfig
from distillctl.objective.divergences import NAMES

_HEAD = """\
# Configuration

<!-- Made from distillctl/config/ by: python -m distillctl.config.markdown > docs/config.md -->

A run is described by one YAML file with the sections below. A preset is such a file, shipped with distillctl;
`distillctl inspect presets` lists them, `distillctl inspect config NAME > mine.yaml` writes one out, defaults
included, and `distillctl train --config mine.yaml` trains with it. The presets:

{presets}

Overrides follow on the command line, as many as needed:

```
distillctl train --preset tiny-from-small-arith optim.lr=5e-4 data.train_files=my.parquet eval.limit=null
```

The first `=` splits key and value. The value is JSON if it parses (`1e-5`, `true`, `null`, `[0, 1]`), else a
string; one value for a list is a list of one. Command line beats file, file beats default. Of `loss.kind` and
`loss.path`, and of `train.steps` and `train.epochs`, a run has one: an override of the one replaces the other
where the file sets it. An unknown key is an error that names the nearest one, and all problems are reported
at once, before anything starts.
`distillctl train ... --dry-run` prints the result with the commands and the memory it would take;
`distillctl inspect schema` prints the JSON schema.
"""
_BOUNDS = {"minimum": ">= ", "exclusiveMinimum": "> ", "maximum": "<= ", "exclusiveMaximum": "< "}


def config_markdown() -> str:
    """The whole page: how configuration works, then a table per section."""
    schema = Config.model_json_schema()
    presets = "\n".join(f"- `{name}`" for name in preset_names())
    parts = [_HEAD.format(presets=presets)]
    for name in schema["properties"]:
        section, about, known = Config.model_fields[name].annotation, "", set[str]()
        assert section is not None
        if typing.get_origin(section) is dict:
            about = schema["properties"][name]["description"].replace("\n", " ")
            section, known = typing.get_args(section)[1], set(TeacherConfig.model_fields)
            name = f"{name}.NAME"
        definition = schema["$defs"][section.__name__]
        required = definition.get("required", [])
        rows = [
            f"| `{name}.{key}` | {_cell(_type(field))} | {_default(field, key in required)} "
            f"| {_cell(' '.join(field['description'].split()))} |"
            for key, field in definition["properties"].items()
            if key not in known
        ]
        about = about or inspect.cleandoc(section.__doc__ or "")
        head = [f"## {name}", about, "", "| key | type | default | meaning |", "|---|---|---|---|"]
        parts.append("\n".join([*head, *rows, ""]))
    return "\n".join(parts)


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


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    print(config_markdown(), end="")
