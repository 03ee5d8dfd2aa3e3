"""The ranks of a run, and their communication apart from gradients.

Rollouts and sums of metrics are exchanged over a separate gloo group on the CPU. Ranks that wait for the
rollout engine sleep in it, instead of spinning in a GPU collective next to the engine.
"""

from __future__ import annotations

import json
import os
import random
import warnings
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from distillctl.data_types import Prompt, Rollout
from distillctl.errors import EnvironmentUnfit
from distillctl.rollout import protocol
from distillctl.rollout.client import assemble

TIMEOUT = timedelta(hours=6)
"""Longest wait in a collective. It must be longer than any rollout phase. The launcher stops ranks that lose
a peer."""


def require_cuda(rank: int) -> None:
    """Raise EnvironmentUnfit with torch's message unless torch can use the GPU of this rank."""
    try:
        torch.cuda.init()  # type: ignore[no-untyped-call]  # torch leaves it without types
    except (RuntimeError, AssertionError) as error:  # refused by the driver; a torch build without CUDA
        raise EnvironmentUnfit(
            f"torch {torch.__version__} cannot use the GPU of rank {rank}: {str(error).splitlines()[0]}",
            "install a build of torch for this driver (nvidia-smi names its CUDA version), or set "
            "train.device=cpu",
        ) from None
    if rank >= torch.cuda.device_count():
        raise EnvironmentUnfit(
            f"torch sees {torch.cuda.device_count()} GPUs, which is too few for rank {rank} "
            f"(CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES')})",
            "check with nvidia-smi -L that all of them are usable, or set train.world_size",
        )


def _ask_torch_for_memory(accelerator: Any) -> None:
    """Make DeepSpeed ask torch how much memory of a GPU is free. ZeRO 1 and 2 ask for it.

    By itself DeepSpeed asks NVML, with a number that it reads from CUDA_VISIBLE_DEVICES with `int` (0.19.8,
    `CUDA_Accelerator._get_nvml_gpu_id`). This fails for UUIDs, and NVML does not give the memory of a MIG
    slice.
    """
    accelerator.available_memory = lambda device_index=None: torch.cuda.mem_get_info(device_index)[0]


class Distributed:
    """This process's rank and its exchange with the others. Construct it once, on every rank together."""

    def __init__(self, rank: int, world_size: int, device: str, rendezvous: Path) -> None:
        if device == "cuda":
            require_cuda(rank)
        import deepspeed

        self.rank = rank
        self.world_size = world_size
        self.device = torch.device("cuda", rank) if device == "cuda" else torch.device("cpu")
        if device == "cuda":
            torch.cuda.set_device(self.device)
            _ask_torch_for_memory(deepspeed.get_accelerator())
        # On a CPU, DeepSpeed would compile this op for 40 s at the first start. Only its inference needs it.
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
        # DeepSpeed uses deprecated names. torch warns at every call, which would fill the rank's log.
        warnings.filterwarnings("ignore", r"`torch\.distributed\.\w+` is deprecated", FutureWarning)
        # A file replaces the TCP store, and only the loopback interface is used: nothing listens on a
        # network.
        os.environ.update(GLOO_SOCKET_IFNAME="lo", NCCL_SOCKET_IFNAME="lo")
        deepspeed.init_distributed(
            dist_backend="nccl" if device == "cuda" else "gloo",
            auto_mpi_discovery=False,
            init_method=f"file://{rendezvous}",
            rank=rank,
            world_size=world_size,
            timeout=TIMEOUT,
        )
        self._control = dist.new_group(backend="gloo", timeout=TIMEOUT)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0, which talks to the engine and writes the run directory."""
        return self.rank == 0

    def barrier(self) -> None:
        """Wait for every rank."""
        dist.barrier(group=self._control)

    def seed(self, run_seed: int, step: int) -> None:
        """Seed all random generators of this process, so that a step does not depend on earlier steps."""
        seed = (run_seed * 1_000_003 + step) * self.world_size + self.rank
        random.seed(seed)
        np.random.seed(seed % 2**32)
        torch.manual_seed(seed)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        """Element-wise sum of a CPU tensor over the ranks."""
        dist.all_reduce(values, group=self._control)
        return values

    def share_flag(self, value: int) -> int:
        """The integer of rank 0, on every rank."""
        tensor = torch.tensor([value])
        dist.broadcast(tensor, 0, group=self._control)
        return int(tensor)

    def gather(self, value: Any) -> list[Any]:
        """The values of all ranks in order of rank, on every rank. A value must be expressible in JSON."""
        mine = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.world_size)]
        dist.all_gather(sizes, torch.tensor([len(mine)]), group=self._control)
        widest = int(torch.cat(sizes).max())
        texts = [torch.zeros(widest, dtype=torch.uint8) for _ in range(self.world_size)]
        dist.all_gather(texts, torch.nn.functional.pad(mine, (0, widest - len(mine))), group=self._control)
        return [
            json.loads(text[: int(size)].numpy().tobytes()) for text, size in zip(texts, sizes, strict=True)
        ]

    def share_rollouts(
        self, prompts: list[Prompt], num_samples: int, rollouts: list[Rollout] | None
    ) -> list[Rollout]:
        """The rollouts of rank 0, on every rank. Other ranks pass None. All ranks pass the same prompts."""
        if rollouts is None:
            table = torch.zeros(len(prompts) * num_samples, 4, dtype=torch.int64)
        else:
            table = _table(rollouts)
        dist.broadcast(table, 0, group=self._control)
        lengths = table[:, 0].numpy()
        num_topk = int(table[0, 3])
        values = torch.zeros(2, int(lengths.sum()), dtype=torch.float64)  # holds int32 and float32 exactly
        topk = torch.zeros(values.shape[1], num_topk, dtype=torch.int32)
        if rollouts is not None:
            values[0] = torch.from_numpy(np.concatenate([r.response_ids for r in rollouts]))
            values[1] = torch.from_numpy(np.concatenate([r.response_logprobs for r in rollouts]))
            listed = [r.topk_ids for r in rollouts if r.topk_ids is not None]
            topk = torch.from_numpy(np.concatenate(listed)) if listed else topk
        dist.broadcast(values, 0, group=self._control)
        if num_topk:
            dist.broadcast(topk, 0, group=self._control)
        return assemble(
            prompts,
            num_samples,
            response_ids=protocol.unpack(values[0].numpy().astype(np.int32), lengths),
            response_logprobs=protocol.unpack(values[1].numpy().astype(np.float32), lengths),
            has_stopped=table[:, 1].tolist(),
            weight_versions=table[:, 2].tolist(),
            topk_ids=protocol.unpack(topk.numpy(), lengths) if num_topk else [None] * len(lengths),
        )


def _table(rollouts: list[Rollout]) -> torch.Tensor:
    """int64 [rollouts, 4]: length, whether it stopped, weight version, width of `topk_ids`."""
    widths = [0 if rollout.topk_ids is None else rollout.topk_ids.shape[1] for rollout in rollouts]
    rows = [(len(r.response_ids), r.finish_reason == "stop", r.weight_version) for r in rollouts]
    return torch.tensor([(*row, width) for row, width in zip(rows, widths, strict=True)])
