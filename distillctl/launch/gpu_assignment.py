"""Which process gets which GPUs, and whether there are enough. Imports no torch."""

from __future__ import annotations

from collections.abc import Sequence

from distillctl.config.schema import Config, teacher_section
from distillctl.errors import ConfigError
from distillctl.host.gpus import MIG, counted


def check_gpus(config: Config, world_size: int, num_gpus: int) -> None:
    """Raise ConfigError unless all named GPUs exist and every teacher with `serve` has GPUs of its own."""
    if world_size > num_gpus:
        hint = f"set train.world_size to {num_gpus} at most"
        raise ConfigError(f"train.world_size={world_size}, but {counted(num_gpus)}", hint)
    taken = dict.fromkeys(config.rollout.gpus or [0], "rollout.gpus")
    if missing := [gpu for gpu in taken if not 0 <= gpu < num_gpus]:
        hint = "GPUs are counted from 0 among the visible ones"
        raise ConfigError(f"rollout.gpus names GPU {missing[0]}, but {counted(num_gpus)}", hint)
    if len(config.rollout.gpus or []) > len(set(config.rollout.gpus or [])):
        raise ConfigError("rollout.gpus names a GPU twice", "name each once")
    taken |= dict.fromkeys(range(world_size), f"the ranks (train.world_size={world_size})")
    for name, teacher in config.all_teachers.items():
        if not teacher.serve:
            continue
        key = f"{teacher_section(name)}.gpus"
        hint = (
            f"give it some of the {num_gpus} visible GPUs, counted from 0, and set train.world_size to the "
            "number of GPUs that are left"
        )
        if not teacher.gpus:
            raise ConfigError(f"{key} is missing: a teacher with serve=true needs GPUs of its own", hint)
        for gpu in teacher.gpus:
            if not 0 <= gpu < num_gpus:
                raise ConfigError(f"{key} names GPU {gpu}, but {counted(num_gpus)}", hint)
            if gpu in taken:
                raise ConfigError(f"{key} names GPU {gpu}, which {taken[gpu]} uses already", hint)
            taken[gpu] = key


def check_slices(config: Config, world_size: int, ids: Sequence[str]) -> None:
    """Raise ConfigError when a process would get several MIG slices.

    CUDA shows a process only one (NVIDIA's MIG user guide, "CUDA Device Enumeration").
    """
    groups = {"train.world_size": list(range(world_size)), "rollout.gpus": config.rollout.gpus or [0]}
    for name, teacher in config.all_teachers.items():
        groups[f"{teacher_section(name)}.gpus"] = teacher.gpus if teacher.serve and teacher.gpus else []
    for key, places in groups.items():
        if len(places) > 1 and any(ids[place].startswith(MIG) for place in places):
            raise ConfigError(
                f"{key} takes {len(places)} devices, some of which are slices of a GPU (MIG): CUDA shows a "
                f"process one slice, and {counted(len(ids))}",
                f"set {key} to one of them",
            )
