"""Which GPUs this process may use: NVML's list, cut by `CUDA_VISIBLE_DEVICES` as CUDA reads it. No torch.

All other code uses this list. A GPU index in the configuration is an index into it, and children are given
identifiers. So CUDA, vLLM (which asks NVML) and the metrics mean the same device. Not yet run on a GPU.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

VARIABLE = "CUDA_VISIBLE_DEVICES"
MIG = "MIG-"
"""Prefix of the identifiers of a GPU's slices."""
_GPU = "GPU-"
_INDEX = re.compile(r"\+?0*([0-9]{1,4})(?![0-9])")
"""What CUDA takes for an index: it reads digits up to the first other character, as torch's
`_parse_visible_devices` does. No machine has GPUs with longer indices."""
_DRIVER = (Path("/dev/nvidiactl"), Path("/proc/driver/nvidia"))
"""Paths that exist where NVIDIA's driver is loaded."""


@dataclass(frozen=True, slots=True)
class VisibleGpus:
    """The GPUs that this process may use, in CUDA's order."""

    ids: tuple[str, ...]
    """UUIDs, or nvidia-smi's numbers where NVML gives no UUID."""
    note: str = ""
    """What a user should know: an entry of the variable names no GPU, or the driver does not respond."""


def visible_gpus() -> VisibleGpus:
    """Apply `CUDA_VISIBLE_DEVICES` to NVML's list of the machine's GPUs.

    The rules are those of the CUDA programming guide, section "CUDA environment variables": unset means all,
    empty means none, and the first entry that names no device hides itself and all that follow. As in torch,
    a device that is named twice hides all devices, and all entries are of one kind (indices, UUIDs or MIG
    slices). An index is nvidia-smi's; children get CUDA_DEVICE_ORDER=PCI_BUS_ID, so it is CUDA's too.
    """
    setting = os.environ.get(VARIABLE)
    entries = [] if setting is None else [entry.strip() for entry in setting.split(",")]
    if entries and _ends_list(entries[0]):
        return VisibleGpus(())
    machine, note = _machine()
    if not entries or not machine:
        return VisibleGpus(tuple(machine), note)
    found: list[str] = []
    for entry in entries:
        gpu = _named(entry, machine) if _kind(entry) == _kind(entries[0]) else None
        if gpu is None:
            return VisibleGpus(tuple(found), _ignored(entry, len(machine)))
        if gpu in found:
            return VisibleGpus((), f"{source()} names a GPU twice, so CUDA shows none")
        found.append(gpu)
    return VisibleGpus(tuple(found))


def source() -> str:
    """The variable that limits the GPUs, with its value, as a user would write it."""
    setting = os.environ.get(VARIABLE)
    if setting is None:
        return f"{VARIABLE} is not set"
    shown = setting if setting.isprintable() else repr(setting)
    return f"{VARIABLE}={shown[:200]}"


def counted(number: int) -> str:
    """`there are 2 GPUs visible (CUDA_VISIBLE_DEVICES=5,6)`, for error messages."""
    many = {0: "is no GPU", 1: "is 1 GPU"}.get(number, f"are {number} GPUs")
    return f"there {many} visible ({source()})"


def cuda_environment(ids: Iterable[str]) -> dict[str, str]:
    """Environment variables that make a child see exactly these devices, in this order."""
    return {VARIABLE: ",".join(ids), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}


def use_visible() -> None:
    """Make CUDA see the same devices, in the same order, in this process as in children.

    Call it before CUDA is initialised: CUDA reads its environment only once, in torch at the first use of a
    GPU.
    """
    os.environ.update(cuda_environment(visible_gpus().ids))


def nvml() -> tuple[Any, str]:
    """The module `pynvml`, initialised, and ""; or None and the reason why it cannot be used."""
    try:
        import pynvml
    except ImportError:
        return None, "the package nvidia-ml-py is not installed"
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return None, str(error) or type(error).__name__
    return pynvml, ""


def nvml_handle(pynvml: Any, gpu: str) -> Any:
    """NVML's handle of one of `ids`. Raises NVMLError."""
    machine, _ = _machine()
    if gpu in machine:
        return pynvml.nvmlDeviceGetHandleByIndex(machine.index(gpu))
    return pynvml.nvmlDeviceGetHandleByUUID(gpu)  # a slice


def _machine() -> tuple[list[str], str]:
    """Identifiers of all GPUs of the machine in NVML's order (that of the PCI bus), and a note."""
    pynvml, reason = nvml()
    if pynvml is None:
        return [], _unasked(reason)
    try:
        number = int(pynvml.nvmlDeviceGetCount())
    except pynvml.NVMLError as error:
        return [], _unasked(str(error) or type(error).__name__)
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(number)]
        return [str(pynvml.nvmlDeviceGetUUID(handle)) for handle in handles], ""
    except (AttributeError, pynvml.NVMLError):  # this NVML gives no UUIDs
        return [str(index) for index in range(number)], ""


def _unasked(reason: str) -> str:
    """A note that says why no GPU was found; empty on a machine without a driver."""
    if not any(path.exists() for path in _DRIVER):
        return ""
    return f"an NVIDIA driver is installed, but its GPUs were not found: {reason}"


def _ends_list(entry: str) -> bool:
    return not entry or entry.startswith("-")


def _kind(entry: str) -> str:
    return next((prefix for prefix in (_GPU, MIG) if entry.startswith(prefix)), "")


def _named(entry: str, machine: Sequence[str]) -> str | None:
    """The identifier of the device that an entry names; None if there is no such device.

    An entry may shorten a GPU's UUID to a prefix that no other GPU has; the result is the whole UUID, which
    vLLM needs. NVML's list has no MIG slices, so these are kept as they are written. The same holds for UUIDs
    where NVML gives none.
    """
    if entry.startswith(MIG):
        return entry
    if entry.startswith(_GPU):
        if not machine[0].startswith(_GPU):
            return entry
        matches = [gpu for gpu in machine if gpu.startswith(entry)]
        return matches[0] if len(matches) == 1 else None
    index = _INDEX.match(entry)
    return machine[int(index[1])] if index and int(index[1]) < len(machine) else None


def _ignored(entry: str, number: int) -> str:
    """A note on an entry that names no device; empty if the entry is meant to end the list."""
    if _ends_list(entry):
        return ""
    return (
        f"{source()}: {entry[:100]!r} names no GPU of this machine, which has {number}; CUDA ignores it "
        "and every entry after it"
    )
