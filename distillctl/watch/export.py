"""A run's numbers for other tools: CSV, parquet, TensorBoard."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.progress import track
from distillctl.run import open_run
from distillctl.watch.series import Series, load_events
from distillctl.watch.tensorboard import TensorBoardWriter


def export_run(path: Path, target: Path) -> dict[str, Any]:
    """Write every step's metrics, evaluations among them, to `target`.

    `.csv` and `.parquet` become tables with a row per step; a name without a suffix a TensorBoard directory.
    Raises ConfigError for another suffix, EnvironmentUnfit where nothing can be written.
    """
    _, series = load_events(open_run(path).events_path)
    rows = _rows(series)
    table: list[dict[str, float | None]] = [{"step": step, **metrics} for step, metrics in rows.items()]
    try:
        match target.suffix:
            case ".csv":
                _write_csv(table, target)
            case ".parquet":
                _write_parquet(table, target)
            case "":
                with TensorBoardWriter(target) as writer:
                    for step, metrics in track(rows.items(), "exporting", total=len(rows)):
                        writer.add(step, metrics)
            case other:
                hint = "--export takes NAME.csv, NAME.parquet, or a directory for TensorBoard"
                raise ConfigError(f"--export {target}: {other} is not a format", hint)
    except OSError as error:
        raise EnvironmentUnfit(f"--export {target}: {error.strerror}", "choose another place") from None
    return {"export": str(target), "rows": len(rows)}


def _rows(series: Series) -> dict[int, dict[str, float | None]]:
    """The metrics, in order of their names, of each step that has any."""
    names = sorted(series.metrics.keys() | {name for metrics in series.evals.values() for name in metrics})
    columns = {name: series.column(name) for name in series.metrics}
    indices = {step: i for i, step in enumerate(series.steps)}
    rows: dict[int, dict[str, float | None]] = {}
    for step in sorted(indices.keys() | series.evals.keys()):
        rows[step] = {}
        for name in names:
            value = columns[name][indices[step]] if step in indices and name in columns else math.nan
            value = series.evals.get(step, {}).get(name, value)
            rows[step][name] = None if value is None or math.isnan(value) else value
    return rows


def _write_csv(rows: list[dict[str, float | None]], target: Path) -> None:
    with target.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else ["step"])
        writer.writeheader()
        writer.writerows(rows)


def _write_parquet(rows: list[dict[str, float | None]], target: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [name for name in rows[0] if name != "step"] if rows else []
    schema = pa.schema([("step", pa.int64()), *((name, pa.float64()) for name in names)])
    pq.write_table(pa.Table.from_pylist(rows, schema), target)
