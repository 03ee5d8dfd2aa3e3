"""`distillctl prep`: writing prompts as parquet files in verl's schema.

In: GSM8K, the built-in arithmetic, or the user's own file. Out: a directory with `train.parquet`,
mostly `test.parquet`, and `manifest.json`, which says what went in and came out. Every row is read
and checked before anything is written, and files appear under their names only when all of them are
complete.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from numbers import Number
from pathlib import Path
from typing import Any

from distillctl import __version__
from distillctl.answers.kinds import answer_type, require_answer
from distillctl.answers.truths import read_truth
from distillctl.data.chat import last_question, read_chat
from distillctl.data.columns import ColumnTally
from distillctl.data.out_folder import MANIFEST, digest, require_free, staged
from distillctl.data.read import SUFFIXES, answer_text, records, struct
from distillctl.data.schema import gsm8k_ground_truth, schema, to_row
from distillctl.data.summary import counts
from distillctl.data.turn_truth import truth_in_turn
from distillctl.data.values import kind_of, require_text
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.terminal.progress import track

Manifest = dict[str, Any]
"""The content of `manifest.json`.

`kind`, `source` (a name, never a path), `distillctl` (version), what `summary.counts` counts,
`source_sha256` and `sha256` (hex digests of the files read and written, by file name).
"""

Row = dict[str, Any]
Record = tuple[str, dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _Fields:
    """What `prep jsonl` reads of a row, beside `reward_model`."""

    prompt: str
    answer: str
    is_named: bool
    """Whether `answer` was asked for, so that it counts before `reward_model.ground_truth`."""
    kind: str | None
    """The answer type; None: what a row's `reward_model.style` says."""


_HUB_ID = "openai/gsm8k"
_REWARD = "reward_model"
_GSM8K_FIELDS = ("question", "answer")
_SPLITS = ("train", "test")


def prep_gsm8k(out: Path, source: Path | None, limit: int | None, force: bool) -> Manifest:
    """GSM8K, row for row what verl's `examples/data_preprocess/gsm8k.py` writes.

    `source` is a directory with upstream's `train` and `test` as .jsonl or .parquet, or a snapshot
    of the hub's data set; None downloads that. `limit` keeps the first rows of each split. Raises
    ConfigError (bad rows, `out` is taken and not `force`) and EnvironmentUnfit (the hub cannot be
    reached).
    """
    files = {} if source is None else {split: _gsm8k_files(source, split) for split in _SPLITS}
    _check_out(out, files, limit, force)
    if source is None:
        found = _download_gsm8k()
    else:
        found = {split: _gsm8k_records(paths) for split, paths in files.items()}
    tally = ColumnTally(_GSM8K_FIELDS)
    splits = {
        split: [_gsm8k_row(record, split, i, tally) for i, record in enumerate(_first(rows, split, limit))]
        for split, rows in found.items()
    }
    return _write(out, "gsm8k", _HUB_ID if source is None else source.resolve().name, splits, files, tally)


def prep_arith(out: Path, limit: int | None, force: bool) -> Manifest:
    """The built-in arithmetic problems; `limit` keeps the first rows of each split.

    Raises ConfigError when `out` is taken and not `force`.
    """
    from distillctl.data import arith

    _check_out(out, {}, limit, force)
    problems = arith.splits(arith.NUM_TRAIN, arith.NUM_TEST, arith.SEED)
    splits = {
        split: [
            to_row(p.question, p.answer, gsm8k_ground_truth(p.answer), split, i, "distillctl/arith")
            for i, p in enumerate(chosen[:limit])
        ]
        for split, chosen in zip(_SPLITS, problems, strict=True)
    }
    return _write(out, "arith", f"distillctl/arith seed {arith.SEED}", splits, {}, ColumnTally(()))


