"""The command line: parse, call, map errors to exit codes. Heavy imports live inside the commands.

stdout carries only the result; with `--json`, exactly one JSON document, errors included. All else is stderr.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from distillctl import __version__
from distillctl.errors import ConfigError, DistillError

Display = Literal["auto", "tui", "plain", "quiet"]
JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document, errors included.")]
HELP = {"help_option_names": ["-h", "--help"]}

app = typer.Typer(
    name="distillctl",
    help="On-policy distillation: the student writes, the teacher scores, the student learns.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings=HELP,
)
prep_app = typer.Typer(
    help="Prepare prompts as parquet files in verl's schema.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
)
inspect_app = typer.Typer(
    help="Look at presets, configurations, runs and data.",
    no_args_is_help=True,
    rich_markup_mode=None,
    context_settings=HELP,
)
app.add_typer(prep_app, name="prep")
app.add_typer(inspect_app, name="inspect")


def main() -> None:
    """Entry point of the `distillctl` script. With `--json`, usage errors are a JSON document too."""
    if "--json" not in sys.argv:
        app(prog_name="distillctl")
    try:
        code = app(prog_name="distillctl", standalone_mode=False)
    except typer.TyperException as error:
        context = getattr(error, "ctx", None)
        hint = f"see: {context.command_path} -h" if context else "see: distillctl -h"
        print(_error_document("usage", error.format_message(), hint))
        sys.exit(error.exit_code)
    sys.exit(code or 0)


def _error_document(kind: str, message: str, hint: str) -> str:
    return json.dumps({"error": {"kind": kind, "message": message, "hint": hint}})


def finish(command: Callable[[], tuple[Any, str]], as_json: bool) -> None:
    """Run a command that returns (JSON-able result, text for people), print one of them, map errors."""
    try:
        result, text = command()
    except DistillError as error:
        if os.environ.get("DISTILLCTL_DEBUG"):
            traceback.print_exc()
        if as_json:
            print(_error_document(error.kind, error.message, error.hint))
        else:
            hint = f"\n  fix: {error.hint}" if error.hint else ""
            print(f"error: {error.message}{hint}", file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    print(json.dumps(result) if as_json else text)


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", is_eager=True, help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit()


Out = Annotated[Path | None, typer.Option(help="Directory to write; default data/<kind>.")]
Limit = Annotated[int | None, typer.Option(min=1, help="First N rows of each split only.")]
Force = Annotated[bool, typer.Option("--force", help="Overwrite data that is already there.")]


@prep_app.command("gsm8k", epilog="Example: distillctl prep gsm8k --out data/gsm8k")
def prep_gsm8k(
    out: Out = None,
    source: Annotated[
        Path | None,
        typer.Option(help="Folder with train and test as jsonl or parquet; default hub."),
    ] = None,
    limit: Limit = None,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """The grade-school math word problems of GSM8K (openai/gsm8k)."""

    def command() -> tuple[Any, str]:
        from distillctl.data import prep

        target = out or Path("data/gsm8k")
        return prep.prep_gsm8k(target, source, limit, force), str(target)

    finish(command, as_json)


@prep_app.command("arith", epilog="Example: distillctl prep arith")
def prep_arith(out: Out = None, limit: Limit = None, force: Force = False, as_json: JsonFlag = False) -> None:
    """Generated arithmetic word problems, the same every time; for the tiny preset."""

    def command() -> tuple[Any, str]:
        from distillctl.data import prep

        target = out or Path("data/arith")
        return prep.prep_arith(target, limit, force), str(target)

    finish(command, as_json)


@prep_app.command("jsonl", epilog="Example: distillctl prep jsonl --source my.jsonl --out data/mine")
def prep_jsonl(
    source: Annotated[Path, typer.Option(help="Your file, or a folder with train and test.")],
    out: Out = None,
    prompt_field: Annotated[str, typer.Option(help="Field with the prompt.")] = "question",
    answer_field: Annotated[str, typer.Option(help="Field with the answer; may be absent.")] = "answer",
    limit: Limit = None,
    force: Force = False,
    as_json: JsonFlag = False,
) -> None:
    """Prompts of your own."""

    def command() -> tuple[Any, str]:
        from distillctl.data import prep

        target = out or Path("data/jsonl")
        made = prep.prep_jsonl(target, source, prompt_field, answer_field, limit, force)
        return made, str(target)

    finish(command, as_json)


@app.command(epilog="Example: distillctl train --preset tiny-from-small-arith optim.lr=5e-4")
def train(
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Dotted overrides.")
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
    display: Annotated[Display, typer.Option(help="Progress on stderr.")] = "auto",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would happen; start and write nothing.")
    ] = False,
    as_json: JsonFlag = False,
) -> None:
    """Train a student on its own samples under a teacher; prints the run directory."""

    def command() -> tuple[Any, str]:
        from distillctl import presets, training

        if (preset is None) == (config is None):
            raise ConfigError(
                "give exactly one of --preset and --config", "distillctl inspect presets lists them"
            )
        path = presets.preset_path(preset) if preset is not None else Path(str(config))
        settings = presets.load_config(path, overrides or [])
        if dry_run:
            return training.dry_run(settings)
        name = preset or path.stem
        return training.train(settings, name, run_dir, resume, display, elastic=elastic)

    finish(command, as_json)


@app.command("eval", epilog="Example: distillctl eval --checkpoint runs/tiny-from-small-arith/0001")
def evaluate(
    checkpoint: Annotated[str, typer.Option(help="Run, RUN@STEP, checkpoint, model directory, or hub id.")],
    data: Annotated[
        Path | None, typer.Option(help="Prepared parquet; default the run's data.val_files.")
    ] = None,
    baseline: Annotated[
        list[str] | None, typer.Option(help="Another model on the same prompts; repeatable.")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="First N rows only.")] = None,
    temperature: Annotated[float, typer.Option(min=0.0, help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Response limit; default the run's, else 512.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Also write the results to DIR/eval.json.")] = None,
    display: Annotated[Display, typer.Option(help="Progress on stderr.")] = "auto",
    as_json: JsonFlag = False,
) -> None:
    """Accuracy of a model and its baselines on prepared data, through vLLM."""

    def command() -> tuple[Any, str]:
        from distillctl.evaluate import command as evaluation

        models = [checkpoint, *(baseline or [])]
        settings = evaluation.EvalSettings(data, limit, temperature, max_tokens)
        return evaluation.run(models, settings, out, quiet=display == "quiet")

    finish(command, as_json)


@inspect_app.command("presets", epilog="Example: distillctl inspect presets")
def inspect_presets(as_json: JsonFlag = False) -> None:
    """Names and purposes of all presets."""

    def command() -> tuple[Any, str]:
        from distillctl.watch import show

        rows = show.show_presets()
        return rows, show.render_presets(rows)

    finish(command, as_json)


@inspect_app.command("config", epilog="Example: distillctl inspect config NAME > mine.yaml")
def inspect_config(
    name: Annotated[str, typer.Argument(help="A preset or a run directory.")],
    as_json: JsonFlag = False,
) -> None:
    """A whole configuration as YAML, defaults included."""

    def command() -> tuple[Any, str]:
        from distillctl.watch import show

        found = show.show_config(name)
        return found, show.render_config(found)

    finish(command, as_json)


@inspect_app.command("schema", epilog="Example: distillctl inspect schema > schema.json")
def inspect_schema(as_json: JsonFlag = False) -> None:
    """JSON schema of the configuration."""

    def command() -> tuple[Any, str]:
        from distillctl.watch import show

        schema = show.show_schema()
        return schema, json.dumps(schema, indent=1)

    finish(command, as_json)


@inspect_app.command("runs", epilog="Example: distillctl inspect runs runs/")
def inspect_runs(
    folder: Annotated[Path, typer.Argument(help="Where to look.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """All runs below a folder: state, step, last KL and accuracy."""

    def command() -> tuple[Any, str]:
        from distillctl.watch import runs

        rows = runs.show_runs(folder)
        return rows, runs.render_runs(rows)

    finish(command, as_json)


@inspect_app.command("run", epilog="Example: distillctl inspect run runs/NAME/0001 --follow")
def inspect_run(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    follow: Annotated[
        bool, typer.Option("--follow", help="Watch it until it ends: the screen, or lines in a pipe.")
    ] = False,
    export: Annotated[
        Path | None, typer.Option(help="Write all steps: NAME.csv, NAME.parquet, or a TensorBoard directory.")
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """One run: state, metrics from first to last step, evaluations, checkpoints, diagnosis."""

    def command() -> tuple[Any, str]:
        from distillctl.watch import runs

        if export is not None:
            from distillctl.watch.export import export_run

            written = export_run(run, export)
            return written, written["export"]
        if follow:
            runs.follow_run(run)
        found = runs.show_run(run)
        return found, runs.render_run(found)

    finish(command, as_json)


@inspect_app.command("data", epilog="Example: distillctl inspect data data/arith/train.parquet")
def inspect_data(
    file: Annotated[Path, typer.Argument(help="A prepared file.")], as_json: JsonFlag = False
) -> None:
    """Rows, columns and first prompts of a data file."""

    def command() -> tuple[Any, str]:
        from distillctl.watch import show

        found = show.show_data(file)
        return found, show.render_data(found)

    finish(command, as_json)
