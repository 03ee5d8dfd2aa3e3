"""The launcher: starts a run's processes, watches them, stops them. Imports no torch.

One rollout worker, a server for every teacher with `serve`, and `world_size` trainer ranks, each in a process
session of its own with its own log. The first of them that dies ends the others, and the end of its log is
shown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType

from distillctl import errors
from distillctl.errors import DistillError, EnvironmentUnfit, RunFailed, Stopped
from distillctl.events import EventLog
from distillctl.plan import Plan, file_name
from distillctl.rollout.process import engine_environment, scratch_directory, start_engine
from distillctl.run import RunDir, read_status, write_status
from distillctl.teacher.server import start_server
from distillctl.train.job import STARTING, TrainJob

POLL_S = 0.1
TERMINATE_GRACE_S = 5.0
LOG_TAIL_LINES = 20


@dataclass(slots=True)
class Child:
    """A process of the run."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path

    def signal_group(self, signum: int) -> None:
        """Signal every process of its session."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signum)

    def tail(self) -> str:
        """Last lines of its log."""
        lines = self.log.read_text(errors="replace").splitlines()[-LOG_TAIL_LINES:]
        return "\n".join(f"  {line}" for line in lines)


@dataclass(frozen=True, slots=True)
class Processes:
    """All processes of the run."""

    engines: list[Child]
    """The rollout engine and the servers of teachers."""
    ranks: list[Child]


@dataclass(slots=True)
class Signals:
    """The first SIGINT, SIGTERM or SIGHUP asks for a stop; the second ends everything at once."""

    received: list[int] = field(default_factory=list)

    def install(self) -> None:
        """Handlers run in the main thread, which is the one that waits on the children."""
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: FrameType | None) -> None:
        self.received.append(signum)


def run(
    plan: Plan,
    run_dir: RunDir,
    checkpoint: Path | None,
    on_tick: Callable[[], None],
    *,
    preflight_only: bool = False,
) -> None:
    """Run one attempt to its end, which with `preflight_only` comes before the first step.

    `on_tick` is called about ten times a second.

    Raises the error a rank reported, `RunFailed` or `EnvironmentUnfit` when a process died, and `Stopped`
    after a signal.
    """
    signals = Signals()
    signals.install()
    started = time.time()
    events = EventLog(run_dir.events_path, run_dir.attempt)
    error: DistillError | None = None
    events.emit("phase", 0, name=STARTING, state="begin")
    with scratch_directory() as scratch:
        processes = _start(plan, run_dir, scratch, checkpoint, preflight_only=preflight_only)
        try:
            _supervise(processes, run_dir, signals, on_tick)
        except DistillError as caught:
            error = caught
        finally:
            _end(processes)
    state = "done" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
    code = error.exit_code if error else 0
    status = read_status(run_dir.status_path)
    step = status.get("step", 0)
    events.emit("end", step=step, state=state, exit_code=code, seconds=time.time() - started)
    write_status(run_dir.status_path, {**status, "state": state, "exit_code": code})
    on_tick()
    if error is not None:
        raise error


def _start(
    plan: Plan, run_dir: RunDir, scratch: Path, checkpoint: Path | None, *, preflight_only: bool
) -> Processes:
    logs = run_dir.logs(run_dir.attempt)
    settings = plan.engine(scratch)
    log = logs / "rollout.log"
    gpus = plan.config.rollout.gpus
    processes = Processes(
        [Child("rollout engine", start_engine(settings, logs / "engine.json", log, gpus), log)], []
    )
    teachers = dict(plan.teachers)
    for number, name in enumerate(plan.served):
        socket = scratch / f"teacher_{number}.sock"  # a unix socket's path is short: no name in it
        processes.engines.append(_start_teacher(plan, name, socket, logs))
        teachers[name] = replace(teachers[name], endpoints=[f"unix:{socket}"])
    job = TrainJob(
        run_dir=str(run_dir.path),
        attempt=run_dir.attempt,
        student=str(plan.student),
        teachers=teachers,
        device=plan.device,
        world_size=plan.world_size,
        student_dtype=plan.student_dtype,
        socket=settings.socket,
        scratch=str(scratch),
        checkpoint=str(checkpoint) if checkpoint else None,
        parent_pid=os.getpid(),
        preflight_only=preflight_only,
    )
    job.save(logs / "job.json")
    processes.ranks.extend(_start_rank(plan, rank, logs) for rank in range(plan.world_size))
    return processes


def _start_teacher(plan: Plan, name: str, socket: Path, logs: Path) -> Child:
    gpus = plan.config.all_teachers[name].gpus
    log = logs / f"teacher_{file_name(name)}.log"
    environment = engine_environment(len(gpus or []) if plan.device == "cuda" else 0, gpus)
    process = start_server(plan.server_arguments(name, socket), environment, log)
    return Child(f"teacher server {name}", process, log)


def _start_rank(plan: Plan, rank: int, logs: Path) -> Child:
    log = logs / f"rank_{rank}.log"
    with log.open("ab") as output:
        process = subprocess.Popen(
            plan.rank_command(str(logs / "job.json")),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **plan.rank_environment(rank)},
            start_new_session=True,
        )
    return Child(f"trainer rank {rank}", process, log)


def _supervise(processes: Processes, run_dir: RunDir, signals: Signals, on_tick: Callable[[], None]) -> None:
    ranks = processes.ranks
    logs = run_dir.logs(run_dir.attempt)
    asked = False
    while True:
        on_tick()
        if len(signals.received) > 1:
            raise Stopped("stopped at once, without a checkpoint", signum=signals.received[0])
        if signals.received and not asked:
            asked = True
            ranks[0].process.send_signal(signals.received[0])
        codes = [rank.process.poll() for rank in ranks]
        if all(code == 0 for code in codes):
            status = read_status(run_dir.status_path)
            if signals.received and status.get("step", 0) < status.get("steps", 1):
                raise Stopped("stopped after writing a checkpoint", signum=signals.received[0])
            return
        for rank, code in zip(ranks, codes, strict=True):
            if asked and code is not None and code < 0:  # it was still loading and had nothing to save
                raise Stopped("stopped before the first step", signum=signals.received[0])
            if code:
                raise _rank_error(rank, code, logs)
        for engine in processes.engines:
            if engine.process.poll() is not None:
                raise EnvironmentUnfit(
                    f"the {engine.name} ended with code {engine.process.returncode}; its last lines:\n"
                    f"{engine.tail()}",
                    f"whole log: {engine.log}",
                )
        time.sleep(POLL_S)


def _rank_error(rank: Child, code: int, logs: Path) -> DistillError:
    """The error the rank left behind, or one that shows the end of its log."""
    number = rank.name.rsplit(" ", 1)[1]
    report = logs / f"error_{number}.json"
    if report.is_file():
        told = json.loads(report.read_text())
        kind: type[DistillError] = getattr(errors, told["type"])
        return kind(told["message"], told["hint"])
    return RunFailed(
        f"{rank.name} ended with code {code}; its last lines:\n{rank.tail()}",
        f"whole log: {rank.log}",
    )


def _end(processes: Processes) -> None:
    """Stop every process group. Ranks have nothing to tidy; engines get time to free shared memory."""
    for rank in processes.ranks:
        rank.signal_group(signal.SIGKILL)
    stop_engine(*processes.engines)
    for rank in processes.ranks:
        rank.process.wait()


def stop_engine(*engines: Child) -> None:
    """SIGTERM, a grace period, SIGKILL to the whole process group of each engine."""
    for engine in engines:
        engine.process.terminate()
    for engine in engines:
        with suppress(subprocess.TimeoutExpired):
            engine.process.wait(TERMINATE_GRACE_S)
        engine.signal_group(signal.SIGKILL)
        engine.process.wait()
