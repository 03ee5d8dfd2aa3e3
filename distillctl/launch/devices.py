"""Preflight checks of the machine's devices: GPUs, settings without effect, environment. Imports no torch."""

from __future__ import annotations

from distillctl.config.gpu_only import without_effect
from distillctl.config.schema import Config
from distillctl.host.gpus import counted, visible_gpus
from distillctl.host.isolation import dropped_parts
from distillctl.launch.plan import Plan
from distillctl.run.checks import Check


def device_checks(plan: Plan, config: Config) -> list[Check]:
    """Checks of the run's GPUs, settings without effect, and relative paths kept from child processes.

    `config` is the configuration as the user gave it. `plan.config` is the one that runs on this machine.
    """
    return [*_gpus(plan, config), *_without_effect(plan, config), *_environment()]


def _gpus(plan: Plan, config: Config) -> list[Check]:
    note = "" if config.train.device == "cpu" else visible_gpus().note
    if plan.device == "cuda":
        detail = f"{counted(len(plan.gpus))}: {', '.join(plan.gpus)}"
        return [Check("devices", "warn" if note else "ok", f"{detail}; {note}" if note else detail)]
    if not note:
        return []
    return [Check("devices", "warn", f"the run is on the CPU: {note}", "train.device=cpu, if that is meant")]


def _without_effect(plan: Plan, config: Config) -> list[Check]:
    found = without_effect(config) if plan.device == "cpu" else []
    return [Check("GPU settings", "ok", f"without effect on a CPU: {', '.join(found)}")] if found else []


def _environment() -> list[Check]:
    found = dropped_parts()
    if not found:
        return []
    detail = f"not given to the processes of the run, which work in another directory: {', '.join(found)}"
    return [Check("environment", "warn", detail, "write these as absolute paths")]
