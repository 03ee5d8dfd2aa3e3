"""Numbers of one model beside another's: over the prompts that both answered, and per file."""

import json

import numpy as np
import pytest

from distillctl.data_types import Prompt, Rollout
from distillctl.evaluate.command import _reported
from distillctl.evaluate.data import EvalData
from distillctl.evaluate.pairing import Result, compared, required_values
from distillctl.evaluate.table import render_report
from distillctl.evaluate.teacher import KlTeacher, ResponseKl, mean_kl, response_kls
from distillctl.files.atomic import write_json
from distillctl.grading.scorers import Grade
from distillctl.grading.summary import GradedResponse
from distillctl.models.locate import find_model


def result(label, verdicts, kls=None, num_dropped=0):
    """`verdicts`: by the number of the prompt; None is not graded."""
    made = []
    for number, right in verdicts.items():
        prompt = Prompt(f"test/{number}", [1], f"q{number}", "7")
        rollout = Rollout(
            prompt=prompt,
            group=number,
            sample=0,
            response_ids=np.array([1, 2], np.int32),
            response_logprobs=np.zeros(2, np.float32),
            finish_reason="stop",
            weight_version=0,
        )
        grade = None
        if right is not None:
            grade = Grade(strict=False, flexible=False, normalised=right, has_format=True, extracted="7")
        made.append(GradedResponse(rollout, "", grade))
    return Result(label=label, responses=made, seconds=2.0, num_dropped=num_dropped, kls=kls)


def test_differences_are_over_the_prompts_that_both_answered():
    """Over its own prompts the model has 2/4, its baseline 1/2; of the two that both answered 2/2 and 1/2."""
    kls = [ResponseKl(kl, 2, False) for kl in (1.0, 2.0, 30.0, 40.0)]
    model = result("model", {0: True, 1: True, 2: False, 3: False}, kls)
    base = result("base", {0: True, 1: False}, [ResponseKl(3.0, 2, False), ResponseKl(5.0, 2, False)])
    values = required_values([model, base], None)
    assert (values["acc"], values["acc-baseline"]) == (0.5, 0.5)
    assert values["kl"] == pytest.approx(73 / 8)
    assert values["kl-baseline"] == pytest.approx(3 / 4 - 8 / 4)
    assert values["tokens_per_s-baseline"] == pytest.approx(8 / 2 - 4 / 2)
    found = compared([model, base])
    assert found["differences"][0]["difference"] == 0.5
    assert found["unpaired"] == [
        {"baseline": "base", "num_both": 2, "num_model_only": 2, "num_baseline_only": 0}
    ]


def test_the_gap_is_over_the_prompts_that_all_three_answered():
    """Over prompts 1 to 4 the student before has 0/4, the model 2/4, the teacher 4/4."""
    model = result("model", {0: False, 1: True, 2: True, 3: False, 4: False})
    before = result("before", {1: False, 2: False, 3: False, 4: False, 5: True})
    teacher = result("teacher", dict.fromkeys(range(6), True) | {0: False, 5: False})
    assert compared([model, before, teacher])["gap_closed"] == 0.5


def test_models_that_answered_no_common_prompt_are_not_compared():
    found = compared([result("a", {0: True}), result("b", {1: True})])
    assert (found["differences"], found["unpaired"][0]["num_both"]) == ([], 0)


def test_the_same_prompts_are_no_news():
    assert compared([result("a", {0: True}), result("b", {0: True})])["unpaired"] == []


def reported(one):
    data = EvalData(
        source="--data",
        paths=[],
        files=["a.parquet", "b.parquet", "c.parquet"],
        rows=[],
        file_of_row=["a.parquet", "a.parquet", "b.parquet"],
        prompt_ids=["test/0", "test/1", "test/2"],
    )
    return _reported(one, data)


def test_each_file_has_its_own_numbers():
    report = reported(
        result("m", {0: True, 2: False}, [ResponseKl(1.0, 2, False), ResponseKl(3.0, 2, True)], 1)
    )
    files = report["files"]
    assert list(files) == ["a.parquet", "b.parquet", "c.parquet"]
    assert [file["num_prompts"] for file in files.values()] == [1, 1, 0]
    assert [file["num_dropped"] for file in files.values()] == [1, 0, 0]
    assert [file["acc"] for file in files.values()] == [1.0, 0.0, pytest.approx(np.nan, nan_ok=True)]
    assert [file["kl"] for file in files.values()] == [0.5, 1.5, None]
    assert (report["num_prompts"], report["num_dropped"], report["acc"]) == (2, 1, 0.5)
    assert (report["kl"], report["kl_num_cut"]) == (1.0, 1)


