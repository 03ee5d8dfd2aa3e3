"""The charts of a report: a plotly figure for every metric, with all runs in the same figure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from distillctl.grading.significance import wilson_interval
from distillctl.inspection.series import Series
from distillctl.monitor.state import PHASES
from distillctl.run.metrics import find, metric_table
from distillctl.terminal.sparkline import bucket_means

if TYPE_CHECKING:
    from plotly.graph_objects import Figure

MAX_POINTS = 1000
"""Most points of a curve. Longer runs are drawn as means over neighbouring steps. If there are more
evaluations, every n-th is drawn, the newest included."""
COLORS = ("#3b7dd8", "#d9822b", "#3f9c5a", "#b34fb3", "#c23b3b", "#2aa6a6", "#8a6d3b", "#6b6f76")
"""One colour per run, in turn; readable on white and on black."""
DASHES = ("solid", "dash", "dot", "dashdot")
GROUPS = {
    "KL between student and teacher": ("kl/reverse", "kl/forward"),
    "Entropy": ("actor/entropy", "teacher/entropy"),
    "Loss": ("actor/loss", "actor/kl_loss", "actor/pg_loss", "actor/sft_loss"),
    "Response length": ("response_length/mean",),
    "Responses cut at the limit": ("response_length/clip_ratio",),
    "Throughput": ("perf/tokens_per_s", "perf/rollout_tokens_per_s"),
    "Gradient norm": ("actor/grad_norm",),
    "Learning rate": ("actor/lr",),
    "Engine against trainer": ("rollout/mismatch_kl",),
    "Memory": ("memory/trainer_bytes", "memory/engine_bytes"),
    "Estimators of the reverse KL": ("kl/k1", "kl/k3"),
    "Top-k coverage": ("topk/student_mass", "topk/teacher_mass", "topk/overlap"),
    "Step time": ("timing_s/step",),
}
"""Metrics that share a chart. Every other metric has its own chart."""
_STACKED = tuple(f"timing_s/{phase}" for phase in PHASES)


@dataclass(frozen=True, slots=True)
class RunCurves:
    """The curves of a run, and its name in the legends."""

    label: str
    series: Series


@dataclass(slots=True)
class Chart:
    """A title and a figure."""

    title: str
    figure: Figure
    names: list[str] = field(default_factory=list)
    """The metrics in the figure."""


def charts(runs: Sequence[RunCurves]) -> list[Chart]:
    """Accuracy first, then the groups that have data, the phases, and a chart for each remaining metric."""
    present = {name for run in runs for name in run.series.metrics}
    found = [chart for chart in (_accuracy(runs), _lines("KL on validation", ["val/kl"], runs)) if chart]
    left = {name for name, _ in metric_table(present)} | present
    for title, names in GROUPS.items():
        shown = [name for name in sorted(present) if name.split("/", 2)[:2] in [n.split("/") for n in names]]
        left -= set(shown)
        chart = _lines(title, sorted(shown, key=lambda n: (names.index("/".join(n.split("/")[:2])), n)), runs)
        found += [chart] if chart else []
    found += [_phases(run, several=len(runs) > 1) for run in runs if present & set(_STACKED)]
    left -= {*_STACKED, "actor/distillation_mode"}
    found += [chart for name in sorted(left) if (chart := _lines(name, [name], runs))]
    return found


def _lines(title: str, names: list[str], runs: Sequence[RunCurves]) -> Chart | None:
    """A chart of some metrics, or None without data. With several runs, each run has its colour and each
    metric its dash; with one run, each metric has its colour."""
    figure = _figure(names)
    for i, run in enumerate(runs):
        for j, name in enumerate(names):
            x, y = _points(run.series, name)
            if any(value is not None for value in y):
                label = _curve_label(run.label, name, runs=len(runs), metrics=len(names))
                color = COLORS[(i if len(runs) > 1 else j) % len(COLORS)]
                dash = DASHES[j % len(DASHES)] if len(runs) > 1 else "solid"
                mode = "lines+markers" if len(x) < 30 else "lines"
                figure.add_scatter(x=x, y=y, name=label, mode=mode, line={"color": color, "dash": dash})
    return Chart(title, figure, names) if figure.data else None


def _accuracy(runs: Sequence[RunCurves]) -> Chart | None:
    """Validation accuracy with its 95 % Wilson interval; None if no run has any."""
    figure = _figure(["val/acc"])
    for i, run in enumerate(runs):
        known = {step: acc for step, acc in _evals(run.series, "val/acc") if acc is not None}
        if not known:
            continue
        counts = run.series.num_graded
        ends = [wilson_interval(round(acc * counts[step]), counts[step]) for step, acc in known.items()]
        x = list(known)
        color = COLORS[i % len(COLORS)]
        band = {"x": x + x[::-1], "y": [high for _, high in ends] + [low for low, _ in ends][::-1]}
        figure.add_scatter(**band, mode="lines", fill="toself", fillcolor=color, opacity=0.2,
                           line={"width": 0}, hoverinfo="skip", showlegend=False)  # fmt: skip
        figure.add_scatter(x=x, y=list(known.values()), name=run.label, mode="lines+markers",
                           line={"color": color})  # fmt: skip
    return (
        Chart("Accuracy on the validation prompts, 95 % interval", figure, ["val/acc"])
        if figure.data
        else None
    )


def _phases(run: RunCurves, *, several: bool) -> Chart:
    """Seconds that each phase of a step takes, stacked."""
    figure = _figure(["timing_s/step"])
    for i, name in enumerate(_STACKED):
        x, y = _points(run.series, name)
        figure.add_scatter(x=x, y=y, name=PHASES[i], stackgroup="phases", mode="lines",
                           line={"width": 0.5, "color": COLORS[i]})  # fmt: skip
    return Chart(f"Phases of a step{f', {run.label}' if several else ''}", figure, list(_STACKED))


def _points(series: Series, name: str) -> tuple[list[int], list[float | None]]:
    """Steps and values of a metric, at most `MAX_POINTS`; None is a gap."""
    if name.startswith("val/"):
        evals = _evals(series, name)
        return [step for step, _ in evals], [value for _, value in evals]
    values = bucket_means(series.column(name), MAX_POINTS)
    steps = list(series.steps)
    if len(values) < len(steps):  # draw each mean at the last of its steps
        steps = [steps[(i + 1) * len(steps) // len(values) - 1] for i in range(len(values))]
    return steps, [None if math.isnan(value) else float(f"{value:.6g}") for value in values]


def _evals(series: Series, name: str) -> list[tuple[int, float | None]]:
    """Step and value of an evaluation metric, at most `MAX_POINTS` of them."""
    evals = sorted(series.evals)
    every = -(-len(evals) // MAX_POINTS) or 1
    return [(step, series.evals[step].get(name)) for step in evals[::-1][::every][::-1]]


def is_thinned(series: Series) -> bool:
    """Whether the run has more steps or evaluations than a curve has points."""
    return max(len(series.steps), len(series.evals)) > MAX_POINTS


def _curve_label(run: str, name: str, *, runs: int, metrics: int) -> str:
    if runs == 1:
        return name
    return run if metrics == 1 else f"{run} {name}"


def _figure(names: Sequence[str]) -> Figure:
    from plotly.graph_objects import Figure

    units = {metric.unit for name in names if (metric := find(name)) is not None}
    layout: dict[str, Any] = {
        "template": "none",
        "margin": {"l": 60, "r": 12, "t": 8, "b": 40},
        "xaxis": {"title": {"text": "step"}},
        "yaxis": {"title": {"text": ", ".join(sorted(units - {"-"}))}, "rangemode": "nonnegative"},
        "legend": {"orientation": "h", "y": 1.02, "yanchor": "bottom"},
        "hovermode": "x unified",
    }
    return Figure(layout=layout)
