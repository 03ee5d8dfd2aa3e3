"""What may import what, and what the light parts of the package must not load."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import distillctl

PACKAGE = Path(distillctl.__file__).parent
HEAVY = {
    "accelerate", "datasets", "deepspeed", "huggingface_hub", "numpy", "pyarrow",
    "safetensors", "tokenizers", "torch", "transformers", "vllm",
}  # fmt: skip
ENGINES = {"accelerate", "deepspeed", "safetensors", "torch", "transformers", "vllm"}

# Who may import whom, by name or by package; a module may always import its own package's. The import of a
# package's single light module is written out (`rollout.wire`). `distillctl` itself means the version.
BASE = {"config", "errors", "events", "files", "lifeline", "lock", "samples"}
LAYERS = {
    "distillctl": set(),
    "redact": set(),
    "errors": {"redact"},
    "files": {"errors"},
    "safetensors_header": {"errors", "files"},
    "rope": set(),
    "model_files": {"errors", "files", "safetensors_header"},
    "tokenizer_files": {"errors", "files"},
    "yaml_file": {"errors", "files"},
    "lifeline": set(),
    "gpus": set(),
    "isolation": set(),
    "atomic": {"errors", "files", "json_values"},
    "memory_limit": {"errors", "machine"},
    "parquet_file": {"errors", "files", "memory_limit"},
    "event_form": set(),
    "json_values": {"redact"},
    "outputs": {"atomic", "errors", "files"},
    "memory": set(),
    "samples": {"objective"},
    "config": {"errors", "redact"},
    "events": {"errors", "event_form", "files", "json_values"},
    "lock": {"atomic", "errors", "files"},
    "machine": {"errors", "files", "gpus", "isolation", "model_files", "rope"},
    "significance": set(),
    "grading": set(),
    "usage": {"gpus"},
    "terminal": set(),
    "progress": {"terminal"},
    "presets": {"config", "errors", "redact", "yaml_file"},
    "config_doc": {"config", "errors", "presets"},
    "unfinished": {"atomic", "files", "progress"},
    "checkpoints": {"atomic", "distillctl", "errors", "files", "unfinished"},
    "run": {"atomic", "checkpoints", "errors", "events", "lock"},
    "ownership": {"atomic", "checkpoints", "errors", "events", "files", "lock", "presets", "run"},
    "resume": {"atomic", "checkpoints", "config", "errors", "ownership", "presets", "run"},
    "data": {"atomic", "distillctl", "errors", "files", "grading", "memory_limit", "outputs", "parquet_file",
             "progress", "samples", "terminal"},
    "objective": set(),
    "teacher": {"config", "errors", "files", "isolation", "lifeline", "machine", "memory", "memory_limit",
                "model_files", "objective", "redact", "rollout.process", "safetensors_header", "samples",
                "terminal"},
    "preflight": {"config", "errors", "files", "machine", "teacher", "tokenizer_files"},
    "data_checks": {"config", "data", "errors", "files", "preflight", "terminal"},
    "rollout": {"config", "errors", "files", "gpus", "isolation", "lifeline", "machine", "memory", "samples"},
    "models": {"data", "distillctl", "errors"},
    "watch": {"atomic", "checkpoints", "config", "data", "distillctl", "errors", "events", "files",
              "memory_limit", "outputs", "parquet_file", "presets", "progress", "redact", "run", "samples",
              "significance", "terminal"},
    "train": BASE | {"atomic", "checkpoints", "data", "distillctl", "evaluate.evaluation", "evaluate.grading",
                     "isolation", "machine", "memory", "model_files", "objective", "preflight", "presets",
                     "rollout", "run", "teacher", "unfinished", "usage"},
    "plan": BASE | {"gpus", "machine", "rollout.process", "rollout.worker", "rope", "teacher.logins",
                    "teacher.server", "train.job"},
    "devices": {"config", "gpus", "isolation", "plan", "preflight"},
    "children": {"isolation", "plan", "rollout.process", "rollout.worker", "teacher.logins",
                 "teacher.server"},
    "launch": BASE | {"checkpoints", "children", "memory", "plan", "run", "train.job"},
    "evaluate": BASE | {"atomic", "children", "data", "fit", "gpus", "grading", "isolation", "json_values",
                        "machine", "memory", "objective", "outputs", "presets", "progress", "rollout", "run",
                        "significance", "teacher", "terminal", "tokenizer_files", "train.batch",
                        "train.reward"},
    "estimate": {"config", "errors", "machine", "plan", "rollout.process", "teacher.server"},
    "fit": BASE | {"checkpoints", "estimate", "machine", "memory", "outputs", "plan"},
    "training": BASE | {"atomic", "checkpoints", "data", "data_checks", "devices", "distillctl", "estimate",
                        "fit", "launch", "machine", "plan", "preflight", "presets", "redact", "resume", "run",
                        "teacher.compat", "teacher.loadable", "teacher.server", "terminal", "tokenizer_files",
                        "train.reward", "watch"},
    "cli_app": set(),
    "cli_output": {"errors", "terminal"},
    "cli_inspect": {"cli_app", "cli_output", "memory_limit", "outputs", "terminal", "watch"},
    "cli": {"cli_app", "cli_inspect", "cli_output", "data", "distillctl", "errors", "evaluate", "outputs",
            "presets", "progress", "terminal", "training"},
    "__main__": {"cli"},
}  # fmt: skip


def modules():
    return sorted(PACKAGE.rglob("*.py"))


def name_of(path):
    """`distillctl/train/loop.py` is train.loop, `distillctl/train/__init__.py` train."""
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


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_a_module_imports_its_own_layer_and_lower_ones(path):
    layer = name_of(path).split(".")[0]
    allowed = LAYERS[layer] | {layer}
    wrong = {name for name in ours(path) if name not in allowed and name.split(".")[0] not in allowed}
    assert not wrong, f"{name_of(path)} imports {sorted(wrong)}"


def test_the_layers_have_an_order():
    """No two of the layers may import each other; `train` and `evaluate` meet below `evaluate.command`."""
    graph = {layer: {name.split(".")[0] for name in allowed} - {layer} for layer, allowed in LAYERS.items()}
    graph["train"] = graph["train"] - {"evaluate"}
    left = dict(graph)
    while left:
        free = [layer for layer, below in left.items() if not below & left.keys()]
        assert free, f"a cycle among {sorted(left)}"
        for layer in free:
            del left[layer]


def test_what_train_takes_from_evaluate_does_not_lead_back_to_train():
    for name in ("evaluation", "grading"):
        used = {n.split(".")[0] for n in ours(PACKAGE / "evaluate" / f"{name}.py")}
        assert not used & {"launch", "train"}


def test_objective_imports_torch_and_the_standard_library_only():
    for path in (PACKAGE / "objective").glob("*.py"):
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
from distillctl.cli import main
sys.argv, out, sys.stdout = ["distillctl", "--help"], sys.stdout, io.StringIO()
try:
    main()
except SystemExit as ended:
    assert ended.code == 0
sys.stdout = out
"""


@pytest.mark.parametrize("code", ["import distillctl.cli", HELP], ids=["import", "help"])
def test_the_command_line_loads_nothing_heavy(code):
    assert not loaded(code) & HEAVY


@pytest.mark.parametrize(
    "module",
    [
        "launch",
        "training",
        "preflight",
        "rollout.process",
        "estimate",
        "fit",
        "evaluate.command",
        "watch.runs",
        "watch.show",
        "data.prep",
        "train.reward",
    ],
)
def test_what_runs_without_engines_loads_none(module):
    assert not loaded(f"import distillctl.{module}") & ENGINES