def prep_jsonl(
    out: Path,
    source: Path | None,
    prompt_field: str,
    answer_field: str | None,
    limit: int | None,
    force: bool,
    kind: str | None = None,
) -> Manifest:
    """The user's own prompts, as they are: no instruction is added and no split invented.

    `source` is a file (written as `train.parquet`) or a directory with `train` and perhaps `test` as .jsonl,
    .json or .parquet. `prompt_field` holds text or a chat (`chat.read_chat`); `answer_field` may be null in
    rows, and with None it is `answer`, which need not be there. The assistant's turn that a chat ends with is
    the reference answer. The ground truth is that of `answer_field`, else `reward_model.ground_truth`, else
    that of `answer`, else what that turn states; `kind` is its answer type, with None `reward_model.style`.
    Raises ConfigError (bad rows, a named field without anything in it, no `source`, `out` is taken).
    """
    if source is None:
        raise ConfigError("prep jsonl: no source", "give the file of your prompts: --source FILE")
    files = _own_files(source)
    _check_out(out, files, limit, force)
    fields = _Fields(prompt_field, answer_field or "answer", answer_field is not None, kind)
    names = (fields.prompt, fields.answer)
    tally = ColumnTally(names)
    splits = {
        split: [
            _own_row(record, split, i, fields, tally)
            for i, record in enumerate(_first(records(path, (*names, _REWARD), whole=True), split, limit))
        ]
        for split, (path,) in files.items()
    }
    if answer_field is not None:
        tally.require(answer_field, "--answer-field")
    return _write(out, "jsonl", source.resolve().name, splits, files, tally)


def _first(found: Iterable[Record], split: str, limit: int | None) -> Iterator[Record]:
    """The first `limit` of the rows, with progress on stderr."""
    yield from track(islice(found, limit), f"reading {split}")


def _gsm8k_files(source: Path, split: str) -> list[Path]:
    """Files of one split: upstream's own, or the shards of a hub snapshot under `main/`."""
    _check_source(source)
    own = [path for suffix in (".jsonl", ".parquet") if (path := source / f"{split}{suffix}").is_file()]
    shards = sorted((source / "main").glob(f"{split}-*.parquet"))
    _require_one(source, split, [*own, *shards[:1]])
    if not own and not shards:
        hint = "--source takes a directory with train.jsonl and test.jsonl (or .parquet)"
        raise ConfigError(f"{source}: no {split}.jsonl and no {split}.parquet", hint)
    return own or shards


def _require_one(source: Path, split: str, paths: list[Path]) -> None:
    """Refuse several files of which each is all of a split."""
    if len(paths) > 1:
        names = ", ".join(str(path.relative_to(source)) for path in paths)
        raise ConfigError(f"{source}: has several files of {split}: {names}", "leave one of them there")


def _gsm8k_records(paths: list[Path]) -> Iterator[Record]:
    for path in paths:
        yield from records(path, _GSM8K_FIELDS, whole=True)


def _download_gsm8k() -> dict[str, Iterator[Record]]:
    """Both splits of the hub's data set (from its cache when it is there)."""
    import datasets

    try:
        loaded = datasets.load_dataset(_HUB_ID, "main")
    except (OSError, datasets.exceptions.DatasetsError) as error:
        message = f"{_HUB_ID} cannot be had from the hub: {error}"
        hint = "on a machine without network: --source DIR with GSM8K's train.jsonl and test.jsonl"
        raise EnvironmentUnfit(message, hint) from error
    return {
        split: ((f"{_HUB_ID} {split}: row {i}", row) for i, row in enumerate(loaded[split]))
        for split in _SPLITS
    }


def _gsm8k_row(record: Record, split: str, index: int, tally: ColumnTally) -> Row:
    where, fields = record
    tally.add(fields)
    question, answer = (require_text(fields.get(name), where, name) for name in _GSM8K_FIELDS)
    try:
        truth = gsm8k_ground_truth(answer)
    except ValueError as error:
        hint = "own data without GSM8K's answer format: `distillctl prep jsonl`"
        raise ConfigError(f"{where}: {error}", hint) from error
    return to_row(question, answer, truth, split, index, _HUB_ID)


