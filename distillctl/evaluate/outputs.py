"""The files that an evaluation writes besides its table: where they go, and whether they can be written."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.evaluate.cache import Cache
from distillctl.evaluate.earlier import is_junit, is_report, is_responses
from distillctl.evaluate.junit import write_junit
from distillctl.evaluate.requirements import Outcome
from distillctl.evaluate.results import write_results
from distillctl.files.outputs import file_in, require_apart, require_output, written
from distillctl.files.reading import identity
from distillctl.grading.summary import GradedResponse

JUNIT = "junit.xml"
REPORT = "eval.json"
RESPONSES = "answers.parquet"


@dataclass(frozen=True, slots=True)
class Outputs:
    """The files to write; those that are None are not written."""

    junit: Path | None
    """The JUnit file."""
    folder: Path | None
    """Folder for the report and all responses."""

    @property
    def files(self) -> list[tuple[str, Path]]:
        """Every file, with the option that names it."""
        found = [] if self.junit is None else [("--junit", self.junit)]
        return found + [("--out", self.folder / name) for name in (REPORT, RESPONSES) if self.folder]

    def require_no_input(self, inputs: Sequence[Path], source: str) -> None:
        """Raise ConfigError if a file would replace one of `inputs`, which `source` names."""
        read = {identity(path) for path in inputs}
        for option, file in self.files:
            if identity(file) in read:
                raise ConfigError(
                    f"{option} would replace {file}, which {source} reads", f"choose another {option}"
                )

    def write_junit(self, name: str, outcomes: Sequence[Outcome], values: dict[str, float | None]) -> None:
        """Write the outcomes of the requirements, with `values` as properties."""
        if self.junit is not None:
            write_junit(self.junit, name, outcomes, values)

    def write_results(
        self,
        report: dict[str, Any],
        responses: Sequence[tuple[str, Sequence[GradedResponse]]],
        files: dict[str, str],
    ) -> None:
        """Write the report, and every response of each model with the data file of its prompt."""
        if self.folder is not None:
            write_results(self.folder / RESPONSES, responses, files)
            with written(self.folder / REPORT, "--out") as file:
                file.write(json.dumps(report, indent=1).encode())


def prepare(junit: str | None, out: Path | None, cache: Cache) -> Outputs:
    """Decide where every file goes and check that it can be written. Writes nothing yet.

    If `junit` ends in / or is a folder, the file is `junit.xml` in it. Raises ConfigError if something else
    or another output is in the way, and EnvironmentUnfit if the system does not let this user write.
    """
    target = None
    if junit is not None:
        target = file_in(os.path.expanduser(junit), JUNIT)
        require_output(target, "--junit", "the JUnit file of an evaluation", is_junit)
    if out is not None:
        out = Path(os.path.expanduser(out))
        if os.path.exists(out) and not os.path.isdir(out):
            raise ConfigError(f"{out}: is not a directory", "--out names the directory to write")
        require_output(out / REPORT, "--out", "the report of an evaluation", is_report)
        require_output(out / RESPONSES, "--out", "the responses of an evaluation", is_responses)
    made = Outputs(target, out)
    kept = "the cache folder"  # the user's own folder, which no option names
    own = [(kept if cache.root == cache.memory else "--cache-dir", cache.root), (kept, cache.memory)]
    folders = [("--out", out), *own]
    require_apart(made.files, [(option, path) for option, path in folders if path is not None])
    return made
