"""What an evaluation says: differences from baselines, requirements, JUnit, every answer as parquet."""

import itertools
import math
from dataclasses import asdict, replace
from xml.etree import ElementTree

import numpy as np
import pyarrow.parquet as pq
import pytest

from distillctl.data_types import Prompt, Rollout
from distillctl.errors import ConfigError
from distillctl.evaluate.comparison import difference, gap_closed
from distillctl.evaluate.junit import write_junit
from distillctl.evaluate.requirements import check, parse
from distillctl.evaluate.rescore import load_scorer, rescore
from distillctl.evaluate.results import write_results
from distillctl.evaluate.table import render_report
from distillctl.grading.scorers import Grade
from distillctl.grading.summary import GradedResponse, majority_is_right, summarise


def answers(verdicts, truth="7"):
    """One prompt for each entry, which is a verdict or several of them; None is not graded."""
    made = []
    for number, entry in enumerate(verdicts):
        prompt = Prompt(f"test/{number}", [1], f"q{number}", truth)
        for sample, right in enumerate(entry if isinstance(entry, list) else [entry]):
            rollout = Rollout(
                prompt=prompt,
                group=number,
                sample=sample,
                response_ids=np.array([1, 2], np.int32),
                response_logprobs=np.zeros(2, np.float32),
                finish_reason="stop",
                weight_version=0,
            )
            final = "7" if right else "8"
            grade = None if right is None else verdict(right=right, extracted=final)
            made.append(GradedResponse(rollout, f"#### {final}", grade))
    return made


def verdict(*, right, extracted):
    """A grade that only the normalised verdict can make right."""
    return Grade(strict=False, flexible=False, normalised=right, has_format=True, extracted=extracted)


def test_a_paired_difference():
    ours, theirs = answers([True, True, True, True, False, False]), answers([True] + [False] * 4 + [True])
    found = difference(ours, theirs)
    assert (found.num_prompts, found.num_gained, found.num_lost) == (6, 3, 1)
    assert found.difference == pytest.approx(2 / 6)
    # Of 2^4 outcomes of four fair coins 10 are as uneven as 3 to 1.
    uneven = [abs(2 * sum(coins) - 4) >= 2 for coins in itertools.product((0, 1), repeat=4)]
    assert found.p_value == pytest.approx(sum(uneven) / 16)
    pairs = [0, 1, 1, 1, 0, -1, 1, -1]  # one more gained, one more lost; Student's quantile of 7 is 2.3646
    error = np.std(pairs, ddof=1) / math.sqrt(8)
    expected = (2 / 8 - 2.3646 * error, 2 / 8 + 2.3646 * error)
    assert (found.low, found.high) == pytest.approx(expected, abs=1e-3)


def test_a_few_gained_prompts_leave_doubt():
    found = difference(answers([True] * 5), answers([False] * 5))
    assert found.difference == 1.0
    assert found.low < 0.1
    assert found.high == 1.0


def test_several_answers_to_a_prompt_are_compared_by_their_share():
    ours, theirs = answers([[True, False], [True, True]]), answers([[False, False], [True, True]])
    found = difference(ours, theirs)
    assert (found.difference, found.num_gained, found.num_lost) == (0.25, 1, 0)


def test_only_common_graded_prompts_are_compared():
    assert difference(answers([None, None]), answers([True, False])) is None
    assert difference(answers([True, None]), answers([False, True])).num_prompts == 1


@pytest.mark.parametrize(
    ("before", "after", "teacher", "closed"),
    [
        (0.3, 0.5, 0.7, 0.5),
        (0.3, 0.3, 0.7, 0.0),
        (0.3, 0.2, 0.7, -0.25),
        (0.7, 0.5, 0.7, None),
        (0.8, 0.9, 0.7, None),
    ],
)
def test_the_share_of_the_gap(before, after, teacher, closed):
    found = gap_closed(before, after, teacher)
    assert found is None if closed is None else found == pytest.approx(closed)


def test_pass_and_majority_over_several_answers():
    result = summarise(answers([[True, True, False], [False, False, True], [False] * 3]), 1.0)
    assert result.num_samples == 3
    assert result.acc == pytest.approx(3 / 9)
    assert result.pass_at_k == pytest.approx(2 / 3)
    assert result.maj_at_k == pytest.approx(1 / 3)
    shares = [2 / 3, 1 / 3, 0, 0, 1]  # one more prompt at 0 and at 1; Student's quantile of 4 is 2.7764
    error = np.std(shares, ddof=1) / math.sqrt(5)
    assert result.acc_high == pytest.approx(2 / 5 + 2.7764 * error, abs=1e-3)


def test_one_answer_makes_pass_and_majority_the_accuracy():
    result = summarise(answers([True, False, False]), 1.0)
    assert result.acc == result.pass_at_k == result.maj_at_k


@pytest.mark.parametrize(
    ("finals", "right"),
    [
        (["8", "7", "7"], True),
        (["8", "8", "7"], False),
        (["8", "7"], False),
        (["7", "8"], True),
        ([None, None, "7"], True),
        ([None], False),
    ],
)
def test_the_majority_counts_final_answers_and_the_earliest_of_equals(finals, right):
    made = answers([[final == "7" for final in finals]])
    grades = [verdict(right=final == "7", extracted=final) for final in finals]
    group = [replace(answer, grade=grade) for answer, grade in zip(made, grades, strict=True)]
    assert majority_is_right(group) is right


VALUES = {"acc": 0.5, "acc-baseline": 0.1, "gap_closed": None, "kl": math.nan, "response_length": 120.0}


