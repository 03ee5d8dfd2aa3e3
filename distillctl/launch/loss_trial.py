"""Try the function of `loss.path` before the start, in a separate process. This module imports no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from distillctl.config.divergence_files import file_of, require_function
from distillctl.config.loss import LossConfig
from distillctl.errors import ConfigError
from distillctl.host.gpus import cuda_environment
from distillctl.host.isolation import child_environment
from distillctl.launch.plan import Plan
from distillctl.objective.divergences import NAMES


def require_loss(plan: Plan) -> None:
    """Raise ConfigError when the function of `loss.path` cannot be loaded, raises, or returns no loss, and
    when the file of the chosen divergence does not define its function."""
    _require_divergence(plan.config.loss)
    path = plan.config.loss.path
    if path is None:
        return
    with tempfile.TemporaryDirectory() as scratch:
        report = Path(scratch) / "report.json"
        settings = Path(scratch) / "trial.json"
        trial = {
            "path": path,
            "folder": os.getcwd(),
            "vocab_size": plan.student.shape.vocab_size,
            "device": plan.device,
            "report": str(report),
        }
        settings.write_text(json.dumps(trial))
        gpus = cuda_environment(plan.gpus[:1]) if plan.device == "cuda" else {}
        done = subprocess.run(
            [sys.executable, "-m", "distillctl.train.custom_loss", str(settings)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=child_environment({**os.environ, **gpus}, scratch),
            cwd=scratch,
        )
        found = json.loads(report.read_text()) if report.exists() else None
    if found is None:
        lines = "\n".join(f"  {line}" for line in done.stdout.decode(errors="replace").splitlines()[-20:])
        message = f"loss.path: {path}: the process that tried it ended with code {done.returncode}"
        raise ConfigError(f"{message}; its last lines:\n{lines}", "correct the file")
    if found:
        raise ConfigError(found["message"], found["hint"])


def _require_divergence(loss: LossConfig) -> None:
    if loss.kind == "topk":
        require_function("loss.topk_divergence", file_of(loss.topk_divergence))
    elif loss.kind in NAMES:
        require_function("loss.kind", file_of(loss.kind))
