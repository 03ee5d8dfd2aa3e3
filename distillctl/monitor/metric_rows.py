"""The table of metrics on a run's screen: newest value, moving average, curve, minimum and maximum."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillctl.monitor.charset import Look, styled
from distillctl.monitor.history import History
from distillctl.monitor.state import RunState
from distillctl.run.metrics import LARGE_MISMATCH_KL
from distillctl.terminal.sparkline import sparkline

if TYPE_CHECKING:
    from rich.text import Text

FULL_COLUMNS = 100
"""Narrower terminals do not show the minimum and maximum."""
NARROW_COLUMNS = 60
"""Narrower terminals do not show the average and the header either."""
KL_RISE = 3.0
"""The row of the reverse KL is marked when its value exceeds its moving average by this factor."""
_HEADER = ("metric", "now", "ema", "min", "max")


@dataclass(frozen=True, slots=True)
class Row:
    """One metric on the screen."""

    label: str
    metric: str
    form: Callable[[float], str]
    sparse: bool = False
    """Whether it is measured only at some steps; its curve then leaves out the others."""

    def show(self, value: float) -> str:
        """`value` as text; `-` if it is not finite."""
        return self.form(value) if math.isfinite(value) else "-"


ROWS = (
    Row("kl/reverse", "kl/reverse", lambda v: f"{v:.4f}"),
    Row("entropy", "actor/entropy", lambda v: f"{v:.3f}"),
    Row("gen tok/s", "perf/rollout_tokens_per_s", lambda v: f"{v:,.0f}"),
    Row("val/acc", "val/acc", lambda v: f"{100 * v:.1f} %", sparse=True),
    Row("resp_len", "response_length/mean", lambda v: f"{v:.1f}"),
    Row("grad_norm", "actor/grad_norm", lambda v: f"{v:.3g}"),
    Row("mismatch_kl", "rollout/mismatch_kl", lambda v: f"{v:.1e}"),
    Row("step s", "timing_s/step", lambda v: f"{v:.2f}"),
)


def newest(state: RunState) -> Text:
    """KL, entropy and throughput on one line, for a terminal with too few rows for a table."""
    kl, entropy, speed = (row.show(_history(state, row).last) for row in ROWS[:3])
    return styled(f"kl {kl}  entropy {entropy}  {speed} tok/s")


def metric_rows(state: RunState, columns: int, look: Look) -> list[Text]:
    """One line for each metric that the run has; a header above them unless the terminal is narrow."""
    rows = [row for row in ROWS if row.metric in state.histories]
    cells = [_cells(state, row) for row in rows]
    widths = [max(len(line[i]) for line in (*cells, _HEADER)) for i in range(len(_HEADER))]
    lines = [] if columns < NARROW_COLUMNS else [_line(_HEADER, "history", widths, columns, ["dim"] * 3)]
    for row, line in zip(rows, cells, strict=True):
        room = _room(widths, columns)
        means = [v for v in _history(state, row).means() if not (row.sparse and math.isnan(v))]
        curve = sparkline(means, room, ascii_only=look.ascii_only)
        style = "yellow" if _is_odd(row, _history(state, row)) else ""
        lines.append(_line(line, curve, widths, columns, [style, style or "cyan", "dim"]))
    return lines


def _history(state: RunState, row: Row) -> History:
    return state.histories.get(row.metric, History())


def _cells(state: RunState, row: Row) -> tuple[str, ...]:
    history = _history(state, row)
    known = [value for value in history.means() if not math.isnan(value)]
    ends = (min(known), max(known)) if known else (math.nan, math.nan)
    missing = f" ({history.num_missing} NaN)" if history.num_missing else ""
    return row.label + missing, *(row.show(value) for value in (history.last, history.ema(), *ends))


def _room(widths: list[int], columns: int) -> int:
    """Columns that are left for the curve."""
    others = widths[:2] if columns < NARROW_COLUMNS else widths if columns >= FULL_COLUMNS else widths[:3]
    return max(columns - sum(others) - 2 * len(others), 0)


def _line(cells: tuple[str, ...], curve: str, widths: list[int], columns: int, styles: list[str]) -> Text:
    label, now, average, low, high = (
        cell.ljust(width) if i == 0 else cell.rjust(width)
        for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
    )
    line = styled(f"{label}  {now}", styles[0])
    if columns >= NARROW_COLUMNS:
        line.append(f"  {average}", styles[0])
    line.append(f"  {curve:{_room(widths, columns)}}", styles[1])
    if columns >= FULL_COLUMNS:
        line.append(f"  {low}  {high}", styles[2])
    return line


def _is_odd(row: Row, history: History) -> bool:
    """Whether a row is marked because its newest value is unusual."""
    if row.metric == "kl/reverse" and history.last > KL_RISE * history.ema():
        return True
    if row.metric == "rollout/mismatch_kl" and history.last > LARGE_MISMATCH_KL:
        return True
    return not math.isfinite(history.last)
