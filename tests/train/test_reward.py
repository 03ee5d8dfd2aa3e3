"""The reward function: found, called as verl calls it, held to numbers; and what a group makes of them."""

import json
import math
import statistics
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.data.prep import prepare
from distillctl.data.prompts import render
from distillctl.data.read import read_rows
from distillctl.data.sets import gsm8k
from distillctl.data_types import Prompt, Rollout
from distillctl.errors import ConfigError, RunFailed
from distillctl.grading.custom import load_reward, rewards
from distillctl.models.locate import find_model
from distillctl.train.advantages import group_advantages

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
VERL_STYLE = """
import re

def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    assert data_source == "openai/gsm8k", data_source
    assert extra_info["split"] in ("train", "test")
    found = re.findall(r"#### (-?[0-9.,]+)", solution_str[-300:])
    return float(bool(found) and found[-1].replace(",", "") == ground_truth)
"""


@pytest.fixture(scope="module")
def tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(find_model("builtin:tiny-student", "test").path)


@pytest.fixture
def load(tmp_path):
    """Writes a file of the given source and loads `compute_score` from it."""

    def write_and_load(source, name="compute_score"):
        path = tmp_path / "my_reward.py"
        path.write_text(source)
        return load_reward(str(path), name)

    return write_and_load


def rollout(tokenizer, text="2", prompt=None):
    ids = np.array(tokenizer(text)["input_ids"], dtype=np.int32)
    prompt = prompt or Prompt("train/7", [1], "1 + 1?", "2", data_source="mine", extra_info={"level": 3})
    return Rollout(
        prompt=prompt,
        group=0,
        sample=0,
        response_ids=ids,
        response_logprobs=np.zeros(len(ids), np.float32),
        finish_reason="stop",
        weight_version=0,
    )


# --- load_reward ---------------------------------------------------------------------------------


def test_the_named_function_of_the_file_is_loaded(load):
    source = "def other(data_source, solution_str, ground_truth, **kwargs):\n    return len(solution_str)\n"
    function = load(source, "other")
    assert function(data_source="mine", solution_str="abc", ground_truth=None, extra_info={}) == 3


@pytest.mark.parametrize(
    "parameters",
    [
        "data_source, solution_str, ground_truth, extra_info=None, **kwargs",
        "data_source, solution_str, ground_truth, extra_info",
        "solution_str, ground_truth, weight=1.0, **kwargs",
        "*, extra_info, ground_truth, solution_str, data_source",
        "**kwargs",
    ],
)
def test_any_signature_that_takes_the_four_arguments_by_name_is_accepted(load, parameters):
    assert callable(load(f"def compute_score({parameters}):\n    return 1\n"))


@pytest.mark.parametrize(
    "parameters",
    ["", "solution_str, ground_truth", "data_source, solution, truth, **kwargs", "a, /, **kwargs", "*args"],
)
def test_other_signatures_are_refused_before_the_run(load, parameters):
    with pytest.raises(
        ConfigError, match=r"reward\.name: compute_score in .*my_reward\.py does not"
    ) as caught:
        load(f"def compute_score({parameters}):\n    return 1\n")
    assert "(data_source, solution_str, ground_truth, extra_info=None, **kwargs)" in caught.value.hint


def test_a_callable_object_is_accepted(load):
    source = (
        "import functools\ndef f(scale, **kw):\n    return scale\ncompute_score = functools.partial(f, 2)\n"
    )
    assert load(source)(data_source="", solution_str="", ground_truth="", extra_info={}) == 2


def test_a_dataclass_in_the_file_finds_its_module(load):
    source = (
        "from __future__ import annotations\nfrom dataclasses import dataclass\nfrom typing import ClassVar\n"
        "@dataclass\nclass Scale:\n    by: float\n    name: ClassVar[str] = 'x'\n"
        "def compute_score(**kwargs):\n    return Scale(2.0).by\n"
    )
    assert load(source)() == 2.0


def test_missing_file_is_named():
    with pytest.raises(ConfigError, match=r"reward\.path: /nowhere/mine\.py: no such file"):
        load_reward("/nowhere/mine.py", "compute_score")


