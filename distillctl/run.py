"""A run on disk: its directory, its lock, its events, and the table of metric names and units.

Layout (design, section 8):

    runs/<preset>/0007/   config.yaml provenance.json events.jsonl status.json .lock logs/attempt_1/*.log
      checkpoints/step_000400/{hf/, state/, manifest.json}   checkpoints/latest.json
      samples/step_000400.parquet   eval/step_000400.json
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl import checkpoints, lock
from distillctl.atomic import read_object, write_json
from distillctl.errors import ConfigError, EnvironmentUnfit

_STEP_DIR = re.compile(r"step_([0-9]{6,18})")
_ATTEMPT = re.compile(r"attempt_([0-9]{1,9})")
STATES = ("running", "done", "failed", "stopped")
"""Of a run, in status.json."""
STATUS = {"state": str, "step": int, "steps": int, "pid": int, "attempt": int, "exit_code": int}
"""Keys of status.json."""


@dataclass(frozen=True, slots=True)
class Metric:
    """Unit and meaning of a metric."""

    unit: str
    meaning: str


METRICS = {
    "actor/loss": Metric("nats", "what is minimised: all terms, summed up by loss.aggregate"),
    "actor/kl_loss": Metric("nats", "the distillation term before its coefficient, as loss.kind has it"),
    "actor/pg_loss": Metric("nats", "policy-gradient term of a task reward; 0 without one"),
    "actor/distillation_mode": Metric("flag", "1: no task reward and no reference answer is trained on"),
    "actor/sft_loss": Metric("nats", "cross-entropy on the reference answers, with loss.sft_coef"),
    "actor/pg_clipfrac": Metric("share", "tokens whose policy gradient was clipped, where there is one"),
    "actor/entropy": Metric("nats", "student's entropy, exact"),
    "actor/grad_norm": Metric("-", "global gradient norm before clipping"),
    "actor/lr": Metric("-", "learning rate of this step"),
    "actor/skipped_steps": Metric("steps", "optimizer steps skipped so far: loss or gradient not finite"),
    "kl/reverse": Metric("nats", "KL(student || teacher): exact, from a served teacher a lower bound"),
    "kl/forward": Metric("nats", "KL(teacher || student): exact, from a served teacher a lower bound"),
    "kl/k1": Metric("nats", "k1 estimate of kl/reverse from the sampled tokens"),
    "kl/k3": Metric("nats", "k3 estimate of kl/reverse from the sampled tokens"),
    "teacher/entropy": Metric("nats", "teacher's entropy on the student's samples, as exact as kl/reverse"),
    "topk/student_mass": Metric("share", "student's probability on the listed tokens of a top-k loss"),
    "topk/teacher_mass": Metric("share", "teacher's probability on the listed tokens of a top-k loss"),
    "topk/overlap": Metric("share", "student's most likely tokens that are the teacher's, of a top-k loss"),
    "reward/mean": Metric("-", "mean task reward of the rollouts, with reward.path"),
    "rollout/mismatch_kl": Metric("nats", "k3 estimate of KL(engine || trainer) on the sampled tokens"),
    "rollout/staleness": Metric("steps", "optimizer steps since the weights that wrote the rollouts"),
    "response_length/mean": Metric("tokens", "mean length of the responses"),
    "response_length/clip_ratio": Metric("share", "responses cut at data.max_response_length"),
    "timing_s/rollout": Metric("s", "sampling (or waiting for it), and handing the rollouts to the ranks"),
    "timing_s/teacher": Metric("s", "micro-batches and the teacher's forward pass"),
    "timing_s/update": Metric("s", "student's forward and backward pass, optimizer step"),
    "timing_s/sync": Metric("s", "weights into the engine when it is free, and their proof"),
    "timing_s/step": Metric("s", "the whole step"),
    "perf/tokens_per_s": Metric("tokens/s", "prompt and response tokens over the whole step"),
    "perf/rollout_tokens_per_s": Metric("tokens/s", "response tokens over the rollout phase"),
    "memory/trainer_bytes": Metric("bytes", "memory of the largest rank's process, mapped files left out"),
    "memory/engine_bytes": Metric("bytes", "memory of the rollout engine's processes, mapped files left out"),
    "gpu/used_bytes": Metric("bytes", "memory in use of each GPU, by NVML"),
    "gpu/utilization": Metric("share", "time that each GPU was busy, by NVML"),
    "val/acc": Metric("share", "normalised accuracy on the validation prompts, greedy"),
    "val/kl": Metric("nats", "KL(student || teacher) per token of the first 64 validation answers, greedy"),
}


def metric_table(present: Collection[str]) -> list[tuple[str, Metric]]:
    """Those of `present` that are known, in the table's order; `kl/reverse/NAME` (one of several teachers)
    stands behind `kl/reverse`."""
    table = []
    for name, metric in METRICS.items():
        own = sorted(found for found in present if found.startswith(f"{name}/"))
        table += [(found, metric) for found in ([name] if name in present else []) + own]
    return table


class RunDir:
    """Paths of one run and its small state files."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config_path = path / "config.yaml"
        self.provenance_path = path / "provenance.json"
        self.events_path = path / "events.jsonl"
        self.status_path = path / "status.json"
        self.checkpoints = path / "checkpoints"
        self.samples_dir = path / "samples"
        self.eval_dir = path / "eval"

    @classmethod
    def create(cls, root: Path) -> RunDir:
        """Make `root/0001` or the next free number; two launchers never get the same."""
        make_directory(root)
        try:
            taken = [int(p.name) for p in root.iterdir() if p.name.isascii() and p.name.isdigit()]
            number = max(taken, default=0) + 1
            while True:
                path = root / f"{number:04d}"
                try:
                    path.mkdir()
                    return cls(path)
                except FileExistsError:
                    number += 1
        except OSError as error:
            raise _unusable(root, error) from None

    @property
    def attempt(self) -> int:
        """Number of the newest attempt; 0 before the first."""
        found = (_ATTEMPT.fullmatch(path.name) for path in self.path.glob("logs/attempt_*"))
        return max((int(match[1]) for match in found if match), default=0)

    def logs(self, attempt: int) -> Path:
        """Log folder of an attempt."""
        return self.path / "logs" / f"attempt_{attempt}"

    def begin_attempt(self) -> int:
        """Make the log folder of the next attempt; returns its number."""
        attempt = self.attempt + 1
        self.logs(attempt).mkdir(parents=True)
        return attempt

    @property
    def label(self) -> str:
        """Short name for tables: `<preset>/<number>`, or the folder's own name."""
        return f"{self.path.resolve().parent.name}/{self.path.resolve().name}"

    def lock(self) -> AbstractContextManager[None]:
        """Hold the run for this process; raises ConfigError with the holder's pid when it is taken."""
        make_directory(self.path)
        return lock.hold(self.path / ".lock")

    def is_locked(self) -> bool:
        """Whether a launcher holds the run now."""
        return lock.is_held(self.path / ".lock")