def _own_files(source: Path) -> dict[str, list[Path]]:
    """The file of each split that `source` has."""
    if source.is_file():
        return {"train": [source]}
    _check_source(source)
    named = [(split, source / f"{split}{suffix}") for split in _SPLITS for suffix in SUFFIXES]
    files: dict[str, list[Path]] = {}
    for split, path in named:
        if path.is_file():
            files.setdefault(split, []).append(path)
    for split, paths in files.items():
        _require_one(source, split, paths)
    if "train" not in files:
        hint = "--source takes one file, or a directory with train.jsonl (and test.jsonl)"
        raise ConfigError(f"{source}: no train.jsonl, train.json or train.parquet", hint)
    return files


def _own_row(record: Record, split: str, index: int, fields: _Fields, tally: ColumnTally) -> Row:
    where, row = record
    chat = read_chat(row[fields.prompt], where, fields.prompt)
    answer, given = _answer(row, where, fields.answer), row.get(_REWARD)
    reward = struct(given, where, _REWARD) if isinstance(given, dict) else {}
    rewarded = answer_text(reward.get("ground_truth"), where)
    kind = fields.kind or answer_type(reward.get("style"))
    by_name = fields.is_named and answer is not None
    stated = answer if by_name or rewarded is None else rewarded
    is_read = bool(reward) and (rewarded is None or not by_name)
    tally.add(row, also=(_REWARD,) if is_read else ())
    truth = None if stated is None else _truth(stated, kind, where)
    if truth is None and chat.answer is not None:
        truth = truth_in_turn(chat.answer, kind)
    question, reference = last_question(chat.messages), chat.answer or answer
    return to_row(question, reference, truth, split, index, "distillctl/jsonl", chat.messages, kind)


def _answer(row: Mapping[str, Any], where: str, name: str) -> str | None:
    """The text of the answer in the column `name`."""
    value = row.get(name)
    if isinstance(value, bool) or not isinstance(value, str | Number | None):
        raise ConfigError(
            f"{where}: `{name}` must be text, a number or null, got {kind_of(value)}",
            "write it as text; an answer of messages belongs at the end of its chat",
        )
    answer = answer_text(value, f"{where}: `{name}`")
    return None if answer is None else require_text(answer, where, name)


def _truth(text: str, kind: str, where: str) -> str:
    """The ground truth in an answer of type `kind`: of a numeric one its number, else all of it."""
    require_text(text, where, "ground_truth")
    require_answer(text.strip(), kind, where)
    read = read_truth(text) if kind == "numeric" else None
    return text.strip() if read is None or read.value is None else read.text


def _check_source(source: Path) -> None:
    if not source.is_dir():
        what = "is not a directory" if source.exists() else "does not exist"
        raise ConfigError(f"{source}: {what}", "--source names where your data lies")


def _check_out(out: Path, files: dict[str, list[Path]], limit: int | None, force: bool) -> None:
    if limit is not None and limit < 1:
        raise ConfigError(f"--limit is {limit}", "it counts rows of each split, from 1")
    require_free(out, (path for paths in files.values() for path in paths), force=force)


def _write(
    out: Path,
    kind: str,
    source: str,
    splits: dict[str, list[Row]],
    files: dict[str, list[Path]],
    tally: ColumnTally,
) -> Manifest:
    """Write all splits, and last the manifest: where it stands, the rest is complete."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with staged(out) as stage:
        for split, rows in splits.items():
            pq.write_table(pa.Table.from_pylist(rows, schema()), stage / f"{split}.parquet")
        manifest = {
            "kind": kind,
            "source": source,
            "distillctl": __version__,
            **counts(splits, tally),
            "source_sha256": _digests(path for paths in files.values() for path in paths),
            "sha256": _digests(sorted(stage.glob("*.parquet"))),
        }
        text = json.dumps(manifest, indent=2, ensure_ascii=False) + "\n"
        (stage / MANIFEST).write_text(text, encoding="utf-8")
    return manifest


def _digests(paths: Iterable[Path]) -> dict[str, str]:
    """SHA-256 of each file, by its name."""
    return {path.name: digest(path) for path in paths}
