"""The command line: parse, call, map errors to exit codes. Heavy imports live inside the commands.

stdout carries only the result; with `--json`, exactly one JSON document, errors included. All else is stderr.
"""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from distillctl import __version__
from distillctl.cli.inspect_commands import inspect_app
from distillctl.cli.output import JsonFlag, error_document, finish
from distillctl.cli.prep_commands import prep_app
from distillctl.cli.typer_app import App
from distillctl.errors import ConfigError
from distillctl.terminal.stream import printable

Display = Literal["auto", "tui", "plain", "quiet"]

app = App(
    name="distillctl",
    help="On-policy distillation: the student writes, the teacher scores, the student learns.",
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
    """Print a usage error, which repeats what was typed or pasted."""
    if as_json:
        context = getattr(error, "ctx", None)
        hint = f"see: {context.command_path} -h" if context else "see: distillctl -h"
        print(error_document("usage", error.format_message(), hint))
    else:
        text = io.StringIO()
        error.show(text)  # type: ignore[attr-defined]  # all that are raised have it
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
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="Override a configuration key, such as optim.lr=5e-4."),
    ] = None,
    preset: Annotated[
        str | None, typer.Option(help="A named preset, see: distillctl inspect presets")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="A YAML file instead of a preset.")] = None,
    run_dir: Annotated[
        Path | None, typer.Option(help="Run directory; default runs/<preset>/<next number>.")
    ] = None,
    resume: Annotated[
        Literal["never", "auto", "must"], typer.Option(help="Go on from the run's last checkpoint.")
    ] = "auto",
    elastic: Annotated[
        bool, typer.Option("--elastic", help="Go on with another number of ranks (train.world_size).")
    ] = False,
    display: Annotated[Display, typer.Option(help="How to show progress on stderr.")] = "auto",
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print what would happen. It starts the engines to measure, but makes no step and no run.",
        ),
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a student on its own samples with a teacher. Prints the run directory."""

    def command() -> tuple[Any, str]:
        from distillctl.config import loading
        from distillctl.launch import train_command
        from distillctl.launch.dry_run import show_plan

        if (preset is None) == (config is None):
            raise ConfigError(
                "give exactly one of --preset and --config", "distillctl inspect presets lists them"
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
    checkpoint: Annotated[
        str, typer.Option(help="A run, RUN@STEP, a checkpoint, a model directory, or a hub id.")
    ],
    data: Annotated[
        list[str] | None,
        typer.Option(
            help="A prepared file, folder or pattern; repeatable. Default: the run's data.val_files."
        ),
    ] = None,
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            help="Another model to compare with, repeatable: first the student before, then the teacher."
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use only the first N rows of all files together.")
    ] = None,
    num_samples: Annotated[int, typer.Option("--n", min=1, help="Responses to each prompt.")] = 1,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Longest response in tokens. Default: the run's limit, else 512."),
    ] = None,
    teacher: Annotated[str | None, typer.Option(help="Also measure the KL from this model.")] = None,
    score: Annotated[
        str | None,
        typer.Option(help="Grade with your own function (FILE.py[:FUNCTION]). The file is executed."),
    ] = None,
    require: Annotated[
        list[str] | None,
        typer.Option(help="Exit 4 unless this holds, such as acc>=0.4 or acc-baseline>=0.05; repeatable."),
    ] = None,
    junit: Annotated[
        str | None, typer.Option(metavar="PATH", help="Also write the requirements as JUnit XML.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Also write DIR/eval.json and DIR/answers.parquet.")
    ] = None,
    cache_dir: Annotated[
        Path | None, typer.Option(help="Where responses are kept. Default: ~/.cache/distillctl/eval.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Neither read kept responses nor keep any.")
    ] = False,
    display: Annotated[Display, typer.Option(help="How to show progress on stderr.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Evaluate a model and its baselines on prepared data."""

    def command() -> tuple[Any, str]:
        from distillctl.evaluate import command as evaluation
        from distillctl.terminal import progress

        progress.choose(display)
        models = [checkpoint, *(baseline or [])]
        settings = evaluation.EvalSettings(
            data=data or (),
            limit=limit,
            temperature=temperature,
            max_tokens=max_tokens,
            num_samples=num_samples,
            teacher=teacher,
            score=score,
            require=require or (),
            junit=junit,
            out=out,
            cache_dir=cache_dir,
            keep=not no_cache,
        )
        return evaluation.run(models, settings)

    finish(command, as_json)
