"""A request that is begun ahead of its answer, without an engine."""

import itertools
import subprocess
import sys
import time
from concurrent.futures import Future
from types import SimpleNamespace

import pytest
import torch

from distillctl.data_types import Prompt
from distillctl.errors import EngineLost, RunFailed
from distillctl.rollout.client import Sampling
from distillctl.train.rollout_engine import RolloutEngine, _resolve

WORKER = """
import socket, sys, time
import numpy as np
from distillctl.rollout import protocol

path, version, delay_s = sys.argv[1], 5, float(sys.argv[2])
with socket.socket(socket.AF_UNIX) as listener:
    listener.bind(path)
    listener.listen(1)
    connection, _ = listener.accept()
    while True:
        header, arrays = protocol.receive(connection)
        if header["request"] == "generate":
            time.sleep(delay_s)
        version = header.get("version", version)
        ids, logp = np.array([7], np.int32), np.zeros(1, np.float32)
        answer = {"tokens": ids, "logprobs": logp, "lengths": ids * 0 + 1, "stopped": ids * 0 + 1}
        protocol.send(connection, {"version": version}, answer)
"""
"""A rollout worker without a model: every answer is token 7, that to `generate` comes after a while."""


@pytest.mark.parametrize(
    "error", [EngineLost("gone", ""), ValueError("no answer at all")], ids=["known", "any"]
)
def test_whoever_waits_learns_of_every_error(error) -> None:
    def request(client):
        raise error

    answer: Future = Future()
    _resolve(answer, request, None)
    assert answer.exception(timeout=0) is error


@pytest.fixture
def start_worker(tmp_path):
    """Starts a worker in place of the one before, as the launcher does."""
    started = []

    def start(delay_s):
        (tmp_path / "rollout.sock").unlink(missing_ok=True)
        command = [sys.executable, "-c", WORKER, str(tmp_path / "rollout.sock"), str(delay_s)]
        started.append(subprocess.Popen(command, start_new_session=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def connect(folder, logprobs, warn):
    """The engine as rank 0 of one sees it, with a student of which only log-probabilities are asked."""
    distributed = SimpleNamespace(is_main=True, barrier=lambda: None, share_flag=bool)
    student = SimpleNamespace(dtype=torch.float32, logprobs=logprobs)
    job = SimpleNamespace(socket=folder / "rollout.sock", scratch=folder)
    config = SimpleNamespace(rollout=SimpleNamespace(timeout_s=0.5))
    engine = RolloutEngine(job, config, distributed, student, [5, 7], warn)
    engine._writer = SimpleNamespace(write=list)
    return engine


def test_small_steps_that_never_arrive_add_up_until_they_are_noticed(tmp_path, start_worker) -> None:
    """Each moves the trainer by 4e-6 nats, which an engine may miss; three of them it may not."""
    start_worker(delay_s=0)
    moved = itertools.count()
    engine = connect(tmp_path, lambda ids: torch.full((1,), 4e-6 * next(moved)), lambda *_: None)
    engine._client.version = 5
    engine.prove()
    engine.push(1)
    engine.push(2)
    with pytest.raises(RunFailed, match=r"step 3 were pushed and changed .* by 1.2e-05 nats .* no bit"):
        engine.push(3)
    engine._client.close()


def test_a_late_answer_is_not_taken_for_that_to_the_next_request(tmp_path, start_worker) -> None:
    """The engine was silent for too long while the next batch was begun, and answers before the push."""
    lost = []

    def warn(step, message):
        lost.append(message)
        start_worker(delay_s=0)

    first = start_worker(delay_s=1.5)
    engine = connect(tmp_path, lambda ids: torch.zeros(1), warn)
    engine._client.version = 5

    sampling, prompt = Sampling(1.0, 1.0, 4, []), Prompt("train/0", [5], "", None)
    engine.begin(lambda client: client.generate([prompt], 1, sampling, 0, 1))
    time.sleep(2.0)  # until the late answer is there
    engine.push(6)
    (rollout,) = engine.finish()
    engine._client.close()
    assert rollout.weight_version == 6
    assert rollout.response_ids.tolist() == [7]
    assert len(lost) == 1
    assert "silent for 0.5 s during 'generate'" in lost[0]
    assert first.wait(5) == -9