def test_file_that_is_no_python_is_refused(tmp_path):
    (tmp_path / "reward.txt").write_text("def compute_score(**kwargs): return 1")
    with pytest.raises(ConfigError, match=r"reward\.path: .*reward\.txt is not a Python file"):
        load_reward(str(tmp_path / "reward.txt"), "compute_score")


def test_missing_function_lists_those_that_are_there(load):
    with pytest.raises(ConfigError, match=r"reward\.name: .*my_reward\.py has no compute_score") as caught:
        load("def score(**kwargs): return 1\ndef other(): pass\n")
    assert "score, other" in caught.value.hint


def test_name_of_something_else_is_refused(load):
    with pytest.raises(ConfigError, match=r"reward\.name: compute_score in .* is not a function"):
        load("compute_score = 1.0\n")


def test_async_function_is_refused(load):
    with pytest.raises(ConfigError, match=r"reward\.name: compute_score in .* is async"):
        load("async def compute_score(**kwargs):\n    return 1\n")


@pytest.mark.parametrize(
    ("source", "what"),
    [
        ("x = 1\ndef compute_score(:\n", r"my_reward\.py:2: "),
        ("import no_such_package_of_mine\n", "No module named 'no_such_package_of_mine'"),
        ("import sys\nsys.exit(0)\n", "ends the process"),
        ("x = 0\n1 / x\n", r"my_reward\.py:2: raised when it was imported: ZeroDivisionError"),
        ("import json\njson.loads('x')\n", r"my_reward\.py:2: raised .*JSONDecodeError"),
    ],
)
def test_file_that_cannot_be_imported_is_a_config_error(load, source, what):
    with pytest.raises(ConfigError, match=rf"reward\.path: .*{what}"):
        load(source)


# --- rewards -------------------------------------------------------------------------------------


def test_the_function_gets_the_row_and_the_text_without_special_tokens(tokenizer):
    calls = []
    rewards([rollout(tokenizer, "1 + 1 = 2<|im_end|>")], tokenizer, lambda **kw: calls.append(kw) or 0.0)
    assert calls == [
        {
            "data_source": "mine",
            "solution_str": "1 + 1 = 2",
            "ground_truth": "2",
            "extra_info": {"level": 3},
        }
    ]


def test_row_without_extra_info_gives_an_empty_dict(tokenizer):
    calls = []
    bare = rollout(tokenizer, prompt=Prompt("train/0", [1], "", None))
    rewards([bare], tokenizer, lambda **kw: calls.append(kw) or 0.0)
    assert calls[0]["extra_info"] == {}
    assert calls[0]["ground_truth"] is None


def test_the_function_cannot_change_the_prompt(tokenizer):
    first = rollout(tokenizer)
    rewards([first], tokenizer, lambda extra_info, **kw: extra_info.pop("level"))
    assert first.prompt.extra_info == {"level": 3}


@pytest.mark.parametrize(
    ("returned", "expected"),
    [
        (1, 1.0),
        (-0.5, -0.5),
        (True, 1.0),
        (False, 0.0),
        (np.float32(0.25), 0.25),
        (np.float64(0.25), 0.25),
        (np.int64(3), 3.0),
        (np.bool_(True), 1.0),
        (Fraction(1, 4), 0.25),
        ({"score": 0.5, "acc": True, "pred": "2"}, 0.5),
        ({"score": True}, 1.0),
    ],
)
def test_numbers_booleans_and_dicts_with_a_score_are_rewards(tokenizer, returned, expected):
    result = rewards([rollout(tokenizer)], tokenizer, lambda **kw: returned)
    assert result.dtype == np.float32
    assert result.tolist() == [expected]


@pytest.mark.parametrize(
    ("returned", "what"),
    [
        (None, "None"),
        (math.nan, "nan"),
        (-math.inf, "-inf"),
        (1e39, r"1e\+39"),
        (1j, "a value of type complex"),
        ([1.0], "a value of type list"),
        ((1.0, "2"), "a value of type tuple"),
        (np.ones(2), "a value of type ndarray"),
        ({"reward": 1.0, "acc": True}, "a dict with the keys reward, acc"),
        ({}, "a dict with the keys none"),
        ({"score": math.nan}, "a dict with nan as `score`"),
        ({"score": None}, "a dict with None as `score`"),
        ({"score": {"score": 1.0}}, "a dict with a dict with 1.0 as `score` as `score`"),
    ],
)
def test_anything_else_fails_the_run_and_names_the_prompt(tokenizer, returned, what):
    with pytest.raises(RunFailed, match=rf"reward\.path: .*train/7.* returned {what}$"):
        rewards([rollout(tokenizer)], tokenizer, lambda **kw: returned)


