"""The output of every command: its result or its error, as text or as one JSON document, and the exit code.

Every command ends in `finish`, which escapes control characters that come from files, data and models.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from collections.abc import Callable
from typing import Annotated, Any

import typer

from distillctl.errors import CheckFailed, DistillError
from distillctl.terminal.stream import Painted, printable

JsonFlag = Annotated[bool, typer.Option("--json", help="Print one JSON document, errors included.")]


def error_document(kind: str, message: str, hint: str) -> str:
    """The JSON document of an error."""
    return json_document({"error": {"kind": kind, "message": message, "hint": hint}})


def json_document(value: Any) -> str:
    """JSON in printable ASCII. DEL is the only control character that `json` does not escape."""
    return json.dumps(value).replace("\x7f", "\\u007f")


def finish(command: Callable[[], tuple[Any, str]], as_json: bool) -> None:
    """Run a command that returns (result for JSON, text for people), and print one of the two.

    Prints errors and raises `typer.Exit` with their exit codes.
    """
    try:
        result, text = command()
    except CheckFailed as failed:
        error = {"error": {"kind": failed.kind, "message": failed.message, "hint": failed.hint}}
        print(json_document({**failed.result, **error}) if as_json else _text(failed.text))
        print(f"error: {printable(failed.message)}", file=sys.stderr)
        raise typer.Exit(failed.exit_code) from None
    except DistillError as error:
        if os.environ.get("DISTILLCTL_DEBUG"):
            traceback.print_exc()
        if as_json:
            print(error_document(error.kind, error.message, error.hint))
        else:
            hint = f"\n  fix: {error.hint}" if error.hint else ""
            print(printable(f"error: {error.message}{hint}"), file=sys.stderr)
        raise typer.Exit(error.exit_code) from None
    print(json_document(result) if as_json else _text(text))


def _text(text: str) -> str:
    return text if isinstance(text, Painted) else printable(text)
