"""A limit on the memory that reading a file may take: a few bytes of it may unpack to gigabytes.

Compressed pages, dictionaries, run lengths and JSON lists can all multiply in size. Instead of checking each
of them, we limit the process. The kernel counts private writable memory (RLIMIT_DATA, since Linux 4.7).
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
"""Reading may take at most the free memory divided by this."""
_FREE_BYTES = 1 << 30
"""Memory that any file may take, however small it is."""
_BYTES_PER_BYTE = 64
"""Memory on top of that for each byte of the file; prompts unpack to about twenty times their size."""

Item = TypeVar("Item")


def readable_bytes(size_bytes: int | None = None) -> int:
    """Most memory that reading a file of `size_bytes` may take; without a size, the limit for any file."""
    most = memory_bytes() // _SHARE
    return most if size_bytes is None else min(most, _FREE_BYTES + _BYTES_PER_BYTE * size_bytes)


@contextmanager
def limited(what: object, num_bytes: int) -> Iterator[None]:
    """Give this process at most `num_bytes` more memory while the context is open.

    Raises ConfigError, which names `what`, if that is not enough.
    """
    with _at_most(_data_bytes() + num_bytes):
        try:
            yield
        except MemoryError:
            raise _too_large(what, num_bytes) from None


def limited_items(items: Iterator[Item], what: object, num_bytes: int) -> Iterator[Item]:
    """Yield `items`, making each under the limit of `limited`. Items that the caller keeps count too."""
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
        f"{what}: needs more than {num_bytes / 2**30:.1f} GiB of memory, the limit for reading it",
        "it unpacks to more than its size suggests: check where it is from, or split it into several files",
    )
