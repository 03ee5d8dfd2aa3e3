"""The launcher: resolves a run, starts its processes, watches them, stops them. Imports no torch.

One rollout worker and `world_size` trainer ranks, each in a process session of its own with its own log. The
first of them that dies ends the others, and the end of its log is shown.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

from distillctl import errors
from distillctl.config import Config
from distillctl.errors import ConfigError, DistillError, EnvironmentUnfit, RunFailed, Stopped
from distillctl.events import EventLog
from distillctl.machine import cpu_runtime, cpus, model_path, model_shape, num_gpus
from distillctl.rollout.process import engine_settings, scratch_directory, start_engine
from distillctl.rollout.worker import EngineSettings
from distillctl.run import RunDir, read_status, write_status
from distillctl.train.job import STARTING, TrainJob

POLL_S = 0.1
TERMINATE_GRACE_S = 5.0
LOG_TAIL_LINES = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """A run with everything resolved: devices, dtypes, model directories."""

    config: Config
    student: Path
    teacher: Path
    device: str
    world_size: int
    student_dtype: str
    teacher_dtype: str
    max_model_len: int

    def rank_command(self, job: str = "JOB.json") -> list[str]:
        """Command line of a trainer rank."""
        return [sys.executable, "-m", "distillctl.train.worker", job]

    def rank_environment(self, rank: int) -> dict[str, str]:
        """What a rank's environment adds to ours: its place, its share of the cores."""
        threads = max(1, len(cpus()) // self.world_size)
        runtime = cpu_runtime() if self.device == "cpu" else {}
        return {
            **runtime,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.world_size),
            "OMP_NUM_THREADS": str(threads),
            "DS_ACCELERATOR": self.device,
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def engine(self, scratch: Path) -> EngineSettings:
        """Settings of the rollout worker."""
        rollout = self.config.rollout
        on_gpu = self.device == "cuda"
        return engine_settings(
            self.student,
            dtype=self.student_dtype,
            socket=scratch / "rollout.sock",
            max_model_len=self.max_model_len,
            max_num_seqs=rollout.max_num_seqs,
            num_gpus=len(rollout.gpus or [0]) if on_gpu else 0,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            enforce_eager=rollout.enforce_eager,
        )


def resolve(config: Config, *, download: bool = True) -> Plan:
    """Decide devices and dtypes and find the models. With `download=False` hub weights are not fetched.

    Raises ConfigError for settings that contradict the machine or the models, EnvironmentUnfit for models
    that cannot be had.
    """
    gpus = num_gpus() if config.train.device != "cpu" else 0
    if config.train.device == "cuda" and not gpus:
        raise EnvironmentUnfit(
            "train.device is cuda, but no NVIDIA GPU was found",
            "check nvidia-smi and that nvidia-ml-py is installed (pip install 'distillctl[gpu]')",
        )
    device = "cuda" if gpus else "cpu"
    world_size = config.train.world_size or max(1, gpus)
    if gpus and world_size > gpus:
        raise ConfigError(f"train.world_size={world_size}, but there are {gpus} GPUs")
    if config.zero.offload != "none" and device == "cpu":
        raise ConfigError(f"zero.offload={config.zero.offload} needs a GPU to offload from")
    auto = "bfloat16" if gpus else "float32"
    student = model_path(config.student.model, "student.model", weights=download)
    teacher = model_path(config.teacher.model, "teacher.model", weights=download)
    for path, key in ((student, "student.model"), (teacher, "teacher.model")):
        positions = model_shape(path).max_positions
        if config.data.max_prompt_length + 1 > positions:
            raise ConfigError(
                f"data.max_prompt_length={config.data.max_prompt_length} leaves no room for a response: "
                f"{key} takes {positions} tokens"
            )
        if config.max_length > positions:
            raise ConfigError(
                f"data.max_prompt_length + data.max_response_length = {config.max_length}, but {key} takes "
                f"{positions} tokens"
            )
    return Plan(
        config=config,
        student=student,
        teacher=teacher,
        device=device,
        world_size=world_size,
        student_dtype=auto if config.student.dtype == "auto" else config.student.dtype,
        teacher_dtype=auto if config.teacher.dtype == "auto" else config.teacher.dtype,
        max_model_len=config.max_length,
    )


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


def run(plan: Plan, run_dir: RunDir, checkpoint: Path | None, on_tick: Callable[[], None]) -> None:
    """Run one attempt to its end. `on_tick` is called about ten times a second.

    Raises the error a rank reported, `RunFailed` or `EnvironmentUnfit` when a process died, and `Stopped`
    after a signal.
    """
    signals = Signals()
    signals.install()
    attempt = run_dir.attempt
    logs = run_dir.logs(attempt)
    started = time.time()
    events = EventLog(run_dir.events_path, attempt)
    error: DistillError | None = None
    events.emit("phase", 0, name=STARTING, state="begin")
    with scratch_directory() as scratch:
        children = _start(plan, run_dir, logs, scratch, checkpoint)
        try:
            _supervise(children, run_dir, signals, on_tick)
        except DistillError as caught:
            error = caught
        finally:
            _end(children)
    state = "done" if error is None else "stopped" if isinstance(error, Stopped) else "failed"
    code = error.exit_code if error else 0
    status = read_status(run_dir.status_path)
    step = status.get("step", 0)
    events.emit("end", step=step, state=state, exit_code=code, seconds=time.time() - started)
    write_status(run_dir.status_path, {**status, "state": state, "exit_code": code})
    on_tick()
    if error is not None:
        raise error


def _start(plan: Plan, run_dir: RunDir, logs: Path, scratch: Path, checkpoint: Path | None) -> list[Child]:
    settings = plan.engine(scratch)
    log = logs / "rollout.log"
    gpus = plan.config.rollout.gpus
    children = [Child("rollout engine", start_engine(settings, logs / "engine.json", log, gpus), log)]
    job = TrainJob(
        run_dir=str(run_dir.path),
        attempt=run_dir.attempt,
        student=str(plan.student),
        teacher=str(plan.teacher),
        device=plan.device,
        world_size=plan.world_size,
        student_dtype=plan.student_dtype,
        teacher_dtype=plan.teacher_dtype,
        socket=settings.socket,
        scratch=str(scratch),
        checkpoint=str(checkpoint) if checkpoint else None,
        parent_pid=os.getpid(),
    )
    job.save(logs / "job.json")
    for rank in range(plan.world_size):
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
        children.append(Child(f"trainer rank {rank}", process, log))
    return children


def _supervise(children: list[Child], run_dir: RunDir, signals: Signals, on_tick: Callable[[], None]) -> None:
    engine, ranks = children[0], children[1:]
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
            if signals.received and status["step"] < status["steps"]:
                raise Stopped("stopped after writing a checkpoint", signum=signals.received[0])
            return
        for rank, code in zip(ranks, codes, strict=True):
            if asked and code is not None and code < 0:  # it was still loading and had nothing to save
                raise Stopped("stopped before the first step", signum=signals.received[0])
            if code:
                raise _rank_error(rank, code, logs)
        if engine.process.poll() is not None:
            raise EnvironmentUnfit(
                f"the rollout engine ended with code {engine.process.returncode}; its last lines:\n"
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


def _end(children: list[Child]) -> None:
    """Stop every process group. Ranks have nothing to tidy; the engine gets time to free shared memory."""
    engine, ranks = children[0], children[1:]
    for rank in ranks:
        rank.signal_group(signal.SIGKILL)
    stop_engine(engine)
    for rank in ranks:
        rank.process.wait()


def stop_engine(engine: Child) -> None:
    """SIGTERM, a grace period, SIGKILL to the whole process group of an engine."""
    engine.process.terminate()
    with suppress(subprocess.TimeoutExpired):
        engine.process.wait(TERMINATE_GRACE_S)
    engine.signal_group(signal.SIGKILL)
    engine.process.wait()
