"""The `prep` commands: one for each data set in `distillctl/data/sets`, imported when it is used."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from distillctl.cli.output import JsonFlag, finish
from distillctl.cli.typer_app import HELP, App, Group
from distillctl.data import sets
from distillctl.errors import ConfigError
from distillctl.terminal.stream import printable

if TYPE_CHECKING:
    from distillctl.data.prep import DataSet

Out = Annotated[Path, typer.Option(help="The folder to write.")]
Limit = Annotated[int | None, typer.Option(min=1, help="Keep only the first N rows of each split.")]
Force = Annotated[bool, typer.Option("--force", help="Replace data that is already there.")]


class _DataSets(Group):
    """The data sets as commands."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # its base is private
        """Names of all data sets."""
        return sets.names()

    def get_command(self, ctx: typer.Context, cmd_name: str) -> TyperCommand | None:  # type: ignore[override]
        """The command that writes the data set `cmd_name`; None when there is no such data set."""
        if cmd_name not in sets.names():
            return None
        app = App(add_completion=False)
        try:
            register(app, cmd_name)
        except ConfigError as error:
            _register_refusal(app, cmd_name, error)
        built = typer.main.get_command(app)
        assert isinstance(built, TyperCommand)
        return built

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]  # private
        """As in the base class, but a usage error for an unknown data set lists those that there are."""
        if args[0] not in sets.names() and not ctx.resilient_parsing:
            ctx.fail(f"no data set is named {args[0]!r}; there are: {', '.join(sets.names())}")
        return super().resolve_command(ctx, args)


prep_app = App(cls=_DataSets, help="Prepare prompts as parquet files in verl's schema.")


def register(app: App, name: str) -> None:
    """Add `prep NAME` to `app`: the options of the data set's own function, then those of every data set."""
    make = sets.load(name)
    own = inspect.signature(make, eval_str=True).parameters

    def command(out: Path, limit: int | None, force: bool, as_json: bool, **options: Any) -> None:
        finish(lambda: _prepared(name, make, options, out, limit, force=force, as_json=as_json), as_json)

    parameters = [
        *own.values(),
        _option("out", Out, Path("data", name)),
        _option("limit", Limit, None),
        _option("force", Force, False),
        _option("as_json", JsonFlag, False),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # read by `inspect`
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    command.__doc__, example = _help(make)
    app.command(name, epilog=example)(command)


def _register_refusal(app: App, name: str, error: ConfigError) -> None:
    """Add `prep NAME` for a file that cannot be used: it ends with `error`, which its help gives too."""

    def refuse() -> tuple[Any, str]:
        raise error

    def command(as_json: JsonFlag = False) -> None:
        finish(refuse, as_json)

    command.__doc__ = error.message
    anything = {"ignore_unknown_options": True, "allow_extra_args": True}
    app.command(name, context_settings={**HELP, **anything})(command)


def _option(name: str, annotation: Any, default: Any) -> inspect.Parameter:
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=default, annotation=annotation)


def _help(make: Callable[..., DataSet]) -> tuple[str, str]:
    """The first paragraph of a function's docstring, and its paragraph that begins with `Example:`."""
    paragraphs = inspect.cleandoc(make.__doc__ or "").split("\n\n")
    examples = [paragraph for paragraph in paragraphs[1:] if paragraph.startswith("Example:")]
    return paragraphs[0], "\n".join(examples)


def _prepared(
    name: str,
    make: Callable[..., DataSet],
    options: dict[str, Any],
    out: Path,
    limit: int | None,
    *,
    force: bool,
    as_json: bool,
) -> tuple[dict[str, Any], str]:
    """Write a data set. Prints remarks about the data to stderr; without --json, the counts too."""
    from distillctl.data import summary
    from distillctl.data.prep import prepare

    manifest = prepare(name, make(**options), out, limit, force=force)
    for line in [*([] if as_json else summary.lines(manifest)), *summary.remarks(manifest)]:
        print(printable(line), file=sys.stderr)
    return {"directory": str(out), **manifest}, str(out)
