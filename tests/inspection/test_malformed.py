"""Runs that were damaged or made by somebody else: commands list, show or refuse them in plain words."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillctl.inspection import runs as listing
from distillctl.monitor.charset import Look
from distillctl.monitor.screen import frame
from distillctl.monitor.state import RunState
from distillctl.run.checkpoints import find_damage
from distillctl.run.event_form import KINDS
from distillctl.run.events import parse_event
from distillctl.run.sample_files import TOKEN_TEXT

ACCURACIES = (0.2, 0.4)


@pytest.fixture(scope="module")
def sound(tmp_path_factory, make_run, make_row):
    """A run with everything that the commands read."""
    path = tmp_path_factory.mktemp("sound") / "runs" / "tiny" / "0001"
    run = make_run(path).write(30, accuracies=ACCURACIES)
    for step in (0, 10):
        run.save("eval", step, [make_row(i) for i in range(3)])
    run.save("samples", 1, [make_row(i, prefix="train") for i in range(3)])
    checkpoint = run.dir.checkpoints / "step_000030"
    (checkpoint / "hf").mkdir(parents=True)
    (checkpoint / "manifest.json").write_text(json.dumps({"format": 1, "world_size": 1, "files": {}}))
    return path


@pytest.fixture
def runs(sound, tmp_path, monkeypatch):
    """The current directory: `runs/tiny/0001` is sound, `runs/tiny/0002` is a copy to be spoilt."""
    shutil.copytree(sound.parent.parent, tmp_path / "runs")
    shutil.copytree(sound, tmp_path / "runs/tiny/0002")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "runs/tiny"


GOOD, BAD = "runs/tiny/0001", "runs/tiny/0002"
COMMANDS = {
    "run": ("run", BAD),
    "run --json": ("run", BAD, "--json"),
    "run --follow": ("run", BAD, "--follow"),
    "export": ("run", BAD, "--export", "x.csv"),
    "export parquet": ("run", BAD, "--export", "x.parquet"),
    "samples": ("samples", BAD),
    "rollouts --json": ("samples", BAD, "--step", 1, "--json"),
    "compare": ("compare", GOOD, BAD),
    "report": ("report", BAD),
    "config": ("config", BAD),
}


@pytest.fixture
def inspect(distillctl):
    """Runs every command on the spoilt run; each shows it or says why not. What they said, by name."""

    def run(commands=COMMANDS):
        code, out, err = distillctl("inspect", "runs")
        assert code == 0, err
        assert "runs/tiny/0001" in out
        said = {"runs": out + err}
        for name, command in commands.items():
            code, out, err = distillctl("inspect", *command)
            assert code in (0, 2), (name, code, err)
            assert "Traceback" not in err
            assert code == 0 or name.endswith("--json") or err.startswith("error: "), name
            said[name] = out + err
        return said

    return run


HUGE = 10**400
LINES = {
    "not an object": [1, 2],
    "no kind": {"step": 1},
    "kind is a number": {"kind": 1},
    "step is text": {"kind": "step", "step": "one", "metrics": {}},
    "step is negative": {"kind": "step", "step": -5, "metrics": {}},
    "step is huge": {"kind": "step", "step": HUGE, "metrics": {}},
    "step is true": {"kind": "step", "step": True, "metrics": {}},
    "step is null": {"kind": "step", "step": None, "metrics": {}},
    "no metrics": {"kind": "step", "step": 31},
    "metrics are a list": {"kind": "step", "step": 31, "metrics": [1]},
    "a metric is text": {"kind": "step", "step": 31, "metrics": {"kl/reverse": "low"}},
    "a metric is an object": {"kind": "step", "step": 31, "metrics": {"kl/reverse": {"a": 1}}},
    "a metric is true": {"kind": "step", "step": 31, "metrics": {"kl/reverse": True}},
    "seconds are negative": {"kind": "step", "step": 31, "metrics": {"timing_s/rollout": -1e9}},
    "a long name": {"kind": "step", "step": 31, "metrics": {"x" * 1000: 1}},
    "time is text": {"kind": "start", "t": "noon", "step": 0},
    "time is huge": {"kind": "start", "t": 1e300, "step": 0},
    "attempt is text": {"kind": "start", "attempt": "2", "step": 0},
    "steps are text": {"kind": "start", "step": 0, "steps": "many"},
    "the student is a list": {"kind": "start", "step": 0, "student": ["s"]},
    "a phase without a name": {"kind": "phase", "step": 0, "state": "begin"},
    "a phase without seconds": {"kind": "phase", "step": 0, "state": "end", "name": "p"},
    "a phase with text": {"kind": "phase", "step": 0, "state": "end", "name": "p", "seconds": "x"},
    "a check without a level": {"kind": "check", "step": 0, "name": "n", "detail": "d"},
    "accuracies are a list": {"kind": "eval", "step": 30, "metrics": []},
    "an accuracy of 7": {"kind": "eval", "step": 30, "metrics": {"val/acc": 7}, "num": 5},
    "a number of text": {"kind": "eval", "step": 30, "metrics": {"val/acc": 0.5}, "num": "five"},
    "a checkpoint without a path": {"kind": "checkpoint", "step": 30},
    "a warning that is a list": {"kind": "warn", "step": 30, "message": ["m"]},
    "a sample of unequal lists": {"kind": "sample", "step": 1, "pieces": ["a", "b"], "kl": [1.0]},
    "a sample of numbers": {"kind": "sample", "step": 1, "pieces": [1], "kl": [1.0]},
    "a stop without a signal": {"kind": "stop", "step": 1},
    "an end without a state": {"kind": "end", "step": 30, "exit_code": 0, "seconds": 1.0},
    "an end of text": {"kind": "end", "step": 30, "state": "done", "exit_code": "0", "seconds": 1.0},
}


@pytest.mark.parametrize("name", LINES)
def test_a_malformed_event_is_left_out_and_counted(runs, inspect, name):
    with (runs / "0002/events.jsonl").open("a") as file:
        file.write(json.dumps(LINES[name]) + "\n")
    said = inspect({name: COMMANDS[name] for name in ("run", "run --follow", "compare")})
    told = "0002/events.jsonl: 1 lines are not events and are left out"
    assert f"runs/tiny/0002: runs/tiny/{told}" in said["runs"]
    assert f"not shown: runs/tiny/{told}" in said["run"]


NUMBERS = {"a": 1e300, "b": HUGE, "kl/reverse": -1e200, "timing_s/step": 1e99, "timing_s/rollout": 1e99,
           "gpu/used_bytes/0": 1e99, "=1+1": 1.0, "step": 5, "\x1b[31mred\x9b": 1.0}  # fmt: skip


def test_numbers_without_measure_do_not_break_anything(runs, inspect):
    with (runs / "0002/events.jsonl").open("a") as file:
        for step in range(31, 61):
            file.write(json.dumps({"kind": "step", "step": step, "metrics": NUMBERS, "t": 1e11}) + "\n")
        file.write('{"kind": "step", "step": 61, "metrics": {"a": 1e999, "b": -1e999, "c": NaN}}\n')
        file.write(json.dumps({"kind": "eval", "step": 60, "metrics": {"val/acc": 1.0}, "num": 2**53}) + "\n")
        file.write(json.dumps({"kind": "sample", "step": 60, "pieces": ["\x1b"], "kl": [1e99]}) + "\n")
    said = inspect()
    assert "left out" not in said["run"]
    assert not any(char in said[name] for name in said for char in "\x1b\x9b")
    rows = Path("x.csv").read_text().splitlines()
    assert rows[0].split(",").count("step") == 1
    assert "'=1+1" in rows[0].split(",")
    assert "\\x1b[31mred\\x9b" in rows[0]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just(HUGE),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
metrics = st.dictionaries(
    st.sampled_from(["kl/reverse", "timing_s/step", "val/acc", "x"]), values, max_size=3
)
lines = st.fixed_dictionaries(
    {"kind": st.sampled_from(sorted(KINDS))},
    optional={"step": st.integers(0, 40) | values, "metrics": metrics | values}
    | {
        key: values | st.floats(0, 1e9) | st.text(max_size=3)
        for key in ("t", "attempt", "steps", "student", "teacher", "run", "name", "seconds", "detail",
                    "level", "num", "path", "message", "signal", "exit_code", "mean_kl")
    }
    | {"state": st.sampled_from(["begin", "end", "done"]) | values, "pieces": values, "kl": values},
)  # fmt: skip


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(lines=st.lists(lines, min_size=1, max_size=4))
def test_any_event_is_shown_or_left_out(runs, inspect, lines):
    (runs / "0002/events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    inspect({name: COMMANDS[name] for name in ("run", "run --follow", "export", "compare")})


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(line=lines)
def test_any_event_can_be_drawn(line):
    state = RunState()
    event = parse_event(json.dumps(line).encode())
    if event is not None:
        state.apply(event)
    for size in ((120, 40), (50, 6)):
        assert all(text.plain.isprintable() for text in frame(state, *size, 1e9, Look()))


STATUS = {
    "a list": "[]",
    "not JSON": "{",
    "deep": "[" * 100_000,
    "wrong types": '{"state": 7, "step": "x", "exit_code": [1]}',
    "huge numbers": '{"state": "done", "step": ' + "9" * 5000 + "}",
    "not UTF-8": "\udcff",
}


@pytest.mark.parametrize("name", STATUS)
def test_a_malformed_status_is_named(runs, inspect, name):
    (runs / "0002/status.json").write_bytes(STATUS[name].encode(errors="surrogateescape"))
    said = inspect({"run": COMMANDS["run"]})
    assert "runs/tiny/0002: runs/tiny/0002/status.json" in said["runs"]
    assert "not shown: runs/tiny/0002/status.json" in said["run"]


def test_escape_codes_of_a_status_are_written_out(runs, inspect):
    (runs / "0002/status.json").write_text(json.dumps({"state": "\x1b[2Jdone\nfine"}))
    assert "\\x1b[2Jdone\\nfine" in inspect({"run": COMMANDS["run"]})["run"]


def rewrite(path, change):
    """The samples file with `change(table)`."""
    pq.write_table(change(pq.read_table(path)), path)


def with_column(name, values):
    return lambda table: table.set_column(table.column_names.index(name), name, values)


SAMPLES = {
    "another column's type": (with_column("response_ids", pa.array(["a", "b", "c"])), "has the type string"),
    "ids that are null": (with_column("response_ids", pa.array([[1], None, [2]])), "no response_ids"),
    "names that are null": (with_column("prompt_id", pa.array(["a", None, "b"])), "a row has no prompt_id"),
    "no text": (lambda table: table.drop_columns("text"), "has no column text"),
    "a column twice": (
        lambda table: table.append_column("text", pa.array(["a", "b", "c"])), "several columns|cannot be read"
    ),
    "too few divergences": (with_column("kl", pa.array([[0.5]] * 3, pa.list_(pa.float32()))), "kl has 1 "),
    "alternatives of other lengths": (
        with_column("teacher_top_ids", pa.array([[[1]] * 8] * 3, pa.list_(pa.list_(pa.int32())))),
        "of different lengths",
    ),
    "texts that are a list": (lambda table: table.replace_schema_metadata({TOKEN_TEXT: "[]"}), "metadata"),
    "numbers": (lambda table: table.replace_schema_metadata({TOKEN_TEXT: '{"1": 2}'}), "metadata"),
    "texts that are no JSON": (lambda table: table.replace_schema_metadata({TOKEN_TEXT: "{"}), "metadata"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAMPLES)
def test_a_malformed_samples_file_is_named(runs, inspect, name):
    change, told = SAMPLES[name]
    rewrite(runs / "0002/eval/step_000010.parquet", change)
    rewrite(runs / "0002/samples/step_000001.parquet", change)
    said = inspect({name: COMMANDS[name] for name in ("samples", "rollouts --json", "report")})
    for text in (said["samples"], said["rollouts --json"], said["report"]):
        assert re.search(rf"step_0000\d\d\.parquet: .*({told})", text)


def test_numbers_of_samples_without_measure_are_left_out(runs, inspect):
    infinite = pa.array([[float("inf"), float("nan"), -float("inf"), 1.0] * 2] * 3, pa.list_(pa.float32()))
    for name in ("kl", "response_logprobs"):
        rewrite(runs / "0002/eval/step_000010.parquet", with_column(name, infinite))
    said = inspect({name: COMMANDS[name] for name in ("samples", "report")})
    assert "mean kl 1.000" in said["samples"]
    assert said["report"].startswith("runs/tiny/0002/report.html")


def test_a_run_that_takes_too_much_memory_hides_no_other(runs, distillctl, monkeypatch):
    load = listing.load_events

    def too_large(path, **settings):
        if "0002" in str(path):
            raise MemoryError
        return load(path, **settings)

    monkeypatch.setattr(listing, "load_events", too_large)
    code, out, _ = distillctl("inspect", "runs")
    assert code == 0
    assert "runs/tiny/0002: reading it takes more memory than is free" in out
    assert re.search(r"runs/tiny/0001 .* 30/", out)


OTHERS = {
    "config.yaml": ["[]", "a: [", "student: 1", "a: &a [*a]", "{" * 2_000, "\x00"],
    "checkpoints/latest.json": ["[]", '{"path": 7}', '{"path": "../../../x"}', "{", "[" * 100_000],
    "provenance.json": ["[]", '"x"', '{"argv": {"a": 1}, "packages": 7}', '{"a":' * 900 + "1" + "}" * 900],
    "eval/step_000010.json": ["[]", "{"],
}


@pytest.mark.parametrize(("file", "content"), [(file, one) for file, all_ in OTHERS.items() for one in all_])
def test_other_malformed_files_are_refused_or_left_out(runs, inspect, file, content):
    (runs / "0002" / file).write_text(content)
    names = ("report", "config") if "provenance" in file or "eval" in file else ("run", "compare", "config")
    inspect({name: COMMANDS[name] for name in names})


MANIFESTS = [
    "[]",
    "{",
    '{"format": 1}',
    '{"format": 1, "world_size": "2", "files": {}}',
    '{"format": 1, "world_size": 1e999, "files": {}}',
    '{"format": 1, "world_size": 1, "files": [1]}',
    '{"format": 1, "world_size": 1, "files": {"a": 1}}',
    '{"format": 1, "world_size": 1, "files": {"/etc/passwd": {"size_bytes": 1, "sha256": ""}}}',
    '{"format": 1, "world_size": 1, "files": {"../x": {"size_bytes": 1, "sha256": ""}}}',
]


@pytest.mark.parametrize("content", MANIFESTS)
def test_a_malformed_manifest_makes_a_checkpoint_damaged(runs, content):
    path = runs / "0002/checkpoints/step_000030"
    (path / "manifest.json").write_text(content)
    assert "manifest.json" in find_damage(path)


SPECIAL = [
    "events.jsonl",
    "status.json",
    "config.yaml",
    "provenance.json",
    ".lock",
    "checkpoints/latest.json",
    "checkpoints/step_000030/manifest.json",
    "eval/step_000010.parquet",
    "samples/step_000001.parquet",
    "logs/attempt_1/rank_0.log",
]


def make_fifo(path):
    os.mkfifo(path)


def link_to_zero(path):
    path.symlink_to("/dev/zero")


@pytest.fixture
def in_time():
    """Whoever waits for a pipe is interrupted by an alarm, which fails the test."""

    def fail(signum, frame):
        pytest.fail("it hangs")

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(60)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("make", [make_fifo, link_to_zero])
@pytest.mark.parametrize("file", SPECIAL)
def test_pipes_and_devices_are_not_opened(runs, inspect, in_time, file, make):
    (runs / "0002" / file).unlink(missing_ok=True)
    make(runs / "0002" / file)
    inspect({name: COMMANDS[name] for name in ("run", "samples", "rollouts --json", "compare")})
