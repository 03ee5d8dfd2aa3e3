"""A run's numbers in the formats of other tools, read back with their own readers; live trackers."""

import csv
import importlib.util
import math
import sys
import types
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.inspection.export import export_run
from distillctl.monitor.follow import Follower
from distillctl.monitor.trackers import require_tracker, trackers
from distillctl.run.directory import RunDir
from distillctl.run.events import EventLog

EVENTS = [
    ("eval", 0, {"val/acc": 0.25}),
    ("step", 1, {"kl/reverse": 0.5, "actor/lr": 1e-5}),
    ("step", 2, {"kl/reverse": math.nan, "topk/overlap": 0.75}),
    ("eval", 2, {"val/acc": 0.5}),
]
EXPECTED = {
    0: {"val/acc": 0.25},
    1: {"kl/reverse": 0.5, "actor/lr": 1e-5},
    2: {"topk/overlap": 0.75, "val/acc": 0.5},
}


def write(run: RunDir) -> None:
    log = EventLog(run.events_path, 1)
    for kind, step, metrics in EVENTS:
        log.emit(kind, step=step, metrics=metrics)
    log.close()


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    run = RunDir.create(tmp_path / "tiny")
    write(run)
    return run


def read_scalars(folder: Path) -> dict[int, dict[str, float]]:
    from tensorboardX.proto.event_pb2 import Event

    found: dict[int, dict[str, float]] = {}
    for file in folder.iterdir():
        data, at = file.read_bytes(), 0
        while at < len(data):  # TFRecord: length (8), its checksum (4), record, its checksum (4)
            length = int.from_bytes(data[at : at + 8], "little")
            event = Event.FromString(data[at + 12 : at + 12 + length])
            at += length + 16
            for value in event.summary.value:
                found.setdefault(event.step, {})[value.tag] = value.simple_value
    return found


def approximately(rows: dict[int, dict[str, float]]) -> dict[int, dict[str, float]]:
    return {step: pytest.approx(row, rel=1e-6) for step, row in rows.items()}


def test_csv(run: RunDir, tmp_path: Path) -> None:
    target = tmp_path / "metrics.csv"
    assert export_run(run.path, target) == {"export": str(target), "rows": 3}
    with target.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["step", "actor/lr", "kl/reverse", "topk/overlap", "val/acc"]
    found = {int(row.pop("step")): {k: float(v) for k, v in row.items() if v} for row in rows}
    assert found == EXPECTED


def test_parquet(run: RunDir, tmp_path: Path) -> None:
    export_run(run.path, tmp_path / "metrics.parquet")
    rows = pq.read_table(tmp_path / "metrics.parquet").to_pylist()
    found = {row.pop("step"): {k: v for k, v in row.items() if v is not None} for row in rows}
    assert found == EXPECTED


def test_tensorboard(run: RunDir, tmp_path: Path) -> None:
    export_run(run.path, tmp_path / "board")
    assert read_scalars(tmp_path / "board") == approximately(EXPECTED)


def test_a_run_without_steps(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.events_path.touch()
    for name in ("a.csv", "a.parquet", "board", "a.csv", "a.parquet"):  # tables without rows are replaced
        assert export_run(run.path, tmp_path / name)["rows"] == 0


def test_what_cannot_be_written_is_said(run: RunDir, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="xlsx is not a format"):
        export_run(run.path, tmp_path / "a.xlsx")
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="file is not a directory"):
        export_run(run.path, tmp_path / "file" / "a.csv")


def test_folders_are_made(run: RunDir, tmp_path: Path) -> None:
    export_run(run.path, tmp_path / "new" / "deep" / "a.csv")
    assert (tmp_path / "new" / "deep" / "a.csv").is_file()
    export_run(run.path, f"{tmp_path}/board.csv/")
    assert read_scalars(tmp_path / "board.csv") == approximately(EXPECTED)


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_an_older_export_is_replaced_and_another_file_is_not(run: RunDir, tmp_path: Path, name: str) -> None:
    target = tmp_path / name
    export_run(run.path, target)
    log = EventLog(run.events_path, 1)
    log.emit("step", step=3, metrics={"kl/forward": 0.5})
    log.close()
    before = target.read_bytes()
    assert export_run(run.path, target)["rows"] == 4
    assert target.read_bytes() != before
    foreign = ["precious", "", "step,loss\n1,2\n", "date,actor/loss\n", "step\n1\n"]
    for text in foreign:
        target.write_text(text)
        with pytest.raises(ConfigError, match="already exists and is not a table of distillctl"):
            export_run(run.path, target)
        assert target.read_text() == text


@pytest.mark.parametrize("columns", [{"step": [1], "price": [2.0]}, {"step": [1]}])
def test_another_table_is_not_replaced(run: RunDir, tmp_path: Path, columns: dict[str, list[float]]) -> None:
    target = tmp_path / "a.parquet"
    pq.write_table(pa.table(columns), target)
    with pytest.raises(ConfigError, match="is not a table of distillctl"):
        export_run(run.path, target)


def test_files_of_tensorboard_are_added(run: RunDir, tmp_path: Path) -> None:
    """Two of one second too, and none of another's is touched."""
    (tmp_path / "board").mkdir()
    (tmp_path / "board" / "notes").write_text("precious")
    for _ in range(2):
        export_run(run.path, tmp_path / "board")
    assert len(list((tmp_path / "board").iterdir())) == 3
    assert (tmp_path / "board" / "notes").read_text() == "precious"


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentUnfit) as caught:
        require_tracker("wandb")
    assert caught.value.hint == "pip install 'distillctl[wandb]'"


CONFIG = {"optim": {"lr": 5e-4}}


def test_a_live_run_goes_to_tensorboard(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "tiny")
    with Follower(run.events_path, trackers(["tensorboard"], run, CONFIG)):
        write(run)
    assert read_scalars(run.path / "tensorboard") == approximately(EXPECTED)


@pytest.mark.parametrize("name", ["wandb", "trackio"])
def test_a_live_run_goes_to_a_service(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """The service stands in: there is no network here."""
    calls: list[tuple[str, object]] = []
    service = types.ModuleType(name)
    service.init = lambda **options: calls.append(("init", options))
    service.log = lambda metrics, step: calls.append((step, metrics))
    service.finish = lambda: calls.append(("finish", None))
    monkeypatch.setitem(sys.modules, name, service)
    run = RunDir.create(tmp_path / "tiny")
    with Follower(run.events_path, trackers([name], run, CONFIG)):
        write(run)
    (_, options), *sent, last = calls
    assert (options["project"], options["name"], options["resume"]) == ("distillctl", "tiny/0001", "allow")
    assert options["config"] == CONFIG
    assert [step for step, _ in sent] == [0, 1, 2, 2]
    assert {k: v for step, metrics in sent if step == 2 for k, v in metrics.items()} == EXPECTED[2]
    assert last == ("finish", None)