def make_directory(path: Path) -> None:
    """Make a directory of a run, or leave the one there. Raises ConfigError where a file is in the way,
    EnvironmentUnfit where the system refuses."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        message = f"{path} cannot be a run directory: a file is in the way"
        raise ConfigError(message, "choose another --run-dir") from None
    except OSError as error:
        raise _unusable(path, error) from None


def _unusable(path: Path, error: OSError) -> EnvironmentUnfit:
    return EnvironmentUnfit(f"{path} cannot be used: {error.strerror}", "choose another --run-dir")


def open_run(path: Path) -> RunDir:
    """An existing run directory; raises ConfigError when `path` is not one."""
    run = RunDir(path)
    if not path.is_dir():
        raise ConfigError(f"{path}: no such run", "distillctl inspect runs lists them")
    if not _is_run(path):
        raise ConfigError(
            f"{path} is not a run directory: it has neither events.jsonl nor config.yaml",
            "distillctl inspect runs lists the runs below a folder",
        )
    return run


def _is_run(path: Path) -> bool:
    run = RunDir(path)
    return run.events_path.is_file() or run.config_path.is_file()


def write_status(path: Path, status: Mapping[str, Any]) -> None:
    """Replace status.json: `state` (running, done, failed, stopped), `step`, `steps`, `pid` of the launcher,
    `attempt`, and `exit_code` after the end."""
    write_json(path, status)


def read_status(path: Path) -> dict[str, Any]:
    """What status.json holds, without what is of a wrong type; empty when there is none to be read."""
    found = read_object(path)
    known = {name: value for name, value in found.items() if type(value) is STATUS.get(name)}
    return {name: value for name, value in known.items() if not isinstance(value, int) or abs(value) < 2**63}


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The model a `--checkpoint` or `--baseline` means."""

    label: str
    """Short name for tables, such as `tiny/0007@400`."""
    model: str
    """Model directory; or a hub id or `builtin:NAME`, which are for `machine.model_path` to find."""
    run: Path | None
    """The run it belongs to, where its configuration is."""


