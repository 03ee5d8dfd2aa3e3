"""Opening files: only regular ones, and of those that users name only a sane size, so that nothing hangs or
fills the memory.

A named pipe blocks whoever opens it and /dev/zero never ends, so the kind of a file is looked at first.
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
"""Of a model's JSON file."""
MAX_TOKENIZER_BYTES = 256 << 20
"""Of a tokenizer.json; the largest known has 33 MB."""
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
    """Open a regular file, or what a link leads to, for reading; raises OSError for anything else.

    Neither a pipe without a writer nor a device makes it wait.
    """
    _refuse_special(path, os.stat(path))  # before it is opened, which some devices take for an order
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
    """Whether it is a file and no link to one."""
    return path.is_file() and not path.is_symlink()


def require_file(path: Path, missing_hint: str = "") -> int:
    """Size of a regular file, or of what a link leads to. Raises ConfigError when it is none.

    `missing_hint`: the remedy when there is no such file.
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
    """Raise ConfigError for a name that is not UTF-8: tokenizers, pyarrow and the engine take no other.

    `key`: what names it, in the error.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        named = f"{key}: " if key else ""
        raise ConfigError(f"{named}{path}: is not UTF-8", "rename the file or folder that is not") from None


def identity(path: Path) -> tuple[int, int] | str:
    """What two names of one file have in common: device and inode, or where there is none the path itself."""
    try:
        found = os.stat(path)
    except (OSError, ValueError):  # ValueError: a NUL byte in the name
        return os.path.abspath(path)
    return found.st_dev, found.st_ino


def open_own(path: Path, flags: int = os.O_RDONLY) -> int:
    """Descriptor of a file that this tool writes: a regular one and no link. With O_CREAT one is made.

    Never waits, not even for a named pipe, and opens no device. Raises ConfigError for a link and any other
    kind of file, OSError as open(2) does.
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
    """The beginning of a file that `open_own` opens."""
    with os.fdopen(open_own(path), "rb") as file:
        return file.read(num_bytes)


def kind(mode: int) -> str:
    """What a file with this st_mode is, in words."""
    return _KINDS.get(stat.S_IFMT(mode), "not a regular file")


def _require_regular(path: Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ConfigError(f"{path}: is {kind(mode)}, not a regular file", "put a regular file in its place")


def read_text(path: Path, max_bytes: int, missing_hint: str = "", *, bom: bool = True) -> str:
    """A UTF-8 file of at most `max_bytes`; raises ConfigError for any other.

    With `bom` it may begin with a byte order mark, which is left out.
    """
    size = require_file(path, missing_hint)
    data = b""
    try:
        if size <= max_bytes:
            with open_regular(path) as file:
                data = file.read(max_bytes + 1)  # a file may grow, and those of /proc have no size
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
    """A JSON file, by default one of a model; raises ConfigError when it is missing or no JSON object.

    Neither transformers nor vLLM reads one that begins with a byte order mark, and they do without such a
    generation_config.json in silence.
    """
    text = read_text(file, max_bytes, hint, bom=False)
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
