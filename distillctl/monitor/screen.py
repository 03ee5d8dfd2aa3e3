"""One frame of a run's screen: a pure function of its state, the size of the terminal and the time.

A frame is a list of lines that fits the width and height of the terminal. Lines that do not fit are left out
in the order of their rank: first devices, sample and phases, then the lower rows of the table, and the title
last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from distillctl.monitor.charset import Look, fitted, styled
from distillctl.monitor.metric_rows import NARROW_COLUMNS, metric_rows, newest
from distillctl.monitor.shade import shaded
from distillctl.monitor.state import RunState
from distillctl.terminal.table import duration, one_line

if TYPE_CHECKING:
    from rich.text import Text

SMALL_ROWS = 10
"""A terminal with fewer rows gets two lines."""
_GIB = 2**30

Line = tuple[int, "Text"]
"""A line with its rank; lines of higher rank are left out first."""


def frame(state: RunState, columns: int, rows: int, now: float, look: Look) -> list[Text]:
    """The lines of one frame. `now` is in seconds since the epoch; it is ignored once the run has ended."""
    now = state.last_t if state.end and state.last_t is not None else now
    if rows < SMALL_ROWS:
        first = newest(state) if state.metrics else _doing(state, now)
        lines = [(0, _title(state, now, look)), (1, first)]
    else:
        lines = [(0, _title(state, now, look))]
        if state.num_steps:
            lines.append((2, _progress(state, columns, look)))
        if state.metrics:
            lines += enumerate(metric_rows(state, columns, look), start=4)
        else:
            lines += _startup(state, now, look)
        lines += _details(state, look, columns)
        lines.append((1, _footer(state, look, columns)))
    by_rank = sorted(range(len(lines)), key=lambda i: (lines[i][0], i))
    return [fitted(lines[i][1], columns, look) for i in sorted(by_rank[: max(rows, 1)])]


def _title(state: RunState, now: float, look: Look) -> Text:
    parts = [f"step {state.step}/{state.num_steps}"] if state.num_steps else []
    if state.end:
        parts.append(f"{state.end['state']} after {duration(state.end['seconds'])}")
    elif state.begin_t is not None:
        parts.append(duration(max(0.0, now - state.begin_t)))
        eta = state.eta_s()
        parts += [] if eta is None else [f"eta {duration(eta)}"]
    if state.attempt > 1:
        parts.append(f"attempt {state.attempt}")
    run = one_line(str(state.start.get("run", "starting")))
    return styled(run, "bold").append("  " + look.dot.join(parts))


def _doing(state: RunState, now: float) -> Text:
    name = state.phase or ("first step" if state.start else "starting")
    since = state.phase_t or state.last_t or now
    return styled(f"{one_line(name)} {max(0.0, now - since):.0f} s")


def _progress(state: RunState, columns: int, look: Look) -> Text:
    share = min(state.step / state.num_steps, 1.0)
    percent = f" {100 * share:5.1f}%"
    width = max(columns - len(percent), 0)
    filled = round(share * width)
    line = styled(look.pick("━", "#") * filled, "green")
    return line.append(look.pick("╌", "-") * (width - filled), "dim").append(percent)


def _startup(state: RunState, now: float, look: Look) -> list[Line]:
    """The phases before the first step with their seconds, because that time looks like a hang."""
    done = look.pick("✓", "ok")
    lines: list[Line] = [
        (4, styled(f"{done} {seconds:5.1f} s  {one_line(name)}", "dim"))
        for name, seconds in state.phases.items()
    ]
    if not state.end:
        lines.append((2, styled(look.pick("» ", "> ")).append_text(_doing(state, now))))
    return lines


def _details(state: RunState, look: Look, columns: int) -> list[Line]:
    """Time of each phase, memory, GPUs, the newest sample and the newest warning."""
    lines: list[Line] = []
    if state.phase_shares():
        lines.append((20, _phases(state, look, columns)))
    usage = _usage(state, look)
    if usage is not None:
        lines.append((22, usage))
    if state.sample.get("pieces"):
        lines.append((21, _sample(state.sample, look, columns)))
    if state.warnings:
        warning = state.warnings[-1]
        message = f"{look.pick('⚠', '!')} step {warning['step']}: {one_line(warning['message'])}"
        lines.append((3, styled(message, "yellow")))
    return lines


def _phases(state: RunState, look: Look, columns: int) -> Text:
    shares = state.phase_shares()
    names = sum(len(f"{name} {share:.0%}  ") for name, share in shares.items())
    room = min(max(columns - len("phase ") - names, 0), 40)
    line = styled("phase ", "dim")
    for name, share in shares.items():
        line.append(f"{name} {share:.0%} ").append(look.pick("█", "=") * int(share * room) + " ", "cyan")
    return line


def _usage(state: RunState, look: Look) -> Text | None:
    """Memory of the processes, and utilisation and memory of every GPU."""
    metrics = state.metrics
    parts = []
    number = 0
    for name in ("trainer", "engine"):
        if (size := metrics.get(f"memory/{name}_bytes")) is not None:
            parts.append(f"{name} {size / _GIB:.2f} GiB")
    while (size := metrics.get(f"gpu/used_bytes/{number}")) is not None:
        busy = metrics.get(f"gpu/utilization/{number}") or 0.0
        parts.append(f"gpu{number} {busy:.0%} {size / _GIB:.0f} GiB")
        number += 1
    return styled("memory ", "dim").append(look.dot.join(parts)) if parts else None


def _sample(sample: dict[str, Any], look: Look, columns: int) -> Text:
    mean = sample.get("mean_kl")
    correct = sample.get("correct")
    numbers = "" if mean is None else f"  kl {mean:.3f}  len {sample.get('num_tokens', '?')}"
    verdict = look.pick("  ✓", "  ok") if correct else look.pick("  ✗", "  wrong")
    verdict = "" if correct is None else verdict
    line = styled(look.pick("» ", "> "), "dim")
    line.append_text(shaded(sample["pieces"], sample["kl"], newline=look.pick("⏎", "|")))
    fitted(line, max(columns - len(numbers) - len(verdict), 2), look)
    return line.append(numbers).append(verdict, "green" if correct else "red")


def _footer(state: RunState, look: Look, columns: int) -> Text:
    wide = columns >= NARROW_COLUMNS
    saved = "no checkpoint yet"
    if state.checkpoint:
        saved = f"{'last checkpoint: step' if wide else 'ckpt'} {state.checkpoint['step']}"
    is_stopping = False
    if state.end:
        how = f"exit code {state.end['exit_code']}"
    elif look.following:
        how = "Ctrl-C: leave this view"
    elif state.stop:
        how = "stopping, with a checkpoint; again: quit at once"
        is_stopping = True
    elif wide:
        how = "Ctrl-C: save a checkpoint and stop, twice: quit at once"
    else:
        how = "^C saves & stops, twice quits"
    return styled(f"{saved}{look.dot}{how}", "yellow" if is_stopping else "dim")
