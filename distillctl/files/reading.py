"""Opening files safely: only regular files, and only up to a sane size if a user names them.

A named pipe blocks whoever opens it, and /dev/zero never ends. So we check the kind of a file first.
"""

from __future__ import annotations

import errno
import json
import os
import stat
from codecs import BOM_UTF8
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO

from distillctl.errors import ConfigError

MAX_JSON_BYTES = 64 << 20
"""Largest JSON file of a model that is read."""
MAX_TOKENIZER_BYTES = 256 << 20
"""Largest tokenizer.json that is read; the largest known has 33 MB."""
_SAVE_AGAIN = "save the model again with save_pretrained, or download it again"
_KINDS = {
    stat.S_IFREG: "a regular file",
    stat.S_IFDIR: "a directory",
    stat.S_IFLNK: "a link",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def open_regular(path: Path) -> BinaryIO:
    """Open a regular file, or the target of a link, for reading; raises OSError for anything else.

    It never waits, not even for a pipe without a writer or for a device.
    """
    _refuse_special(path, os.stat(path))  # checked before opening, because opening some devices triggers them
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        _refuse_special(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return os.fdopen(descriptor, "rb")


def _refuse_special(path: Path, found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, f"it is {kind(found.st_mode)}", str(path))


def is_regular(path: Path) -> bool:
    """Whether `path` is a regular file itself, not a link to one."""
    return path.is_file() and not path.is_symlink()


def require_file(path: Path, missing_hint: str = "") -> int:
    """Size in bytes of a regular file, or of the target of a link. Raises ConfigError for anything else.

    `missing_hint`: the hint if the file does not exist.
    """
    try:
        found = path.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise ConfigError(f"{path}: no such file", missing_hint or "check the path") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL byte in the name
        raise _unreadable(path, error) from None
    try:
        _refuse_special(path, found)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}", "name a regular file") from None
    return found.st_size


def require_utf8(path: Path, key: str = "") -> None:
    """Raise ConfigError for a path that is not UTF-8; tokenizers, pyarrow and the rollout engine need UTF-8.

    `key`: the configuration key or option that names the path, for the message.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        named = f"{key}: " if key else ""
        hint = "rename the file or folder whose name is not UTF-8"
        raise ConfigError(f"{named}{path}: is not UTF-8", hint) from None


def identity(path: Path) -> tuple[int, int] | str:
    """What two names of one file share: device and inode, or the absolute path if the file does not exist."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return os.path.abspath(path)
    return found.st_dev, found.st_ino


def open_own(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open a file that distillctl itself writes, and return its descriptor. O_CREAT in `flags` makes it.

    It never waits, not even for a named pipe, and opens no device. Raises ConfigError for a link and for any
    other file that is not regular, and OSError as open(2) does.
    """
    with suppress(FileNotFoundError):
        _require_regular(path, os.lstat(path).st_mode)
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        _require_regular(path, os.fstat(descriptor).st_mode)  # it may have been replaced in between
    except ConfigError:
        os.close(descriptor)
        raise
    return descriptor


def read_head(path: Path, num_bytes: int) -> bytes:
    """The first `num_bytes` of a file, opened with `open_own`."""
    with os.fdopen(open_own(path), "rb") as file:
        return file.read(num_bytes)


def kind(mode: int) -> str:
    """The kind of a file with this st_mode, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "not a regular file")


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: is {kind(mode)}, not a regular file", "put a regular file in its place")


def read_text(path: Path, max_bytes: int, missing_hint: str = "", *, bom: bool = True) -> str:
    """Read a UTF-8 file of at most `max_bytes`; raises ConfigError for any other file.

    With `bom` the file may begin with a byte order mark, which is left out of the text.
    """
    size = require_file(path, missing_hint)
    data = b""
    try:
        if size <= max_bytes:
            with open_regular(path) as file:
                data = file.read(max_bytes + 1)  # a file may grow, and files of /proc have size 0
    except OSError as error:
        raise _unreadable(path, error) from None
    if max(size, len(data)) > max_bytes:
        raise ConfigError(
            f"{path}: is too large: {max(size, len(data)) / 2**20:.1f} MiB, at most {max_bytes / 2**20:g} "
            "MiB are read",
            "check that it is the file you mean",
        )
    if data.startswith(BOM_UTF8) and not bom:
        raise ConfigError(f"{path}: begins with a byte order mark", "save the file as UTF-8 without BOM")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = 1 + data.count(b"\n", 0, error.start)
        raise ConfigError(f"{path}:{line}: not UTF-8", "save the file as UTF-8") from None


def read_json(file: Path, max_bytes: int = MAX_JSON_BYTES, hint: str = _SAVE_AGAIN) -> dict[str, Any]:
    """Read a JSON file, by default one of a model; raises ConfigError if it is missing or not a JSON object.

    A byte order mark is refused: transformers and vLLM cannot read a file that begins with one, and they
    silently ignore such a generation_config.json.
    """
    return parse_json(read_text(file, max_bytes, hint, bom=False), file, hint)


def parse_json(text: str, file: Path, hint: str = _SAVE_AGAIN) -> dict[str, Any]:
    """A JSON object from the text of `file`; raises ConfigError for anything else."""
    try:
        tree = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{file} cannot be read as JSON: {error}", hint) from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{file} is not a JSON object", hint)
    return tree


def _unreadable(path: Path, error: Exception) -> ConfigError:
    reason = error.strerror if isinstance(error, OSError) else str(error)
    return ConfigError(f"{path}: cannot be read: {reason}", "check the path and its permissions")
