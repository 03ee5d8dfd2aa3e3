"""What `distillctl inspect` shows of presets, configurations and data.

Each `show_X` returns an object for JSON, and `render_X` returns its text. In: names and paths as users type
them. Out: plain text without escape codes, for terminals and pipes alike. Raises ConfigError for names and
paths that do not exist.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from distillctl.run.directory import open_run
from distillctl.terminal.stream import inline
from distillctl.terminal.table import one_line, table

if TYPE_CHECKING:
    from distillctl.data.chat import Message

NUM_SHOWN = 3
"""Number of prompts of a data file that are shown."""


class PresetRow(TypedDict):
    """A preset."""

    name: str
    about: str
    """The lines of its header: purpose, hardware, time, expected result."""


class CharCounts(TypedDict):
    """The number of characters in the messages of a prompt, over all rows."""

    mean: float
    max: int


class FirstRow(TypedDict):
    """One of the first rows of a data file."""

    prompt: list[Message]
    ground_truth: str | None


class DataView(TypedDict):
    """What `inspect data` shows."""

    file: str
    rows: int
    columns: list[str]
    data_sources: dict[str, int]
    """Number of rows by source; `-` stands for rows without a source."""
    splits: dict[str, int]
    """Number of rows by split."""
    answer_types: dict[str, int]
    """Number of rows with a ground truth by answer type."""
    ground_truth_share: float
    reference_share: float
    duplicates: int
    """Number of rows with the same prompt as an earlier row."""
    prompt_chars: CharCounts
    first: list[FirstRow]


def show_presets() -> list[PresetRow]:
    """Name and header (purpose, hardware, time, expected result) of every preset."""
    from distillctl.config.loading import preset_header, preset_names

    return [{"name": name, "about": preset_header(name)} for name in preset_names()]


def render_presets(rows: list[PresetRow]) -> str:
    """A table of `show_presets`."""
    lines = [
        [row["name"] if number == 0 else "", line]
        for row in rows
        for number, line in enumerate(row["about"].split("\n"))
    ]
    return table(["preset", "about"], lines)


def show_config(name: str) -> dict[str, Any]:
    """The whole configuration of a preset, a run directory or a YAML file, defaults included."""
    from distillctl.config.loading import load_config, load_preset

    path = Path(name)
    if path.is_dir():
        config = load_config(open_run(path).config_path)
    else:
        config = load_config(path) if path.is_file() else load_preset(name)
    return config.model_dump(mode="json")


def render_config(tree: dict[str, Any]) -> str:
    """`show_config` as YAML that `train --config` reads."""
    from distillctl.config.loading import to_yaml
    from distillctl.config.schema import Config

    return to_yaml(Config.model_validate(tree)).rstrip("\n")


def show_schema() -> dict[str, Any]:
    """JSON schema of the configuration."""
    from distillctl.config.schema import Config

    return Config.model_json_schema()


def show_data(path: Path) -> DataView:
    """Size, sources, shares of rows with an answer, repeated prompts and first prompts of a data file."""
    from distillctl.data.read import read_rows

    rows = read_rows(path)
    lengths = [sum(len(message["content"]) for message in row.messages) for row in rows]
    return {
        "file": str(path),
        "rows": len(rows),
        "columns": _columns(path),
        "data_sources": dict(Counter(row.data_source or "-" for row in rows)),
        "splits": dict(Counter(row.split for row in rows)),
        "answer_types": dict(Counter(row.answer_type for row in rows if row.ground_truth is not None)),
        "ground_truth_share": sum(row.ground_truth is not None for row in rows) / len(rows),
        "reference_share": sum(row.reference is not None for row in rows) / len(rows),
        "duplicates": len(rows) - len({json.dumps(row.messages) for row in rows}),
        "prompt_chars": {"mean": sum(lengths) / len(lengths), "max": max(lengths)},
        "first": [{"prompt": row.messages, "ground_truth": row.ground_truth} for row in rows[:NUM_SHOWN]],
    }


def render_data(found: DataView) -> str:
    """`show_data` as text."""
    chars = found["prompt_chars"]
    lines = [
        f"{inline(found['file'])}: {found['rows']} rows, "
        f"{100 * found['ground_truth_share']:.1f} % with a ground truth, "
        f"{100 * found['reference_share']:.1f} % with a reference answer",
        f"duplicates: {found['duplicates']} rows have the same prompt as an earlier row",
        f"columns: {', '.join(map(inline, found['columns']))}",
        f"sources: {_counted(found['data_sources'])}",
        f"splits: {_counted(found['splits'])}",
        *([f"answer types: {_counted(found['answer_types'])}"] if found["answer_types"] else []),
        f"prompt length: mean {chars['mean']:.0f}, longest {chars['max']} characters",
    ]
    for number, row in enumerate(found["first"]):
        lines += ["", f"row {number}, ground truth {inline(row['ground_truth'])}"]
        lines += [f"  {inline(m['role'])}: {one_line(m['content'])}" for m in row["prompt"]]
    return "\n".join(lines)


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{inline(name)} ({count})" for name, count in counts.items())


def _columns(path: Path) -> list[str]:
    """Column names of a parquet file, or the keys of the first JSON row."""
    if path.suffix == ".parquet":
        import pyarrow.parquet as pq

        return list(pq.read_schema(path).names)
    from distillctl.data.values import MAX_ROW_BYTES

    with path.open(encoding="utf-8-sig") as file:  # the first line of a .jsonl file is enough
        text = file.read(MAX_ROW_BYTES if path.suffix == ".jsonl" else -1).lstrip()
    first, _ = json.JSONDecoder().raw_decode(text.removeprefix("[").lstrip())
    return list(first)
