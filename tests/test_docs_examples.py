"""The code in the docs works: blocks that begin with `# FILE` are written to that file and run."""

import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from distillctl.files.python_file import run_file
from distillctl.train.custom_loss import CustomLoss, try_loss

ROOT = Path(__file__).parent.parent


def blocks(page, language="python"):
    """Code blocks of a page of docs/ by the file that the first line names."""
    text = (ROOT / "docs" / page).read_text()
    return dict(re.findall(rf"^```{language}\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


def changed(text, change):
    """A text with the lines of a `diff` block that begin with `+`, around its one line that is there."""
    lines = change.splitlines(keepends=True)
    (anchor,) = [line[1:] for line in lines if line.startswith(" ")]
    assert text.count(f"\n{anchor}") == 1
    return text.replace(f"\n{anchor}", "\n" + "".join(line[1:] for line in lines))


@pytest.fixture(scope="module")
def examples():
    return blocks("extending.md")


def test_the_page_has_the_examples_that_are_tested_here(examples):
    assert {"my_loss.py", "distillctl/objective/divergences/hellinger.py"} <= set(examples)


def test_the_loss_of_your_own_file_is_the_skewed_kl(examples, tmp_path):
    (tmp_path / "my_loss.py").write_text(examples["my_loss.py"])
    loss = CustomLoss.load("my_loss.py", tmp_path)
    try_loss(loss, 465, torch.device("cpu"))
    q, p = [0.7, 0.2, 0.1], [0.1, 0.3, 0.6]
    log_q_CV, log_p_CV = torch.tensor([q]).log(), torch.tensor([p]).log()
    value_C, _ = loss(log_q_CV, log_q_CV.exp(), log_p_CV, None)
    mixture = [0.1 * p_v + 0.9 * q_v for q_v, p_v in zip(q, p, strict=True)]
    expected = sum(p_v * math.log(p_v / m_v) for p_v, m_v in zip(p, mixture, strict=True))
    assert value_C.tolist() == pytest.approx([expected], rel=1e-5)


def test_the_slope_that_is_written_out_is_the_one_by_autograd(examples, tmp_path):
    name = "distillctl/objective/divergences/hellinger.py"
    both = []
    for file, source in (("by_autograd.py", examples[name]), ("by_hand.py", examples["value_and_slope"])):
        (tmp_path / file).write_text(source)
        both.append(run_file(str(tmp_path / file), "docs").value_and_slope)
    generator = torch.Generator().manual_seed(0)
    log_q_CV, log_p_CV = torch.randn(2, 5, 9, generator=generator).double().log_softmax(-1)
    by_autograd, by_hand = (each(log_q_CV, log_q_CV.exp(), log_p_CV, None) for each in both)
    torch.testing.assert_close(by_hand, by_autograd, rtol=1e-13, atol=0)


def test_the_examples_pass_the_projects_linter(examples, tmp_path):
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    for name, source in examples.items():
        file = tmp_path / (name if name.endswith(".py") else f"{name}.py")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(source)
    ours = "lint.isort.known-first-party=['distillctl']"
    done = subprocess.run(
        [sys.executable, "-m", "ruff", "check", "--no-cache", "--config", ours, "."], cwd=tmp_path,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout


A_DIVERGENCE = """
import json
from pathlib import Path
import pytest
from pathlib import Path
from distillctl.config.loading import load_preset
from distillctl.config.schema import Config
modules = ["test_reference.py", "objective/test_divergences.py", "objective/test_topk.py",
           "objective/test_hellinger.py"]
options = ["-q", "-p", "no:cacheprovider", "-k", "hellinger or up_to_date"]
assert pytest.main([*options, *(f"tests/{module}" for module in modules)]) == 0
tiny = "tiny-from-small-arith"
assert load_preset(tiny, ["loss.kind=hellinger"]).loss.kind == "hellinger"
listed = load_preset(tiny, ["loss.kind=topk", "loss.topk_divergence=hellinger"])
assert listed.loss.topk_divergence == "hellinger"
assert json.dumps(Config.model_json_schema()).count('"hellinger"') == 2
try:
    load_preset(tiny, ["loss.kind=helinger"])
except ValueError as error:
    assert "'hellinger'" in str(error)

from typer.testing import CliRunner
from distillctl.cli.app import app
file = Path("distillctl/objective/divergences/hellinger.py").resolve()
file.write_text(file.read_text().replace("value_and_slope", "value_and_slop"))
assert CliRunner().invoke(app, ["prep", "arith", "--limit", "10"]).exit_code == 0
for chosen in (["loss.kind=hellinger"], ["loss.topk_divergence=hellinger", "loss.kind=topk"]):
    dry_run = ["train", "--preset", tiny, "--dry-run", "--json", "train.device=cpu",
               "data.train_batch_size=4", "eval.every=0", *chosen]
    done = CliRunner().invoke(app, dry_run)
    assert done.exit_code == 2, done.output
    wrong = f"{chosen[0].partition('=')[0]}: {file} defines no function value_and_slope"
    assert json.loads(done.stdout)["error"]["message"].startswith(wrong), done.output
"""


def test_a_divergence_is_one_file_and_its_test(examples, tmp_path):
    """In a copy of the package and its tests, to which the page's two files are added and nothing else."""
    for name in ("distillctl", "presets", "docs", ".ci", "tests/objective"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py", "tests/test_reference.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("distillctl/objective/divergences/hellinger.py", "tests/objective/test_hellinger.py"):
        (tmp_path / name).write_text(examples[name])
    done = subprocess.run(
        [sys.executable, "-c", A_DIVERGENCE], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
    folder = tmp_path / "distillctl/objective/divergences"
    (folder / "hellinger.py").rename(folder / "topk.py")
    refused = subprocess.run(
        [sys.executable, "-m", "distillctl", "inspect", "schema"], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    message = f"error: {folder / 'topk.py'}: loss.kind=topk is another objective\n"
    assert (refused.returncode, refused.stderr) == (2, f"{message}  fix: give the file another name\n")


THE_OTHERS = """
import json, sqlite3
import pytest
from pathlib import Path
from typer.testing import CliRunner
from distillctl.cli.app import app
from distillctl.config.loading import load_preset
from distillctl.inspection.charts import RunCurves, charts
from distillctl.inspection.runs import show_run
from distillctl.inspection.series import load_events
from distillctl.launch.ownership import holds_run
from distillctl.monitor.follow import Follower
from distillctl.monitor.metric_rows import rows
from distillctl.monitor.trackers import require_tracker, trackers
from distillctl.run.directory import RunDir
from distillctl.run.events import EventLog
from distillctl.run.metrics import require_described, rollout_metrics

def command(*arguments):
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    return done.stdout

modules = ["data/test_capitals.py", "data/test_jsonl.py", "grading/test_turn_truth.py",
           "grading/test_unordered.py", "monitor/test_sqlite.py", "run/test_metrics.py", "test_imports.py"]
chosen = "capitals or counted or unordered or sqlite or metrics or loads_nothing_heavy"
options = ["-q", "-p", "no:cacheprovider", "-k", chosen]
assert pytest.main([*options, *(f"tests/{module}" for module in modules)]) == 0

Path("capitals.csv").write_text("country,capital\\nFrance,Paris\\nItaly,Rome\\n")
assert "capitals  Capitals of countries." in command("prep", "-h")
assert command("prep", "capitals", "--source", "capitals.csv") == "data/capitals\\n"
found = json.loads(command("inspect", "data", "data/capitals/train.parquet", "--json"))
assert found["answer_types"] == {"exact": 2}

Path("mine.jsonl").write_text('{"question": "Which colours?", "answer": "red, blue"}\\n')
made = command("prep", "jsonl", "--source", "mine.jsonl", "--answer-type", "unordered", "--json")
assert json.loads(made)["rows_with_answer"] == {"train": 1}

class Answered:
    response_ids = [1, 2]
    def __init__(self, finish_reason):
        self.finish_reason = finish_reason

metrics = rollout_metrics([Answered("stop"), Answered("stop"), Answered("stop"), Answered("length")])
assert metrics["response_length/stop_ratio"] == 0.75
require_described(metrics)
config = load_preset("tiny-from-small-arith", ["train.logger=sqlite"])
require_tracker("sqlite")
run = RunDir.create(Path("runs"))
with Follower(run.events_path, trackers(config.train.logger, run, config.model_dump(mode="json"))):
    log = EventLog(run.events_path, 1)
    log.emit("step", step=1, metrics=metrics)
    log.close()
found = sqlite3.connect(run.path / "metrics.sqlite").execute("select * from metrics").fetchall()
assert sorted(found) == sorted((1, name, value) for name, value in metrics.items())
for name in ("metrics.sqlite", "metrics.sqlite-journal"):
    path = run.path / name
    path.unlink(missing_ok=True)
    path.symlink_to("events.jsonl")
    try:
        holds_run(run)
    except ValueError as error:
        assert f"{name} is a link" in str(error)
    else:
        raise AssertionError(name)
    path.unlink()
Path(run.config_path).write_text("")
shown = show_run(run.path)["metrics"]["response_length/stop_ratio"]
assert shown == {"first": 0.75, "last": 0.75, "unit": "share"}
last = rows()[-1]
assert (last.on_screen.label, last.show(0.75)) == ("stopped", "75.0 %")
series = load_events(run.events_path)[1]
assert "response_length/stop_ratio" in [chart.title for chart in charts([RunCurves("run", series)])]
"""


def test_data_sets_graders_trackers_and_metrics_are_added_as_the_page_says(examples, tmp_path):
    """In a copy of the package, to which the page's files and changes are added and nothing else."""
    for name in ("distillctl", "presets", "tests"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", "builtin"))
    changes = blocks("extending.md", "diff")
    for name in (
        "distillctl/data/sets/capitals.py", "tests/data/test_capitals.py",
        "distillctl/grading/types/unordered.py", "tests/grading/test_unordered.py",
        "tests/monitor/test_sqlite.py",
    ):  # fmt: skip
        (tmp_path / name).write_text(examples[name])
    for name in ("distillctl/monitor/trackers.py", "distillctl/run/metrics.py", "tests/run/test_metrics.py"):
        (tmp_path / name).write_text(changed((ROOT / name).read_text(), changes[name]))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", THE_OTHERS], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
