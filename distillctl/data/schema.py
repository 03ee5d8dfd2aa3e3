"""The parquet schema of prompts: verl's layout, column by column.

`prep.py` writes rows with `to_row` and `schema`; `read.py` reads the same layout leniently. verl loads files
written here, and distillctl loads verl's files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from distillctl.data.chat import Message, last_question
from distillctl.grading.answer_types import DEFAULT

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A prompt and its answers, as a data set gives them to `prep`."""

    prompt: str | list[Message]
    """Text, which becomes one user message, or a chat without the answer at its end."""
    question: str | None = None
    """The question alone, without instructions; None stands for the last user message."""
    answer: str | None = None
    """The whole reference answer, for `loss.sft_coef`; None when there is none."""
    ground_truth: str | None = None
    """The final answer; None when there is none: responses to this prompt are then not graded."""
    answer_type: str = DEFAULT
    """How responses are compared with `ground_truth`."""
    ability: str | None = None
    """verl's column `ability`, which distillctl does not read."""


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


def to_row(example: Example, split: str, index: int, data_source: str) -> dict[str, Any]:
    """One row of `schema()`; `index` counts from 0 within `split`."""
    chat = example.prompt
    messages = [{"role": "user", "content": chat}] if isinstance(chat, str) else chat
    style = "rule" if example.answer_type == DEFAULT else example.answer_type
    question = last_question(messages) if example.question is None else example.question
    return {
        "data_source": data_source,
        "prompt": messages,
        "ability": example.ability,
        "reward_model": {
            "style": "none" if example.ground_truth is None else style,
            "ground_truth": example.ground_truth,
        },
        "extra_info": {"split": split, "index": index, "answer": example.answer, "question": question},
    }
