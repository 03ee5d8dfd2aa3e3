"""What `train.async_depth=1` would give with the engine on GPUs of its own, from the phases of a run.

    python tests/benchmarks/pipeline_model.py RUN

RUN is the directory of any run that `distillctl train` made, such as runs/demo of `make demo`. A synchronous
step takes rollout + teacher + update + sync. One step off, the next rollout runs beside teacher and update:
max(rollout, teacher + update) + sync. RUN has to be synchronous; its first and last steps, which warm up and
look at tokens, are left out.
"""

import sys
from pathlib import Path
from statistics import median

from distillctl.run.events import read_events

PHASES = ("rollout", "teacher", "update", "sync")


def main(run):
    steps = [event["metrics"] for event in read_events(Path(run) / "events.jsonl") if event["kind"] == "step"]
    if len(steps) < 3 or any(step["rollout/staleness"] for step in steps):
        sys.exit(f"{run}: a synchronous run of three steps or more is needed")
    rollout, teacher, update, sync = (
        median(step[f"timing_s/{phase}"] for step in steps[1:-1]) for phase in PHASES
    )
    in_turn, beside = rollout + teacher + update + sync, max(rollout, teacher + update) + sync
    print(f"rollout {rollout:.2f} s, teacher {teacher:.2f} s, update {update:.2f} s, sync {sync:.2f} s")
    print(f"in turn {in_turn:.2f} s, one step off {beside:.2f} s: {in_turn / beside:.2f} x as fast")


if __name__ == "__main__":
    main(*sys.argv[1:])
