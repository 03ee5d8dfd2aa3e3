"""The parquet schema of prompts: verl's GSM8K layout, column by column.

`prep.py` writes rows through `to_row` and `schema`; `read.py` reads the same layout leniently.
Files written here load in verl, and verl's load here.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

INSTRUCTION = 'Let\'s think step by step and output the final answer after "####".'
"""Joined to a question with one space, as verl's `examples/data_preprocess/gsm8k.py` does."""

_ABILITY = "math"
# Four hashes, one space, then an optional minus and digits, dots, commas (verl's gsm8k.py).
_GROUND_TRUTH = re.compile(r"#### (\-?[0-9\.\,]+)")


def schema() -> pa.Schema:
    """Arrow schema of a prompt file: the columns of verl's GSM8K parquet, in verl's order."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    return pa.schema(
        [
            ("data_source", pa.string()),
            ("prompt", pa.list_(message)),
            ("ability", pa.string()),
            ("reward_model", pa.struct([("style", pa.string()), ("ground_truth", pa.string())])),
            (
                "extra_info",
                pa.struct(
                    [
                        ("split", pa.string()),
                        ("index", pa.int64()),
                        ("answer", pa.string()),
                        ("question", pa.string()),
                    ]
                ),
            ),
        ]
    )


def gsm8k_ground_truth(answer: str) -> str:
    """The final answer in a GSM8K solution: the number after the first `#### `, without commas.

    Raises ValueError when there is none. `$`, `%` and units are not handled, as in verl.
    """
    match = _GROUND_TRUTH.search(answer)
    if match is None:
        raise ValueError("the answer has no `#### NUMBER`")
    return match.group(1).replace(",", "")


def to_row(
    question: str,
    answer: str | None,
    ground_truth: str | None,
    split: str,
    index: int,
    data_source: str,
    messages: list[dict[str, str]] | None = None,
    kind: str = "numeric",
) -> dict[str, Any]:
    """One row of `schema()`, `index` counting from 0 within `split`.

    `messages` is a chat of the user's own, kept as it is; without it the row is a math question and
    the chat is one user message: the question, a space and `INSTRUCTION`. A row with `ground_truth`
    None can be distilled, not scored; `kind` is the answer type of another.
    """
    style = "rule" if kind == "numeric" else kind
    asked = [{"role": "user", "content": f"{question} {INSTRUCTION}"}]
    return {
        "data_source": data_source,
        "prompt": asked if messages is None else messages,
        "ability": _ABILITY if messages is None else None,
        "reward_model": {
            "style": "none" if ground_truth is None else style,
            "ground_truth": ground_truth,
        },
        "extra_info": {"split": split, "index": index, "answer": answer, "question": question},
    }
