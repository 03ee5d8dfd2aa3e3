"""`distillctl train --dry-run`: show what a run would do and need, without starting it."""

from __future__ import annotations

import shlex
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distillctl.config.loading import to_yaml
from distillctl.config.schema import Config
from distillctl.errors import EnvironmentUnfit
from distillctl.launch import supervisor
from distillctl.launch.machine_checks import require_fit
from distillctl.launch.memory_estimate import memory_estimate
from distillctl.launch.plan import Plan
from distillctl.launch.preflight import preview
from distillctl.run import checks as run_checks
from distillctl.run.checks import Check
from distillctl.run.directory import RunDir
from distillctl.run.events import read_events
from distillctl.teacher.server import server_command


def show_plan(config: Config) -> tuple[dict[str, Any], str]:
    """What `train` would do: resolved configuration, commands, steps, memory per phase, and the preflight.

    When weights and engines are on this machine, the engines start once to measure the rest of the preflight.
    No step runs and nothing is kept.
    """
    plan, rows, checks = preview(config)
    checks += measured_checks(plan)
    memory = memory_estimate(plan)
    commands = _commands(plan)
    result = {
        "config": config.model_dump(mode="json"),
        "device": plan.device,
        "world_size": plan.world_size,
        "student": str(plan.student),
        "teachers": {name: str(teacher.model.path.absolute()) for name, teacher in plan.teachers.items()},
        "num_prompts": len(rows.train),
        "steps": config.num_steps(len(rows.train)),
        "commands": commands,
        "memory": [{"phase": m.phase, "bytes": m.num_bytes, "what": m.what} for m in memory],
        "checks": [asdict(check) for check in checks],
    }
    lines = [
        to_yaml(config).rstrip(),
        "",
        f"# {result['steps']} steps of {config.data.train_batch_size} prompts x {config.rollout.n} "
        f"from {len(rows.train)} prompts (over-long ones are left out later), "
        f"{plan.world_size} rank(s) on {plan.device}",
        *(f"# $ {command}" for command in commands),
        *(f"# memory, {m.phase}: about {m.num_bytes / 2**30:.2f} GiB ({m.what})" for m in memory),
        *(f"# {line}" for line in run_checks.lines(checks)),
    ]
    return result, "\n".join(lines)


def _commands(plan: Plan) -> list[str]:
    """Command lines of the processes of the run."""
    engine = [sys.executable, "-m", "distillctl.rollout.worker", "ENGINE.json"]
    servers = [server_command(plan.server_arguments(name, Path("SOCKET"))) for name in plan.served]
    commands = [shlex.join(command) for command in (engine, *servers)]
    for rank in range(plan.world_size):
        env = " ".join(f"{k}={v}" for k, v in plan.rank_environment(rank).items())
        commands.append(f"{env} {shlex.join(plan.rank_command())}")
    return commands


def measured_checks(plan: Plan) -> list[Check]:
    """The checks that need running engines. They come from an attempt that ends before its first step."""
    models = [plan.student, *(one.model for one in plan.teachers.values() if not one.endpoints)]
    missing = [model for model in models if not model.weight_files]
    if missing:
        return [Check("measured", "warn", f"nothing measured: the weights of {missing[0]} are not here")]
    try:
        require_fit(plan)
    except EnvironmentUnfit as unfit:
        return [Check("measured", "warn", f"nothing measured: {unfit.message}", unfit.hint)]
    print("starting the engines once to measure; no step runs", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        run_dir = RunDir(Path(folder))
        run_dir.begin_attempt()
        run_dir.config_path.write_text(to_yaml(plan.config))
        supervisor.run(plan, run_dir, None, preflight_only=True)
        found = [event for event in read_events(run_dir.events_path) if event["kind"] == "check"]
    return [Check(event["name"], event["level"], event["detail"], event["hint"]) for event in found]
