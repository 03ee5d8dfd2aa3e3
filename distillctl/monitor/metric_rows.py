"""The table of metrics on a run's screen: newest value, moving average, curve, minimum and maximum."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from distillctl.monitor.charset import Look, styled
from distillctl.monitor.history import History
from distillctl.monitor.state import RunState
from distillctl.run.metrics import LARGE_MISMATCH_KL, METRICS, ScreenRow
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

    metric: str
    on_screen: ScreenRow

    def show(self, value: float) -> str:
        """`value` as text; `-` if it is not finite."""
        return self.on_screen.form(value) if math.isfinite(value) else "-"


def rows() -> list[Row]:
    """The metrics that have a row, from top to bottom."""
    found = [Row(name, metric.screen) for name, metric in METRICS.items() if metric.screen is not None]
    return sorted(found, key=lambda row: row.on_screen.place)


def newest(state: RunState) -> Text:
    """KL, entropy and throughput on one line, for a terminal with too few rows for a table."""
    shown = {row.metric: row.show(_history(state, row).last) for row in rows()}
    return styled(
        f"kl {shown['kl/reverse']}  entropy {shown['actor/entropy']}  "
        f"{shown['perf/rollout_tokens_per_s']} tok/s"
    )


def metric_rows(state: RunState, columns: int, look: Look) -> list[Text]:
    """One line for each metric that the run has; a header above them unless the terminal is narrow."""
    shown = [row for row in rows() if row.metric in state.histories]
    cells = [_cells(state, row) for row in shown]
    widths = [max(len(line[i]) for line in (*cells, _HEADER)) for i in range(len(_HEADER))]
    lines = [] if columns < NARROW_COLUMNS else [_line(_HEADER, "history", widths, columns, ["dim"] * 3)]
    for row, line in zip(shown, cells, strict=True):
        room = _room(widths, columns)
        means = [v for v in _history(state, row).means() if not (row.on_screen.sparse and math.isnan(v))]
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
    return row.on_screen.label + missing, *(row.show(value) for value in (history.last, history.ema(), *ends))


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