@pytest.mark.parametrize(
    ("text", "met"),
    [
        ("acc>=0.5", True),
        ("acc >= 0.51", False),
        ("acc>0.5", False),
        ("acc<=0.5", True),
        ("acc<0.5", False),
        ("acc-baseline>=0.05", True),
        ("acc-baseline>=0.2", False),
        ("response_length<=1e3", True),
        ("gap_closed>=0.5", False),
        ("kl<=1", False),
        ("kl-baseline<=0", False),
    ],
)
def test_requirements(text, met):
    (outcome,) = check([parse(text)], VALUES)
    assert outcome.met is met
    assert outcome.reason.startswith(parse(text).name)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("acc", "acc>=0.40"),
        ("ac>=1", "did you mean acc?"),
        ("acc>=x", "between 0 and 1"),
        ("acc>=nan", "between 0"),
        ("acc==1", "acc>=0.40"),
        ("", "acc>=0.40"),
        ("gap_closed-baseline>=1", "known: acc"),
        (">=1", "acc>=0.40"),
    ],
)
def test_what_is_no_requirement_is_refused_with_help(text, hint):
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert hint in caught.value.hint


def test_junit_has_a_case_for_each_requirement(tmp_path):
    outcomes = check([parse("acc>=0.4"), parse("acc>=0.6")], VALUES)
    write_junit(tmp_path / "r.xml", "distillctl eval x", outcomes, VALUES)
    root = ElementTree.parse(tmp_path / "r.xml").getroot()
    assert (root.get("tests"), root.get("failures")) == ("2", "1")
    first, second = root.iter("testcase")
    assert first.find("failure") is None
    assert second.get("name") == "acc>=0.6"
    assert second.find("failure").get("message") == "acc is 0.5"
    assert {p.get("name"): p.get("value") for p in root.iter("property")}["acc"] == "0.5"


def test_every_answer_is_a_row(tmp_path):
    files = {"test/0": "x.parquet", "test/1": "y.parquet"}
    models = [("a", answers([True, None])), ("b", answers([[False, True]]))]
    write_results(tmp_path / "answers.parquet", models, files)
    rows = pq.read_table(tmp_path / "answers.parquet").to_pylist()
    assert [row["file"] for row in rows] == ["x.parquet", "y.parquet", "x.parquet", "x.parquet"]
    assert [(row["model"], row["prompt_id"], row["sample"], row["correct"]) for row in rows] == [
        ("a", "test/0", 0, True),
        ("a", "test/1", 0, None),
        ("b", "test/0", 0, False),
        ("b", "test/0", 1, True),
    ]
    assert rows[0]["response"] == "#### 7"
    assert (rows[0]["extracted"], rows[0]["finish_reason"], rows[0]["num_tokens"]) == ("7", "stop", 2)


def test_the_table_has_models_differences_the_gap_and_requirements():
    ours, before = answers([True, True, False]), answers([False, True, False])
    rows = [
        {"model": name, **asdict(summarise(made, 1.0)), "kl": 0.25, "num_dropped": 0, "files": {}}
        for name, made in (("a", ours), ("b", before))
    ]
    report = {
        "results": [*rows, {**rows[0], "model": "t"}],
        "differences": [{"baseline": "b", **asdict(difference(ours, before))}],
        "unpaired": [],
        "gap_closed": 0.5,
        "requirements": [
            asdict(outcome) for outcome in check([parse("acc>=0.4"), parse("acc>=0.6")], VALUES)
        ],
    }
    lines = render_report(report).splitlines()
    names = "model prompts acc 95 % interval verl-strict verl-flexible format truncated length tokens/s kl"
    assert lines[0].split() == names.split()
    assert lines[2].split()[:4] == ["a", "3", "66.7", "%"]
    assert lines[2].split()[-1] == "0.2500"
    assert lines[5].startswith("against b: +33.3 points (")
    assert lines[5].endswith("p 1, 1 gained and 0 lost of 3")
    assert lines[6:] == [
        "closes 50.0 % of the gap to t",
        "met: acc>=0.4 (acc is 0.5)",
        "not met: acc>=0.6 (acc is 0.5)",
    ]


SCORER = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None):
    return {"score": solution_str.endswith("8")}

def half(data_source, solution_str, ground_truth, extra_info=None):
    return 0.5 if ground_truth == "7" else 0.25
"""


def test_a_scoring_function_replaces_the_verdict(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(SCORER)
    graded = rescore(answers([True, False]), load_scorer(str(path)))
    assert [one.grade.normalised for one in graded] == [False, True]
    assert [one.grade.has_format for one in graded] == [True, True]
    graded = rescore(answers([None], truth="6") + answers([None]), load_scorer(f"{path}:half"))
    assert [one.grade.normalised for one in graded] == [False, True]


def test_a_scorer_that_is_not_there_is_named_by_its_option(tmp_path):
    with pytest.raises(ConfigError, match=r"--score: .*no such file"):
        load_scorer(str(tmp_path / "none.py"))
    (tmp_path / "a.py").write_text("x = 1")
    with pytest.raises(ConfigError, match=r"--score: .* has no f"):
        load_scorer(f"{tmp_path / 'a.py'}:f")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--n", 2], "--n 2 at temperature 0 gives the same response"),
        (["--temperature", "inf"], "--temperature inf is not a temperature that vLLM samples at"),
        (["--temperature", "0.001"], "--temperature 0.001 is not a temperature that vLLM samples at"),
        (["--no-cache", "--cache-dir", "c"], "--no-cache and --cache-dir exclude each other"),
    ],
)
def test_options_that_make_no_sense_are_refused(refused, options, words):
    message, _ = refused("eval", "--checkpoint", "builtin:tiny-student", "--data", "data/arith", *options)
    assert words in message
