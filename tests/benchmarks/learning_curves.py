"""Learning curves of every objective on the tiny preset: same seed, same budget, one run after another.

    pip install -e '.[cpu,bench]'
    python tests/benchmarks/learning_curves.py [--out learning_curves] [--objectives NAME ...] [--steps 240]

Prepares its own data. Takes about six minutes an objective on 2 cores. Runs are in OUT/NAME; those that are
finished are not repeated, those that were stopped go on. Draws OUT/learning_curves.svg and prints a table.
"""

import argparse
import importlib.util
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from distillctl.grading.significance import wilson_interval
from distillctl.run.directory import RunDir, read_status
from distillctl.run.events import read_events

PRESET = "tiny-from-small-arith"
STEPS = 240
"""The preset's own number."""
EVAL_EVERY = 20
WINDOW = 11
"""Steps of the moving average in the picture."""
LAST = 20
"""Steps at the end whose mean the table gives."""


@dataclass(frozen=True)
class Objective:
    """How a run is started and drawn."""

    label: str
    overrides: list[str]
    color: str
    dash: str = "-"


# Colours of Okabe and Ito's palette, which colour-blind people can tell apart.
OBJECTIVES = {
    "reverse_kl": Objective("reverse KL", ["loss.kind=reverse_kl"], "#000000"),
    "forward_kl": Objective("forward KL", ["loss.kind=forward_kl"], "#0072B2"),
    "jsd": Objective("JSD, beta 0.5", ["loss.kind=jsd", "loss.beta=0.5"], "#56B4E9"),
    "topk": Objective(
        "top 8 of teacher",
        ["loss.kind=topk", "loss.topk=8", "loss.topk_divergence=forward_kl"], "#009E73",
    ),
    "student_topk": Objective("top 8 of student", ["loss.kind=student_topk", "loss.topk=8"], "#CC79A7"),
    "k3_plus": Objective("sampled, k3+", ["loss.kind=sampled", "loss.kl_loss_type=k3+"], "#D55E00"),
    "k3": Objective("sampled, k3", ["loss.kind=sampled", "loss.kl_loss_type=k3"], "#E69F00", "--"),
    "policy_gradient": Objective(
        "sampled, policy gradient", ["loss.kind=sampled", "loss.update=policy_gradient"], "#7F7F7F", "--"
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Curves:
    """What the events of one run say."""

    steps: np.ndarray
    metrics: dict[str, np.ndarray]
    """By name, one value per step, NaN where the run has none."""
    eval_steps: np.ndarray
    accuracy: np.ndarray
    interval: np.ndarray
    """[2, evaluations]: 95 % Wilson interval of `accuracy`."""

    def last(self, name):
        """Mean over the last steps."""
        return float(np.nanmean(self.metrics[name][-LAST:]))


METRICS = ("kl/reverse", "kl/forward", "actor/entropy", "timing_s/step")


def read_curves(path):
    """Of an events.jsonl; a step that a resumed run did again counts as it went the last time."""
    steps, evaluations = {}, {}
    for event in read_events(path):
        if event["kind"] == "step":
            steps[event["step"]] = event["metrics"]
        elif event["kind"] == "eval" and event["metrics"]["val/acc"] is not None:
            evaluations[event["step"]] = (event["metrics"]["val/acc"], event["num"])
    if not steps or not evaluations:
        sys.exit(f"{path}: {len(steps)} steps and {len(evaluations)} evaluations, nothing to draw")
    order, eval_order = sorted(steps), sorted(evaluations)
    accuracy = [evaluations[step][0] for step in eval_order]
    totals = [evaluations[step][1] for step in eval_order]
    interval = [wilson_interval(round(a * n), n) for a, n in zip(accuracy, totals, strict=True)]
    return Curves(
        np.array(order),
        {name: np.array([steps[step].get(name) for step in order], float) for name in METRICS},
        np.array(eval_order),
        np.array(accuracy),
        np.array(interval).T,
    )


def moving_average(values):
    """Over `WINDOW` steps around each, fewer at the ends."""
    half = WINDOW // 2
    return np.array([np.nanmean(values[max(0, i - half) : i + half + 1]) for i in range(len(values))])


def command_line(*arguments, cwd):
    """Run distillctl; its messages pass through."""
    command = [sys.executable, "-m", "distillctl", *map(str, arguments)]
    return subprocess.run(command, cwd=cwd, stdout=subprocess.DEVNULL, check=False).returncode


def is_done(path, num_steps):
    """Whether a run is there and has made all its steps."""
    status = read_status(RunDir(path).status_path)
    return (status.get("state"), status.get("steps")) == ("done", num_steps)


def train(out, name, num_steps):
    """One run from its beginning or from where it was stopped."""
    print(f"{name}: training", file=sys.stderr)
    code = command_line(
        "train", "--preset", PRESET, "--run-dir", name, "--display", "quiet", f"train.steps={num_steps}",
        f"eval.every={EVAL_EVERY}", *OBJECTIVES[name].overrides, cwd=out,
    )  # fmt: skip
    if code:
        sys.exit(
            f"{name}: distillctl train ended with exit code {code}; its logs are in {out / name / 'logs'}"
        )


def spread(positions, gap, top):
    """Positions at least `gap` apart in the same order, none above `top`, each near where it was."""
    order = np.argsort(positions, kind="stable")
    steps = gap * np.arange(len(order))
    even = np.array(positions, float)[order] - steps  # now equal positions are `gap` apart
    upwards, downwards = np.maximum.accumulate(even), np.minimum.accumulate(even[::-1])[::-1]
    placed = (upwards + downwards) / 2 + steps
    result = np.empty_like(placed)
    result[order] = np.minimum(placed, top - steps[::-1])
    return result


def label_ends(axes, ends):
    """Names beside the ends of the lines (`ends`: name to x and y), with a line to each."""
    points = np.array(list(ends.values()), float)
    heights = axes.transAxes.inverted().transform(axes.transData.transform(points))[:, 1]
    for name, (x, y), place in zip(ends, points, spread(heights, 0.055, 1.0), strict=True):
        leader = {"arrowstyle": "-", "color": OBJECTIVES[name].color, "lw": 1.2, "shrinkA": 2, "shrinkB": 0,
                  "relpos": (0.0, 0.5)}  # fmt: skip
        axes.annotate(
            OBJECTIVES[name].label, (x, y), xytext=(1.06, place), textcoords="axes fraction", va="center",
            fontsize=9, color="#222222", annotation_clip=False, arrowprops=leader,
        )  # fmt: skip


def draw(curves, path):
    """Two panels into `path` (SVG, or what its suffix says)."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    spines = {"axes.spines.right": False, "axes.spines.top": False}
    pyplot.rcParams.update({"svg.hashsalt": "distillctl", **spines})  # the salt: same picture, same file
    figure, (left, right) = pyplot.subplots(1, 2, figsize=(13, 4.6), facecolor="white")
    ends, title = ({}, {}), {"fontsize": 10, "loc": "left"}
    for name, run in curves.items():
        style = {"color": OBJECTIVES[name].color, "ls": OBJECTIVES[name].dash, "lw": 1.6}
        smooth = moving_average(run.metrics["kl/reverse"])
        left.plot(run.steps, smooth, **style)
        right.fill_between(run.eval_steps, *(100 * run.interval), color=style["color"], alpha=0.10, lw=0)
        right.plot(run.eval_steps, 100 * run.accuracy, marker="o", ms=3.5, **style)
        ends[0][name] = run.steps[-1], smooth[-1]
        ends[1][name] = run.eval_steps[-1], 100 * run.accuracy[-1]
    left.set(yscale="log", xlabel="step", ylabel="nats per token")
    left.set_title(f"KL(student || teacher) on the student's samples, mean of {WINDOW} steps", **title)
    left.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 3, 5)))
    left.yaxis.set_major_formatter("{x:g}")
    left.yaxis.set_minor_locator(ticker.NullLocator())
    right.set(xlabel="step")
    right.set_title("validation accuracy, greedy; bands: 95 % Wilson interval", **title)
    right.yaxis.set_major_formatter("{x:g} %")
    figure.subplots_adjust(left=0.06, right=0.85, bottom=0.12, top=0.92, wspace=0.6)
    for axes, places in zip((left, right), ends, strict=True):
        axes.grid(color="#dddddd", lw=0.6)
        axes.set_axisbelow(True)
        axes.margins(x=0.01)
        label_ends(axes, places)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def print_table(curves):
    """Means over the last steps, the last evaluation, and seconds per step over the whole run."""
    columns = f"{'accuracy':>9} {'95 %':>14} {'KL(q||p)':>9} {'KL(p||q)':>9} {'entropy':>8} {'s/step':>7}"
    print(f"{'objective':25} {columns}")
    for name, run in curves.items():
        low, high = run.interval[:, -1]
        print(
            f"{OBJECTIVES[name].label:25} {run.accuracy[-1]:9.1%} {low:6.1%} - {high:5.1%} "
            f"{run.last('kl/reverse'):9.4f} {run.last('kl/forward'):9.4f} {run.last('actor/entropy'):8.3f} "
            f"{np.nanmean(run.metrics['timing_s/step']):7.2f}"
        )
    print(f"KL and entropy: nats per token, mean of the last {LAST} steps; q: student, p: teacher")


def main():
    """Train what is missing, read all, draw."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, default=Path("learning_curves"))
    parser.add_argument("--objectives", nargs="+", choices=OBJECTIVES, default=list(OBJECTIVES))
    parser.add_argument("--steps", type=int, default=STEPS)
    arguments = parser.parse_args()
    if importlib.util.find_spec("matplotlib") is None:
        sys.exit("this script draws with matplotlib, which is not installed: pip install 'distillctl[bench]'")
    out = arguments.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    unfinished = [name for name in arguments.objectives if not is_done(out / name, arguments.steps)]
    if unfinished and not (out / "data" / "arith").is_dir() and command_line("prep", "arith", cwd=out):
        sys.exit("distillctl prep arith failed")
    for name in unfinished:
        train(out, name, arguments.steps)
    curves = {name: read_curves(RunDir(out / name).events_path) for name in arguments.objectives}
    draw(curves, out / "learning_curves.svg")
    print_table(curves)
    print(out / "learning_curves.svg")


if __name__ == "__main__":
    main()
