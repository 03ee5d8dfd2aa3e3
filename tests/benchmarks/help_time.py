"""How long `distillctl --help` takes, beside an interpreter that does nothing.

python tests/benchmarks/help_time.py [RUNS]
"""

import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "distillctl --version": ["-m", "distillctl", "--version"],
    "distillctl --help": ["-m", "distillctl", "--help"],
    "distillctl train --help": ["-m", "distillctl", "train", "--help"],
    "distillctl inspect presets": ["-m", "distillctl", "inspect", "presets"],
}


def seconds(arguments: list[str]) -> float:
    """Wall time of one process."""
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    """Runs take turns, so that a busy machine slows all commands alike."""
    num_runs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(num_runs):
        for name, arguments in COMMANDS.items():
            times[name].append(seconds(arguments))
    bare = statistics.median(times["python -c pass"])
    print(f"{'command':28} {'median':>9} {'min':>9} {'ratio':>7}   ({num_runs} runs)")
    for name, values in times.items():
        median = statistics.median(values)
        print(f"{name:28} {median * 1000:6.0f} ms {min(values) * 1000:6.0f} ms {median / bare:6.1f}x")


if __name__ == "__main__":
    main()
