"""The `inspect` commands: parse and call. Heavy imports are inside the commands."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from distillctl.cli import options
from distillctl.cli.output import JsonFlag, finish
from distillctl.cli.typer_app import App
from distillctl.terminal.stream import output_look

inspect_app = App(help="Look at presets, configurations, runs and data.")


def _show(command: Callable[[], tuple[Any, str]], as_json: bool) -> None:
    """`finish` a command whose input may come from anybody, in at most half of the free memory."""

    def bounded() -> tuple[Any, str]:
        from distillctl.files.memory_limit import limited, readable_bytes

        with limited("inspect", readable_bytes()):
            return command()

    finish(bounded, as_json)


@inspect_app.command("presets", epilog="Example: distillctl inspect presets")
def inspect_presets(as_json: JsonFlag = False) -> None:
    """List the presets and the purpose of each."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import catalogue

        rows = catalogue.show_presets()
        return rows, catalogue.render_presets(rows)

    _show(command, as_json)


@inspect_app.command("config", epilog="Example: distillctl inspect config NAME > mine.yaml")
def inspect_config(
    name: Annotated[str, typer.Argument(help="A preset or a run directory.")],
    as_json: JsonFlag = False,
) -> None:
    """Print a whole configuration as YAML, defaults included."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import catalogue

        found = catalogue.show_config(name)
        return found, catalogue.render_config(found)

    _show(command, as_json)


@inspect_app.command("schema", epilog="Example: distillctl inspect schema > schema.json")
def inspect_schema(as_json: JsonFlag = False) -> None:
    """Print the JSON schema of the configuration."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import catalogue

        schema = catalogue.show_schema()
        return schema, json.dumps(schema, indent=1)

    _show(command, as_json)


@inspect_app.command("runs", epilog="Example: distillctl inspect runs runs/")
def inspect_runs(
    folder: Annotated[Path, typer.Argument(help="The folder to search.")] = Path("runs"),
    as_json: JsonFlag = False,
) -> None:
    """List the runs in a folder: state, step, last KL and accuracy."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import runs

        rows = runs.show_runs(folder)
        return rows, runs.render_runs(rows)

    _show(command, as_json)


@inspect_app.command("run", epilog="Example: distillctl inspect run runs/NAME/0001 --follow")
def inspect_run(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    follow: Annotated[
        bool,
        typer.Option(
            "--follow", help="Follow the run until it ends, on a screen as in `train`, or as lines in a pipe."
        ),
    ] = False,
    export: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Write all steps to NAME.csv, NAME.parquet or a TensorBoard directory."
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Show one run: state, first and last metrics, evaluations, checkpoint, diagnosis."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import runs

        if export is not None:
            from distillctl.inspection.export import export_run

            written = export_run(run, export)
            return written, written["export"]
        if follow:
            runs.follow_run(run)
        found = runs.show_run(run)
        return found, runs.render_run(found)

    _show(command, as_json)


@inspect_app.command("samples", epilog="Example: distillctl inspect samples runs/NAME/0001 --wrong --worst 5")
def inspect_samples(
    run: Annotated[Path, typer.Argument(help="A run directory.")],
    step: options.SamplesStep = None,
    wrong: options.Wrong = False,
    truncated: options.Truncated = False,
    worst: options.Worst = None,
    prompt_id: options.PromptId = None,
    token: options.Token = None,
    limit: options.SamplesLimit = 10,
    as_json: JsonFlag = False,
) -> None:
    """Show responses before and after training, their tokens shaded by KL."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import sample_text, samples

        filters = samples.Filters(
            wrong=wrong, truncated=truncated, worst=worst, prompt_id=prompt_id, limit=limit
        )
        found = samples.show_samples(run, step, filters, token)
        color, columns = output_look()
        return found, sample_text.render_samples(
            found, columns, color=color, details=prompt_id is not None, token=token
        )

    _show(command, as_json)


@inspect_app.command("compare", epilog="Example: distillctl inspect compare runs/NAME/0001 runs/NAME/0002")
def inspect_compare(
    runs: Annotated[
        list[Path], typer.Argument(help="Run directories; every other run is compared with the first.")
    ],
    as_json: JsonFlag = False,
) -> None:
    """Compare runs: configurations, metrics, curves, and accuracies with a paired test."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import compare

        found = compare.show_compare(runs)
        return found, compare.render_compare(found)

    _show(command, as_json)


@inspect_app.command("report", epilog="Example: distillctl inspect report runs/NAME/0001")
def inspect_report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories; several runs share the same charts.")],
    output: Annotated[
        str | None,
        typer.Option(
            "--output",
            "-o",
            metavar="PATH",
            help="File or folder to write; by default report.html in the first run's directory.",
        ),
    ] = None,
    as_json: JsonFlag = False,
) -> None:
    """Write one HTML file with curves, configuration and samples, for use without a network."""

    def command() -> tuple[Any, str]:
        from distillctl.files.outputs import file_in
        from distillctl.inspection.report import FILE_NAME, write_report

        found = write_report(runs, None if output is None else file_in(output, FILE_NAME))
        return found, found["report"]

    _show(command, as_json)


@inspect_app.command("data", epilog="Example: distillctl inspect data data/arith/train.parquet")
def inspect_data(
    file: Annotated[Path, typer.Argument(help="A prepared file.")], as_json: JsonFlag = False
) -> None:
    """Show rows, columns and first prompts of a data file."""

    def command() -> tuple[Any, str]:
        from distillctl.inspection import catalogue

        found = catalogue.show_data(file)
        return found, catalogue.render_data(found)

    _show(command, as_json)
