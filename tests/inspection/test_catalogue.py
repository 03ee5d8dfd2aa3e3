"""`distillctl inspect`: what it finds, that it is JSON, and that its text is plain."""

import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from distillctl.config.loading import load_preset, preset_names, to_yaml
from distillctl.config.schema import Config
from distillctl.errors import ConfigError
from distillctl.inspection import catalogue, runs
from distillctl.run.directory import RunDir, write_status
from distillctl.run.events import EventLog

PRESET = "tiny-from-small-arith"


@pytest.fixture(autouse=True)
def _colour_everywhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """What makes rich colour even pipes must not reach our text."""
    for name in ("FORCE_COLOR", "TTY_COMPATIBLE", "GITHUB_ACTIONS"):
        monkeypatch.setenv(name, "1")


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """A finished run of three steps."""
    run = RunDir.create(tmp_path / "runs" / PRESET)
    run.config_path.write_text(to_yaml(load_preset(PRESET)))
    log = EventLog(run.events_path, run.begin_attempt())
    log.emit("phase", step=0, name="loading student", state="begin")
    log.emit("phase", step=0, name="loading student", state="end", seconds=2.0)
    log.emit("start", step=0, run=str(run.path), steps=3, student="s", teacher="t", world_size=1)
    for step in (1, 2, 3):
        seconds = {"rollout": 6.0, "teacher": 1.0, "update": 2.0, "sync": 1.0}
        metrics = {"kl/reverse": 1.0 / step, "actor/entropy": float("nan")}
        timing = {f"timing_s/{name}": value for name, value in seconds.items()}
        log.emit("step", step=step, metrics={**metrics, **timing, "timing_s/step": 10.0})
    log.emit("eval", step=3, metrics={"val/acc": 0.5}, num=10)
    log.emit("warn", step=3, message="two\nlines")
    log.emit("end", step=3, state="done", exit_code=0, seconds=30.0)
    log.close()
    (run.checkpoints / "step_000003" / "hf").mkdir(parents=True)
    (run.checkpoints / "latest.json").write_text('{"step": 3, "path": "step_000003"}')
    write_status(run.status_path, {"state": "done", "step": 3, "steps": 3, "exit_code": 0})
    return run


@pytest.fixture
def locked(run: RunDir) -> Iterator[RunDir]:
    with run.lock():
        yield run


def assert_plain(text: str) -> None:
    assert text.replace("\n", "").isprintable()
    assert not text.endswith("\n")


def test_presets() -> None:
    rows = catalogue.show_presets()
    assert [row["name"] for row in rows] == preset_names()
    text = catalogue.render_presets(rows)
    assert PRESET in text
    assert_plain(text)


def test_config_of_a_preset_a_run_and_a_file_is_yaml_that_loads(run: RunDir) -> None:
    for name in (PRESET, str(run.path), str(run.config_path)):
        tree = catalogue.show_config(name)
        json.dumps(tree)
        text = catalogue.render_config(tree)
        assert Config.model_validate(yaml.safe_load(text)) == load_preset(PRESET)
        assert_plain(text)


