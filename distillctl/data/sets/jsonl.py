"""The user's own prompts, unchanged: prep adds no instruction and makes no split."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from numbers import Number
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Option

from distillctl.data.chat import read_chat
from distillctl.data.columns import ColumnTally
from distillctl.data.out_folder import SPLITS
from distillctl.data.prep import DataSet
from distillctl.data.read import SUFFIXES, answer_text, records, struct
from distillctl.data.schema import Example
from distillctl.data.source import require_folder, require_one
from distillctl.data.values import kind_of, require_text
from distillctl.errors import ConfigError
from distillctl.grading import answer_types

_REWARD = "reward_model"
_ANSWER = "answer"
"""Default field of the answers; it may be missing."""
if TYPE_CHECKING:
    AnswerType = str
else:
    AnswerType = Literal[answer_types.ANSWER_TYPES]  # the command's choices


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields that are read from a row, besides `reward_model`."""

    prompt: str
    answer: str
    is_named: bool
    """Whether the user named `answer`; it then comes before `reward_model.ground_truth`."""
    answer_type: str | None
    """None stands for the row's `reward_model.style`."""


def data_set(
    source: Annotated[Path, Option(help="Your file, or a folder with train and test.")],
    prompt_field: Annotated[str, Option(help="Field with the prompt: text or a chat.")] = "question",
    answer_field: Annotated[
        str | None, Option(help="Field with the answer; by default `answer`, which may be missing.")
    ] = None,
    answer_type: Annotated[
        AnswerType | None,
        Option(help="How answers are compared; by default reward_model.style, else numeric."),
    ] = None,
) -> DataSet:
    """Your own prompts, from a file.

    `source` is a file (written as `train.parquet`) or a directory with `train` and perhaps `test` as .jsonl,
    .json or .parquet. `prompt_field` holds text or a chat (`chat.read_chat`); `answer_field` may be null in
    rows. An assistant's turn at the end of a chat is the reference answer. The ground truth comes from the
    first of these that has one: `answer_field`, `reward_model.ground_truth`, `answer`, that last turn.
    Raises ConfigError for bad rows, and for a named field that is empty in all rows.

    Example: distillctl prep jsonl --source my.jsonl --out data/mine
    """
    files = _files(source)
    fields = _Fields(prompt_field, answer_field or _ANSWER, answer_field is not None, answer_type)
    required = {} if answer_field is None else {answer_field: "--answer-field"}
    columns = ColumnTally((fields.prompt, fields.answer), required)
    return DataSet(
        data_source="distillctl/jsonl",
        source=source.resolve().name,
        splits={split: _examples(path, fields, columns) for split, path in files.items()},
        files=list(files.values()),
        columns=columns,
    )


def _files(source: Path) -> dict[str, Path]:
    """The file of each split that `source` has."""
    if source.is_file():
        return {"train": source}
    require_folder(source)
    named = [(split, source / f"{split}{suffix}") for split in SPLITS for suffix in SUFFIXES]
    files: dict[str, list[Path]] = {}
    for split, path in named:
        if path.is_file():
            files.setdefault(split, []).append(path)
    for split, paths in files.items():
        require_one(source, split, paths)
    if "train" not in files:
        hint = "give --source one file, or a directory with train.jsonl (and test.jsonl)"
        raise ConfigError(f"{source}: no train.jsonl, train.json or train.parquet", hint)
    return {split: path for split, (path,) in files.items()}


def _examples(path: Path, fields: _Fields, columns: ColumnTally) -> Iterator[Example]:
    for where, row in records(path, (fields.prompt, fields.answer, _REWARD), whole=True):
        yield _example(row, where, fields, columns)


def _example(row: dict[str, Any], where: str, fields: _Fields, columns: ColumnTally) -> Example:
    chat = read_chat(row[fields.prompt], where, fields.prompt)
    answer = _answer(row, where, fields.answer)
    given = row.get(_REWARD)
    reward = struct(given, where, _REWARD) if isinstance(given, dict) else {}
    rewarded = answer_text(reward.get("ground_truth"), where)
    kind = fields.answer_type or answer_types.answer_type(reward.get("style"))
    by_name = fields.is_named and answer is not None
    stated = answer if by_name or rewarded is None else rewarded
    is_read = bool(reward) and (rewarded is None or not by_name)
    columns.add(row, also=(_REWARD,) if is_read else ())
    truth = None if stated is None else _truth(stated, kind, where)
    if truth is None and chat.answer is not None:
        truth = answer_types.load(kind).truth_in_turn(chat.answer)
    return Example(prompt=chat.messages, answer=chat.answer or answer, ground_truth=truth, answer_type=kind)


def _answer(row: Mapping[str, Any], where: str, name: str) -> str | None:
    """The text of the answer in the column `name`."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | Number | None):
        raise ConfigError(
            f"{where}: `{name}` must be text, a number or null, got {kind_of(value)}",
            "write it as text; an answer in messages belongs at the end of the prompt's chat",
        )
    answer = answer_text(value, f"{where}: `{name}`")
    return None if answer is None else require_text(answer, where, name)


def _truth(text: str, kind: str, where: str) -> str:
    """The ground truth in an answer of type `kind`."""
    require_text(text, where, "ground_truth")
    answer_types.require_answer(text.strip(), kind, where)
    return answer_types.load(kind).truth(text)
