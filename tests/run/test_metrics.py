"""The table of metrics: what rollouts measure, and what may be written."""

import numpy as np
import pytest

from distillctl.data_types import Prompt, Rollout
from distillctl.run.metrics import METRICS, find, require_described, rollout_metrics


def rollout(num_tokens: int, finish_reason: str) -> Rollout:
    prompt = Prompt("train/0", [1], "?", None)
    ids, logprobs = np.zeros(num_tokens, np.int32), np.zeros(num_tokens, np.float32)
    return Rollout(
        prompt=prompt, group=0, sample=0, response_ids=ids, response_logprobs=logprobs,
        finish_reason=finish_reason, weight_version=0,
    )  # fmt: skip


def test_lengths_and_the_share_that_is_cut_are_those_of_the_rollouts():
    found = rollout_metrics([rollout(2, "stop"), rollout(4, "length"), rollout(6, "stop")])
    assert found["response_length/mean"] == 4.0
    assert found["response_length/clip_ratio"] == pytest.approx(1 / 3)


@pytest.mark.parametrize(
    ("name", "entry"),
    [
        ("kl/reverse", "kl/reverse"),
        ("kl/reverse/code", "kl/reverse"),
        ("kl/reverse/a/b", "kl/reverse"),
        ("gpu/used_bytes/0", "gpu/used_bytes"),
    ],
)
def test_the_metric_of_one_teacher_or_gpu_has_the_entry_of_all(name, entry):
    assert find(name) is METRICS[entry]
    require_described([name])


@pytest.mark.parametrize("name", ["kl", "mine", "kl/mine", "val/acc_low"])
def test_a_metric_without_an_entry_is_not_written(name):
    assert find(name) is None
    with pytest.raises(AssertionError, match=f"no entry in run.metrics.METRICS: {name}"):
        require_described(["kl/reverse", name])


def test_every_metric_says_its_unit_and_what_it_is():
    assert all(metric.unit and metric.meaning for metric in METRICS.values())
