"""The command line's `typer.Typer`. It refuses repeated options, empty values and values that are not UTF-8.

typer itself keeps the last of several values and silently drops the others. An empty path would mean the
working directory, and neither the tokenizer nor the engine accepts a name that is not UTF-8.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

HELP = {"help_option_names": ["-h", "--help"]}


class Group(TyperGroup):
    """A group whose help shows the whole first sentence of each command."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands. The base class would cut each sentence at the end of the line."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=sys.maxsize)) for name, one in commands.items() if one]
            )


class App(typer.Typer):
    """A group of commands that refuse empty values, values that are not UTF-8, and repeated options. Flags,
    and options that take several values, may be repeated."""

    def __init__(self, cls: type[Group] = Group, **settings: Any) -> None:
        """`settings`: those of `typer.Typer`."""
        super().__init__(
            cls=cls, no_args_is_help=True, rich_markup_mode=None, context_settings=HELP, **settings
        )

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As in `typer.Typer`."""
        return super().command(name, cls=_Command, **settings)


class _Command(TyperCommand):
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # private
        """Parse as the base class does. Raises a usage error that names what is repeated, empty or not
        UTF-8."""
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        if not ctx.resilient_parsing:
            for one in dict.fromkeys(given):
                for text in _texts(values.get(str(one.name))):
                    if not text:
                        ctx.fail(f"{_name(one)}: is empty")
                    if not _is_unicode(text):
                        ctx.fail(f"{_name(one)}: {text!r} is not UTF-8: rename it")
            repeated = [
                _name(one)
                for one, count in Counter(given).items()
                if count > 1 and getattr(one, "is_flag", True) is False and not getattr(one, "multiple", True)
            ]
            if repeated:
                ctx.fail(f"{', '.join(repeated)}: given more than once, but it takes one value")
        return super().parse_args(ctx, args)


def _name(parameter: Any) -> str:
    """`--output/-o`, or `FILE` for an argument."""
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).upper()
    return "/".join(parameter.opts)


def _texts(value: object) -> list[str]:
    """The texts that were given for an option or argument, which may take one or several values."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str)]


def _is_unicode(text: str) -> bool:
    """Whether a text came from valid UTF-8. Python turns other bytes into halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
