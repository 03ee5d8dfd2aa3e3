"""The checks for a GPU: their stages exist, and the rehearsal on a CPU passes."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.fixture
def check(monkeypatch):
    """The script as a module; its own modules are gone again afterwards."""
    monkeypatch.syspath_prepend(FOLDER)
    before = set(sys.modules)
    yield importlib.import_module("check")
    for path in FOLDER.glob("*.py"):
        if path.stem not in before:
            sys.modules.pop(path.stem, None)


def test_every_stage_is_a_documented_function(check):
    assert all(check.function_of(name).__doc__ for name in check.STAGES)


@pytest.mark.engine
def test_a_rehearsal_of_the_loss_the_trainer_and_the_engine_passes(tmp_path):
    out = tmp_path / "out"
    command = [sys.executable, FOLDER / "check.py", "--device", "cpu", "--tiny", "--stages", "b2,b3,d1"]
    environment = {**os.environ, "GPU_CHECK_WORK": str(tmp_path / "work"), "OUT": str(out)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(line["stage"], line["ok"]) for line in lines] == [
        ("b2", True), ("b3", True), ("d1", True),
    ]  # fmt: skip
    assert (out / "results.jsonl").read_text() == done.stdout
    assert float(lines[0]["float64_against_dense"][0]) < 1e-12
    assert lines[1]["metrics"]["actor/grad_norm"] > 0
    assert lines[2]["gap"]["canary_max"] < 1e-3
    assert (out / "logs.tar.gz").stat().st_size > 0


@pytest.mark.slow
def test_a_stage_that_fails_is_reported_and_the_next_one_runs(tmp_path):
    """`r` needs the run that `e1` leaves."""
    command = [sys.executable, FOLDER / "check.py", "--device", "cpu", "--tiny", "--stages", "r,a"]
    environment = {**os.environ, "GPU_CHECK_WORK": str(tmp_path), "OUT": str(tmp_path)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    failed, machine = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert (failed["stage"], failed["ok"], machine["ok"]) == ("r", False, True)
    assert "tiny/checkpoints/step_000004/hf/model.safetensors" in failed["error"]


def test_a_stage_that_does_not_exist_is_named():
    command = [sys.executable, FOLDER / "check.py", "--stages", "a,z9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such stage: z9" in done.stderr
