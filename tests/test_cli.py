"""The command line's contract: options, streams, exit codes, errors. No engine is started here."""

import json
import os
import subprocess
import sys

import pytest
import typer

from distillctl import __version__
from distillctl.cli import app
from distillctl.data import sets

PRESET = "tiny-from-small-arith"
PREP = {"--out", "--limit", "--force", "--json"}
SURFACE = {
    "prep gsm8k": PREP | {"--source"},
    "prep arith": PREP,
    "prep jsonl": PREP | {"--source", "--prompt-field", "--answer-field", "--answer-type"},
    "train": {"overrides", "--preset", "--config", "--run-dir", "--resume", "--elastic", "--display",
              "--dry-run", "--json"},
    "eval": {"--checkpoint", "--data", "--baseline", "--limit", "--n", "--temperature", "--max-tokens",
             "--teacher", "--score", "--require", "--junit", "--out", "--cache-dir", "--no-cache",
             "--display", "--json"},
    "inspect presets": {"--json"},
    "inspect config": {"name", "--json"},
    "inspect schema": {"--json"},
    "inspect runs": {"folder", "--json"},
    "inspect samples": {
        "run", "--step", "--wrong", "--truncated", "--worst", "--prompt-id", "--token", "--limit", "--json",
    },
    "inspect run": {"run", "--follow", "--export", "--json"},
    "inspect compare": {"runs", "--json"},
    "inspect report": {"runs", "--output", "-o", "--json"},
    "inspect data": {"file", "--json"},
}  # fmt: skip
GROUPS = ["", "prep", "inspect"]


def commands(command=None, path=""):
    """Every command that is not a group, by the words that call it."""
    command = command or typer.main.get_command(app.app)
    if not hasattr(command, "list_commands"):
        return {path: command}
    found = {}
    for name in command.list_commands(None):
        found |= commands(command.get_command(None, name), f"{path} {name}".strip())
    return found


def script(*arguments, cwd, **environment):
    """The command line in a process of its own, its output in pipes."""
    return subprocess.run(
        [sys.executable, "-m", "distillctl", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_the_commands_are_these():
    data_sets = {f"prep {name}" for name in sets.names()}
    assert commands().keys() == SURFACE.keys() | data_sets


@pytest.mark.parametrize("name", sets.names())
def test_every_data_set_has_the_common_options_and_an_example(distillctl, name):
    options = {option for parameter in commands()[f"prep {name}"].params for option in parameter.opts}
    assert options >= PREP
    assert distillctl("prep", name, "-h")[1].splitlines()[-1].startswith(f"  Example: distillctl prep {name}")


@pytest.fixture
def broken(tmp_path, monkeypatch):
    """A file among the data sets that defines none."""
    path = tmp_path / "broken.py"
    path.write_text('"""Nothing."""\n')
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    monkeypatch.setattr(sets, "broken", None, raising=False)
    yield path
    sys.modules.pop(f"{sets.__name__}.broken", None)


def test_a_data_set_that_defines_none_is_told_and_the_others_work(distillctl, broken):
    code, out, _ = distillctl("prep", "-h")
    assert code == 0
    assert f"broken{broken}:definesnodata_set" in "".join(out.split())  # the terminal's width breaks lines
    code, out, err = distillctl("prep", "broken", "--source", "x.csv")
    assert (code, out) == (2, "")
    assert (
        err
        == f"error: {broken}: defines no data_set\n  fix: define the function data_set, or move the file\n"
    )


def test_an_unknown_data_set_is_answered_with_those_that_there_are(distillctl):
    code, _, err = distillctl("prep", "arit")
    assert code == 2
    assert f"no data set is named 'arit'; there are: {', '.join(sets.names())}" in " ".join(err.split())


@pytest.mark.parametrize("command", SURFACE)
def test_a_command_takes_these_options_and_no_others(command):
    parameters = commands()[command].params
    names = {option for parameter in parameters for option in (*parameter.opts, *parameter.secondary_opts)}
    assert names == SURFACE[command]


def test_the_choices_are_these(distillctl):
    text = distillctl("train", "-h")[1]
    assert "--resume <never|auto|must>" in text
    assert "--display <auto|tui|plain|quiet>" in text


def test_version(distillctl):
    assert distillctl("--version") == (0, f"{__version__}\n", "")


@pytest.mark.parametrize("flag", ["-h", "--help"])
@pytest.mark.parametrize("command", [*GROUPS, *SURFACE])
def test_help_answers_at_every_level(distillctl, command, flag):
    code, out, err = distillctl(*command.split(), flag)
    assert code == 0
    assert out.startswith(f"Usage: distillctl {command}".rstrip())
    assert err == ""


@pytest.mark.parametrize("command", SURFACE)
def test_help_ends_with_an_example_of_that_command(distillctl, command):
    last = distillctl(*command.split(), "-h")[1].rstrip().split("\n\n")[-1]
    assert last.split()[: 2 + len(command.split())] == ["Example:", "distillctl", *command.split()]


def test_help_lists_the_commands_in_the_order_in_which_they_are_used(distillctl):
    listed = distillctl("-h")[1].partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed if not line.startswith("   ")] == [
        "prep", "train", "eval", "inspect",
    ]  # fmt: skip


@pytest.mark.parametrize("group", GROUPS)
def test_help_gives_the_whole_summary_of_each_command(distillctl, group, monkeypatch):
    monkeypatch.setenv("COLUMNS", "60")
    text = " ".join(distillctl(*group.split(), "-h")[1].split())
    assert "..." not in text.partition("Commands:")[2]
    for path, command in commands().items():
        if path.rpartition(" ")[0] == group:
            assert " ".join(command.get_short_help_str(10_000).split()) in text


def test_help_shows_how_a_key_is_set(distillctl):
    assert "such as optim.lr=5e-4" in " ".join(distillctl("train", "-h")[1].split())


@pytest.mark.parametrize("command", GROUPS)
def test_without_a_command_help_goes_to_stderr_and_the_exit_code_is_2(distillctl, command):
    code, out, err = distillctl(*command.split())
    assert (code, out) == (2, "")
    assert err.startswith("Usage: distillctl")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "-h"], ["train", "--bogus"], ["train"]])
