"""Keeping processes from loading code that lies in the directory where the command was typed. No torch.

A user may run a command in a folder that somebody sent; a `torch.py` or a `librt.so.1` there must not be
loaded. So every child gets `child_environment` and a working directory of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

NOWHERE = "/"
"""Working directory of short-lived processes: only root can put anything there."""
_SEPARATORS = {"PATH": ":", "PYTHONPATH": ":", "LD_LIBRARY_PATH": "[:;]", "LD_PRELOAD": "[: ]"}
"""Variables that list the places code is loaded from, each with the separator of its parts (ld.so(8)). An
empty part means the working directory, and a relative part is relative to it."""
_LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "MV2_", "MPI_LOCAL", "TORCHELASTIC_")
_LAUNCHED = {"LOCAL_SIZE", "LOCAL_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"}
"""Variables of mpirun and torchrun that tell a process its rank."""


def child_environment(environment: Mapping[str, str], folder: str | Path) -> dict[str, str]:
    """`environment` for a child that works in `folder`, a private directory.

    PYTHONSAFEPATH, which grandchildren inherit too, keeps Python from searching the working directory. No
    list of places has an empty or a relative part. LD_LIBRARY_PATH is never empty: packages such as cv2 put
    their own libraries in front of it when they are imported, and an empty one would become an empty part in
    the environment of the processes that they start.
    """
    dropped = _unsafe_parts(environment)
    clean = dict(environment)
    for name in dropped:
        if not (kept := ":".join(part for part in _parts(name, environment) if part not in dropped[name])):
            del clean[name]
        else:
            clean[name] = kept
    clean.setdefault("LD_LIBRARY_PATH", str(folder))
    return clean | {"PYTHONSAFEPATH": "1"}


def dropped_parts() -> list[str]:
    """`NAME=PART` for each relative part in our environment that `child_environment` drops."""
    found = _unsafe_parts(os.environ)
    return [f"{name}={part}" for name, parts in found.items() for part in parts if part]


def without_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without the ranks that another launcher gave this process.

    Our children have ranks of their own, and DeepSpeed asserts that OMPI_COMM_WORLD_LOCAL_RANK equals
    LOCAL_RANK.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_LAUNCHERS) and name not in _LAUNCHED
    }


def _unsafe_parts(environment: Mapping[str, str]) -> dict[str, list[str]]:
    """The empty and relative parts of each list in `environment` that has any, by variable."""
    found = {
        name: [part for part in _parts(name, environment) if not _is_safe(name, part)]
        for name in _SEPARATORS
        if name in environment
    }
    return {name: parts for name, parts in found.items() if parts}


def _parts(name: str, environment: Mapping[str, str]) -> list[str]:
    return re.split(_SEPARATORS[name], environment[name])


def _is_safe(name: str, part: str) -> bool:
    # The linker looks for a library without a slash in the system's folders (ld.so(8)).
    is_library = name == "LD_PRELOAD" and part != "" and "/" not in part
    return os.path.isabs(part) or is_library
