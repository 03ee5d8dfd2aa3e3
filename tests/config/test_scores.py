"""What a loss needs of a teacher against what teachers give."""

import pytest

from distillctl.config.schema import Config
from distillctl.config.scores import require_scores
from distillctl.errors import ConfigError

LOCAL = {"model": "t"}
AT_A_URL = {"model": "t", "url": ["http://h:1"]}
STARTED = {"model": "t", "serve": True}


def config_of(loss, teacher, **teachers):
    return Config.model_validate(
        {"student": {"model": "s"}, "teacher": teacher, "teachers": teachers, "train": {"steps": 1},
         "data": {"train_files": ["x"]}, "loss": loss}
    )  # fmt: skip


@pytest.mark.parametrize(
    ("loss", "needs"),
    [
        ({}, "whole distribution"),
        ({"kind": "forward_kl"}, "whole distribution"),
        ({"kind": "jsd"}, "whole distribution"),
        ({"path": "mine.py"}, "whole distribution"),
        ({"kind": "topk"}, "listed tokens"),
        ({"kind": "student_topk"}, "chosen tokens"),
        ({"kind": "sampled"}, "sampled token"),
        ({"kind": "sampled", "update": "policy_gradient"}, "sampled token"),
    ],
)
@pytest.mark.parametrize("on_gpu", [False, True])
def test_every_loss_needs_one_thing_which_a_teacher_in_the_ranks_gives(loss, needs, on_gpu):
    config = config_of(loss, LOCAL)
    assert config.loss.needs == needs
    require_scores(config, on_gpu=on_gpu)


@pytest.mark.parametrize("teacher", [AT_A_URL, STARTED])
@pytest.mark.parametrize(
    ("loss", "label"), [({"kind": "jsd"}, "loss.kind=jsd"), ({"path": "mine.py"}, "loss.path=mine.py")]
)
def test_no_server_gives_the_whole_distribution(teacher, loss, label):
    with pytest.raises(ConfigError) as caught:
        require_scores(config_of(loss, LOCAL, math=teacher), on_gpu=True)
    wanted = f"{label} needs the teacher's whole distribution, which the server of teachers.math does not"
    assert wanted in caught.value.message
    assert "loss.kind=topk" in caught.value.hint


@pytest.mark.parametrize("teacher", [AT_A_URL, STARTED])
@pytest.mark.parametrize("kind", ["topk", "sampled"])
@pytest.mark.parametrize("on_gpu", [False, True])
def test_every_server_gives_its_most_likely_tokens_and_the_sampled_one(teacher, kind, on_gpu):
    require_scores(config_of({"kind": kind}, teacher), on_gpu=on_gpu)


def test_a_server_that_the_run_starts_scores_chosen_tokens_on_a_gpu_only():
    loss = {"kind": "student_topk"}
    require_scores(config_of(loss, STARTED), on_gpu=True)
    require_scores(config_of(loss, AT_A_URL), on_gpu=False)
    with pytest.raises(ConfigError, match=r"teacher\.serve with loss\.kind=student_topk needs a GPU"):
        require_scores(config_of(loss, STARTED), on_gpu=False)


def test_a_served_teacher_is_at_temperature_1():
    loss = {"kind": "topk", "temperature": 0.5}
    require_scores(config_of(loss, LOCAL), on_gpu=True)
    with pytest.raises(ConfigError, match=r"not at loss\.temperature=0\.5") as caught:
        require_scores(config_of(loss, AT_A_URL), on_gpu=True)
    assert caught.value.hint == "set loss.temperature=1"
