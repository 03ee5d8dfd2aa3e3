"""The trainer's side of the rollout engine."""

from __future__ import annotations

import hashlib
import os
import select
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path

import numpy as np

from distillctl.data_types import Prompt, Rollout
from distillctl.errors import EngineLost, RunFailed
from distillctl.rollout import protocol


@dataclass(frozen=True, slots=True)
class Sampling:
    """Sampling settings of one request."""

    temperature: float
    top_p: float
    max_tokens: int
    stop_token_ids: list[int]


def sample_seed(run_seed: int, step: int, prompt_id: str, sample: int) -> int:
    """Seed of one response, in [0, 2**63). It is a hash, so no two responses share random numbers."""
    key = f"{run_seed}/{step}/{prompt_id}/{sample}".encode()
    return int.from_bytes(hashlib.blake2b(key, digest_size=8).digest(), "big") >> 1


def request_names(prompts: list[Prompt]) -> list[str]:
    """A unique name per prompt: its id, with a number appended if the id repeats.

    Repeated prompts would otherwise share seeds and get identical responses.
    """
    seen: dict[str, int] = {}
    names = []
    for prompt in prompts:
        repeat = seen.get(prompt.prompt_id, 0)
        names.append(f"{prompt.prompt_id}#{repeat}" if repeat else prompt.prompt_id)
        seen[prompt.prompt_id] = repeat + 1
    return names


def assemble(
    prompts: Sequence[Prompt],
    num_samples: int,
    *,
    response_ids: Sequence[np.ndarray],
    response_logprobs: Sequence[np.ndarray],
    has_stopped: Iterable[object],
    weight_versions: Sequence[int],
    topk_ids: Sequence[np.ndarray | None],
) -> list[Rollout]:
    """Rollouts from one entry for each, in the order prompt 0 sample 0, prompt 0 sample 1, …

    `has_stopped` is true of a response that ended by itself; the other fields are those of `Rollout`.
    """
    places = product(range(len(prompts)), range(num_samples))
    columns = (places, response_ids, response_logprobs, has_stopped, weight_versions, topk_ids)
    return [
        Rollout(
            prompt=prompts[group],
            group=group,
            sample=sample,
            response_ids=ids,
            response_logprobs=logprobs,
            finish_reason="stop" if stopped else "length",
            weight_version=version,
            topk_ids=topk,
        )
        for (group, sample), ids, logprobs, stopped, version, topk in zip(*columns, strict=True)
    ]


class RolloutClient:
    """Connection to one rollout worker. It checks the weight version of every reply."""

    def __init__(self, path: Path, ready_timeout_s: float, timeout_s: float = 300.0) -> None:
        """Wait up to `ready_timeout_s` for the worker's socket, which appears when the engine is ready.

        `timeout_s`: longest silence during a request; a longer one means that the engine hangs.
        """
        self._sock = _connect(path, ready_timeout_s)
        self._sock.settimeout(timeout_s)
        self._timeout_s = timeout_s
        credentials = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self.pid: int = struct.unpack("3i", credentials)[0]
        """Pid of the worker, which leads the process group of its engine."""
        self._process = os.pidfd_open(self.pid)
        self.version = 0
        self._lost: EngineLost | None = None
        """Why the engine is given up. A late reply would be taken for the reply to the next request, so every
        later request fails with the same error."""

    def generate(
        self,
        prompts: list[Prompt],
        num_samples: int,
        sampling: Sampling,
        run_seed: int,
        step: int,
        num_topk: int | None = 0,
        progress: Callable[[int], None] = lambda num_finished: None,
    ) -> list[Rollout]:
        """Sample `num_samples` responses to each prompt, in the order prompt 0 sample 0, prompt 0 sample 1, …

        `num_topk` (at most the engine's `max_logprobs`): tokens per position in `Rollout.topk_ids`, most
        likely first under the distribution that is sampled from. With 0, `topk_ids` is None. With None, the
        engine computes no log-probabilities either, and they are 0. `progress` gets the number of finished
        responses about once a second. Raises `EngineLost` when the worker is gone or silent, and on every
        request after that; `RunFailed` when the reply is from other weights than those pushed last.
        """
        num_rollouts = len(prompts) * num_samples
        token_ids = [prompt.token_ids for prompt in prompts for _ in range(num_samples)]
        flat, lengths = protocol.pack(token_ids, "int32")
        names = request_names(prompts)
        seeds = [sample_seed(run_seed, step, name, i) for name in names for i in range(num_samples)]
        header = {"request": "generate", **asdict(sampling), "num_topk": num_topk}
        arrays = {"prompts": flat, "prompt_lengths": lengths, "seeds": np.array(seeds, np.int64)}
        got = self._ask(header, arrays, progress)
        return assemble(
            prompts,
            num_samples,
            response_ids=protocol.unpack(got["tokens"], got["lengths"]),
            response_logprobs=protocol.unpack(got["logprobs"], got["lengths"]),
            has_stopped=got["stopped"],
            weight_versions=[self.version] * num_rollouts,
            topk_ids=protocol.unpack(got["topk_ids"], got["lengths"]) if num_topk else [None] * num_rollouts,
        )

    def score(self, token_ids: list[int]) -> np.ndarray:
        """Log-probability of each of `token_ids[1:]` given the tokens before it; float32 [T - 1], nats."""
        return self._ask({"request": "score"}, {"tokens": np.array(token_ids, np.int32)})["logprobs"]

    def push(self, files: list[Path], version: int) -> None:
        """Load safetensors `files` into the engine; its replies must carry `version` from then on."""
        self.version = version
        self._ask({"request": "push", "files": [str(f) for f in files], "version": version}, {})

    def close(self) -> None:
        """Disconnect; the worker keeps running and accepts the next client."""
        self._sock.close()
        os.close(self._process)

    def kill(self) -> None:
        """Send SIGKILL to every process of the engine, wait until the worker has ended, and disconnect."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        select.select([self._process], [], [])  # readable once the process has ended
        self.close()

    def _ask(
        self,
        header: protocol.Header,
        arrays: protocol.Arrays,
        progress: Callable[[int], None] = lambda num_finished: None,
    ) -> protocol.Arrays:
        if self._lost is not None:
            raise self._lost
        request = header["request"]
        hint = "its log is rollout.log in the attempt's log folder"
        try:
            protocol.send(self._sock, header, arrays)
            reply, got = protocol.receive(self._sock)
            while "progress" in reply:
                progress(int(reply["progress"]))
                reply, got = protocol.receive(self._sock)
        except TimeoutError:
            message = f"the rollout engine was silent for {self._timeout_s:g} s during {request!r}"
            self._lost = EngineLost(message, f"{hint}; a slow one needs a larger rollout.timeout_s")
            raise self._lost from None
        except (OSError, ValueError, KeyError) as error:  # ValueError, KeyError: the reply is malformed
            message = f"the rollout engine stopped responding during {request!r} ({error})"
            self._lost = EngineLost(message, hint)
            raise self._lost from error
        if reply["version"] != self.version:
            raise RunFailed(
                f"the rollout engine has weights of version {reply['version']}, not {self.version}"
            )
        return got


def _connect(path: Path, timeout_s: float) -> socket.socket:
    deadline = time.monotonic() + timeout_s
    while True:
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(str(path))
            return sock
        except (FileNotFoundError, ConnectionRefusedError) as error:
            sock.close()
            if time.monotonic() > deadline:
                raise RunFailed(
                    f"the rollout engine was not ready after {timeout_s:.0f} s",
                    "see rollout.log in the attempt's log folder",
                ) from error
        time.sleep(0.1)
