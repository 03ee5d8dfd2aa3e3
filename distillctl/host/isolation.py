"""How a process is kept from code that lies in the directory where the command was typed. No torch.

A user may stand in a folder that somebody sent: a `torch.py` or a `librt.so.1` there must not be loaded. So
every child gets `child_environment` and a working directory of its own.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

NOWHERE = "/"
"""Working directory of short-lived helpers: nobody but root can put anything there."""
_SEPARATORS = {"PATH": ":", "PYTHONPATH": ":", "LD_LIBRARY_PATH": "[:;]", "LD_PRELOAD": "[: ]"}
"""Variables that list where code is loaded from, each with what separates its parts (ld.so(8)). An empty or a
relative part means the working directory."""
_LAUNCHERS = ("OMPI_", "PMI_", "PMIX_", "MV2_", "MPI_LOCAL", "TORCHELASTIC_")
_LAUNCHED = {"LOCAL_SIZE", "LOCAL_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"}
"""Variables of mpirun and torchrun that tell a process its rank."""


def child_environment(environment: Mapping[str, str], folder: str | Path) -> dict[str, str]:
    """`environment` for a child that works in `folder`, a private directory.

    Python does not search the working directory (PYTHONSAFEPATH, which grandchildren inherit as well), and no
    list of places has an empty or a relative part. LD_LIBRARY_PATH is never empty: packages put their own
    libraries in front of it (cv2 does when it is imported), and what is left of an empty one is an empty part
    in the environment of the processes that they start.
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
    """`NAME=PART` of each relative part that children are not given, though somebody wrote it."""
    found = _unsafe_parts(os.environ)
    return [f"{name}={part}" for name, parts in found.items() for part in parts if part]


def without_launchers(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without the ranks that another launcher gave this process.

    They are not those of its children: DeepSpeed asserts that OMPI_COMM_WORLD_LOCAL_RANK is LOCAL_RANK.
    """
    return {
        name: value
        for name, value in environment.items()
        if not name.startswith(_LAUNCHERS) and name not in _LAUNCHED
    }


def _unsafe_parts(environment: Mapping[str, str]) -> dict[str, list[str]]:
    """Of each list in `environment` that has some, the parts that mean the working directory."""
    found = {
        name: [part for part in _parts(name, environment) if not _is_safe(name, part)]
        for name in _SEPARATORS
        if name in environment
    }
    return {name: parts for name, parts in found.items() if parts}


def _parts(name: str, environment: Mapping[str, str]) -> list[str]:
    return re.split(_SEPARATORS[name], environment[name])


def _is_safe(name: str, part: str) -> bool:
    # A library without a slash is looked for among the system's (ld.so(8)).
    is_library = name == "LD_PRELOAD" and part != "" and "/" not in part
    return os.path.isabs(part) or is_library
