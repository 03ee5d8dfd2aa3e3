"""What reaches a terminal or a spreadsheet: control characters of files are written out everywhere."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.terminal.stream import inline, printable

EVIL = "a\x1b[2J\x9b31m\x7f\u202e\u200bb"
SHOWN = "a\\x1b[2J\\x9b31m\\x7f\\u202e\\u200bb"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (EVIL, SHOWN),
        ("two\nlines\tand a tab", "two\nlines and a tab"),
        ("a\rb", "a\\x0db"),
        ("\u2028\udcff\U000e0001", "\\u2028\\udcff\\U000e0001"),
        ("caf\u00e9 \u4e2d\u6587 \U0001f600\u00a0x", "caf\u00e9 \u4e2d\u6587 \U0001f600\u00a0x"),
    ],
)
def test_what_a_terminal_would_obey_is_written_out(text, shown):
    assert printable(text) == shown


def test_inside_a_line_line_breaks_are_written_out_too():
    assert inline("a\nerror: b") == "a\\nerror: b"


PASTED = [
    ["train", f"--{EVIL}"],
    ["train", "--resume", EVIL],
    ["prep", "arith", "--limit", EVIL],
    ["inspect", "runs", "x", EVIL],
    ["inspect", EVIL],
    [EVIL],
    [f"--{EVIL}"],
]


@pytest.mark.parametrize("arguments", PASTED)
def test_usage_errors(distillctl, arguments):
    code, out, err = distillctl(*arguments)
    assert (code, out) == (2, "")
    assert is_clean(err)
    assert err.startswith("Usage: distillctl")
    assert "Error: " in err
    code, out, err = distillctl(*arguments, "--json")
    assert (code, err) == (2, "")
    assert out.isascii()


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    row = {"prompt": [{"role": "user", "content": EVIL}], "data_source": EVIL,
           "reward_model": {"ground_truth": EVIL + "\nmore", "style": "exact"},
           "extra_info": {"split": EVIL + "\nerror: "}, f"{EVIL}\nrow": 1}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), "x.parquet")


def is_clean(text):
    return all(char.isprintable() or char == "\n" for char in text)


def test_data(data, distillctl):
    code, out, _ = distillctl("inspect", "data", "x.parquet")
    assert code == 0
    assert is_clean(out)
    assert f"sources: {SHOWN} (1)" in out
    assert f"splits: {SHOWN}\\nerror:  (1)" in out
    assert f"{SHOWN}\\nrow" in out
    assert f"ground truth {SHOWN}\\nmore" in out


def test_json_is_escaped(data, distillctl):
    code, out, _ = distillctl("inspect", "data", "x.parquet", "--json")
    assert code == 0
    assert is_clean(out)
    assert out.isascii()
    assert EVIL in json.loads(out)["data_sources"]


def test_an_error_that_names_a_role(tmp_path, monkeypatch, distillctl):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({"prompt": [[{"role": EVIL, "content": "x"}]]}), "x.parquet")
    code, _, err = distillctl("inspect", "data", "x.parquet")
    assert code == 2
    assert is_clean(err)
    assert SHOWN in err


def test_an_error_that_names_columns(tmp_path, monkeypatch, distillctl):
    monkeypatch.chdir(tmp_path)
    pq.write_table(pa.table({f"{EVIL}\n  fix: run me": [1]}), "x.parquet")
    code, _, err = distillctl("inspect", "data", "x.parquet")
    assert code == 2
    assert is_clean(err)
    assert err.count("\n  fix: ") == 1


def test_an_error_that_names_a_file(distillctl):
    code, _, err = distillctl("inspect", "data", f"{EVIL}.parquet")
    assert code == 2
    assert f"error: {SHOWN}.parquet: no such file" in err
