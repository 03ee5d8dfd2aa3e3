"""`distillctl inspect compare`: several runs side by side, and whether their accuracies differ."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypedDict

from distillctl.config.loading import load_config
from distillctl.errors import ConfigError
from distillctl.grading.significance import paired_difference, wilson_interval
from distillctl.inspection.series import Series, load_events
from distillctl.run.directory import RunDir, open_run
from distillctl.run.sample_files import sample_steps, verdicts
from distillctl.terminal.sparkline import sparkline
from distillctl.terminal.stream import inline
from distillctl.terminal.table import number, table

METRICS = ("kl/reverse", "kl/forward", "actor/entropy", "teacher/entropy", "response_length/mean",
           "actor/grad_norm", "timing_s/step", "perf/tokens_per_s")  # fmt: skip
"""Metrics whose values at the last step are compared."""
CURVES = ("kl/reverse", "actor/entropy", "response_length/mean")
CURVE_COLUMNS = 60


class Paired(TypedDict):
    """How the verdicts of two models on the same prompts differ."""

    num: int
    """Number of prompts that both models answered."""
    only_first: int
    """Number of prompts that only the first model got right."""
    only_this: int
    difference: float
    """Accuracy of this model minus that of the first."""
    p_value: float
    """The p-value of McNemar's exact test."""


class Accuracy(TypedDict):
    """The newest evaluation of a run."""

    step: int
    acc: float
    num: int
    """Number of graded responses."""
    low: float
    """Lower end of the 95 % interval; `high` is the upper end."""
    high: float
    paired: Paired | None
    """Comparison with the first run. None for the first run itself, and if the runs share no prompt."""


class CompareView(TypedDict):
    """What `inspect compare` shows. Each list has one entry per run."""

    runs: list[str]
    config: dict[str, list[Any]]
    metrics: dict[str, list[float | None]]
    """Values at the last step."""
    curves: dict[str, list[list[float | None]]]
    accuracy: list[Accuracy | None]


def show_compare(paths: Sequence[Path]) -> CompareView:
    """Configuration differences, metrics, curves, and the newest evaluations with intervals and paired tests
    against the first run. Raises ConfigError for fewer than two runs."""
    if len(paths) < 2:
        hint = "`distillctl inspect runs` lists your runs"
        raise ConfigError("inspect compare needs at least two runs", hint)
    runs = [open_run(path) for path in paths]
    series = [load_events(run.events_path)[1] for run in runs]
    accuracies = zip(runs, series, strict=True)
    return {
        "runs": [str(run.path) for run in runs],
        "config": config_differences(runs),
        "metrics": {name: [_last(s, name) for s in series] for name in _present(series)},
        "curves": {name: [_finite(s.column(name)) for s in series] for name in CURVES},
        "accuracy": [accuracy(run, one, runs[0]) for run, one in accuracies],
    }


def config_differences(runs: Sequence[RunDir]) -> dict[str, list[Any]]:
    """Dotted keys whose values differ, with the value of each run (None if a run does not have the key)."""
    flat = [flatten(load_config(run.config_path).model_dump(mode="json")) for run in runs]
    keys = sorted({key for tree in flat for key in tree})
    values = {key: [tree.get(key) for tree in flat] for key in keys}
    return {key: found for key, found in values.items() if any(value != found[0] for value in found)}


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """A configuration as a flat dictionary with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def accuracy(run: RunDir, series: Series, first: RunDir) -> Accuracy | None:
    """The newest evaluation of a run, with its 95 % interval and its difference from the run `first` on the
    prompts that both answered. None if the run has no evaluation."""
    step = max(series.evals, default=None)
    acc = None if step is None else series.evals[step].get("val/acc")
    if step is None or acc is None:
        return None
    num = series.num_graded[step]
    low, high = wilson_interval(round(acc * num), num)
    found: Accuracy = {"step": step, "acc": acc, "num": num, "low": low, "high": high, "paired": None}
    if run.path != first.path:
        found["paired"] = paired(_verdicts(first), _verdicts(run))
    return found


def paired(first: dict[str, bool], second: dict[str, bool]) -> Paired | None:
    """Compare two models by their verdicts, which are given by prompt. None if they share no prompt."""
    found = paired_difference(second, first)
    if found is None:
        return None
    return {
        "num": found.num_prompts,
        "only_first": found.num_lost,
        "only_this": found.num_gained,
        "difference": found.difference,
        "p_value": found.p_value,
    }


def render_compare(found: CompareView) -> str:
    """`show_compare` as text. It calls the runs A, B, and so on."""
    names = [chr(ord("A") + i) for i in range(len(found["runs"]))]
    parts = ["\n".join(f"{name}  {inline(run)}" for name, run in zip(names, found["runs"], strict=True))]
    config = [[key, *map(str, values)] for key, values in found["config"].items()]
    parts.append(table(["configuration", *names], config) if config else "the configurations are equal")
    if found["metrics"]:
        rows = [[name, *map(number, values)] for name, values in found["metrics"].items()]
        parts.append(table(["at the last step", *names], rows))
    parts += [text for name, curves in found["curves"].items() if (text := _curves(name, names, curves))]
    parts.append(_accuracies(names, found["accuracy"]))
    return "\n\n".join(part for part in parts if part)


def _curves(name: str, names: list[str], curves: list[list[float | None]]) -> str:
    """One line per run, on a common scale. The longest run's line has CURVE_COLUMNS columns, and the others
    are shorter in proportion to their steps."""
    values = [[math.nan if v is None else v for v in curve] for curve in curves]
    known = [value for curve in values for value in curve if not math.isnan(value)]
    if not known:
        return ""
    low = min(known)
    high = max(known)
    longest = max(map(len, values))
    lines = [f"{name}  {number(low)} to {number(high)}"]
    for run, curve in zip(names, values, strict=True):
        columns = math.ceil(CURVE_COLUMNS * len(curve) / longest)
        lines.append(f"{run}  {sparkline(curve, columns, low=low, high=high)}")
    return "\n".join(lines)


def _accuracies(names: list[str], found: list[Accuracy | None]) -> str:
    rows = []
    for name, entry in zip(names, found, strict=True):
        if entry is None:
            continue
        test = entry["paired"]
        against = f"{100 * test['difference']:+.1f} points, p {test['p_value']:.3g}" if test else "-"
        counts = f"{test['only_this']} gained, {test['only_first']} lost of {test['num']}" if test else "-"
        interval = f"{100 * entry['low']:.1f} - {100 * entry['high']:.1f}"
        rows.append([name, str(entry["step"]), f"{100 * entry['acc']:.1f} %", interval, against, counts])
    header = ["val/acc", "step", "accuracy", "95 % interval", f"against {names[0]}", "prompts"]
    return table(header, rows) if rows else ""


def _verdicts(run: RunDir) -> dict[str, bool]:
    """Whether the newest evaluation's response to each validation prompt is right."""
    files = list(sample_steps(run.eval_dir).values())
    return verdicts(files[-1]) if files else {}


def _present(series: Sequence[Series]) -> list[str]:
    return [name for name in METRICS if any(name in one.metrics for one in series)]


def _last(series: Series, name: str) -> float | None:
    values = _finite(series.column(name))
    return values[-1] if values else None


def _finite(values: list[float]) -> list[float | None]:
    return [None if math.isnan(value) else value for value in values]
