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

from distillctl.train.custom_loss import CustomLoss, try_loss

ROOT = Path(__file__).parent.parent


def blocks(page):
    """Code of the Python blocks of a page of docs/ by the file that the first line names."""
    text = (ROOT / "docs" / page).read_text()
    return dict(re.findall(r"^```python\n# (\S+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL))


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


IN_THE_CLONE = """
import json
import pytest
from distillctl.config.loading import load_preset
from distillctl.config.schema import Config
modules = ["test_reference.py", "objective/test_divergences.py", "objective/test_hellinger.py"]
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
"""


def test_a_divergence_is_one_file_and_its_test(examples, tmp_path):
    """In a copy of the package and its tests, to which the page's two files are added and nothing else."""
    for name in ("distillctl", "presets", "docs", "tools", "tests/objective"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "tests/conftest.py", "tests/test_reference.py"):
        shutil.copy(ROOT / name, tmp_path / name)
    for name in ("distillctl/objective/divergences/hellinger.py", "tests/objective/test_hellinger.py"):
        (tmp_path / name).write_text(examples[name])
    done = subprocess.run(
        [sys.executable, "-c", IN_THE_CLONE], cwd=tmp_path, env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout
