"""`distillctl inspect report`: one HTML file about one or several runs, for a browser without a network.

The file contains plotly's script, which draws the charts, and the page in `page/`. Everything that comes from
a run is embedded as JSON that cannot end its element, and the page's script shows it as text only.
"""

from __future__ import annotations

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any, TypedDict

from distillctl import __version__
from distillctl.config.loading import load_config
from distillctl.config.schema import Config
from distillctl.errors import ConfigError
from distillctl.errors.redact import without_logins
from distillctl.files.atomic import read_object
from distillctl.files.outputs import require_output, written
from distillctl.files.reading import read_head
from distillctl.inspection.charts import MAX_POINTS, RunCurves, charts, is_thinned
from distillctl.inspection.compare import accuracy, config_differences, flatten
from distillctl.inspection.report_samples import pack_samples
from distillctl.inspection.runs import show_run
from distillctl.inspection.series import load_events
from distillctl.run.directory import RunDir, open_run
from distillctl.terminal.progress import task
from distillctl.terminal.table import clock

FILE_NAME = "report.html"
_HEAD_BYTES = 1 << 16
_SIGNS = (
    b'<meta name="generator" content="distillctl ',
    b'<h1 id="title"></h1>\n<button id="theme" type="button">dark / light</button>',
)


class WrittenReport(TypedDict):
    """A finished report."""

    report: str
    """The file that was written."""
    bytes: int


class ConfigRow(TypedDict):
    """A key of a configuration."""

    key: str
    value: str
    """The value as JSON text."""
    default: bool
    """Whether the value is the default."""


def write_report(paths: Sequence[Path], output: Path | None) -> WrittenReport:
    """Write a report about some runs to `output`, by default `report.html` in the first run's directory.

    Raises ConfigError if a path is not a run, or if `output` is an existing file that is not a report. Raises
    EnvironmentUnfit if the file cannot be written.
    """
    runs = [open_run(path) for path in paths]
    target = output or runs[0].path / FILE_NAME
    require_output(target, "-o", "a report of distillctl", _is_report)
    with task("making the report"):
        page = report_page(runs).encode()
    with written(target, "-o") as file:
        file.write(page)
    return {"report": str(target), "bytes": len(page)}


def _is_report(path: Path) -> bool:
    """Whether a file is a report. The sign is the line that names its generator, or, for reports of version
    0.1, which have no such line, the page's first elements."""
    head = read_head(path, _HEAD_BYTES)
    return head.startswith(b"<!doctype html>") and any(sign in head for sign in _SIGNS)


def report_page(runs: Sequence[RunDir]) -> str:
    """The whole page."""
    from plotly.offline import get_plotlyjs

    files = resources.files("distillctl.inspection").joinpath("page")
    script = files.joinpath("page.js").read_text()
    plotly = str(get_plotlyjs())
    parts = {
        "version": __version__,
        "title": html.escape(", ".join(run.label for run in runs)),
        "policy": _policy(plotly, script),
        "style": files.joinpath("page.css").read_text(),
        "data": _json(report_data(runs)),
        "plotly": plotly,
        "script": script,
    }
    # In one pass, because a response may contain text that looks like a placeholder.
    return re.sub("@([a-z]+)@", lambda match: parts[match[1]], files.joinpath("page.html").read_text())


def report_data(runs: Sequence[RunDir]) -> dict[str, Any]:
    """What the page shows, in JSON's types."""
    loaded = [load_events(run.events_path) for run in runs]
    labels = _labels(runs)
    curves = [RunCurves(label, series) for label, (_, series) in zip(labels, loaded, strict=True)]
    return {
        "version": __version__,
        "runs": [
            {
                "label": label,
                **show_run(run.path),
                "started": clock(state.start.get("t")),
                "ended": clock(state.end.get("t")),
                "accuracy": accuracy(run, series, runs[0]),
                "warnings": [{"step": step, "message": message} for step, message in series.warnings],
                "provenance": _provenance(run),
                "config": _config(run),
            }
            for run, label, (state, series) in zip(runs, labels, loaded, strict=True)
        ],
        "differences": _differences(runs) if len(runs) > 1 else {},
        "charts": [
            {"title": chart.title, "metrics": chart.names, "figure": json.loads(chart.figure.to_json())}
            for chart in charts(curves)
        ],
        "thinned": _thinned(curves),
        "samples": pack_samples(list(zip(labels, runs, strict=True))),
    }


def _thinned(curves: Sequence[RunCurves]) -> str:
    """The note on the page if curves do not show every step, else nothing."""
    if not any(is_thinned(run.series) for run in curves):
        return ""
    return (
        f"A curve has at most {MAX_POINTS} points. Longer runs are drawn as means over neighbouring steps; "
        "if there are more evaluations, only every n-th is drawn. "
        "For all numbers: distillctl inspect run RUN --export FILE"
    )


def _provenance(run: RunDir) -> dict[str, Any]:
    """The content of provenance.json, without any password that an older version or another program left."""
    found: dict[str, Any] = json.loads(without_logins(json.dumps(read_object(run.provenance_path))))
    return found


def _labels(runs: Sequence[RunDir]) -> list[str]:
    """Short names of the runs, or their paths if the short names are not unique."""
    short = [run.label for run in runs]
    return short if len(set(short)) == len(short) else [str(run.path) for run in runs]


def _config(run: RunDir) -> list[ConfigRow]:
    """Every key with its value, and whether that is the default. Empty if the file cannot be read."""
    try:
        config = load_config(run.config_path)
    except ConfigError:
        return []
    defaults = {
        f"{section}.{key}": value.default
        for section, field in Config.model_fields.items()
        if hasattr(field.annotation, "model_fields")
        for key, value in field.annotation.model_fields.items()  # type: ignore[union-attr]  # checked above
    }
    tree = flatten(config.model_dump(mode="json"))
    return [
        {
            "key": key,
            "value": json.dumps(value),
            "default": key in defaults and value == _plain(defaults[key]),
        }
        for key, value in tree.items()
    ]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _differences(runs: Sequence[RunDir]) -> dict[str, list[Any]]:
    try:
        return config_differences(runs)
    except ConfigError:
        return {}


def _policy(*scripts: str) -> str:
    """The content security policy: it allows these scripts only, and nothing from the network.

    plotly needs inline styles to draw, and a data URL to download a chart.
    """
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"
        for script in scripts
    )
    return f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:"


def _json(data: dict[str, Any]) -> str:
    """JSON that cannot end its HTML element: it has no `<`, hence no `</script>` and no `<!--`."""
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).replace("<", "\\u003c")
