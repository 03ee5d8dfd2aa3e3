"""Runs beside each other: differences, curves on one scale, and a test of the paired answers."""

import json

import pytest

from distillctl.errors import ConfigError
from distillctl.inspection.compare import paired, render_compare, show_compare


@pytest.fixture
def runs(tmp_path, make_run, make_row):
    """Two runs that differ in two keys; the second one answers other prompts correctly."""
    first = make_run(tmp_path / "a").write(20, accuracies=[0.3, 0.4])
    second = make_run(tmp_path / "b").write(
        10, scale=2.0, accuracies=[0.3, 0.6], overrides=["optim.lr=1e-3", "train.steps=10"]
    )
    for run, right in ((first, {0, 1}), (second, {1, 2, 3, 4, 5})):
        run.save("eval", 0, [make_row(n, correct=False) for n in range(8)])
        run.save("eval", 10, [make_row(n, correct=n in right) for n in range(8)])
    return [first.dir.path, second.dir.path]


def test_what_differs(runs):
    found = show_compare(runs)
    json.dumps(found, allow_nan=False)
    assert set(found["config"]) == {"optim.lr", "train.steps"}
    assert found["config"]["optim.lr"][1] == 1e-3
    assert found["metrics"]["kl/reverse"] == [1 / 3, 1.0]
    assert [len(curve) for curve in found["curves"]["kl/reverse"]] == [20, 10]


def test_accuracies_have_an_interval_and_a_paired_test(runs):
    first, second = show_compare(runs)["accuracy"]
    assert first["paired"] is None
    assert (first["acc"], first["num"]) == (0.4, 200)
    assert (first["low"], first["high"]) == pytest.approx((0.3346, 0.4692), abs=1e-4)  # Wilson, by hand
    # Right in one run only: prompt 0 in the first, prompts 2 to 5 in the second; 2 (1 + 5) / 2^5.
    assert second["paired"] == {
        "num": 8, "only_first": 1, "only_this": 4, "difference": 3 / 8, "p_value": 0.375,
    }  # fmt: skip


def test_runs_without_common_prompts_are_not_tested():
    assert paired({"a": True}, {"b": True}) is None


def test_curves_share_a_scale_and_an_axis(runs):
    lines = render_compare(show_compare(runs)).splitlines()
    at = lines.index("kl/reverse  0.3333 to 1.818")
    first, second = lines[at + 1][3:], lines[at + 2][3:]
    assert len(first) == 2 * len(second)
    assert second[0] == "█"
    assert "█" not in first
    assert first[-1] == "▁"


def test_as_text(runs):
    text = render_compare(show_compare(runs))
    assert "optim.lr" in text
    assert "+37.5 points, p 0.375" in text
    assert "4 gained, 1 lost of 8" in text
    assert text.replace("\n", "").isprintable()


def test_equal_runs_and_runs_without_evaluations(tmp_path, make_run):
    paths = [make_run(tmp_path / name).write(3).dir.path for name in "ab"]
    text = render_compare(show_compare(paths))
    assert "the configurations are equal" in text
    assert "val/acc" not in text


def test_one_run_is_not_enough(runs):
    with pytest.raises(ConfigError, match="at least two"):
        show_compare(runs[:1])


def test_a_damaged_file_of_answers_is_named(runs):
    path = runs[1] / "eval" / "step_000010.parquet"
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(ConfigError, match=r"step_000010\.parquet: cannot be read"):
        show_compare(runs)
