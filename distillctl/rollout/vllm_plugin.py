"""Code that runs inside vLLM's own processes: dying with the launcher, and receiving pushed weights."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from multiprocessing import current_process
from multiprocessing import shared_memory as python_shared_memory

from distillctl.host import shared_memory
from distillctl.host.parent_death import die_with_parent

OWNER_ENV = "DISTILLCTL_OWNER"
"""The launcher sets it to its `shared_memory.owner()`. Every process of the engine dies with the launcher,
and the files that they leave in shared memory are named after it."""


def register() -> None:
    """vLLM's general plugin hook, which vLLM calls in the engine core and in every worker process."""
    if os.environ.get(OWNER_ENV):
        die_with_parent()
        ignore_signals()
        name_shared_memory()
        _sleep_when_idle()


def ignore_signals() -> None:
    """Ignore signals: a scheduler may signal every process of a job, but the launcher decides when we end."""
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)


def name_shared_memory() -> None:
    """Name Python's shared memory and semaphores after the launcher, and `mark` this process as its own.

    The names tell the next launcher which ones killed processes left behind. The standard library has no
    setting for these names, only the constants that we replace here.
    """
    shared_memory.mark(os.environ[OWNER_ENV])
    prefix = f"/{os.environ[OWNER_ENV]}-"
    vars(python_shared_memory).update(_SHM_NAME_PREFIX=prefix, _SHM_SAFE_NAME_LENGTH=len(prefix) + 8)
    vars(current_process())["_config"]["semprefix"] = prefix.removesuffix("-")


def _sleep_when_idle() -> None:
    """On a CPU, let readers of vLLM's shared-memory queues block instead of spinning for a second.

    By default a worker keeps a core busy for 1 s after each batch, while the trainer needs it, and the engine
    core spins on the cores that its worker computes on. In vLLM 0.32 this default argument is the only way to
    change the wait. A reader that blocks at once can miss a notification; it would check again only after
    5 s, so we make it check every millisecond.
    """
    from vllm.distributed.device_communicators import shm_broadcast
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        shm_broadcast.SpinCondition.__init__.__defaults__ = (0.0,)
        shm_broadcast.SHM_READER_RECHECK_INTERVAL_MS = 1


class WeightReceiver:
    """Worker extension of vLLM: its methods become methods of vLLM's worker; `collective_rpc` calls them."""

    def load_pushed(self, files: list[str]) -> None:
        """Load safetensors `files`, in order, into the running model.

        It uses vLLM's layerwise reload, the only path that re-packs CPU weights. The reload leaves the packed
        copy of a tied LM head stale (float32 on a CPU), so we process the head's weights a second time.
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
