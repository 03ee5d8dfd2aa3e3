"""Whether a run fits this machine: packages, memory, disk, /dev/shm, sockets. Decided before it starts.

These checks start no process and write nothing into the run directory. Imports no torch.
"""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from distillctl.config.schema import teacher_section
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.outputs import nearest, require_writable
from distillctl.host import shared_memory
from distillctl.host.hardware import memory_bytes
from distillctl.host.packages import require_gpu_build, require_packages, require_quantization
from distillctl.launch.memory_estimate import DTYPE_BYTES, memory_estimate
from distillctl.launch.plan import Plan
from distillctl.run import checkpoints

MAX_SOCKET_PATH = 107
"""Most bytes in the path of a unix socket (unix(7): `sun_path` has 108, with the final NUL)."""
_OPTIMIZER_BYTES = 12
"""Bytes per parameter in a checkpoint: float32 master weight and AdamW's two moments."""
_BESIDE_BYTES = 16 << 20
"""Bytes of a checkpoint besides weights: tokenizer, DeepSpeed's scripts, a share of samples and events."""
_VLLM_SHARED_BYTES = 64 << 20
"""Bytes in /dev/shm for the queues between vLLM's processes, when it has several."""
_NCCL_SHARED_BYTES = 1 << 30
"""Bytes in /dev/shm for NCCL between ranks on GPUs. Its user guide gives a container as much
("Troubleshooting", shared memory: `--shm-size=1g`). NCCL takes little when GPUs reach each other directly."""
_RANDOM_NAME = "x" * 8
"""Placeholder for the characters that `tempfile` appends to a prefix."""
_LONGEST_NAME = 36
"""Characters of the longest socket name in the scratch directory: vLLM's own name is a uuid4."""


def require_fit(plan: Plan, folder: Path | None = None) -> None:
    """Raise EnvironmentUnfit when the machine lacks something that the run needs.

    `folder` is the run directory, which need not exist yet, or None for a run that keeps nothing. Raises
    ConfigError for a path that cannot be used.
    """
    require_packages(plan.device)
    if any(teacher.quantization != "none" for teacher in plan.config.all_teachers.values()):
        require_quantization()
    if folder is not None:
        # checkpoints/ may be on another disk. While it does not exist, the nearest parent's disk counts.
        require_writable(folder, folder / "checkpoints")
        _require_disk(plan, folder / "checkpoints")
    weights = plan.student.shape.num_parameters * DTYPE_BYTES[plan.student_dtype]
    require_shared_memory(weights, nccl=plan.device == "cuda" and plan.world_size > 1)
    _require_short_sockets(plan)
    if plan.device == "cpu":
        _require_memory(plan)
    require_gpu_build(plan.device)


def require_shared_memory(num_bytes: int, *, nccl: bool = False) -> None:
    """Raise EnvironmentUnfit unless /dev/shm has room for weights of `num_bytes` and the engines' sockets.

    With `nccl` it also needs room for what NCCL exchanges between ranks on GPUs.
    """
    root = shared_memory.ROOT
    use = "sockets and the weights on their way to the engine are kept there"
    if not os.path.isdir(root):
        what = "is not a directory" if os.path.lexists(root) else "is missing"
        raise EnvironmentUnfit(f"{root} {what}: {use}", f"mount it: mount -t tmpfs tmpfs {root}")
    if not os.access(root, os.R_OK | os.W_OK | os.X_OK):
        raise EnvironmentUnfit(f"{root} cannot be written: {use}", f"remount it: mount -o remount,rw {root}")
    shared_memory.sweep()  # files of killed runs do not count: the next start would remove them too
    free = shutil.disk_usage(root).free
    needed = num_bytes + _VLLM_SHARED_BYTES + (_NCCL_SHARED_BYTES if nccl else 0)
    users = "vLLM's queues and NCCL's buffers" if nccl else "vLLM's queues"
    if free < needed:
        raise EnvironmentUnfit(
            f"{root} has {_gib(free)} free, the run needs {_gib(needed)}: the student's weights lie there "
            f"while they are pushed into the engine, and {users}",
            f"enlarge it: mount -o remount,size=SIZE {root}; in a container, its --shm-size",
        )


def checkpoint_bytes(plan: Plan) -> int:
    """Size of one checkpoint: optimizer state, model states when ZeRO does not shard them, and `hf/`."""
    size = DTYPE_BYTES[plan.student_dtype]
    model_states = 0 if plan.config.zero.stage == 3 else size
    per_parameter = _OPTIMIZER_BYTES + model_states + size
    return plan.student.shape.num_parameters * per_parameter + _BESIDE_BYTES


def _require_disk(plan: Plan, folder: Path) -> None:
    """Raise EnvironmentUnfit unless the disk has room for all checkpoints that exist at the same time.

    While a checkpoint is written, `checkpoint.keep` others and the best one exist. The checkpoints that a
    resumed run has already written need no more room.
    """
    settings = plan.config.checkpoint
    steps = plan.config.train.steps
    num_new = settings.keep + 1 + settings.best - len(checkpoints.steps(folder))
    if not settings.every:
        num_new = 1
    elif steps is not None:
        num_new = min(num_new, math.ceil(steps / settings.every))
    num_new = max(1, num_new)
    size = checkpoint_bytes(plan)
    free = shutil.disk_usage(nearest(folder)).free
    if num_new * size > free:
        raise EnvironmentUnfit(
            f"{folder} needs about {_gib(num_new * size)} for {num_new} checkpoint(s) of {_gib(size)}, but "
            f"its disk has {_gib(free)} free",
            "make room, lower checkpoint.keep, or choose a --run-dir on another disk",
        )


def _require_short_sockets(plan: Plan) -> None:
    scratch = shared_memory.ROOT / f"{shared_memory.owner()}-{_RANDOM_NAME}"
    length = len(os.fsencode(scratch)) + 1 + _LONGEST_NAME
    if length > MAX_SOCKET_PATH:
        raise EnvironmentUnfit(
            f"sockets under {shared_memory.ROOT} would have paths of {length} bytes, "
            f"at most {MAX_SOCKET_PATH} are possible",
            f"give {shared_memory.ROOT} a shorter path",
        )
    for name, teacher in plan.teachers.items():
        for endpoint in teacher.endpoints:
            length = len(os.fsencode(endpoint.removeprefix("unix:")))
            if endpoint.startswith("unix:") and length > MAX_SOCKET_PATH:
                raise ConfigError(
                    f"{teacher_section(name)}.url: the path of {endpoint} has {length} bytes, at most "
                    f"{MAX_SOCKET_PATH} are possible",
                    "make the server's --uds shorter",
                )


def _require_memory(plan: Plan) -> None:
    """Raise EnvironmentUnfit when a run on a CPU needs more memory than is free. All processes share it."""
    phases = {m.phase: m.num_bytes for m in memory_estimate(plan)}
    needed = (
        phases["rollout"]
        + phases.get("teacher server", 0)
        + plan.world_size * max(phases["teacher"], phases["update"])
    )
    if needed > memory_bytes():
        raise EnvironmentUnfit(
            f"the run needs about {needed / 2**30:.1f} GiB of memory, but "
            f"{memory_bytes() / 2**30:.1f} GiB are free",
            "lower train.micro_batch_tokens, rollout.max_num_seqs or data.train_batch_size; "
            "--dry-run shows the estimate per phase",
        )


def _gib(num_bytes: int) -> str:
    value = num_bytes / 2**30
    return f"{value:.3f} GiB" if value < 10 else f"{value:,.1f} GiB"
