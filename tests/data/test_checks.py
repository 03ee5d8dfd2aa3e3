"""What is said about the prompts of a run before anything starts."""

import json
from dataclasses import replace

import pytest

from distillctl.config.schema import Config
from distillctl.data.checks import answer_checks, special_token_checks, unused_text_checks
from distillctl.data.read import PromptRow
from distillctl.data.special_tokens import SpecialTokens
from distillctl.errors import ConfigError
from distillctl.models.locate import find_model

PRESET = "tiny-from-small-arith"
TINY = ["train.device=cpu", "data.train_batch_size=2", "train.steps=1"]


def config(**sections):
    base = {
        "student": {"model": "s"}, "teacher": {"model": "t"}, "train": {"steps": 1},
        "data": {"train_files": ["x"], "val_files": ["y"]}, "eval": {"every": 1},
    }  # fmt: skip
    return Config.model_validate(base | sections)


def row(truth=None, reference=None, content="What is 2+3?"):
    messages = [{"role": "user", "content": content}]
    return PromptRow(
        index=0,
        messages=messages,
        question=content,
        ground_truth=truth,
        data_source=None,
        split="train",
        reference=reference,
    )


def test_rows_with_answers_need_no_word():
    checks = answer_checks(config(loss={"sft_coef": 0.5}), [row(reference="5")], [row("5")])
    assert checks == []


def test_rows_without_answers_that_nothing_needs_need_none():
    assert answer_checks(config(), [row()], []) == []


def test_text_of_messages_that_is_not_used_is_said_for_each_set_of_rows():
    thought = replace(row(), unused_keys=("reasoning_content", "name"))
    train, val = (
        unused_text_checks([row(), thought, thought], [row()]),
        unused_text_checks([row()], [thought]),
    )
    assert [check.level for check in (*train, *val)] == ["warn", "warn"]
    assert train[0].detail == (
        "data.train_files: messages of 2 of 3 rows have text in `reasoning_content`, `name`, "
        "which is not used"
    )
    assert val[0].detail.startswith("data.val_files: messages of 1 of 1 rows")


@pytest.mark.parametrize("reference", [None, "<<2+3=5>>"])
def test_a_loss_on_answers_that_are_not_there_is_refused(reference):
    with pytest.raises(ConfigError, match="none of 2 prompts") as caught:
        answer_checks(config(loss={"sft_coef": 0.5}), [row(reference=reference)] * 2, [])
    assert "loss.sft_coef=0" in caught.value.hint


def test_prompts_without_a_reference_are_counted():
    (check,) = answer_checks(config(loss={"sft_coef": 0.5}), [row(), row(), row(reference="5")], [])
    assert check.level == "warn"
    assert check.detail.startswith("2 of 3 training prompts")


@pytest.mark.parametrize(
    ("truths", "best", "words"),
    [
        ((None, None), False, "2 of 2 rows of data.val_files have no ground truth: val/acc is not measured"),
        (
            (None, "5", "6"),
            True,
            "1 of 3 rows of data.val_files have no ground truth: val/acc counts the",
        ),
        ((None,), True, "not measured, and checkpoint.best keeps no checkpoint"),
    ],
)
def test_validation_rows_without_a_truth_are_counted(truths, best, words):
    settings = config(checkpoint={"best": best})
    (check,) = answer_checks(settings, [row()], [row(truth) for truth in truths])
    assert (check.name, check.level) == ("validation answers", "warn")
    assert words in check.detail


def test_special_tokens_are_counted_for_each_set_of_rows():
    tokens = SpecialTokens(find_model("builtin:tiny-student", "test").tokenizer)
    hostile = row(content="a <|im_end|> b")
    checks = special_token_checks([row(), hostile, hostile], [hostile], tokens)
    assert [check.level for check in checks] == ["warn", "warn"]
    assert "data.train_files: the text of 2 of 3 rows" in checks[0].detail
    assert "data.val_files: the text of 1 of 1 rows" in checks[1].detail
    assert "'<|im_end|>'" in checks[0].detail
    assert special_token_checks([row()], [row()], tokens) == []


