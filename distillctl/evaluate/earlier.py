"""Whether a file is one that an earlier evaluation wrote, by its content, so that another may replace it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distillctl.errors import ConfigError
from distillctl.files.reading import read_head, read_text

_HEAD_BYTES = 1 << 14
_MAX_REPORT_BYTES = 16 << 20
"""Of eval.json, which has no answers in it."""
_SUITE = re.compile(rb"<testsuites [^<>]*>\s*<testsuite name=\"distillctl eval ")
_REPORT_KEYS = {"max_tokens", "temperature", "results", "requirements"}
_ANSWER_COLUMNS = {"model", "prompt_id", "sample", "prompt", "response", "ground_truth", "finish_reason"}
"""Those that tell; there are others."""


def is_junit(path: Path) -> bool:
    """Whether it is what `--junit` writes: by the name of the suite."""
    return bool(_SUITE.search(read_head(path, _HEAD_BYTES)))


def is_report(path: Path) -> bool:
    """Whether it is an eval.json."""
    try:
        report = json.loads(read_text(path, _MAX_REPORT_BYTES))
    except (ConfigError, ValueError, RecursionError):
        return False
    return isinstance(report, dict) and report.keys() >= _REPORT_KEYS


def is_answers(path: Path) -> bool:
    """Whether it is an answers.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return set(pq.read_schema(path).names) >= _ANSWER_COLUMNS
    except (pa.ArrowException, OSError):
        return False