def test_no_escape_codes_reach_a_pipe(tmp_path, arguments):
    done = script(*arguments, cwd=tmp_path, FORCE_COLOR="1", GITHUB_ACTIONS="true", PY_COLORS="1")
    assert "\x1b" not in done.stdout + done.stderr


USAGE = {
    "unknown option": (["train", "--bogus"], "--bogus"),
    "unknown command": (["trian"], "Did you mean 'train'?"),
    "unknown subcommand": (["inspect", "preset"], "Did you mean 'presets'?"),
    "missing argument": (["inspect", "config"], "Missing argument"),
    "missing option": (["eval"], "--checkpoint"),
    "not a choice": (["train", "--preset", PRESET, "--resume", "maybe"], "--resume"),
    "not a number": (["prep", "arith", "--limit", "few"], "--limit"),
    "out of bounds": (["prep", "arith", "--limit", "0"], "--limit"),
}
CONFIG = {
    "neither preset nor config": (["train"], "exactly one of --preset and --config", "inspect presets"),
    "both": (["train", "--preset", PRESET, "--config", "x.yaml"], "exactly one of", "inspect presets"),
    "near preset": (["train", "--preset", "tiny-from-small-arit"], "tiny-from-small-arit", PRESET),
    "unknown preset": (["train", "--preset", "zzz"], "'zzz'", "inspect presets"),
    "unknown config": (["inspect", "config", "zzz"], "'zzz'", "inspect presets"),
    "missing file": (["train", "--config", "gone.yaml"], "gone.yaml: no such file", "inspect presets"),
    "near key": (["train", "--preset", PRESET, "optim.warmup_step=3"], "'optim.warmup_step'", "warmup_steps"),
    "unknown key": (["train", "--preset", PRESET, "zzz=3"], "'zzz'", "inspect config"),
    "no override": (["train", "--preset", PRESET, "optim.lr"], "KEY=VALUE", "optim.lr=1e-5"),
    "missing data": (["train", "--preset", PRESET], "data/arith/train.parquet", "distillctl prep arith"),
    "missing source": (["prep", "gsm8k", "--source", "gone"], "gone: does not exist", "--source"),
    "missing runs": (["inspect", "runs"], "runs: no such folder", "runs"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_are_for_people_on_stderr(distillctl, case):
    arguments, words = USAGE[case]
    code, out, err = distillctl(*arguments)
    assert (code, out) == (2, "")
    assert words in err
    assert "-h' for help" in err


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_are_one_document_with_json(distillctl, case):
    arguments, words = USAGE[case]
    code, out, err = distillctl(*arguments, "--json")
    assert (code, err) == (2, "")
    error = json.loads(out)["error"]
    assert error.keys() == {"kind", "message", "hint"}
    assert error["kind"] == "usage"
    assert words in error["message"]
    assert error["hint"].endswith("-h")


@pytest.mark.parametrize("command", SURFACE)
def test_an_option_of_one_value_that_is_given_twice_is_named(distillctl, command):
    words = command.split()
    for option in commands()[command].params:
        if option.param_type_name == "argument" or option.is_flag or option.multiple:
            continue
        name = option.opts[0]
        for given in ([name, "1", name, "2"], [f"{name}=1", name, "1"], [f"{name}=1", f"{name}=1"]):
            code, out, err = distillctl(*words, *given)
            assert (code, out) == (2, "")
            assert f"{name}" in err.splitlines()[-1]
            assert "more than once" in err.splitlines()[-1]
        code, out, err = distillctl(*words, name, "1", name, "2", "--json")
        assert (code, err) == (2, "")
        assert name in json.loads(out)["error"]["message"]


def test_two_spellings_of_an_option_are_one(distillctl):
    code, _, err = distillctl("inspect", "report", "x", "-o", "a.html", "--output", "b.html")
    assert code == 2
    assert "--output" in err.splitlines()[-1]


def test_a_flag_may_be_repeated(distillctl):
    assert distillctl("prep", "arith", "--limit", 1, "--force", "--force", "--json", "--json")[0] == 0


def test_an_option_without_its_value_is_a_usage_error(distillctl):
    code, out, err = distillctl("train", "--json", "--preset")
    assert (code, err) == (2, "")
    assert json.loads(out)["error"]["kind"] == "usage"


@pytest.mark.parametrize("case", CONFIG)
def test_errors_say_what_is_wrong_and_how_to_fix_it(distillctl, case):
    arguments, message, hint = CONFIG[case]
    code, out, err = distillctl(*arguments)
    assert (code, out) == (2, "")
    first, fix = err.split("\n  fix: ")
    assert first.startswith("error: ")
    assert message in first
    assert hint in fix


@pytest.mark.parametrize("case", CONFIG)
def test_errors_are_one_document_with_json(distillctl, case):
    arguments, message, hint = CONFIG[case]
    code, out, err = distillctl(*arguments, "--json")
    assert (code, err) == (2, "")
    error = json.loads(out)["error"]
    assert error.keys() == {"kind", "message", "hint"}
    assert error["kind"] == "config"
    assert message in error["message"]
    assert hint in error["hint"]


def test_the_traceback_of_an_error_is_there_on_request(distillctl, monkeypatch):
    monkeypatch.setenv("DISTILLCTL_DEBUG", "1")
    assert "Traceback" in distillctl("train")[2]


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("student.model=./gone", "student.model: ./gone is neither"),
        ("teacher.model=./gone", "teacher.model: ./gone is neither"),
        ("student.model=.", "has no config.json"),
        ("student.model=builtin:gone", "student.model: no model 'gone' is shipped"),
        ("data.train_batch_size=21", "data.train_batch_size=21, but the data has 20 prompts"),
    ],
)
def test_what_contradicts_model_or_data_starts_and_writes_nothing(distillctl, tmp_path, override, message):
    assert distillctl("prep", "arith", "--limit", 20)[0] == 0
    batch = "data.train_batch_size=4"
    code, out, err = distillctl("train", "--preset", PRESET, "train.device=cpu", batch, override)
    assert (code, out) == (2, "")
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_prep_prints_the_data_directory_and_its_counts_on_stderr(distillctl):
    code, out, err = distillctl("prep", "arith", "--limit", 3)
    assert (code, out) == (0, "data/arith\n")
    assert err.splitlines() == [
        f"{split}: 3 rows, 3 with a ground truth, 3 with a reference answer" for split in ("train", "test")
    ]
    assert distillctl("prep", "arith", "--limit", 3, "--out", "x/y")[1] == "x/y\n"


