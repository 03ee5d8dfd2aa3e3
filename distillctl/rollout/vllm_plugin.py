"""What runs inside vLLM's own processes: the lifeline, and receiving pushed weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import current_process
from multiprocessing import shared_memory as python_shared_memory

from distillctl.host import shared_memory
from distillctl.host.parent_death import die_with_parent

OWNER_ENV = "DISTILLCTL_OWNER"
"""Set by the launcher to its `shared_memory.owner()`. Every process of this engine dies with the launcher,
and what they leave in memory is named after it."""


def register() -> None:
    """vLLM's general plugin hook; called in the engine core and in every worker process."""
    if os.environ.get(OWNER_ENV):
        die_with_parent()
        ignore_signals()
        name_shared_memory()
        _sleep_when_idle()


def ignore_signals() -> None:
    """A scheduler may signal every process of a job; when an engine ends is for its launcher to say."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def name_shared_memory() -> None:
    """Name Python's shared memory and semaphores after the launcher, so that those of killed processes are
    known, and mark what else this process has in memory.

    The standard library has no setting for the prefixes, only these constants.
    """
    shared_memory.mark(os.environ[OWNER_ENV])
    prefix = f"/{os.environ[OWNER_ENV]}-"
    vars(python_shared_memory).update(_SHM_NAME_PREFIX=prefix, _SHM_SAFE_NAME_LENGTH=len(prefix) + 8)
    vars(current_process())["_config"]["semprefix"] = prefix.removesuffix("-")


def _sleep_when_idle() -> None:
    """On a CPU, let readers of vLLM's shared-memory queues block instead of spinning for a second.

    By default a worker keeps a core busy for 1 s after each batch, while the trainer needs it, and the engine
    core spins on the cores its worker computes on. vLLM 0.32 has no setting for the wait but this default. A
    reader that blocks at once can miss a notification and would look again after 5 s, so it looks every ms.
    """
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        shm_broadcast.SpinCondition.__init__.__defaults__ = (0.0,)
        shm_broadcast.SHM_READER_RECHECK_INTERVAL_MS = 1


class WeightReceiver:
    """Worker extension: its methods become methods of vLLM's worker, reached by `collective_rpc`."""

    def load_pushed(self, files: list[str]) -> None:
        """Load safetensors `files`, in order, into the running model.

        Goes through vLLM's layerwise reload, the only path that re-packs CPU weights; a second call of
        `process_weights_after_loading` on the head is needed because reload leaves the packed copy of a
        tied head stale (float32 on CPU).
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        runner = self.model_runner  # type: ignore[attr-defined]  # attribute of vLLM's worker
        runner.reload_weights(weights_iterator=_tensors(files))
        for module in runner.model.modules():
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


def _tensors(files: list[str]) -> Iterator[tuple[str, object]]:
    from safetensors import safe_open

    for file in files:
        with safe_open(file, framework="pt", device="cpu") as opened:
            for name in opened.offset_keys():
                yield name, opened.get_tensor(name)
