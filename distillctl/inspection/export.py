"""A run's numbers for other tools: CSV, parquet, TensorBoard."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path
from typing import BinaryIO, TypedDict

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.outputs import is_folder, require_output, require_writable, written
from distillctl.files.reading import read_head
from distillctl.inspection.series import Series, load_events
from distillctl.monitor.tensorboard import TensorBoardWriter
from distillctl.monitor.trackers import require_tracker
from distillctl.run.directory import open_run
from distillctl.run.metrics import METRICS
from distillctl.terminal.progress import track
from distillctl.terminal.stream import inline

_HEAD_BYTES = 1 << 16


class Exported(TypedDict):
    """A finished export."""

    export: str
    """The file or folder that was written."""
    rows: int


def export_run(path: Path, target: str | Path) -> Exported:
    """Write every step's metrics, including evaluations, to `target`.

    A `.csv` or `.parquet` file becomes a table with a row per step. A folder, or a name without a suffix,
    gets a TensorBoard event file. Raises ConfigError for any other suffix, and if `target` is an existing
    file that is not such a table. Raises EnvironmentUnfit if `target` cannot be written.
    """
    suffix = "" if is_folder(str(target)) else Path(target).suffix
    target = Path(target)
    _require_target(target, suffix)
    _, series = load_events(open_run(path).events_path)
    rows = _rows(series)
    table: list[dict[str, float | None]] = [{"step": step, **metrics} for step, metrics in rows.items()]
    if suffix:
        with written(target, "--export") as file:
            (_write_csv if suffix == ".csv" else _write_parquet)(table, file)
    else:
        try:
            with TensorBoardWriter(target) as writer:
                for step, metrics in track(rows.items(), "exporting", total=len(rows)):
                    writer.add(step, metrics)
        except OSError as error:
            message = f"--export {target}: cannot be written: {error.strerror}"
            raise EnvironmentUnfit(message, "choose another folder") from None
    return {"export": str(target), "rows": len(rows)}


def _require_target(target: Path, suffix: str) -> None:
    """Raise unless the export may be written and can be."""
    match suffix:
        case ".csv":
            require_output(target, "--export", "a table of distillctl", _is_csv)
        case ".parquet":
            require_output(target, "--export", "a table of distillctl", _is_parquet)
        case "":
            require_tracker("tensorboard")
            require_writable(target, option="--export")
        case other:
            hint = "give --export NAME.csv, NAME.parquet, or a directory for TensorBoard"
            raise ConfigError(f"--export {target}: {other} is not a format", hint)


def _is_csv(path: Path) -> bool:
    """Whether the first line is a header of `_write_csv`."""
    header, *rest = read_head(path, _HEAD_BYTES).decode(errors="replace").splitlines() or [""]
    return _are_columns(next(csv.reader([header]), []), has_rows=bool(rest))


def _is_parquet(path: Path) -> bool:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        found = pq.read_metadata(path)
    except (pa.ArrowException, OSError):
        return False
    schema = found.schema.to_arrow_schema()
    types = [str(field.type) for field in schema]
    are_columns = _are_columns(schema.names, has_rows=found.num_rows > 0)
    return are_columns and types == ["int64"] + ["double"] * (len(types) - 1)


def _are_columns(names: list[str], *, has_rows: bool) -> bool:
    """Whether these are the columns of an export of any version: a step, then metrics as `GROUP/NAME`.

    A table with the step alone is an export only without rows.
    """
    if names == ["step"]:
        return not has_rows
    groups = {name.split("/")[0] for name in METRICS}
    return names[:1] == ["step"] and all(name.split("/")[0] in groups and "/" in name for name in names[1:])


def _rows(series: Series) -> dict[int, dict[str, float | None]]:
    """The metrics of each step that has any, ordered by name."""
    found = series.metrics.keys() | {name for metrics in series.evals.values() for name in metrics}
    names = sorted(found - {"step"})  # the first column already has that name
    columns = {name: series.column(name) for name in series.metrics}
    indices = {step: i for i, step in enumerate(series.steps)}
    rows: dict[int, dict[str, float | None]] = {}
    for step in sorted(indices.keys() | series.evals.keys()):
        rows[step] = {}
        for name in names:
            measured = columns[name][indices[step]] if step in indices and name in columns else math.nan
            value = series.evals.get(step, {}).get(name, measured)
            rows[step][name] = None if value is None or math.isnan(value) else value
    return rows


def _write_csv(rows: list[dict[str, float | None]], file: BinaryIO) -> None:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(map(_csv_text, rows[0] if rows else ["step"]))
    writer.writerows(row.values() for row in rows)
    file.write(text.getvalue().encode())


def _csv_text(text: str) -> str:
    """A name as a cell: on one line, without control characters. An apostrophe keeps a spreadsheet from
    reading it as a formula (OWASP, CSV injection)."""
    return f"'{inline(text)}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else inline(text)


def _write_parquet(rows: list[dict[str, float | None]], file: BinaryIO) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    names = [name for name in rows[0] if name != "step"] if rows else []
    schema = pa.schema([("step", pa.int64()), *((name, pa.float64()) for name in names)])
    pq.write_table(pa.Table.from_pylist(rows, schema), file)
