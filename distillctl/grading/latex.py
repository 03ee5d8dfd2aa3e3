"""Comparing answers in LaTeX with math-verify, in separate processes with a time limit per comparison.

math-verify limits its time with SIGALRM, which works only in the main thread of a process, and sympy can hang
where no signal reaches it. So each comparison runs in a child that can be killed. Messages are JSON lines.
We choose the final answer of a text ourselves, because math-verify would join several boxes to a set.
"""

from __future__ import annotations

import importlib.util
import json
import os
import selectors
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import local

from distillctl.answers.latex_answer import final_expression, is_delimited
from distillctl.errors import EnvironmentUnfit
from distillctl.grading.answer_types import Verdict
from distillctl.host.hardware import cpus
from distillctl.host.isolation import NOWHERE, child_environment

TIMEOUT_S = 10.0
"""Longest time for one comparison; math-verify's own limit is 5 s each for reading and comparing."""
START_TIMEOUT_S = 60.0
"""Longest time for a child to start: sympy takes seconds to import."""


def require_latex() -> None:
    """Raise EnvironmentUnfit with the pip line if math-verify is not installed."""
    if importlib.util.find_spec("math_verify") is None:
        message = "math-verify, which compares answers of the type `latex`, is not installed"
        raise EnvironmentUnfit(message, "pip install 'distillctl[math]'")


def compare_latex(pairs: Sequence[tuple[str, str]], timeout_s: float = TIMEOUT_S) -> list[Verdict]:
    """Verdicts on (response, ground truth) pairs, in order. Uses as many children as there are cores."""
    require_latex()
    children: list[_Child] = []
    own = local()

    def compare(pair: tuple[str, str]) -> Verdict:
        if not hasattr(own, "child"):
            own.child = _Child()
            children.append(own.child)
        response, truth = map(final_expression, pair)
        if response is None:
            return Verdict(False, None)
        verdict: Verdict = own.child.compare(response, truth or pair[1], timeout_s)
        return verdict

    with ThreadPoolExecutor(min(len(cpus()), len(pairs)) or 1) as threads:
        verdicts = list(threads.map(compare, pairs))
    for child in children:
        child.kill()
    return verdicts


class _Child:
    """A process that compares; it is started again when it hangs or dies."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    def compare(self, response: str, truth: str, timeout_s: float) -> Verdict:
        if self._process is None:
            self._process = _start()
            if self._receive(START_TIMEOUT_S) is None:
                hint = "run python -c 'import math_verify' to see the error"
                raise EnvironmentUnfit("math-verify did not start", hint)
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps([response, truth]) + "\n")
        self._process.stdin.flush()
        line = self._receive(timeout_s)
        if line is None:
            self.kill()
            return Verdict(False, None, timed_out=True)
        same, extracted = json.loads(line)
        return Verdict(same, extracted)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
        self._process = None

    def _receive(self, timeout_s: float) -> str | None:
        """The child's next line; None if none comes in time."""
        assert self._process is not None
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            return self._process.stdout.readline() or None if selector.select(timeout_s) else None


def _start() -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "distillctl.grading.latex"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, encoding="utf-8",
        env=child_environment(os.environ, NOWHERE), cwd=NOWHERE,
    )  # fmt: skip


def main() -> None:
    """Run the child: for each line `[response, truth]`, print `[same, extracted]`."""
    from math_verify import parse, verify

    print("ready", flush=True)
    for line in sys.stdin:
        response, truth = json.loads(line)
        found = parse(response)
        same = bool(found) and verify(parse(truth if is_delimited(truth) else f"${truth}$"), found)
        print(json.dumps([same, str(found[-1]) if found else None]), flush=True)


if __name__ == "__main__":
    main()
