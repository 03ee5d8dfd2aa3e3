"""Read a YAML file as plain data: a mapping of strings, numbers, lists and mappings, and nothing else.

The reader is stricter than YAML. Aliases can make a few lines expand to gigabytes, tags name Python objects,
and only the last of repeated keys would count, silently. A configuration needs none of them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from distillctl.errors import ConfigError
from distillctl.files.reading import read_text

_MAX_BYTES = 1 << 20
_HINT = "distillctl inspect config PRESET prints a file to start from"


def read_mapping(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file. Raises ConfigError that names the file and, when it is known, the line."""
    text = read_text(path, _MAX_BYTES, "see: distillctl inspect presets")
    try:
        tree = yaml.load(text, Loader=_PlainLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"{path}:{mark.line + 1}" if mark else str(path)
        raise ConfigError(f"{where}: not readable YAML: {error.problem or error.context}", _HINT) from None
    except yaml.reader.ReaderError as error:
        line = 1 + text.count("\n", 0, error.position)
        raise ConfigError(f"{path}:{line}: not readable YAML: {error.reason}", _HINT) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # impossible dates or numbers, deep nesting
        raise ConfigError(f"{path}: not readable YAML: {error}", _HINT) from None
    if not isinstance(tree, dict):
        what = "is empty" if tree is None else "is not a mapping"
        raise ConfigError(f"{path}: {what}: expected sections such as student: and data:", _HINT)
    return tree


class _PlainLoader(yaml.SafeLoader):
    """SafeLoader without aliases, tags and repeated keys."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent):
            raise _refused("aliases (*name) are not supported: write the value out", event)
        if getattr(event, "tag", None) is not None:
            raise _refused("tags (!name) are not supported: write a plain value", event)
        if isinstance(event, yaml.ScalarEvent) and not event.value.isascii():
            try:
                event.value.encode()
            except UnicodeEncodeError:  # "\\ud800", half of a surrogate pair
                raise _refused("a text is not valid Unicode", event) from None
        return super().compose_node(parent, index)

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[str] = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in seen:
                raise _refused(f"the key {key.value!r} occurs twice in one section", key)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def _refused(problem: str, at: yaml.Event | yaml.Node) -> yaml.MarkedYAMLError:
    return yaml.MarkedYAMLError(None, None, problem, at.start_mark)  # type: ignore[arg-type]
