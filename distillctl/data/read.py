"""Readers for data files written by distillctl, verl, pandas or a person.

In: a .parquet, .jsonl or .json file. Out: `records` gives plain rows with their place in the file (prep reads
its sources with it); `read_rows` gives prompts and reads verl's layout leniently. Every fault of a file is a
`ConfigError` that names the file and the line (from 1) or the row (from 0, as in `prompt_id`).
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import Any

from distillctl.data import sets
from distillctl.data.chat import Message, last_question, read_chat
from distillctl.data.chat_text import chat_of_text
from distillctl.data.columns import refuse_other_media, require_whole_prompt, unused_keys
from distillctl.data.json_text import parse_json
from distillctl.data.parquet_rows import parquet_rows
from distillctl.data.values import MAX_ROW_BYTES, bad_row, kind_of, no_column, require_text, too_long
from distillctl.errors import ConfigError
from distillctl.files.memory_limit import limited_items, readable_bytes
from distillctl.files.reading import open_regular, require_file
from distillctl.grading.answer_types import DEFAULT, answer_type, load, require_answer

SUFFIXES = (".jsonl", ".json", ".parquet")
MAX_JSON_BYTES = 1 << 30
"""Largest JSON array, which is parsed as a whole. Files of .jsonl and .parquet are read row by row."""
_MAX_NESTING = 16
_MAX_NAMED = 4
_COLUMNS = ("prompt", "reward_model", "data_source", "extra_info")
# Keys under which a nested `ground_truth` struct stores the answer, in order of preference.
_NESTED_KEYS = ("ground_truth", "target", "value")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptRow:
    """One prompt as the data has it, not rendered."""

    index: int
    """Row in its file, from 0."""
    messages: list[Message]
    """Chat messages, each with exactly `role` and `content`, without the answer at the end of the chat."""
    question: str
    """Content of the last user message."""
    ground_truth: str | None
    """Expected final answer, or None when the data has none."""
    data_source: str | None
    split: str
    """`extra_info.split`, or else the file's name without its suffix."""
    extra_info: dict[str, Any] | None = None
    """The whole struct as plain Python values; None when the data has none. If the chat ends with an answer,
    `answer` is that turn, as `reference` is."""
    reference: str | None = None
    """The data's own answer: the assistant's turn at the end of the chat, else `extra_info.answer`; None when
    it is blank or not text."""
    answer_type: str = DEFAULT
    """One of `grading.answer_types.ANSWER_TYPES`."""
    unused_keys: tuple[str, ...] = ()
    """Keys of its messages that hold text and are not read."""
    route: str | None = None
    """Value of the column that chooses the teacher, as text; None when it is null or missing."""

    @property
    def prompt_id(self) -> str:
        """`<split>/<index>`."""
        return f"{self.split}/{self.index}"


def read_rows(path: Path, teacher_key: str = "data_source") -> list[PromptRow]:
    """All prompts of a file, in its order. `teacher_key` names the top-level column of `route`.

    Only `prompt` is required; `chat.read_chat` reads it. If a chat ends with an assistant's turn, that turn
    is the answer: it replaces `extra_info.answer`, and gives the ground truth when `reward_model` has none.
    Raises ConfigError when the file is missing, empty or not readable, and when a row has a wrong type, has
    images, sounds, videos or tools, or has only a part of its prompt in `prompt`.
    """
    if os.path.isdir(path):
        names = ", ".join(map(str, sorted(path.glob("*.parquet"))[:_MAX_NAMED]))
        raise ConfigError(
            f"{path}: cannot be read: it is a directory",
            f"name a file in it: {names}" if names else "name a regular file",
        )
    require_file(path, _missing_file_hint(path))
    columns = dict.fromkeys((*_COLUMNS, teacher_key))  # each once
    return [
        _prompt_row(where, row, index, path.stem, teacher_key)
        for index, (where, row) in enumerate(records(path, tuple(columns)))
    ]