def test_returned_text_is_not_repeated(tokenizer):
    with pytest.raises(RunFailed, match=r"returned a value of type str$"):
        rewards([rollout(tokenizer, "secret")], tokenizer, lambda solution_str, **kw: solution_str)


def test_error_of_the_function_passes_with_a_note(tokenizer):
    with pytest.raises(KeyError) as caught:
        rewards([rollout(tokenizer)], tokenizer, lambda extra_info, **kw: extra_info["missing"])
    (note,) = caught.value.__notes__
    assert "train/7" in note
    assert "reward.path" in note


def test_real_gsm8k_answers_score_one_and_those_of_the_next_row_zero(tokenizer, load, tmp_path):
    if not (GSM8K / "train.jsonl").is_file():
        pytest.skip(f"the real GSM8K is not at {GSM8K}")
    prepare("gsm8k", gsm8k.data_set(GSM8K), tmp_path / "gsm8k", 20)
    prompts, _ = render(read_rows(tmp_path / "gsm8k" / "train.parquet"), tokenizer, 100_000)
    lines = (GSM8K / "train.jsonl").read_text(encoding="utf-8").split("\n")[:20]
    answers = [json.loads(line)["answer"] for line in lines]
    truths = [answer.rpartition("#### ")[2].replace(",", "") for answer in answers]
    right = [rollout(tokenizer, f"{a}<|im_end|>", p) for a, p in zip(answers, prompts, strict=True)]
    wrong = [rollout(tokenizer, a, p) for a, p in zip(answers[1:], prompts, strict=False)]
    function = load(VERL_STYLE)
    assert rewards(right, tokenizer, function).tolist() == [1.0] * 20
    expected = [float(a == b) for a, b in zip(truths[1:], truths, strict=False)]
    assert rewards(wrong, tokenizer, function).tolist() == expected
    assert 0.0 in expected


# --- group_advantages ----------------------------------------------------------------------------

scores = st.floats(-10, 10, width=32).map(lambda x: round(x, 2))
batches = st.lists(st.tuples(st.sampled_from("abcd"), scores), min_size=1, max_size=24)


def reference(values):
    """GRPO's advantages of one group with the statistics module."""
    values = [float(np.float32(value)) for value in values]
    if len(set(values)) == 1:
        return [0.0] * len(values)
    mean, std = statistics.fmean(values), statistics.stdev(values)
    return [(value - mean) / (std + 1e-6) for value in values]


@given(batch=batches)
def test_advantages_are_those_of_grpo_in_every_group(batch):
    keys = [key for key, _ in batch]
    advantages = group_advantages(np.array([value for _, value in batch], dtype=np.float32), keys)
    assert advantages.dtype == np.float32
    for name in set(keys):
        ours = [a for a, key in zip(advantages, keys, strict=True) if key == name]
        theirs = reference([value for key, value in batch if key == name])
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-6)


def test_two_answers_one_right():
    # mean 1/2, sample standard deviation 1/sqrt(2)
    advantages = group_advantages(np.array([1, 0], dtype=np.float32), ["a", "a"])
    assert advantages == pytest.approx([0.5 * math.sqrt(2), -0.5 * math.sqrt(2)], rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, 1 / 3, -7e8])
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_equal_rewards_have_no_advantage(value, size):
    advantages = group_advantages(np.full(size, value, dtype=np.float32), ["a"] * size)
    assert advantages.tolist() == [0.0] * size


def test_groups_do_not_depend_on_the_order_of_the_rollouts():
    values = np.array([1, 0, 0, 1, 0, 0], dtype=np.float32)
    keys = ["a", "b", "a", "b", "b", "a"]
    order = [3, 0, 5, 2, 1, 4]
    shuffled = group_advantages(values[order], [keys[i] for i in order])
    assert shuffled.tolist() == group_advantages(values, keys)[order].tolist()


def test_a_key_for_every_reward_is_required():
    with pytest.raises(ValueError, match="argument 2 is shorter"):
        group_advantages(np.zeros(2, dtype=np.float32), ["a"] * 3)
