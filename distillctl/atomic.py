"""Small files that several processes read while one replaces them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Replace a JSON file as a whole: a reader sees the old or the new one, also after a power cut."""
    write_text(path, json.dumps(value, indent=1))


def write_text(path: Path, text: str) -> None:
    """Replace a text file as a whole."""
    partial = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with partial.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, path)


def sweep(folder: Path) -> None:
    """Remove what writers that were killed left in `folder`. Call it while nobody writes."""
    for partial in folder.glob(".*.tmp"):
        partial.unlink()


def read_object(path: Path) -> dict[str, Any]:
    """What a JSON file holds; empty when there is none, or it is unreadable or no object."""
    try:
        value = json.loads(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}
