"""The rollout engine for the ranks. It always has the weights of the last push, even after its process died.

When the engine dies or hangs, the launcher starts a fresh one. The ranks then push the current weights into
it and repeat their request. Every request has its own seed, so the reply is the same. The exception is a
request that was begun ahead: after a restart, its reply comes from newer weights than it was begun with.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from threading import Thread
from typing import TypeVar

from distillctl.config.schema import Config
from distillctl.data_types import Rollout
from distillctl.errors import EngineLost
from distillctl.host.process_memory import group_bytes
from distillctl.rollout.client import RolloutClient
from distillctl.rollout.start import READY_TIMEOUT_S
from distillctl.train.agreement import Scores, require_agreement
from distillctl.train.distributed import Distributed
from distillctl.train.job import TrainJob
from distillctl.train.student import Student
from distillctl.train.weight_sync import WeightWriter

Reply = TypeVar("Reply")
Rollouts = list[Rollout]


class RolloutEngine:
    """The ranks' side of the rollout engine. All methods are collective. Only rank 0 talks to the engine."""

    def __init__(
        self,
        job: TrainJob,
        config: Config,
        distributed: Distributed,
        student: Student,
        canary_ids: list[int],
        warn: Callable[[int, str], None],
    ) -> None:
        """Wait until the engine is ready.

        `canary_ids` is the canary prompt, whose log-probabilities check each push. `warn(step, message)` is
        called each time the engine is lost.
        """
        self._path = Path(job.socket)
        self._timeout_s = config.rollout.timeout_s
        self._distributed = distributed
        self._student = student
        self._canary_ids = canary_ids
        self._warn = warn
        self._writer = WeightWriter(student, Path(job.scratch), is_main=distributed.is_main)
        self._version = 0
        self._ahead: Callable[[RolloutClient], Rollouts] | None = None
        self._reply: Future[Rollouts] | None = None
        self._agreed: Scores | None = None
        """The canary's scores at the last change of the engine's scores; on rank 0."""
        self._first_nats: float | None = None
        """Gap in nats between engine and trainer at the first comparison, which is this model's rounding."""
        self._client = self._connect()
        distributed.barrier()

    def ask(self, request: Callable[[RolloutClient], Reply]) -> Reply | None:
        """`request(client)` on rank 0, None on the others. Repeats it on a fresh engine when one is lost."""
        while True:
            reply, lost = self._try(request)
            if not lost:
                return reply
            self.push(self._version)

    def begin(self, request: Callable[[RolloutClient], Rollouts]) -> None:
        """Start `request(client)` on rank 0 without waiting. The next `finish` returns its reply."""
        self._ahead = request
        if self._client is not None:
            self._reply = Future()
            Thread(target=_resolve, args=(self._reply, request, self._client), daemon=True).start()

    @property
    def has_begun(self) -> bool:
        """Whether a request was begun that `finish` has not finished; the same on every rank."""
        return self._ahead is not None

    def finish(self) -> Rollouts | None:
        """Wait for the request that was begun. Returns what `ask` returns, and repeats a lost request."""
        assert self._ahead is not None
        request = self._ahead
        self._ahead = None
        reply = self._reply
        self._reply = None
        lost = reply is not None and isinstance(reply.exception(), EngineLost)
        if self._distributed.share_flag(lost):
            return self.ask(request)
        return None if reply is None else reply.result()

    def push(self, version: int) -> float:
        """Give the engine the student's weights as `version`, and check them. Returns what `prove` returns.

        Waits for a request that was begun, so no reply mixes two versions.
        """
        self._version = version
        while True:
            push = partial(RolloutClient.push, files=self._writer.write(), version=version)
            _, lost = self._try(push)
            if not lost and (gap := self._prove(pushed=True)) is not None:
                return gap

    def prove(self) -> float:
        """Score the canary prompt with engine and trainer. Raises `RunFailed` on rank 0 when they disagree.

        Call this for an engine that has loaded the student's own files. Returns the gap in nats (0 on the
        other ranks).
        """
        gap = self._prove(pushed=False)
        return self.push(self._version) if gap is None else gap

    def memory_bytes(self) -> int:
        """Memory of the engine's processes, on rank 0; 0 on the others."""
        return 0 if self._client is None else group_bytes(self._client.pid)

    def _prove(self, *, pushed: bool) -> float | None:
        """The gap in nats; None when the engine was lost."""
        ours = self._student.logprobs(self._canary_ids)
        theirs, lost = self._try(lambda client: client.score(self._canary_ids))
        if lost:
            return None
        if theirs is None:
            return 0.0
        scores = Scores(ours, theirs)
        dtype = self._student.dtype
        nats = require_agreement(
            scores, self._agreed, dtype, self._version, pushed=pushed, first_nats=self._first_nats
        )
        if self._first_nats is None:
            self._first_nats = nats
        if scores.engine_moved(self._agreed):  # else keep the old ones: changes of small steps must add up
            self._agreed = scores
        return nats

    def _try(self, request: Callable[[RolloutClient], Reply]) -> tuple[Reply | None, bool]:
        """The reply (None on all but rank 0), and whether the engine was lost and replaced."""
        reply = None
        lost = False
        if self._client is not None:
            if self._reply is not None:
                self._reply.exception()  # one request at a time: wait for the request that was begun
            try:
                reply = request(self._client)
            except EngineLost as error:
                lost = True
                message = f"{error.message}; the run continues with a fresh engine and the current weights"
                self._warn(self._version, message)
                self._client.kill()
                self._agreed = None
                self._client = self._connect()
        return reply, bool(self._distributed.share_flag(lost))

    def _connect(self) -> RolloutClient | None:
        if not self._distributed.is_main:
            return None
        return RolloutClient(self._path, READY_TIMEOUT_S, self._timeout_s)


def _resolve(
    reply: Future[Rollouts], request: Callable[[RolloutClient], Rollouts], client: RolloutClient
) -> None:
    """Make a request in a thread, and hand its reply or its error to the thread that waits."""
    try:
        reply.set_result(request(client))
    except BaseException as error:  # handed on, not handled: otherwise the other thread would wait for ever
        reply.set_exception(error)
