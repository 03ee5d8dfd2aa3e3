"""Saved responses for people: what is chosen, what is beside it, and that foreign text stays text."""

import json
import math
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.errors import ConfigError
from distillctl.inspection.sample_text import render_samples
from distillctl.inspection.samples import Filters, show_samples
from distillctl.monitor.shade import STEPS, shade
from distillctl.run.directory import RunDir
from distillctl.run.sample_files import TOKEN_TEXT, load_samples, sample_schema

TEXTS = {"0": "Ben", "1": " has", "2": " 7", "3": ".\n", "4": "\x1b[31m", "5": "<|end|>"}


def row(number, *, kl=(0.1, 0.3), correct=True, reason="stop", **fields):
    ids = [number % 3, *[1] * (len(kl) - 1)]
    return {
        "prompt_id": f"test/{number}", "sample": 0, "prompt_ids": [1], "response_ids": ids,
        "response_logprobs": [-0.5] * len(ids), "kl": list(kl), "finish_reason": reason,
        "text": "".join(TEXTS[str(i)] for i in ids), "ground_truth": "7", "correct": correct,
        "prompt": f"Question {number}?", "student_top_ids": [[1, 2]] * len(ids),
        "student_top_logprobs": [[math.log(0.75), math.log(0.25)]] * len(ids),
        "teacher_top_ids": [[2]] * len(ids), "teacher_top_logprobs": [[0.0]] * len(ids), **fields,
    }  # fmt: skip


def save(path, rows):
    path.parent.mkdir(exist_ok=True)
    schema = sample_schema().with_metadata({TOKEN_TEXT: json.dumps(TEXTS)})
    pq.write_table(pa.Table.from_pylist(rows, schema), path)


