"""What is said about a run, from numbers made for each case."""

import math
from pathlib import Path
from typing import Any

import pytest

from distillctl.config.loading import load_preset
from distillctl.config.schema import Config
from distillctl.inspection.diagnose import Evidence, Finding, diagnose
from distillctl.inspection.series import Series

PRESET = load_preset("tiny-from-small-arith")


def evidence(
    steps: int = 40, config: Config | None = PRESET, evals: dict[int, float] | None = None,
    shares: dict[str, float] | None = None, failed: bool = False, logs: Path = Path("none"), **curves: Any,
) -> Evidence:  # fmt: skip
    """A run whose metrics are constants or functions of the step."""
    series = Series()
    for step in range(1, steps + 1):
        values = {
            name.replace("__", "/"): curve(step) if callable(curve) else curve
            for name, curve in curves.items()
        }
        series.apply({"kind": "step", "step": step, "metrics": values})
    for step, acc in (evals or {}).items():
        series.apply({"kind": "eval", "step": step, "metrics": {"val/acc": acc}})
    return Evidence(series=series, config=config, phase_shares=shares or {}, failed=failed, logs=logs)


def found(case: Evidence) -> dict[str, Finding]:
    return {finding.name: finding for finding in diagnose(case)}


def test_nothing_is_said_of_a_run_that_goes_well_or_has_no_numbers() -> None:
    assert diagnose(evidence(kl__reverse=lambda n: 1.0 / n, actor__pg_loss=0.0, actor__distillation_mode=1.0,
                             response_length__clip_ratio=0.05, actor__skipped_steps=0.0,
                             actor__entropy=0.4, teacher__entropy=0.3, actor__grad_norm=0.5,
                             rollout__mismatch_kl=1e-6, evals={0: 0.3, 40: 0.6})) == []  # fmt: skip
    assert diagnose(evidence(0)) == []
    assert diagnose(evidence(kl__reverse=None, config=None)) == []


@pytest.mark.parametrize(
    ("case", "name", "knob"),
    [
        (evidence(kl__reverse=0.5), "KL does not fall", "optim.lr"),
        (evidence(kl__reverse=lambda n: 0.5 + n / 10), "KL rises", "optim.lr"),
        (evidence(actor__pg_loss=-1e-3, actor__distillation_mode=1.0), "advantages are not zero", "report"),
        (evidence(actor__pg_loss=0.1, actor__distillation_mode=0.0), "not distillation alone", "reward.path"),
        (evidence(response_length__clip_ratio=0.31), "responses are cut", "data.max_response_length"),
        (evidence(actor__skipped_steps=2.0), "steps were skipped", "optim.lr"),
        (evidence(rollout__mismatch_kl=0.02), "rollouts are off-policy", "student.dtype"),
        (
            evidence(actor__entropy=lambda n: 2.0 / n**2, teacher__entropy=1.0),
            "entropy collapsed",
            "loss.entropy_coeff",
        ),
        (evidence(actor__grad_norm=7.0), "gradients are clipped", "optim.clip_grad"),
        (evidence(shares={"rollout": 0.9}), "rollout-bound", "rollout.max_num_seqs"),
        (evidence(evals={0: 0.3, 10: 0.5, 20: 0.4}), "accuracy falls", "optim.lr"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_each_trouble_is_named_with_its_knob(case: Evidence, name: str, knob: str) -> None:
    finding = found(case)[name]
    assert knob in finding.remedy
    assert finding.message


@pytest.mark.parametrize(
    "case",
    [
        evidence(19, kl__reverse=0.5),
        evidence(kl__reverse=0.01),
        evidence(kl__reverse=lambda n: 0.5 - n / 100),
        evidence(actor__entropy=lambda n: 2.0 / n**2, teacher__entropy=0.001),
        evidence(actor__grad_norm=lambda n: 0.5 if n % 2 else 7.0),
        evidence(evals={0: 0.3, 10: 0.5, 20: 0.46}),
    ],
    ids=["short", "close already", "falling", "as sure as its teacher", "half clipped", "noise"],
)
def test_what_is_no_trouble_is_not_named(case: Evidence) -> None:
    assert diagnose(case) == []


def test_a_long_warm_up_is_the_first_thing_to_look_at() -> None:
    config = PRESET.model_copy(update={"optim": PRESET.optim.model_copy(update={"warmup_steps": 30})})
    assert "optim.warmup_steps" in found(evidence(kl__reverse=0.5, config=config))["KL does not fall"].remedy


@pytest.mark.parametrize(
    ("log", "line", "knob"),
    [
        ("rank_0.log", "torch.OutOfMemoryError: CUDA out of memory.", "train.micro_batch_tokens"),
        ("rank_1.log", "DefaultCPUAllocator: can't allocate memory", "loss.chunk_size"),
        ("rollout.log", "ValueError: No available memory for the cache blocks.", "rollout.max_num_seqs"),
        ("teacher_default.log", "CUDA out of memory", "teacher.quantization"),
    ],
)  # fmt: skip
def test_out_of_memory_is_found_in_the_logs_of_a_failed_run(tmp_path: Path, log, line, knob) -> None:
    (tmp_path / log).write_bytes(b"\xff" * 500_000 + line.encode() + b"\n")
    finding = found(evidence(0, failed=True, logs=tmp_path))["out of memory"]
    assert log in finding.message
    assert knob in finding.remedy
    assert diagnose(evidence(0, failed=False, logs=tmp_path)) == []


def test_warnings_come_before_remarks() -> None:
    levels = [
        f.level for f in diagnose(evidence(kl__reverse=0.5, shares={"rollout": 0.9}, actor__grad_norm=7.0))
    ]
    assert levels == ["warn", "info", "info"]


def test_missing_values_are_no_evidence() -> None:
    assert diagnose(evidence(kl__reverse=math.nan, actor__grad_norm=math.nan)) == []
