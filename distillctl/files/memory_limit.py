"""A limit on the memory that reading a file may take: a few bytes of it may unpack to gigabytes.

Compressed pages, dictionaries, run lengths and JSON lists all multiply, so the process is limited rather than
each of them foreseen. The kernel counts private writable memory (RLIMIT_DATA, since Linux 4.7).
"""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from distillctl.errors import ConfigError
from distillctl.host.hardware import memory_bytes

_SHARE = 2
"""Reading may take one part in so many of the memory that is free."""
_FREE_BYTES = 1 << 30
"""So much may any file take, however small."""
_BYTES_PER_BYTE = 64
"""And so much more for each of its bytes: prompts unpack to about twenty times their size in a file."""

Item = TypeVar("Item")


def readable_bytes(size_bytes: int | None = None) -> int:
    """Most memory that reading a file of that size may take; without a size, that reading anything may."""
    most = memory_bytes() // _SHARE
    return most if size_bytes is None else min(most, _FREE_BYTES + _BYTES_PER_BYTE * size_bytes)


@contextmanager
def limited(what: object, num_bytes: int) -> Iterator[None]:
    """While the context is open this process gets at most `num_bytes` more memory.

    Raises ConfigError naming `what` where that is not enough.
    """
    with _at_most(_data_bytes() + num_bytes):
        try:
            yield
        except MemoryError:
            raise _too_large(what, num_bytes) from None


def limited_items(items: Iterator[Item], what: object, num_bytes: int) -> Iterator[Item]:
    """`items`, with the limit of `limited` while each is made; what the caller keeps of them counts too."""
    end = _data_bytes() + num_bytes
    while True:
        with _at_most(end):
            try:
                item = next(items)
            except StopIteration:
                return
            except MemoryError:
                raise _too_large(what, num_bytes) from None
        yield item


@contextmanager
def _at_most(num_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    set_already = [limit for limit in (soft, hard) if limit != resource.RLIM_INFINITY]
    resource.setrlimit(resource.RLIMIT_DATA, (min([num_bytes, *set_already]), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (soft, hard))


def _data_bytes() -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("Linux says how much memory a process has")


def _too_large(what: object, num_bytes: int) -> ConfigError:
    return ConfigError(
        f"{what}: needs more than {num_bytes / 2**30:.1f} GiB of memory, all that is given to reading it",
        "it unpacks to more than it seems: check where it is from, or split it into several files",
    )
