"""The files that an evaluation writes beside its table: where they go, and that they may be written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.evaluate.earlier import is_answers, is_junit, is_report
from distillctl.evaluate.evaluation import Answer
from distillctl.evaluate.junit import write_junit
from distillctl.evaluate.requirements import Outcome
from distillctl.evaluate.results import write_results
from distillctl.outputs import file_in, require_output, written

JUNIT, REPORT, ANSWERS = "junit.xml", "eval.json", "answers.parquet"


@dataclass(frozen=True, slots=True)
class Outputs:
    """What is to be written; None is not."""

    junit: Path | None
    """The JUnit file."""
    folder: Path | None
    """Where the report and all answers go."""

    def write_junit(self, name: str, outcomes: Sequence[Outcome], values: dict[str, float | None]) -> None:
        """Write the outcomes of the requirements, with `values` as properties."""
        if self.junit is not None:
            write_junit(self.junit, name, outcomes, values)

    def write_results(
        self, report: dict[str, Any], answers: Sequence[tuple[str, Sequence[Answer]]], files: dict[str, str]
    ) -> None:
        """Write the report, and every answer of each model with the file that its prompt is from."""
        if self.folder is not None:
            write_results(self.folder / ANSWERS, answers, files)
            with written(self.folder / REPORT, "--out") as file:
                file.write(json.dumps(report, indent=1).encode())


def prepare(junit: str | None, out: Path | None) -> Outputs:
    """Decide where everything goes, before anything is computed; makes nothing yet.

    A `junit` that ends in / or is a folder is the file `junit.xml` in it. Raises ConfigError where something
    else is in the way, EnvironmentUnfit where the system does not let this user write.
    """
    target = None
    if junit is not None:
        target = file_in(os.path.expanduser(junit), JUNIT)
        require_output(target, "--junit", "an evaluation's suite", is_junit)
    if out is not None:
        out = Path(os.path.expanduser(out))
        if os.path.exists(out) and not os.path.isdir(out):
            raise ConfigError(f"{out}: is not a directory", "--out names the directory to write")
        require_output(out / REPORT, "--out", "a report of an evaluation", is_report)
        require_output(out / ANSWERS, "--out", "an evaluation's answers", is_answers)
        taken = [os.path.realpath(out / name) for name in (REPORT, ANSWERS)]
        if target is not None and os.path.realpath(target) in taken:
            raise ConfigError(f"--junit {target}: --out writes that file", "choose another --junit")
    return Outputs(target, out)