def resolve_checkpoint(spec: str) -> Checkpoint:
    """The model that a run, `RUN@STEP`, `RUN@best`, a checkpoint or a model directory means.

    Anything that is not on disk comes back as it is. Raises ConfigError for a step the run has no
    checkpoint of, naming those it has, and for a directory that holds no model.
    """
    path = Path(spec).expanduser()
    if not path.is_dir():
        owner, at, step = spec.rpartition("@")
        if at and _is_run(Path(owner).expanduser()):
            return _at_step(RunDir(Path(owner).expanduser()), step)
        return Checkpoint(spec, spec, None)
    if _is_run(path):
        latest = checkpoints.latest(RunDir(path).checkpoints)
        if latest is None:
            raise ConfigError(f"{path} has no checkpoint yet", f"it is {_state(RunDir(path))}")
        return _from_directory(latest)
    if (path / "hf").is_dir():
        return _from_directory(path)
    if (path / "config.json").is_file():
        inside = path.resolve()
        if inside.name == "hf" and _STEP_DIR.fullmatch(inside.parent.name):
            return _from_directory(inside.parent)
        return Checkpoint(inside.name, str(path), None)
    raise ConfigError(
        f"{path} is neither a run, nor a checkpoint (hf/), nor a model (config.json)",
        "distillctl inspect runs lists the runs below a folder",
    )


def _at_step(run: RunDir, step: str) -> Checkpoint:
    if step == "best":
        best = checkpoints.best(run.checkpoints)
        if best is None:
            hint = "train with checkpoint.best=true and eval.every"
            raise ConfigError(f"{run.path} has no best checkpoint", hint)
        return _from_directory(best)
    steps = checkpoints.steps(run.checkpoints)
    if not (step.isascii() and step.isdigit() and int(step) in steps):
        there = ", ".join(map(str, steps)) or "none"
        raise ConfigError(f"{run.path} has no checkpoint of step {step}", f"steps there: {there}")
    return _from_directory(run.checkpoints / checkpoints.step_dir(int(step)))


def _from_directory(path: Path) -> Checkpoint:
    """A checkpoint directory, which belongs to a run unless it was copied out of one."""
    path = path.resolve()
    match, run = _STEP_DIR.fullmatch(path.name), path.parent.parent
    if match is None or not _is_run(run):
        return Checkpoint(path.name, str(path / "hf"), None)
    return Checkpoint(f"{RunDir(run).label}@{int(match[1])}", str(path / "hf"), run)


def _state(run: RunDir) -> str:
    return str(read_status(run.status_path).get("state", "not started"))
