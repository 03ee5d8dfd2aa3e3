"""The command line's `typer.Typer`: an option that takes one value is given once, and every value is text.

The parser itself keeps the last of several values and drops the others in silence. An empty path would be the
working directory, and a name that is not UTF-8 is none for the tokenizer and the engine.
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
    """A group whose help gives the whole first sentence of each command."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the table of commands. The base class cuts a sentence at the end of the line."""
        commands = {name: self.get_command(ctx, name) for name in self.list_commands(ctx)}
        with formatter.section("Commands"):
            formatter.write_dl(
                [(name, one.get_short_help_str(limit=sys.maxsize)) for name, one in commands.items() if one]
            )


class App(typer.Typer):
    """A group of commands that refuse empty values, values that are not UTF-8, and a repeated option, unless
    it is a flag or takes several values."""

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
        """Raise a usage error that names what is repeated, empty or not UTF-8; else parse as the base class
        does."""
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
    """The texts that were given for an option or argument of one or of several values."""
    return [one for one in (value if isinstance(value, list | tuple) else [value]) if isinstance(one, str)]


def _is_unicode(text: str) -> bool:
    """False where the system's bytes were no UTF-8: Python keeps those as halves of surrogate pairs."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
