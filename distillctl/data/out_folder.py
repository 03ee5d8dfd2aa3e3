"""The folder that `prep` writes: which files it may replace, and how it puts new ones there."""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.atomic import read_object
from distillctl.files.outputs import require_writable
from distillctl.files.reading import kind

MANIFEST = "manifest.json"
SPLITS = ("train", "test")
_DATA = tuple(f"{split}.parquet" for split in SPLITS)


def require_free(out: Path, sources: Iterable[Path], *, force: bool) -> None:
    """Check that `prep` may write to `out`.

    Raises ConfigError when `out` has earlier results and `force` is off, when something other than a regular
    file is in their place, and when a source would be replaced, even with `force`. Raises EnvironmentUnfit
    for a folder that cannot be written.
    """
    try:
        nearest = next(path for path in (out, *out.parents) if path.exists())
    except OSError as error:  # a name that is too long, a loop of links
        raise ConfigError(f"{out}: cannot be used: {error.strerror}", "choose another --out") from None
    if not nearest.is_dir():
        raise ConfigError(f"{nearest}: is not a directory", "--out names the directory to write")
    require_writable(out, option="--out")
    targets = [out / name for name in (*_DATA, MANIFEST)]
    taken = [path for path in targets if os.path.lexists(path)]
    if taken and not force:
        names = ", ".join(path.name for path in taken)
        raise ConfigError(f"{out}: already has {names}", "--force replaces them")
    for path in taken:
        mode = os.lstat(path).st_mode
        if not stat.S_ISREG(mode):
            hint = "move it elsewhere, or choose another --out"
            raise ConfigError(f"{path}: is {kind(mode)}, which --force does not replace", hint)
    real = {path.resolve() for path in sources}
    for target in targets:
        if target.resolve() in real:
            raise ConfigError(f"{target}: is the source itself", "choose another --out")


@contextmanager
def staged(out: Path) -> Iterator[Path]:
    """A temporary directory whose files move to `out` when the block succeeds.

    The old manifest is deleted first, and the new one is written last. An older data file that this result
    does not replace is deleted if its digest is the old manifest's; otherwise it stays. Raises
    EnvironmentUnfit when `out` cannot be written.
    """
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        # Inside `out` if it exists: `out` may be on another disk, and files must move by renaming.
        stage = Path(tempfile.mkdtemp(prefix=".distillctl-", dir=out if out.exists() else out.parent))
        try:
            yield stage
            out.mkdir(exist_ok=True)
            written = read_object(out / MANIFEST).get("sha256")
            (out / MANIFEST).unlink(missing_ok=True)
            for name in _DATA:
                if (stage / name).exists():
                    os.replace(stage / name, out / name)
                elif os.path.lexists(out / name):
                    _remove_written(out / name, written)
            os.replace(stage / MANIFEST, out / MANIFEST)
        finally:
            shutil.rmtree(stage, ignore_errors=True)
    except OSError as error:
        hint = "choose an --out on a disk with room where you may write"
        raise EnvironmentUnfit(f"{out}: cannot be written: {error.strerror or error}", hint) from error


def digest(path: Path) -> str:
    """SHA-256 of a file in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _remove_written(path: Path, written: object) -> None:
    """Remove a data file if its digest is the one in `written`, the manifest's digests by file name."""
    if isinstance(written, dict) and written.get(path.name) == digest(path):
        path.unlink()
    else:
        message = f"{path} is left as it is: it does not belong to this result, and prep did not write it"
        print(message, file=sys.stderr)
