"""Recognising, by its content, a file that an earlier evaluation wrote; a later one may replace it."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distillctl.errors import ConfigError
from distillctl.files.reading import read_head, read_text

_HEAD_BYTES = 1 << 14
_MAX_REPORT_BYTES = 16 << 20
"""Largest eval.json that is read; it holds no responses."""
_SUITE = re.compile(rb"<testsuites [^<>]*>\s*<testsuite name=\"distillctl eval ")
_REPORT_KEYS = {"max_tokens", "temperature", "results", "requirements"}
_RESPONSE_COLUMNS = {"model", "prompt_id", "sample", "prompt", "response", "ground_truth", "finish_reason"}
"""Columns that identify the file; it has others too."""


def is_junit(path: Path) -> bool:
    """Whether `--junit` wrote the file, judged by the name of its test suite."""
    return bool(_SUITE.search(read_head(path, _HEAD_BYTES)))


def is_report(path: Path) -> bool:
    """Whether the file is an eval.json."""
    try:
        report = json.loads(read_text(path, _MAX_REPORT_BYTES))
    except (ConfigError, ValueError, RecursionError):
        return False
    return isinstance(report, dict) and report.keys() >= _REPORT_KEYS


def is_responses(path: Path) -> bool:
    """Whether the file is an answers.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return set(pq.read_schema(path).names) >= _RESPONSE_COLUMNS
    except (pa.ArrowException, OSError):
        return False
