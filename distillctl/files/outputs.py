"""Checks of the files that a command is asked to write, made before anything is computed.

A command replaces an existing file only if its content shows that the same command wrote it earlier. Any
other file belongs to somebody else.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.atomic import partial_name, replacing
from distillctl.files.reading import kind


def is_folder(text: str) -> bool:
    """Whether an option means a folder: it ends in / or is one."""
    return text.endswith("/") or os.path.isdir(text)


def file_in(text: str, name: str) -> Path:
    """The file that an option means: itself, or `name` in the folder that it is."""
    return Path(text) / name if is_folder(text) else Path(text)


def require_output(path: Path, option: str, what: str, is_ours: Callable[[Path], bool]) -> None:
    """Raise unless `path`, which `option` names, can be written without loss.

    `is_ours` tells whether an existing regular file is `what`. Raises ConfigError for any other existing file
    and EnvironmentUnfit where this user cannot write.
    """
    if os.path.lexists(path):
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            hint = "name a regular file"
            raise ConfigError(f"{option} {path}: is {kind(mode)}, which cannot be overwritten", hint)
        if not is_ours(path):
            raise ConfigError(
                f"{option} {path}: already exists and is not {what}",
                "name another file, or move this one elsewhere",
            )
    try:
        os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass
    except OSError as error:  # a name that is too long, a loop of links
        raise EnvironmentUnfit(
            f"{option} {path}: cannot be written: {error.strerror}", "name a file"
        ) from None
    require_writable(path.parent, option=option)


def require_apart(files: Sequence[tuple[str, Path]], folders: Sequence[tuple[str, Path]]) -> None:
    """Raise ConfigError if an output file is also another output, or has another output below it.

    `files` and `folders` are the outputs, each with the option that names it. They need not exist.
    """
    for number, (option, file) in enumerate(files):
        real = Path(os.path.realpath(file))
        for other, path in [*files[:number], *files[number + 1 :], *folders]:
            found = Path(os.path.realpath(path))
            if real in (found, *found.parents):
                where = "is the same file" if found == real else "lies below it"
                raise ConfigError(
                    f"{option} writes the file {file}, and {other} {path} {where}",
                    "choose another place for one of them",
                )


@contextmanager
def written(path: Path, option: str) -> Iterator[BinaryIO]:
    """Open a file to write. It replaces `path` as a whole; a missing folder is made.

    Raises EnvironmentUnfit when the disk refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            yield file
    except OSError as error:
        message = f"{option} {path}: cannot be written: {error.strerror or error}"
        raise EnvironmentUnfit(message, "make room or name another place, then start it again") from None


def require_writable(*paths: Path, option: str = "--run-dir") -> None:
    """Raise unless each of `paths`, which `option` names, is a directory that can be written or made."""
    hint = f"choose another {option}"
    for path in paths:
        try:
            os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:  # a name that is too long, a loop of links, a folder that may not be entered
            raise EnvironmentUnfit(f"{path} cannot be used: {error.strerror}", hint) from None
        found = nearest(path)
        if not os.path.isdir(found):
            raise ConfigError(f"{path} cannot be made: {found} is not a directory", hint)
        try:
            _try(found)
        except OSError as error:
            why = "this user has no permission" if isinstance(error, PermissionError) else error.strerror
            if os.statvfs(found).f_flag & os.ST_RDONLY:
                why = "it is on a read-only file system"
            raise EnvironmentUnfit(f"{path} cannot be written: {found}: {why}", hint) from None


def nearest(path: Path) -> Path:
    """The path itself if it exists, or else its closest parent that does."""
    path = path.absolute()
    return next(p for p in (path, *path.parents) if os.path.lexists(p))


def _try(folder: Path) -> None:
    """Make a file without a name in `folder`, or, on file systems without such files, remove it at once."""
    flags = os.O_WRONLY | os.O_CLOEXEC
    try:
        os.close(os.open(folder, flags | os.O_TMPFILE, 0o600))
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
            raise
        path = folder / partial_name()
        os.close(os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o600))
        path.unlink()