def test_prep_with_json_prints_its_directory_and_manifest(distillctl, tmp_path):
    code, out, err = distillctl("prep", "arith", "--limit", 3, "--json")
    assert (code, err) == (0, "")
    manifest = json.loads((tmp_path / "data/arith/manifest.json").read_text())
    assert json.loads(out) == {"directory": "data/arith", **manifest}


@pytest.mark.parametrize("flags", [[], ["--json"]])
def test_prep_names_what_it_does_not_use_without_control_characters(distillctl, tmp_path, flags):
    (tmp_path / "my.jsonl").write_text(json.dumps({"question": "1+1?", "answer": 2, "no\x1b[31mte": "x"}))
    code, _, err = distillctl("prep", "jsonl", "--source", "my.jsonl", *flags)
    assert code == 0
    assert err.splitlines()[-1] == "columns with text that are not used: `no\\x1b[31mte`"


def test_prep_does_not_overwrite_unasked(distillctl):
    distillctl("prep", "arith", "--limit", 3)
    code, out, err = distillctl("prep", "arith", "--limit", 3)
    assert (code, out) == (2, "")
    assert "fix: --force" in err
    assert distillctl("prep", "arith", "--limit", 3, "--force")[0] == 0


def test_prep_jsonl_takes_the_users_fields(distillctl, tmp_path):
    (tmp_path / "my.jsonl").write_text('{"q": "1+1?", "a": 2}\n')
    fields = ["--prompt-field", "q", "--answer-field", "a"]
    assert distillctl("prep", "jsonl", "--source", "my.jsonl", *fields)[:2] == (0, "data/jsonl\n")
    shown = json.loads(distillctl("inspect", "data", "data/jsonl/train.parquet", "--json")[1])
    assert "1+1?" in json.dumps(shown)


