"""The examples run as they stand, with fewer steps."""

import os
import runpy
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"
FEW_STEPS = ("train.steps=2", "eval.every=0", "data.train_batch_size=4", "data.max_response_length=24")


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """A folder in which ci.sh has run."""
    folder = tmp_path_factory.mktemp("job")
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", EXAMPLES / "ci.sh", *FEW_STEPS], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PATH": path, "REQUIRE": "format_rate>=0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.engine
def test_the_job_trains_on_its_own_data_and_writes_its_verdict(job):
    assert (job / "runs/ci/checkpoints/step_000002/hf/model.safetensors").is_file()
    (case,) = ElementTree.parse(job / "runs/ci/eval.xml").iter("testcase")
    assert "format_rate>=0" in case.attrib["name"]
    assert case.find("failure") is None


@pytest.mark.engine
def test_the_job_uses_its_own_reward(job):
    assert '"reward/mean"' in (job / "runs/ci/events.jsonl").read_text()


@pytest.mark.parametrize(
    ("response", "score"),
    [("2+3=5.\n#### 5", 1.0), ("#### 6", 0.0), ("It is 5.", 0.0), ("so " * 61 + "#### 5", 0.8)],
    ids=["right", "wrong", "unmarked", "long"],
)
def test_the_reward_is_what_its_docstring_says(response, score):
    compute_score = runpy.run_path(str(EXAMPLES / "reward.py"))["compute_score"]
    assert compute_score("mine", response, "5") == score
