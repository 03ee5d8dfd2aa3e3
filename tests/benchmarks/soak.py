"""Soak: a run of the tiny pair with a random process killed again and again, against a quiet one.

    python tests/benchmarks/soak.py [--steps 200] [--every 15] [--seed 0]

Both runs have the same seed. Of the quiet one the memory of every process is sampled: its growth is the mean
over the last tenth of the steps over the mean of the tenth after step 50. In the other one, about every
`--every` seconds of training (start-up not counted) a process chosen at random is killed with SIGKILL: the
launcher, a rank or the rollout worker. When the run ends it is started again with
the same command. Prints the kills, the growth, and whether losses and weights are the same bits.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

import torch
from safetensors.torch import load_file

from distillctl.run.events import read_events

VICTIMS = ("launcher", "rank", "rollout worker")


class Run:
    """One run directory."""

    def __init__(self, folder, name, steps):
        self.folder, self.path, self.steps = folder, folder / name, steps
        self.command = [
            sys.executable, "-m", "distillctl", "train", "--preset", "tiny-from-small-arith",
            "--run-dir", name, f"train.steps={steps}", "data.train_batch_size=16",
            "data.max_response_length=48",
            "rollout.max_num_seqs=16", "train.micro_batch_tokens=1000", "checkpoint.every=5", "eval.every=0",
            "rollout.max_restarts=1000", "--display", "quiet",
        ]  # fmt: skip

    def start(self):
        self.launcher = subprocess.Popen(self.command, cwd=self.folder, stdout=subprocess.DEVNULL)

    @property
    def done(self):
        return any(
            e["kind"] == "end" and e["state"] == "done" for e in read_events(self.path / "events.jsonl")
        )

    def last_step(self):
        steps = [e for e in read_events(self.path / "events.jsonl") if e["kind"] == "step"]
        return (steps[-1]["step"], len(steps)) if steps else (0, 0)

    def processes(self):
        """Pids by kind of victim."""
        found = {"launcher": self.launcher.pid}
        for kind, module in (("rank", "train[.]worker"), ("rollout worker", "rollout[.]worker")):
            pattern = f"distillctl[.]{module} {self.path}/logs"
            pids = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True).stdout.split()
            if pids:
                found[kind] = int(pids[0])
        return found


def rss_bytes(pid):
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def quiet(run):
    """Run to the end; memory samples (step, bytes) of each process."""
    samples = defaultdict(list)
    run.start()
    while run.launcher.poll() is None:
        time.sleep(1)
        step, _ = run.last_step()
        for kind, pid in run.processes().items():
            try:
                size = rss_bytes(pid)
            except (FileNotFoundError, ProcessLookupError):
                continue
            if size:  # a process that has ended and is not waited for yet has none
                samples[kind].append((step, size))
    return samples


def growth(samples, steps):
    """Mean over the last tenth of the steps over that of the tenth after step 50."""
    tenth = max(1, steps // 10)
    early = [size for step, size in samples if 50 <= step < 50 + tenth]
    late = [size for step, size in samples if step >= steps - tenth]
    return (sum(late) / len(late)) / (sum(early) / len(early)) if early and late else float("nan")


def soak(run, every_s, chooser):
    """Kill and restart until done; the kills by victim."""
    kills = defaultdict(int)
    run.start()
    num_seen, kill_at = 0, None  # a kill is due some time after the first step since the last one
    while True:
        time.sleep(0.05)
        if run.launcher.poll() is not None:
            if run.done:
                return kills
            run.start()
        step, num_steps = run.last_step()
        if kill_at is None and num_steps > num_seen:
            kill_at = time.monotonic() + every_s * chooser.uniform(0.5, 1.5)
        if kill_at is None or time.monotonic() < kill_at:
            continue
        victim = chooser.choice(VICTIMS)
        if pid := run.processes().get(victim):
            os.kill(pid, 9)
            kills[victim] += 1
            print(f"step {step}: killed the {victim}", flush=True)
            num_seen, kill_at = run.last_step()[1], None


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--every", type=float, default=15.0)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    subprocess.run([sys.executable, "-m", "distillctl", "prep", "arith"], cwd=folder, check=True)
    calm, hurt = Run(folder, "quiet", arguments.steps), Run(folder, "soak", arguments.steps)
    for kind, samples in quiet(calm).items():
        print(
            f"{kind}: {samples[-1][1] / 2**20:.0f} MiB, growth {growth(samples, arguments.steps):.3f}",
            flush=True,
        )
    started = time.monotonic()
    kills = soak(hurt, arguments.every, random.Random(arguments.seed))
    print(f"{sum(kills.values())} kills in {time.monotonic() - started:.0f} s: {dict(kills)}")
    name = f"checkpoints/step_{arguments.steps:06d}/hf/model.safetensors"
    ours, theirs = load_file(hurt.path / name), load_file(calm.path / name)
    same = all(torch.equal(ours[key], theirs[key]) for key in theirs)
    print(f"weights the same bits: {same}")
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
