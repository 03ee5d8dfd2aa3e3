"""The launcher: starts a run's processes, watches them, and stops them. Imports no torch.

A run has one rollout engine, a server for every teacher with `serve`, and `world_size` trainer ranks. A
rollout engine that dies is restarted. When another process dies, the run ends and shows the last lines of its
log.
"""

from __future__ import annotations

import json
import os
import signal
import time
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from distillctl import errors
from distillctl.errors import DistillError, EnvironmentUnfit, RunFailed, Stopped
from distillctl.host.shared_memory import scratch_directory
from distillctl.launch import processes
from distillctl.launch.plan import Plan
from distillctl.launch.processes import Child
from distillctl.run import checkpoints, status
from distillctl.run.directory import RunDir, read_status
from distillctl.run.events import EventLog
from distillctl.train.job import STARTING, TeacherJob, TrainJob

POLL_S = 0.1
REPEAT_S = 1.0
"""Signals within so many seconds of the first count as one: `timeout` and schedulers send a signal both to a
process and to its group."""


@dataclass(slots=True)
class Signals:
    """The first SIGINT, SIGTERM or SIGHUP asks for a stop; the second ends everything at once."""

    received: list[tuple[int, float]] = field(default_factory=list)
    """Signal and time (monotonic)."""

    def install(self) -> None:
        """Install the handlers. They run in the main thread, which also waits on the children."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received.append((signum, time.monotonic()))

    @property
    def first(self) -> int:
        """The first signal; 0 before one has come."""
        return self.received[0][0] if self.received else 0

    @property
    def repeated(self) -> bool:
        """Whether a second signal came, more than `REPEAT_S` after the first."""
        return bool(self.received) and self.received[-1][1] - self.received[0][1] > REPEAT_S

    def older_than(self, seconds: float | None) -> bool:
        """Whether the first signal came more than `seconds` ago; False for None."""
        return bool(seconds and self.received) and time.monotonic() - self.received[0][1] > (seconds or 0)


def run(
    plan: Plan,
    run_dir: RunDir,
    checkpoint: Path | None,
    *,
    preflight_only: bool = False,
) -> None:
    """Run one attempt to its end. With `preflight_only` it ends before the first step.

    Raises the error that a rank reported, `RunFailed` or `EnvironmentUnfit` when a process died, and
    `Stopped` after a signal.
    """
    signals = Signals()
    signals.install()
    started = time.time()
    events = EventLog(run_dir.events_path, run_dir.attempt)
    error: DistillError | None = None
    events.emit("phase", 0, name=STARTING, state="begin")
    with scratch_directory() as scratch:
        attempt = _Attempt(plan, run_dir, scratch, events, signals, preflight_only)
        try:
            attempt.start(checkpoint)
            attempt.supervise()
        except DistillError as caught:
            error = caught
        finally:
            attempt.end()
            checkpoints.sweep(run_dir.checkpoints)
    state = "done" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
    code = error.exit_code if error else 0
    step = read_status(run_dir.status_path).get("step", 0)
    with suppress(OSError, EnvironmentUnfit):  # a full disk must not hide the error that it caused
        events.emit("end", step=step, state=state, exit_code=code, seconds=time.time() - started)
        status.end(run_dir, state, code)
    if error is not None:
        raise error


class _Attempt:
    """The processes of one attempt."""

    def __init__(
        self,
        plan: Plan,
        run_dir: RunDir,
        scratch: Path,
        events: EventLog,
        signals: Signals,
        preflight_only: bool,
    ) -> None:
        self.plan = plan
        self.run_dir = run_dir
        self.scratch = scratch
        self.events = events
        self.signals = signals
        self.preflight_only = preflight_only
        self.logs = run_dir.logs(run_dir.attempt)
        self.settings = plan.engine(scratch)
        self.engine: Child | None = None
        self.teachers: list[Child] = []
        self.ranks: list[Child] = []
        self.num_restarts = 0
        self.asked_to_stop = False

    def start(self, checkpoint: Path | None) -> None:
        """Start the rollout engine, the teacher servers and the ranks."""
        plan = self.plan
        self.engine = processes.start_rollout_engine(plan, self.settings, self.logs)
        teachers = {
            name: TeacherJob(str(teacher.model.path.absolute()), teacher.dtype, teacher.endpoints)
            for name, teacher in plan.teachers.items()
        }
        for number, name in enumerate(plan.served):
            socket = self.scratch / f"teacher_{number}.sock"  # no name in it: a socket's path must be short
            self.teachers.append(processes.start_teacher(plan, name, socket, self.logs))
            teachers[name] = replace(teachers[name], endpoints=[f"unix:{socket}"])
        path = self.logs / "job.json"
        self._job(teachers, checkpoint).save(path)
        for rank in range(plan.world_size):
            self.ranks.append(processes.start_rank(plan, rank, path, self.scratch))

    def _job(self, teachers: dict[str, TeacherJob], checkpoint: Path | None) -> TrainJob:
        """The job that every rank reads."""
        plan = self.plan
        written_by = None if checkpoint is None else checkpoints.read_manifest(checkpoint)["world_size"]
        return TrainJob(
            run_dir=str(self.run_dir.path.absolute()),
            working_directory=os.getcwd(),
            attempt=self.run_dir.attempt,
            student=str(plan.student.path.absolute()),
            teachers=teachers,
            device=plan.device,
            world_size=plan.world_size,
            student_dtype=plan.student_dtype,
            socket=self.settings.socket,
            scratch=str(self.scratch),
            checkpoint=str(checkpoint.absolute()) if checkpoint else None,
            universal=written_by not in (None, plan.world_size),
            parent_pid=self.settings.parent_pid,
            gpus=plan.used_gpus,
            preflight_only=self.preflight_only,
        )

    def supervise(self) -> None:
        """Return when all ranks are done. Raises the error that ended the run otherwise."""
        while True:
            self._heed_signals()
            if self._ranks_are_done():
                return
            for teacher in self.teachers:
                if teacher.process.poll() is not None:
                    raise EnvironmentUnfit(_death(teacher), self._log_hint(teacher))
            self._keep_engine()
            time.sleep(POLL_S)

    def end(self) -> None:
        """Kill every process that still runs."""
        engines = [self.engine] if self.engine else []
        processes.kill([*self.ranks, *engines, *self.teachers])

    def _heed_signals(self) -> None:
        signals = self.signals
        grace_s = self.plan.config.checkpoint.grace_s
        if signals.repeated:
            raise self._stopped("at once, by a second signal")
        if signals.older_than(grace_s):
            raise self._stopped(f"because checkpoint.grace_s={grace_s:g} was not enough to finish")
        if signals.first and not self.asked_to_stop:
            self.asked_to_stop = True
            step = read_status(self.run_dir.status_path).get("step", 0)
            self.events.emit("stop", step, signal=signals.first, state="asked")
            for rank in self.ranks:  # each may be waiting for a teacher's server
                rank.process.send_signal(signals.first)

    def _stopped(self, how: str) -> Stopped:
        latest = checkpoints.latest(self.run_dir.checkpoints)
        left = f"the newest checkpoint is {latest}" if latest else "there is no checkpoint yet"
        hint = "the same command goes on from it" if latest else "the same command starts anew"
        return Stopped(f"stopped {how}; {left}", hint, signum=self.signals.first)

    def _ranks_are_done(self) -> bool:
        codes = [rank.process.poll() for rank in self.ranks]
        if all(code == 0 for code in codes):
            found = read_status(self.run_dir.status_path)
            if self.signals.first and found.get("step", 0) < found.get("steps", 1):
                raise self._stopped("by a signal")
            return True
        dead = [rank for rank, code in zip(self.ranks, codes, strict=True) if code]
        if self.asked_to_stop and any(rank.process.returncode < 0 for rank in dead):
            raise self._stopped("before the first step")  # it was loading, with nothing to save
        if dead:
            raise self._rank_error(dead)
        return False

    def _rank_error(self, dead: list[Child]) -> DistillError:
        """The error that a rank reported, or else an error that shows the log of a dead rank.

        A rank that was killed comes before ranks that died because they lost it as a peer.
        """
        for rank in dead:
            report = self.logs / f"error_{self.ranks.index(rank)}.json"
            if report.is_file():
                told = json.loads(report.read_text())
                kind: type[DistillError] = getattr(errors, told["type"])
                return kind(told["message"], told["hint"])
        first = min(dead, key=lambda rank: rank.process.returncode)
        return RunFailed(_death(first), self._log_hint(first))

    def _log_hint(self, child: Child) -> str:
        """Where the rest of a log is. The log of a preflight alone is deleted with its folder."""
        if self.preflight_only:
            return "train without --dry-run to keep the whole log"
        return f"whole log: {child.log}"

    def _keep_engine(self) -> None:
        """Restart a rollout engine that died. The ranks then push the current weights into it."""
        engine = self.engine
        limit = self.plan.config.rollout.max_restarts
        assert engine is not None
        if engine.process.poll() is None:
            return
        socket = Path(self.settings.socket)
        if not socket.exists():  # this engine was never ready, so a new one would not be either
            raise EnvironmentUnfit(_death(engine), self._log_hint(engine))
        if self.num_restarts >= limit:
            raise RunFailed(
                f"{_death(engine)}\nIt was restarted as often as rollout.max_restarts={limit} allows",
                self._log_hint(engine),
            )
        self.num_restarts += 1
        code = engine.process.returncode
        message = f"the rollout engine ended with code {code}: restart {self.num_restarts} of {limit}"
        self.events.emit("warn", read_status(self.run_dir.status_path).get("step", 0), message=message)
        processes.kill([engine])  # ends the processes that are left in its session
        socket.unlink()
        self.engine = processes.start_rollout_engine(self.plan, self.settings, self.logs)


def _death(child: Child) -> str:
    return f"the {child.name} ended with code {child.process.returncode}; its last lines:\n{child.tail()}"
