"""Questions to the tiny student, and answers to them that no engine gave."""

from pathlib import Path

import pytest

from distillctl.data.read import PromptRow
from distillctl.data.sets import arith
from distillctl.evaluate.cache import Cache, Response
from distillctl.evaluate.data import EvalData
from distillctl.evaluate.questions import Target, all_questions, row_of
from distillctl.models.locate import find_model


def _eval_data(num_rows: int) -> EvalData:
    _, problems = arith.splits(8, num_rows, 0)
    rows = [
        PromptRow(
            index=i,
            messages=[{"role": "user", "content": p.question}],
            question=p.question,
            ground_truth="1",
            data_source="arith",
            split="test",
        )
        for i, p in enumerate(problems)
    ]
    ids = [f"test/{i}" for i in range(num_rows)]
    return EvalData(
        files=["a"],
        source="--data",
        paths=[Path("a")],
        rows=rows,
        file_of_row=["a"] * num_rows,
        prompt_ids=ids,
    )


@pytest.fixture(scope="session")
def eval_data():
    return _eval_data


@pytest.fixture(scope="session")
def student() -> Target:
    return Target("student", find_model("builtin:tiny-student", "test"))


@pytest.fixture(scope="session")
def asked(student):
    """Twelve problems, for answers of at most 48 tokens."""
    (found,) = all_questions([student], _eval_data(12), 48)
    return found


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    return Cache(tmp_path / "kept", tmp_path / "user")


@pytest.fixture(scope="session")
def made_up():
    """A function that makes up one response to each of some prompts."""

    def response(prompt):
        row = row_of(prompt)
        ids = [5, 6 + row, 2]
        return Response(
            row=row,
            sample=0,
            prompt_ids=prompt.token_ids,
            response_ids=ids,
            text="x",
            finish_reason="stop",
        )

    return lambda prompts: [response(prompt) for prompt in prompts]
