"""The wheel: what is in it, and that a core installation works without the engines.

The second environment is made once per module; pip fetches the core dependencies.
"""

import json
import os
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from distillctl import __version__
from distillctl.config.loading import preset_names

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
PRESET = "tiny-from-small-arith"
PIP_LINE = "pip install 'distillctl[cpu]'"


def pip(python, *arguments):
    command = [python, "-m", "pip", "--quiet", "--disable-pip-version-check", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    pip(sys.executable, "wheel", ROOT, "--no-deps", "--wheel-dir", folder)
    (path,) = folder.glob("*.whl")
    return path


@pytest.fixture(scope="module")
def core(wheel, tmp_path_factory):
    """Folder of an environment with the wheel and its core dependencies."""
    folder = tmp_path_factory.mktemp("core")
    venv.create(folder, with_pip=True)
    pip(folder / "bin" / "python", "install", wheel)
    return folder


@pytest.fixture(scope="module")
def work(core, tmp_path_factory):
    """A directory apart from the repository, with the tiny preset's data."""
    folder = tmp_path_factory.mktemp("work")
    done = distillctl(core, folder, "prep", "arith")
    assert (done.returncode, done.stdout) == (0, "data/arith\n")
    return folder


def distillctl(core, folder, *arguments):
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return subprocess.run(
        [core / "bin" / "distillctl", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_wheel_carries_presets_and_models(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"distillctl/presets_data/{name}.yaml" for name in preset_names()} <= names
    for model in ("tiny-student", "tiny-teacher"):
        source = ROOT / "distillctl" / "builtin" / model
        assert {f"distillctl/builtin/{model}/{path.name}" for path in source.iterdir()} <= names


def test_the_wheel_carries_every_module_and_nothing_of_the_repository_around_it(wheel):
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {str(path.relative_to(ROOT)) for path in (ROOT / "distillctl").rglob("*.py")}
    assert modules == {name for name in names if name.endswith(".py")}
    assert {name.split("/")[0] for name in names} == {"distillctl", f"distillctl-{__version__}.dist-info"}


def test_the_wheel_registers_the_script_and_the_plugin(wheel):
    text = zipfile.ZipFile(wheel).read(f"distillctl-{__version__}.dist-info/entry_points.txt").decode()
    assert "distillctl = distillctl.cli.app:main" in text
    assert "[vllm.general_plugins]\ndistillctl = distillctl.rollout.vllm_plugin:register" in text


@pytest.mark.parametrize("name", ["torch", "transformers", "vllm", "deepspeed"])
def test_a_core_installation_has_no_engine(core, name):
    done = subprocess.run([core / "bin" / "python", "-c", f"import {name}"], capture_output=True, check=False)
    assert b"ModuleNotFoundError" in done.stderr


def test_presets_are_listed_from_anywhere(core, work):
    listed = json.loads(distillctl(core, work, "inspect", "presets", "--json").stdout)
    assert [row["name"] for row in listed] == preset_names()
    assert PRESET in distillctl(core, work, "inspect", "presets").stdout


def test_a_preset_is_printed_whole(core, work):
    done = distillctl(core, work, "inspect", "config", PRESET)
    assert (done.returncode, done.stderr) == (0, "")
    assert "builtin:tiny-student" in done.stdout


def test_prepared_data_is_shown(core, work):
    shown = distillctl(core, work, "inspect", "data", "data/arith/train.parquet", "--json")
    assert shown.returncode == 0, shown.stderr
    assert json.loads(shown.stdout)


def test_a_dry_run_needs_no_engine(core, work):
    done = distillctl(core, work, "train", "--preset", PRESET, "--dry-run", "--json", "train.device=cpu")
    assert done.returncode == 0, done.stderr
    plan = json.loads(done.stdout)
    assert Path(plan["student"]).is_relative_to(core)


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--preset", PRESET, "train.device=cpu"],
        ["eval", "--checkpoint", "builtin:tiny-student", "--data", "data/arith/test.parquet"],
    ],
    ids=["train", "eval"],
)
def test_what_needs_the_engines_names_the_pip_line_and_starts_nothing(core, work, command):
    done = distillctl(core, work, *command)
    assert (done.returncode, done.stdout) == (3, "")
    assert f"fix: {PIP_LINE}" in done.stderr
    assert not (work / "runs").exists()
    error = json.loads(distillctl(core, work, *command, "--json").stdout)["error"]
    assert (error["kind"], error["hint"]) == ("environment", PIP_LINE)
