"""How long `distillctl inspect run` takes on 100,000 steps of events, beside reading every line of them.

python tests/benchmarks/inspect_time.py [RUNS]
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from distillctl.config.loading import load_preset
from distillctl.run.events import EventLog
from distillctl.run.metrics import METRICS

NUM_STEPS = 100_000


def seconds(command):
    begin = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


def main(runs=5):
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder)
        config = load_preset("tiny-from-small-arith")
        (run / "config.yaml").write_text(json.dumps(config.model_dump(mode="json")))
        path = run / "events.jsonl"
        log = EventLog(path, 1)
        log.emit("start", step=0, steps=NUM_STEPS)
        for step in range(1, NUM_STEPS + 1):
            log.emit("step", step=step, metrics=dict.fromkeys(METRICS, 1.0 / step))
        read = f"import json; [json.loads(line) for line in open({str(path)!r})]"
        ours, whole = [], []
        for _ in range(int(runs)):
            ours.append(seconds([sys.executable, "-m", "distillctl", "inspect", "run", folder]))
            whole.append(seconds([sys.executable, "-c", read]))
        print(f"{path.stat().st_size / 1e6:.0f} MB: inspect run {median(ours):.2f} s, "
              f"json.loads of every line {median(whole):.2f} s, "
              f"ratio {median(ours) / median(whole):.2f}")  # fmt: skip


if __name__ == "__main__":
    main(*sys.argv[1:])
