"""Settings for GPUs. They have no effect on a CPU, so every preset runs there too."""

from __future__ import annotations

from typing import Any

from distillctl.config.models import teacher_section
from distillctl.config.schema import Config, RolloutConfig, TeacherConfig, ZeroConfig

_ROLLOUT = ("gpus", "gpu_memory_utilization", "enforce_eager")
_TEACHER = ("gpus", "gpu_memory_utilization", "offload")
_ZERO = ("offload",)


def on_cpu(config: Config) -> Config:
    """`config` with these settings at their defaults, as a run on a CPU uses it."""
    rollout = _defaults(RolloutConfig, _ROLLOUT)
    zero = _defaults(ZeroConfig, _ZERO)
    teacher = _defaults(TeacherConfig, _TEACHER)
    return config.model_copy(
        update={
            "rollout": config.rollout.model_copy(update=rollout),
            "zero": config.zero.model_copy(update=zero),
            "teacher": config.teacher.model_copy(update=teacher),
            "teachers": {name: one.model_copy(update=teacher) for name, one in config.teachers.items()},
        }
    )


def without_effect(config: Config) -> list[str]:
    """`KEY=VALUE` of each setting for GPUs that `config` sets."""
    cpu = on_cpu(config)
    pairs = [("rollout", config.rollout, cpu.rollout, _ROLLOUT), ("zero", config.zero, cpu.zero, _ZERO)]
    pairs += [
        (teacher_section(name), one, cpu.all_teachers[name], _TEACHER)
        for name, one in config.all_teachers.items()
    ]
    return [
        f"{section}.{key}={_text(getattr(given, key))}"
        for section, given, used, keys in pairs
        for key in keys
        if getattr(given, key) != getattr(used, key)
    ]


def _defaults(
    section: type[RolloutConfig | TeacherConfig | ZeroConfig], keys: tuple[str, ...]
) -> dict[str, Any]:
    return {key: section.model_fields[key].default for key in keys}


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
