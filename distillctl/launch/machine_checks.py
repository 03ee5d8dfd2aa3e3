"""Whether a run fits this machine: packages, memory, disk, /dev/shm, sockets. Predicted before it starts.

Nothing is started, and nothing of the run is written. Imports no torch.
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
"""Bytes of a unix socket's path (unix(7): `sun_path` has 108 with the final NUL)."""
_OPTIMIZER_BYTES = 12
"""Per parameter in a checkpoint: float32 master weight and AdamW's two moments."""
_BESIDE_BYTES = 16 << 20
"""What a checkpoint has besides weights: tokenizer, DeepSpeed's scripts, a share of samples and events."""
_VLLM_SHARED_BYTES = 64 << 20
"""Room in /dev/shm for the queues between the processes of vLLM, where it has several."""
_NCCL_SHARED_BYTES = 1 << 30
"""Room in /dev/shm for NCCL between the ranks of GPUs: what its user guide gives a container
("Troubleshooting", shared memory: `--shm-size=1g`). It takes little where GPUs reach each other directly."""
_RANDOM_NAME = "x" * 8
"""Stands for the characters that `tempfile` appends to a prefix."""
_LONGEST_NAME = 36
"""Characters of the longest socket name in the scratch directory: vLLM's own is a uuid4, ours are shorter."""


def require_fit(plan: Plan, folder: Path | None = None) -> None:
    """Raise EnvironmentUnfit where the machine lacks what the run needs, ConfigError for an impossible path.

    `folder`: the run directory, which need not exist yet; None for a run that keeps nothing.
    """
    require_packages(plan.device)
    if any(teacher.quantization != "none" for teacher in plan.config.all_teachers.values()):
        require_quantization()
    if folder is not None:
        # Checkpoints may be a mount of another disk; where there are none yet, its parents are looked at.
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
    shared_memory.sweep()  # what killed runs left does not count: the next start would remove it too
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
    """Size of one checkpoint: optimizer state, the model's where ZeRO does not shard it, and `hf/`."""
    size = DTYPE_BYTES[plan.student_dtype]
    model_states = 0 if plan.config.zero.stage == 3 else size
    per_parameter = _OPTIMIZER_BYTES + model_states + size
    return plan.student.shape.num_parameters * per_parameter + _BESIDE_BYTES


def _require_disk(plan: Plan, folder: Path) -> None:
    """While a checkpoint is written, `checkpoint.keep` others and the best one exist. A resumed run has room
    for those that it has written."""
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
            f"{folder} needs about {_gib(num_new * size)} for {num_new} checkpoint(s) of {_gib(size)}, its "
            f"disk has {_gib(free)} free",
            "make room, lower checkpoint.keep, or choose a --run-dir on another disk",
        )


def _require_short_sockets(plan: Plan) -> None:
    scratch = shared_memory.ROOT / f"{shared_memory.owner()}-{_RANDOM_NAME}"
    length = len(os.fsencode(scratch)) + 1 + _LONGEST_NAME
    if length > MAX_SOCKET_PATH:
        raise EnvironmentUnfit(
            f"sockets under {shared_memory.ROOT} would have paths of {length} bytes, "
            f"at most {MAX_SOCKET_PATH} are possible",
            "give it a shorter path",
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
    """Raise EnvironmentUnfit where the run needs more memory than there is; on a CPU all processes share
    it."""
    phases = {m.phase: m.num_bytes for m in memory_estimate(plan)}
    needed = (
        phases["rollout"]
        + phases.get("teacher server", 0)
        + plan.world_size * max(phases["teacher"], phases["update"])
    )
    if needed > memory_bytes():
        raise EnvironmentUnfit(
            f"the run needs about {needed / 2**30:.1f} GiB of memory, "
            f"{memory_bytes() / 2**30:.1f} GiB are free",
            "lower train.micro_batch_tokens, rollout.max_num_seqs or data.train_batch_size; "
            "--dry-run shows the estimate per phase",
        )


def _gib(num_bytes: int) -> str:
    value = num_bytes / 2**30
    return f"{value:.3f} GiB" if value < 10 else f"{value:,.1f} GiB"
