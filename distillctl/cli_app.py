"""The command line's `typer.Typer`: an option that takes one value is given once.

The parser itself keeps the last of several values and drops the others in silence.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand

HELP = {"help_option_names": ["-h", "--help"]}


class App(typer.Typer):
    """A group of commands that refuse a repeated option, unless it is a flag or takes several values."""

    def __init__(self, **settings: Any) -> None:
        """`settings`: those of `typer.Typer`."""
        super().__init__(no_args_is_help=True, rich_markup_mode=None, context_settings=HELP, **settings)

    def command(self, name: str | None = None, **settings: Any) -> Callable[[Any], Any]:
        """As in `typer.Typer`."""
        return super().command(name, cls=_Command, **settings)


class _Command(TyperCommand):
    def parse_args(self, ctx: typer.Context, args: list[str]) -> list[str]:  # type: ignore[override]  # private
        """Raise a usage error that names options that are repeated or empty; else parse as the base class
        does."""
        values, _, given = self.make_parser(ctx).parse_args(args=list(args))
        empty = ["/".join(one.opts) for one in given if one.name is not None and values.get(one.name) == ""]
        if empty and not ctx.resilient_parsing:
            ctx.fail(f"{', '.join(empty)}: is empty")
        repeated = [
            "/".join(one.opts)
            for one, count in Counter(given).items()
            if count > 1 and getattr(one, "is_flag", True) is False and not getattr(one, "multiple", True)
        ]
        if repeated and not ctx.resilient_parsing:
            ctx.fail(f"{', '.join(repeated)}: given more than once, but it takes one value")
        return super().parse_args(ctx, args)