CAPITALS = '''"""Capitals."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from typer import Option

from distillctl.data.prep import DataSet
from distillctl.data.schema import Example


def data_set(country: Annotated[str, Option(help="Only this country.")]) -> DataSet:
    """Capitals of a country.

    Example: distillctl prep capital_cities --country France
    """
    return DataSet(data_source="capital_cities", splits={"train": [_example(country)]})


def _example(country: str) -> Example:
    return Example(prompt=f"What is the capital of {country}?", ground_truth="Paris", answer_type="exact")
'''


def test_a_file_among_the_data_sets_is_a_command(distillctl, tmp_path, monkeypatch):
    (tmp_path / "capital_cities.py").write_text(CAPITALS)
    monkeypatch.setattr(sets, "__path__", [*sets.__path__, str(tmp_path)])
    assert "capital_cities  Capitals of a country." in distillctl("prep", "-h")[1]
    told = distillctl("prep", "capital_cities", "-h")[1]
    assert "Only this country." in told
    assert "[default: data/capital_cities]" in told
    code, out, err = distillctl("prep", "capital_cities", "--country", "France", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["rows"] == {"train": 1}
    assert distillctl("prep", "capital_cities", "--country", "France")[0] == 2
    assert (
        distillctl("prep", "capital_cities", "--country", "France", "--force")[1] == "data/capital_cities\n"
    )
    shown = json.loads(distillctl("inspect", "data", "data/capital_cities/train.parquet", "--json")[1])
    message = {"role": "user", "content": "What is the capital of France?"}
    assert shown["first"] == [{"prompt": [message], "ground_truth": "Paris"}]


def test_inspect_config_is_a_file_that_train_takes(distillctl, tmp_path):
    (tmp_path / "mine.yaml").write_text(distillctl("inspect", "config", PRESET)[1])
    ours = json.loads(distillctl("inspect", "config", "mine.yaml", "--json")[1])
    assert ours == json.loads(distillctl("inspect", "config", PRESET, "--json")[1])


@pytest.mark.parametrize("command", [["presets"], ["schema"], ["config", PRESET], ["runs", "."]])
def test_inspect_prints_one_document_with_json(distillctl, command):
    code, out, err = distillctl("inspect", *command, "--json")
    assert (code, err) == (0, "")
    assert json.loads(out) is not None


def test_a_reader_that_stops_early_is_no_error_with_a_traceback(tmp_path):
    shell = f"{sys.executable} -m distillctl inspect schema | head -1"
    done = subprocess.run(shell, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Traceback" not in done.stderr


def test_an_option_without_a_value_is_refused(distillctl):
    code, out, err = distillctl("prep", "arith", "--out", "")
    assert (code, out) == (2, "")
    assert "--out: is empty" in err


@pytest.mark.parametrize("command", SURFACE)
@pytest.mark.parametrize(("value", "words"), [("", "is empty"), ("m\udcff", r"'m\udcff' is not UTF-8")])
def test_an_empty_value_and_one_that_is_not_utf8_are_refused_everywhere(distillctl, command, value, words):
    """Alone, behind `=`, and as the last of several."""
    for option in commands()[command].params:
        if getattr(option, "is_flag", False):
            continue
        name = option.opts[0]
        if option.param_type_name == "argument":
            tried, name = [[value], *([["x", value]] if option.nargs == -1 else [])], name.upper()
        else:
            tried = [[name, value], [f"{name}={value}"]]
            tried += [[name, "x", name, value], [name, value, name, "x"]] if option.multiple else []
        for given in tried:
            code, out, err = distillctl(*command.split(), *given)
            assert (code, out) == (2, "")
            assert words in err.splitlines()[-1]
            assert name == "OVERRIDES" or name in err.splitlines()[-1]
