"""GSM8K, row for row as verl's `examples/data_preprocess/gsm8k.py` writes it.

This module has everything that is specific to GSM8K: where its files are, how an answer marks its number and
its calculations, and the instruction that verl adds to a question.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from distillctl.data.columns import ColumnTally
from distillctl.data.out_folder import SPLITS
from distillctl.data.prep import DataSet
from distillctl.data.read import records
from distillctl.data.schema import Example
from distillctl.data.source import require_folder, require_one
from distillctl.data.values import require_text
from distillctl.errors import ConfigError, EnvironmentUnfit

HUB_ID = "openai/gsm8k"
INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'
"""Text after the question and one space in a prompt, as in verl's `examples/data_preprocess/gsm8k.py`."""
ABILITY = "math"
"""What verl writes into the column `ability`."""
_FIELDS = ("question", "answer")
# Four hashes, one space, then an optional minus and digits, dots, commas (verl's gsm8k.py).
_GROUND_TRUTH = re.compile(r"#### (\-?[0-9\.\,]+)")
# `<<48/2=24>>`: an equation without blanks. Bit shifts in program code do not match.
_CALCULATOR_MARK = re.compile(r"<<[^<>\s=]+=[^<>\s]+>>")


def data_set(
    source: Annotated[
        Path | None,
        Option(help="Folder with train and test as .jsonl or .parquet; by default they are downloaded."),
    ] = None,
) -> DataSet:
    """The grade-school math word problems of GSM8K (openai/gsm8k).

    `source` holds `train` and `test` as upstream's .jsonl or as .parquet, or is a snapshot of the repository
    on the Hugging Face Hub. Raises ConfigError for bad rows and EnvironmentUnfit when the Hub cannot be
    reached.

    Example: distillctl prep gsm8k --out data/gsm8k
    """
    columns = ColumnTally(_FIELDS)
    if source is None:
        download = cache(_download)
        return DataSet(
            data_source=HUB_ID,
            splits={split: _examples(_downloaded(download, split), columns) for split in SPLITS},
            columns=columns,
        )
    files = {split: _files(source, split) for split in SPLITS}
    return DataSet(
        data_source=HUB_ID,
        source=source.resolve().name,
        splits={split: _examples(_stored(paths), columns) for split, paths in files.items()},
        files=[path for paths in files.values() for path in paths],
        columns=columns,
    )


def ground_truth(answer: str) -> str:
    """The final answer in a GSM8K solution: the number after the first `#### `, without commas.

    Raises ValueError when there is none. `$`, `%` and units are not handled, as in verl.
    """
    match = _GROUND_TRUTH.search(answer)
    if match is None:
        raise ValueError("the answer has no `#### NUMBER`")
    return match.group(1).replace(",", "")


def without_calculator_marks(text: str) -> str:
    """A solution without GSM8K's calculator marks, such as `<<48/2=24>>`."""
    return _CALCULATOR_MARK.sub("", text)


def example(question: str, answer: str) -> Example:
    """The example of a question and its solution. Raises ValueError for a solution without `#### NUMBER`."""
    return Example(
        prompt=f"{question} {INSTRUCTION}",
        question=question,
        answer=answer,
        ground_truth=ground_truth(answer),
        ability=ABILITY,
    )


def _examples(rows: Iterator[tuple[str, Mapping[str, Any]]], columns: ColumnTally) -> Iterator[Example]:
    for where, row in rows:
        columns.add(row)
        question, answer = (require_text(row.get(name), where, name) for name in _FIELDS)
        try:
            yield example(question, answer)
        except ValueError as error:
            hint = "for your own data in another answer format, use `distillctl prep jsonl`"
            raise ConfigError(f"{where}: {error}", hint) from error


def _files(source: Path, split: str) -> list[Path]:
    """Files of one split: upstream's own, or the shards of a Hub snapshot under `main/`."""
    require_folder(source)
    own = [path for suffix in (".jsonl", ".parquet") if (path := source / f"{split}{suffix}").is_file()]
    shards = sorted((source / "main").glob(f"{split}-*.parquet"))
    require_one(source, split, [*own, *shards[:1]])
    if not own and not shards:
        hint = "give --source a directory with train.jsonl and test.jsonl (or .parquet)"
        raise ConfigError(f"{source}: no {split}.jsonl and no {split}.parquet", hint)
    return own or shards


def _stored(paths: list[Path]) -> Iterator[tuple[str, dict[str, Any]]]:
    for path in paths:
        yield from records(path, _FIELDS, whole=True)


def _downloaded(download: Callable[[], Any], split: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for index, row in enumerate(download()[split]):
        yield f"{HUB_ID} {split}: row {index}", row


def _download() -> Any:
    """Both splits from the Hugging Face Hub, or from its cache if they are there."""
    import datasets

    try:
        return datasets.load_dataset(HUB_ID, "main")
    except (OSError, datasets.exceptions.DatasetsError) as error:
        message = f"{HUB_ID} could not be downloaded from the Hugging Face Hub: {error}"
        hint = "without network access, use --source DIR with GSM8K's train.jsonl and test.jsonl"
        raise EnvironmentUnfit(message, hint) from error