def test_the_table_has_a_row_for_each_file_and_says_what_was_left_out():
    one = result("m", {0: True, 2: False}, [ResponseKl(1.0, 2, False), ResponseKl(3.0, 2, True)], 1)
    other = result("b", {0: True, 1: True, 2: False}, [ResponseKl(1.0, 2, False)] * 3)
    rows = [reported(one), reported(other)]
    lines = render_report({"results": rows, "requirements": [], **compared([one, other])}).splitlines()
    assert [line.split()[:4] for line in lines[2:6]] == [
        ["m", "2", "50.0", "%"],
        ["a.parquet", "1", "100.0", "%"],
        ["b.parquet", "1", "0.0", "%"],
        ["c.parquet", "0", "-", "-"],
    ]
    assert lines[10:12] == [
        "m: 1 of 3 prompts are too long and were left out",
        "m: 1 responses count in kl only up to a token the teacher lacks",
    ]
    assert lines[-1] == (
        "0 prompts only m answered, 1 only b: the two are compared over the 2 that both answered"
    )


def test_not_finite_numbers_are_null_in_a_json_file(tmp_path):
    values = {"acc": float("nan"), "files": {"a": {"acc": float("inf")}}, "n": np.float32(0.5), "ok": True}
    write_json(tmp_path / "x.json", values)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == {
        "acc": None, "files": {"a": {"acc": None}}, "n": 0.5, "ok": True,
    }  # fmt: skip


# --- KL from a teacher with a smaller vocabulary ---------------------------------------------------


def rollouts_with(prompts_and_responses):
    rollouts = [
        Rollout(
            prompt=Prompt(f"test/{n}", prompt, "", None),
            group=n,
            sample=0,
            response_ids=np.array(ids, np.int32),
            response_logprobs=np.zeros(len(ids), np.float32),
            finish_reason="stop",
            weight_version=0,
        )
        for n, (prompt, ids) in enumerate(prompts_and_responses)
    ]
    return [GradedResponse(rollout, "", None) for rollout in rollouts]


def test_responses_count_up_to_the_first_token_that_the_teacher_lacks(asked, student, cache):
    """The kept part has the KL of the same response without the rest."""
    from distillctl.evaluate.responses import Task

    whole = rollouts_with([([5, 6], [7, 8, 9]), ([5, 6], [7]), ([5], [8])])
    longer = rollouts_with(
        [([5, 6], [7, 8, 9]), ([5, 6], [7, 301, 9]), ([5], [8]), ([5], [301]), ([464], [7])]
    )
    teacher = KlTeacher(find_model("builtin:tiny-teacher", "test"), 460, 300)
    expected = response_kls(asked, teacher, whole, Task(1, 0.0, "cpu"), cache)
    found = response_kls(asked, teacher, longer, Task(1, 0.0, "cpu"), cache)
    assert [one.num_tokens for one in found] == [3, 1, 1, 0, 0]
    assert [one.is_cut for one in found] == [False, True, False, True, True]
    assert [one.kl for one in found] == pytest.approx([*(one.kl for one in expected), 0.0, 0.0], rel=1e-5)
    assert expected[0].kl > 0.01
    assert mean_kl(found) == pytest.approx(sum(one.kl for one in expected) / 5, rel=1e-5)
    assert mean_kl(found[3:]) is None


def test_a_kl_is_computed_once(asked, student, cache, monkeypatch):
    from distillctl.evaluate import teacher_kl
    from distillctl.evaluate.responses import Task

    answers = rollouts_with([([5, 6], [7, 8, 9])])
    teacher = KlTeacher(find_model("builtin:tiny-teacher", "test"), 465, 465)
    first = response_kls(asked, teacher, answers, Task(1, 0.0, "cpu"), cache)
    monkeypatch.setattr(teacher_kl, "response_kl", lambda *_: [0.125])
    assert response_kls(asked, teacher, answers, Task(1, 0.0, "cpu"), cache) == first
    others = rollouts_with([([5, 6], [7, 8, 10])])
    assert response_kls(asked, teacher, others, Task(1, 0.0, "cpu"), cache)[0].kl == 0.125
