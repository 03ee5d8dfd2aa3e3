"""What may import what, and what the light parts of the package must not load."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import distillctl

PACKAGE = Path(distillctl.__file__).parent
HEAVY = {
    "accelerate", "datasets", "deepspeed", "huggingface_hub", "numpy", "pyarrow",
    "safetensors", "tokenizers", "torch", "transformers", "vllm",
}  # fmt: skip
ENGINES = {"accelerate", "deepspeed", "safetensors", "torch", "transformers", "vllm"}

# Each package imports itself and packages of the rows above its own.
ROWS = [
    "errors objective terminal",
    "answers data_types host",
    "files",
    "grading models run",
    "monitor",
    "config",
    "data rollout teacher",
    "builtin inspection train",
    "launch",
    "evaluate",
    "cli",
]
# Of these packages, the package on the left takes only the modules on the right.
ONLY = {
    ("launch", "train"): {"train.job"},
    ("evaluate", "train"): {"train.batch"},
    ("evaluate", "launch"): {"launch.machine_checks", "launch.processes"},
}


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """`distillctl/train/step.py` is train.loop, `distillctl/train/__init__.py` train."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__") or "distillctl"


def imports(path):
    """Full names of all modules a file imports, wherever in it, and those only for the type checker too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if is_ours(full) else node.module)
    return found


def is_ours(name):
    path = PACKAGE.parent.joinpath(*name.split("."))
    return name.startswith("distillctl") and (path.is_dir() or path.with_suffix(".py").is_file())


def ours(path):
    """Imports within the package, without its name."""
    names = {name for name in imports(path) if name.split(".")[0] == "distillctl"}
    return {name.removeprefix("distillctl.") for name in names}


def above(package):
    """The packages of the rows above that of `package`."""
    rows = [row.split() for row in ROWS]
    (row,) = [number for number, row in enumerate(rows) if package in row]
    return {name for upper in rows[:row] for name in upper}


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_its_own_package_and_rows_above(path):
    package = name_of(path).split(".")[0]
    if package in ("distillctl", "__main__"):  # the version, and `python -m distillctl`
        return
    allowed = above(package) | {package, "distillctl"}
    wrong = {name for name in ours(path) if name.split(".")[0] not in allowed}
    for name in ours(path):
        taken = ONLY.get((package, name.split(".")[0]))
        if taken is not None and name not in taken:
            wrong.add(name)
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)}"


def test_each_top_level_name_stands_in_one_row():
    rows = [name for row in ROWS for name in row.split()]
    found = {name_of(path).split(".")[0] for path in modules()} - {"distillctl", "__main__"}
    assert sorted(rows) == sorted(found)
    assert len(rows) <= 22


def test_no_modules_import_each_other_in_a_circle():
    sorter = TopologicalSorter({name_of(path): ours(path) - {name_of(path)} for path in modules()})
    sorter.prepare()  # raises CycleError


def test_objective_imports_torch_and_the_standard_library_only():
    for path in (PACKAGE / "objective").rglob("*.py"):
        outside = {name.split(".")[0] for name in imports(path)} - set(sys.stdlib_module_names)
        assert outside <= {"torch", "distillctl"}, path


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_module_is_named_like_a_standard_one_or_utils(path):
    assert path.stem in ("__init__", "__main__") or path.stem not in sys.stdlib_module_names
    assert path.stem not in ("utils", "util", "helpers", "common", "misc")


def loaded(code):
    """Top-level modules that a fresh interpreter has after `code`."""
    code = f"{code}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


HELP = """
import sys, io
from distillctl.cli.app import main
sys.argv, out, sys.stdout = ["distillctl", "--help"], sys.stdout, io.StringIO()
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
sys.stdout = out
"""


@pytest.mark.parametrize("code", ["import distillctl.cli.app", HELP], ids=["import", "help"])
def test_the_command_line_loads_nothing_heavy(code):
    assert not loaded(code) & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "launch.supervisor",
        "launch.train_command",
        "launch.preflight",
        "launch.loss_trial",
        "rollout.start",
        "launch.memory_estimate",
        "launch.machine_checks",
        "evaluate.command",
        "inspection.runs",
        "inspection.catalogue",
        "data.prep",
        "grading.custom",
    ],
)
def test_what_runs_without_engines_loads_none(module):
    assert not loaded(f"import distillctl.{module}") & ENGINES