ANSWERS = [
    row(0),
    row(1, kl=(2.5, 1.5), correct=False),
    row(2, kl=(0.6, 0.6), correct=False, reason="length"),
    row(3, kl=(None, None), correct=None),
    row(4, kl=(0.7, 0.9)),
]


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A run with three evaluations and two saved steps."""
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.events_path.touch()
    for step in (0, 5, 10):
        answers = ANSWERS if step == 10 else [row(n, correct=step == 5) for n in range(5)]
        save(run.eval_dir / f"step_{step:06d}.parquet", answers)
    for step in (1, 10):
        save(run.samples_dir / f"step_{step:06d}.parquet", [row(n) for n in range(step, step + 3)])
    save(run.samples_dir / "step_000004.parquet", [row(11, correct=False, text="earlier")])
    return run


def chosen(run: RunDir, step: int | None = None, **filters) -> list[str]:
    found = show_samples(run.path, step, Filters(**filters))
    json.dumps(found, allow_nan=False)
    return [pair["after"]["prompt_id"] for pair in found["samples"]]


def test_validation_answers_stand_beside_those_of_the_first_evaluation(run: RunDir) -> None:
    found = show_samples(run.path, None, Filters())
    assert (found["file"], found["num_responses"]) == ("eval/step_000010.parquet", 5)
    assert [pair["before"]["prompt_id"] for pair in found["samples"]] == [f"test/{n}" for n in range(5)]
    assert all(pair["before"]["correct"] is False for pair in found["samples"])


def test_rollouts_of_a_step_stand_beside_the_earliest_of_their_prompt(run: RunDir) -> None:
    found = show_samples(run.path, 10, Filters())
    assert [pair["after"]["prompt_id"] for pair in found["samples"]] == ["test/10", "test/11", "test/12"]
    assert [pair["before"] and pair["before"]["text"] for pair in found["samples"]] == [None, "earlier", None]


def test_a_run_with_one_evaluation_shows_its_newest_rollouts(run: RunDir) -> None:
    for step in (5, 10):
        (run.eval_dir / f"step_{step:06d}.parquet").unlink()
    assert chosen(run) == ["test/10", "test/11", "test/12"]


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({"wrong": True}, [1, 2]),
        ({"truncated": True}, [2]),
        ({"wrong": True, "truncated": True}, [2]),
        ({"worst": 2}, [1, 4]),
        ({"worst": 9}, [1, 4, 2, 0]),
        ({"wrong": True, "worst": 1}, [1]),
        ({"prompt_id": "test/3"}, [3]),
        ({"prompt_id": "3"}, [3]),
        ({"limit": 2}, [0, 1]),
    ],
)
def test_filters(run: RunDir, filters, expected) -> None:
    assert chosen(run, **filters) == [f"test/{n}" for n in expected]


def test_a_token_has_its_alternatives_with_probabilities(run: RunDir) -> None:
    (pair,) = show_samples(run.path, None, Filters(prompt_id="test/1"))["samples"]
    after = pair["after"]
    assert after["pieces"] == [" has", " has"]
    assert after["mean_kl"] == 2.0
    assert after["student_top"][0] == [(" has", 0.75), (" 7", 0.25)]
    assert after["teacher_top"][1] == [(" 7", 1.0)]


@pytest.mark.parametrize(
    ("step", "filters", "message"),
    [
        (7, {}, "no samples of step 7"),
        (None, {"prompt_id": "none"}, "none of its 5 responses matches"),
        (10, {"wrong": True}, "none of its 3 responses matches"),
    ],
)
def test_what_is_not_there_is_said(run: RunDir, step, filters, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        show_samples(run.path, step, Filters(**filters))
    assert caught.value.hint


def test_a_token_number_beyond_the_response_is_refused(run: RunDir) -> None:
    with pytest.raises(ConfigError, match="--token 2"):
        show_samples(run.path, None, Filters(prompt_id="test/1"), 2)
    with pytest.raises(ConfigError, match="--token 0"):
        show_samples(run.path, None, Filters(), 0)


def test_a_damaged_file_and_one_of_something_else(run: RunDir, tmp_path: Path) -> None:
    path = run.samples_dir / "step_000010.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match="cannot be read"):
        show_samples(run.path, 10, Filters())
    pq.write_table(pa.table({"x": [1]}), path)
    with pytest.raises(ConfigError, match="holds no responses"):
        load_samples(path)


@pytest.mark.parametrize("damaged", ["samples/step_000001.parquet", "eval/step_000000.parquet"])
def test_a_damaged_earlier_file_is_named(run: RunDir, damaged: str) -> None:
    path = run.path / damaged
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=f"{path.name}: cannot be read"):
        show_samples(run.path, 10 if damaged.startswith("samples") else None, Filters())


def test_steps_are_ordered_by_number(run: RunDir) -> None:
    save(run.samples_dir / "step_999999.parquet", [row(50, text="before a million")])
    save(run.samples_dir / "step_1000000.parquet", [row(50)])
    (pair,) = show_samples(run.path, 1_000_000, Filters())["samples"]
    assert pair["before"]["text"] == "before a million"


def test_a_file_without_the_newer_columns_is_read(run: RunDir) -> None:
    path = run.samples_dir / "step_000010.parquet"
    old = [f.name for f in sample_schema()][:10]
    pq.write_table(pq.read_table(path).select(old).replace_schema_metadata(None), path)
    (sample, *_) = load_samples(path)
    assert sample["pieces"] == ["<1>", "<1>"]
    assert (sample["prompt"], sample["student_top"]) == (None, [])


def text(run: RunDir, columns: int, *, color: bool = False, details: bool = False, **filters) -> str:
    return render_samples(
        show_samples(run.path, None, Filters(**filters)), columns, color=color, details=details
    )


def test_without_colour_there_is_no_escape_byte_and_high_kl_is_marked(run: RunDir, monkeypatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    shown = text(run, 160)
    assert "\x1b" not in shown
    assert "« has»« has»" in shown  # 2.5 and 1.5 nats
    assert "correct, 2 tokens, mean kl 0.200" in shown
    assert "wrong, 2 tokens, mean kl 0.600, cut at the limit" in shown


def test_tokens_are_coloured_by_the_step_of_their_kl(run: RunDir) -> None:
    shown = text(run, 160, color=True, prompt_id="test/1")
    assert "48;5;160m has" in shown  # 2.5 nats: the last step
    assert "48;5;209m has" in shown
    assert "2+" in shown.splitlines()[1]  # the legend


def test_the_scale() -> None:
    assert [shade(value) for value in (None, math.nan, 0.0, 0.049, *STEPS, 99.0)] == [
        0,
        0,
        0,
        0,
        1,
        2,
        3,
        4,
        5,
        5,
    ]


def test_wide_terminals_show_before_and_after_side_by_side(run: RunDir) -> None:
    assert any("before: " in line and "after: " in line for line in text(run, 100).splitlines())
    narrow = text(run, 99).splitlines()
    assert not any("before: " in line and "after: " in line for line in narrow)
    assert sum("after: " in line for line in narrow) == 5
    assert all(len(line) <= 99 for line in narrow)


def test_the_table_of_one_response_begins_with_the_highest_kl(run: RunDir) -> None:
    rows = [line.split() for line in text(run, 160, details=True, prompt_id="test/1").splitlines()][-2:]
    assert [line[0] for line in rows] == ["0", "1"]
    assert "75.0%" in rows[0]
    assert "100.0%" in rows[0]


def test_what_models_write_does_not_reach_the_terminal_as_commands(run: RunDir) -> None:
    hostile = row(0, response_ids=[4, 3, 0], kl=[0.1, 0.1, 0.1], response_logprobs=[0.0] * 3,
                  prompt="\x1b]0;title\x07 [bold]x[/bold]", ground_truth="\x1b[2J",
                  student_top_ids=[[4]] * 3, student_top_logprobs=[[0.0]] * 3,
                  teacher_top_ids=[[4]] * 3, teacher_top_logprobs=[[0.0]] * 3)  # fmt: skip
    hostile["prompt_id"] = "\x1b[31mred"
    save(run.eval_dir / "step_000010.parquet", [hostile])
    shown = text(run, 160, details=True, prompt_id=hostile["prompt_id"])
    assert shown.replace("\n", "").isprintable()
    assert "[bold]x[/bold]" in shown
