"""The command line: parse, call, map errors to exit codes. Heavy imports are inside the commands.

stdout gets only the result; with `--json`, exactly one JSON document, errors included. Everything else goes
to stderr.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from distillctl import __version__
from distillctl.cli import options
from distillctl.cli.inspect_commands import inspect_app
from distillctl.cli.output import JsonFlag, error_document, finish
from distillctl.cli.prep_commands import prep_app
from distillctl.cli.typer_app import App, Group
from distillctl.errors import ConfigError
from distillctl.terminal.stream import printable

_ORDER = ("prep", "train", "eval", "inspect")


class _Root(Group):
    """The commands, listed in the order in which people use them."""

    def list_commands(self, ctx: typer.Context) -> list[str]:  # type: ignore[override]  # its base is private
        """Names of the commands and groups."""
        return sorted(super().list_commands(ctx), key=_ORDER.index)


app = App(
    cls=_Root,
    name="distillctl",
    help="On-policy distillation: the student samples, the teacher scores, the student learns.",
    pretty_exceptions_enable=False,
)
app.add_typer(prep_app, name="prep")
app.add_typer(inspect_app, name="inspect")


def main() -> None:
    """Entry point of the `distillctl` script. With `--json`, usage errors are a JSON document too."""
    try:
        code = app(prog_name="distillctl", standalone_mode=False)
    except typer.TyperException as error:
        _show_usage(error, as_json="--json" in sys.argv)
        sys.exit(error.exit_code)
    sys.exit(code or 0)


def _show_usage(error: typer.TyperException, *, as_json: bool) -> None:
    """Print a usage error. Its text repeats the user's input, so control characters are escaped."""
    if as_json:
        context = getattr(error, "ctx", None)
        hint = f"see: {context.command_path} -h" if context else "see: distillctl -h"
        print(error_document("usage", error.format_message(), hint))
    else:
        text = io.StringIO()
        error.show(text)  # type: ignore[attr-defined]  # every error that typer raises here has it
        print(printable(text.getvalue()), end="", file=sys.stderr)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


@app.command(epilog="Example: distillctl train --preset tiny-from-small-arith optim.lr=5e-4")
def train(
    overrides: options.Overrides = None,
    preset: options.Preset = None,
    config: options.ConfigFile = None,
    run_dir: options.RunDir = None,
    resume: options.Resume = "auto",
    elastic: options.Elastic = False,
    display: options.Display = "auto",
    dry_run: options.DryRun = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a student on its own samples, scored by a teacher, and print the run directory."""

    def command() -> tuple[Any, str]:
        from distillctl.config import loading
        from distillctl.launch import train_command
        from distillctl.launch.dry_run import show_plan

        if (preset is None) == (config is None):
            raise ConfigError(
                "give exactly one of --preset and --config", "`distillctl inspect presets` lists the presets"
            )
        path = loading.preset_path(preset) if preset is not None else Path(str(config))
        settings = loading.load_config(path, overrides or [])
        if dry_run:
            return show_plan(settings)
        name = preset or path.stem
        return train_command.train(settings, name, run_dir, resume, display, elastic=elastic)

    finish(command, as_json)


@app.command("eval", epilog="Example: distillctl eval --checkpoint runs/tiny-from-small-arith/0001")
def evaluate(
    checkpoint: options.Checkpoint,
    data: options.Data = None,
    baseline: options.Baseline = None,
    limit: options.Limit = None,
    num_samples: options.NumSamples = 1,
    temperature: options.Temperature = 0.0,
    max_tokens: options.MaxTokens = None,
    teacher: options.Teacher = None,
    score: options.Score = None,
    require: options.Require = None,
    junit: options.Junit = None,
    out: options.EvalOut = None,
    cache_dir: options.CacheDir = None,
    no_cache: options.NoCache = False,
    display: options.Display = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Compare a model and its baselines on prepared data: accuracies, intervals, a verdict."""

    def command() -> tuple[Any, str]:
        from distillctl.evaluate import command as evaluation
        from distillctl.terminal import progress

        progress.choose(display)
        settings = evaluation.EvalSettings(
            data=data or (), limit=limit, temperature=temperature, max_tokens=max_tokens,
            num_samples=num_samples, teacher=teacher, score=score, require=require or (), junit=junit,
            out=out, cache_dir=cache_dir, keep=not no_cache,
        )  # fmt: skip
        return evaluation.run([checkpoint, *(baseline or [])], settings)

    finish(command, as_json)