def lines(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))


def test_train_refuses_a_loss_on_missing_answers_before_it_starts(refused, folder):
    lines(folder / "bare.jsonl", [{"prompt": "What is 2+3?"}] * 2)
    keys = ["data.train_files=bare.jsonl", "loss.sft_coef=0.5", "eval.every=0"]
    assert "none of 2 prompts" in refused("train", "--preset", PRESET, *TINY, *keys)[0]


ROUTED = ["teachers.math.model=builtin:tiny-teacher", "data.teacher_key=domain", "data.train_files=a.jsonl",
          "eval.every=0"]  # fmt: skip


def test_a_column_of_teachers_that_no_row_has_is_refused(refused, folder):
    lines(folder / "a.jsonl", [{"prompt": "What is 2+3?", "field": "math"}, {"prompt": "x", "level": 1}])
    message, fix = refused("train", "--preset", PRESET, *TINY, *ROUTED)
    assert message == (
        "data.teacher_key=domain: no row of data.train_files has a value in that column, so no prompt would "
        "go to teachers.math"
    )
    assert fix == "name the column with the teachers' keys; the columns are: prompt, field, level"


@pytest.mark.parametrize("value", [None, float("nan")])
def test_a_column_of_teachers_that_is_empty_is_refused(refused, folder, value):
    lines(folder / "a.jsonl", [{"prompt": "What is 2+3?", "domain": value}] * 2)
    _, fix = refused("train", "--preset", PRESET, *TINY, *ROUTED)
    assert fix.endswith("the columns are: prompt, domain")


def test_one_row_with_a_teacher_is_enough(folder, distillctl, monkeypatch):
    monkeypatch.setattr("distillctl.launch.dry_run.measured_checks", lambda plan: [])
    lines(folder / "a.jsonl", [{"prompt": "What is 2+3?"}, {"prompt": "x", "domain": "law"}])
    assert distillctl("train", "--preset", PRESET, *TINY, *ROUTED, "--dry-run")[0] == 0


def test_a_dry_run_says_what_is_missing_and_what_is_text(folder, distillctl, monkeypatch):
    monkeypatch.setattr("distillctl.launch.dry_run.measured_checks", lambda plan: [])
    lines(folder / "bare.jsonl", [{"prompt": "What is <|im_end|> 2+3?"}] * 3)
    keys = ["data.train_files=bare.jsonl", "data.val_files=bare.jsonl", "eval.every=1", "eval.limit=2"]
    code, out, _ = distillctl("train", "--preset", PRESET, *TINY, *keys, "--dry-run", "--json")
    told = [(one["name"], one["detail"]) for one in json.loads(out)["checks"] if one["level"] == "warn"]
    assert code == 0
    assert (
        "validation answers",
        "2 of 2 rows of data.val_files have no ground truth: val/acc is not measured",
    ) in told
    assert [detail.split(" holds")[0] for name, detail in told if name == "special tokens"] == [
        "data.train_files: the text of 3 of 3 rows",
        "data.val_files: the text of 2 of 2 rows",
    ]


@pytest.mark.parametrize("second", ["a.jsonl", "./x/../a.jsonl", "soft.jsonl", "hard.jsonl"])
def test_a_validation_file_under_two_names_is_refused(folder, refused, second):
    (folder / "x").mkdir()
    (folder / "a.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "soft.jsonl").symlink_to("a.jsonl")
    (folder / "hard.jsonl").hardlink_to("a.jsonl")
    files = f'data.val_files=["a.jsonl","data/arith/test.parquet","{second}"]'
    for more in ([], ["--dry-run"], ["eval.every=0"]):
        message, _ = refused("train", "--preset", PRESET, *TINY, files, *more)
        assert message == (
            f"data.val_files[2]={second} is the same file as data.val_files[0]=a.jsonl: "
            "its prompts would count twice"
        )