def records(
    path: Path, columns: Sequence[str], *, whole: bool = False
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row of a file as (`file:line` or `file: row N`, its fields).

    The first of `columns` is the prompt and is required. If it is the JSON text of a chat, the row has the
    chat's messages instead. Other columns are None when they are missing. With `whole`, a row has all of its
    fields and nothing for missing ones. Raises ConfigError for a file that cannot be read or has no rows, a
    row that is not an object, a row with images, sounds, videos or tools, and a row whose prompt is not a
    valid chat or only a part of one.
    """
    if path.suffix not in SUFFIXES:
        raise ConfigError(f"{path}: not a data file", f"accepted: {', '.join(SUFFIXES)}")
    size = require_file(path)
    empty = True
    try:
        for where, row in limited_items(_rows(path, columns, whole=whole), path, readable_bytes(size)):
            if not isinstance(row, dict):
                raise bad_row(f"{where}: expected an object, got {kind_of(row)}")
            if columns[0] not in row:
                raise no_column(where, columns[0], row)
            if isinstance(row[columns[0]], str):
                row[columns[0]] = chat_of_text(row[columns[0]], where, columns[0])
            refuse_other_media(row, where, used=columns)
            require_whole_prompt(row, where, used=columns)
            empty = False
            yield where, row if whole else {name: row.get(name) for name in columns}
    except OSError as error:
        hint = "check its permissions, or write it again"
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}", hint) from error
    if empty:
        raise ConfigError(f"{path}: holds no rows", "give a file with at least one row, or leave it out")


def answer_text(value: object, where: str = "", depth: int = 0) -> str | None:
    """A ground truth as text, or None: a scalar, the first element of a list, or the answer inside a struct.

    Whole floats lose their `.0`, because pandas turns the integers of a column with a null into floats.
    `depth`: levels around the value; below `_MAX_NESTING` levels nothing counts as an answer. Raises
    ConfigError for an infinite number.
    """
    if depth > _MAX_NESTING:
        return None
    if isinstance(value, dict):
        nested = (answer_text(value.get(key), where, depth + 1) for key in _NESTED_KEYS)
        return next((text for text in nested if text is not None), None)
    if isinstance(value, list):
        return answer_text(value[0], where, depth + 1) if value else None
    if isinstance(value, float):
        if math.isnan(value):  # a null, as pandas writes it
            return None
        if math.isinf(value):
            raise bad_row(f"{where}: the answer is infinite, or too large for a float")
        return str(int(value)) if value.is_integer() else str(value)
    if isinstance(value, str):
        return value if value.strip() else None
    return str(value) if isinstance(value, Number) else None


def _prompt_row(where: str, row: dict[str, Any], index: int, stem: str, teacher_key: str) -> PromptRow:
    chat = read_chat(row["prompt"], where, "prompt")
    reward = struct(row["reward_model"], where, "reward_model")
    truth = answer_text(reward.get("ground_truth"), where)
    kind = answer_type(reward.get("style"))
    if truth is not None:
        require_answer(truth, kind, where)
    extra = struct(row["extra_info"], where, "extra_info")
    if chat.answer is not None:
        extra = {**extra, "answer": chat.answer}
        truth = load(kind).truth_in_turn(chat.answer) if truth is None else truth
    split = extra.get("split")
    reference = extra.get("answer")
    source = row["data_source"]
    return PromptRow(
        index=index,
        messages=chat.messages,
        question=last_question(chat.messages),
        ground_truth=None if truth is None else require_text(truth, where, "ground_truth"),
        answer_type=kind,
        data_source=source if isinstance(source, str) else None,
        split=split if isinstance(split, str) and split else stem,
        extra_info=extra or None,
        reference=reference if isinstance(reference, str) and reference.strip() else None,
        unused_keys=tuple(unused_keys(row["prompt"])),
        route=_route(row[teacher_key]),
    )


def _route(value: object) -> str | None:
    """A routing column's value as text. As in `answer_text`, NaN counts as null and 3.0 becomes 3."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(int(value) if isinstance(value, float) and value.is_integer() else value)


def struct(value: object, where: str, name: str) -> dict[str, Any]:
    """A struct column's value, empty when it is null (pandas writes null as NaN)."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return {}
    if not isinstance(value, dict):
        raise bad_row(f"{where}: `{name}` must be an object, got {kind_of(value)}")
    return value


def _rows(path: Path, columns: Sequence[str], *, whole: bool) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".parquet":
        return parquet_rows(path, columns, whole=whole)
    return _json_records(path) if path.suffix == ".json" else _line_records(path)


def _json_records(path: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a .json file: a JSON array, or JSON lines, which `datasets` accepts under this name too."""
    with open_regular(path) as file:
        start = file.read(1 << 16)
    if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"["):
        yield from _line_records(path)
        return
    if path.stat().st_size > MAX_JSON_BYTES:
        message = f"{path}: is larger than {MAX_JSON_BYTES >> 20} MiB, the limit for one JSON array"
        raise ConfigError(message, "write it as .jsonl, one object per line, or as .parquet")
    rows = parse_json(path.read_bytes(), str(path), first_line=1)
    yield from ((f"{path}: row {index}", row) for index, row in enumerate(rows))


def _line_records(path: Path) -> Iterator[tuple[str, Any]]:
    # Bytes are split at newlines only: str.splitlines would also cut at U+2028 inside a string.
    with open_regular(path) as file:
        lines = iter(lambda: file.readline(MAX_ROW_BYTES + 1), b"")
        for number, line in enumerate(lines, start=1):
            if len(line) > MAX_ROW_BYTES:
                raise too_long(f"{path}:{number}: the line")
            if line.strip():
                # Without the newline, so that an error in a truncated line names that line, not the next.
                value = parse_json(line.rstrip(b"\r\n"), str(path), first_line=number)
                yield f"{path}:{number}", value


def _missing_file_hint(path: Path) -> str:
    kind = path.parent.name
    if kind in sets.names() and not sets.needs_options(kind):
        return f"run `distillctl prep {kind} --out {path.parent}`"
    return "check the path (--data, data.train_files, data.val_files), or write it with `distillctl prep`"