def test_config_of_nothing(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no preset"):
        catalogue.show_config("no-such-preset")
    with pytest.raises(ConfigError, match="not a run directory"):
        catalogue.show_config(str(tmp_path))


def test_schema_describes_every_section() -> None:
    schema = catalogue.show_schema()
    json.dumps(schema)
    assert set(schema["properties"]) == set(Config.model_fields)


def test_run(run: RunDir) -> None:
    found = runs.show_run(run.path)
    json.dumps(found, allow_nan=False)
    assert (found["state"], found["step"], found["steps"], found["exit_code"]) == ("done", 3, 3, 0)
    assert found["metrics"]["kl/reverse"] == {"first": 1.0, "last": 1 / 3, "unit": "nats"}
    assert found["metrics"]["actor/entropy"]["last"] is None
    assert found["phase_share"] == {"rollout": 0.6, "teacher": 0.1, "update": 0.2, "sync": 0.1}
    assert found["evals"] == [{"step": 3, "val/acc": 0.5}]
    assert found["checkpoint"] == str(run.checkpoints / "step_000003")
    assert found["startup_s"] == {"loading student": 2.0}
    assert found["eta_s"] is None


def test_run_as_text(run: RunDir) -> None:
    text = runs.render_run(runs.show_run(run.path))
    assert "done  step 3/3  attempt 1" in text
    assert "rollout 60 %  teacher 10 %  update 20 %  sync 10 %" in text
    assert "eval step 3  val/acc 0.5" in text
    assert "warning: two lines" in text
    assert_plain(text)


def test_a_run_that_has_not_begun(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path)
    run.config_path.touch()
    found = runs.show_run(run.path)
    assert (found["state"], found["step"], found["metrics"], found["phase_share"]) == ("new", 0, {}, {})
    assert_plain(runs.render_run(found))


def test_a_locked_run_is_running_and_an_unlocked_one_died(run: RunDir) -> None:
    write_status(run.status_path, {"state": "running", "step": 2})
    assert runs.run_status(run) == "died"
    with run.lock():
        assert runs.run_status(run) == "running"


def test_run_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a run directory"):
        runs.show_run(tmp_path)
    with pytest.raises(ConfigError, match="no such run"):
        runs.show_run(tmp_path / "x")


@pytest.mark.parametrize("up", [0, 1, 2])
def test_runs_are_found_from_any_level(run: RunDir, up: int) -> None:
    folder = [run.path, *run.path.parents][up]
    rows = runs.show_runs(folder)
    json.dumps(rows)
    assert [(row["run"], row["state"], row["step"], row["val/acc"]) for row in rows] == [
        (str(run.path), "done", 3, 0.5)
    ]
    text = runs.render_runs(rows)
    assert "3/3" in text
    assert_plain(text)


def test_no_runs(tmp_path: Path) -> None:
    assert runs.render_runs(runs.show_runs(tmp_path)) == "no runs"
    with pytest.raises(ConfigError, match="no such folder"):
        runs.show_runs(tmp_path / "x")


def test_follow_prints_a_finished_run_and_returns(run: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    runs.follow_run(run.path)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "start run=" in captured.err
    assert "end state=done" in captured.err.splitlines()[-1]


def test_follow_waits_for_a_running_run(locked: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    """The last attempt ended, but a launcher holds the run: another attempt is starting."""
    follower = threading.Thread(target=runs.follow_run, args=(locked.path,))
    follower.start()
    log = EventLog(locked.events_path, 2)
    log.emit("warn", step=3, message="a later event")
    log.close()
    time.sleep(0.1)
    assert follower.is_alive()
    (locked.path / ".lock").unlink()
    follower.join(timeout=10)
    assert not follower.is_alive()
    assert "a later event" in capsys.readouterr().err


def test_data_with_answers_at_the_end_of_its_chats_and_repeated_prompts(tmp_path: Path) -> None:
    asked, said = {"role": "user", "content": "Why?"}, {"role": "assistant", "content": "Because."}
    rows = [{"prompt": [asked, said]}, {"prompt": "Why?"}, {"prompt": "How?"}, {"prompt": "Why?"}]
    path = tmp_path / "train.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = catalogue.show_data(path)
    assert (found["duplicates"], found["reference_share"]) == (2, 0.25)
    assert found["first"][0] == {"prompt": [asked], "ground_truth": None}
    assert "25.0 % with a reference answer\nduplicates: 2 rows" in catalogue.render_data(found)


def test_data_from_parquet(tmp_path: Path) -> None:
    path = tmp_path / "train.parquet"
    rows = [
        {
            "prompt": [{"role": "user", "content": f"What is\n{n} + {n}?"}],
            "reward_model": {"style": "rule", "ground_truth": None if n == 3 else str(2 * n)},
            "data_source": "mine",
        }
        for n in range(4)
    ]
    pq.write_table(pa.Table.from_pylist(rows), path)
    found = catalogue.show_data(path)
    json.dumps(found)
    assert (found["rows"], found["ground_truth_share"]) == (4, 0.75)
    assert found["columns"] == ["prompt", "reward_model", "data_source"]
    assert (found["data_sources"], found["splits"]) == ({"mine": 4}, {"train": 4})
    assert found["answer_types"] == {"numeric": 3}
    assert found["first"][1] == {"prompt": rows[1]["prompt"], "ground_truth": "2"}
    text = catalogue.render_data(found)
    assert "4 rows, 75.0 % with a ground truth" in text
    assert "user: What is 1 + 1?" in text
    assert "\nanswer types: numeric (3)\n" in text
    assert_plain(text)


@pytest.mark.parametrize(
    ("name", "text"),
    [("a.jsonl", '{"prompt": "q", "x": 1}\n\n'), ("a.json", '\ufeff [{"prompt": "q", "x": 1}]')],
)
def test_data_from_json(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    found = catalogue.show_data(path)
    assert (found["rows"], found["columns"], found["ground_truth_share"]) == (1, ["prompt", "x"], 0.0)


def test_data_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        catalogue.show_data(tmp_path / "train.parquet")


def test_a_folder_of_data_names_its_files(tmp_path: Path) -> None:
    for name in ("train.parquet", "test.parquet", "manifest.json"):
        (tmp_path / name).touch()
    with pytest.raises(ConfigError, match="it is a directory") as caught:
        catalogue.show_data(tmp_path)
    assert caught.value.hint == f"name a file in it: {tmp_path}/test.parquet, {tmp_path}/train.parquet"
