"""Responses as text: before and after side by side, tokens shaded by their KL, a table of single tokens."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from distillctl.inspection.samples import SamplesView
from distillctl.monitor.shade import legend, shaded
from distillctl.run.sample_files import Alternatives, Sample
from distillctl.terminal.stream import Painted
from distillctl.terminal.table import one_line, table

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

SIDE_BY_SIDE_COLUMNS = 100
"""Narrowest terminal that shows before and after side by side. Narrower ones show after below before."""
NUM_TOKENS = 10
"""Number of tokens in the table of a single response: those with the highest KL."""
NUM_PROMPT_CHARS = 600
"""Most characters of a prompt that are shown."""


def render_samples(
    found: SamplesView, columns: int, *, color: bool, details: bool, token: int | None = None
) -> Painted:
    """`show_samples` as text. `color` allows escape codes; `details` adds the tables of tokens."""
    parts: list[RenderableType] = [
        f"{one_line(found['run'])}  {one_line(found['file'])}: "
        f"{len(found['samples'])} of {found['num_responses']} responses",
        legend(color=color),
    ]
    for pair in found["samples"]:
        parts += ["", *_pair(pair["before"], pair["after"], columns, color=color)]
        if details:
            parts += ["", token_table(pair["after"], token)]
    return _render(parts, columns, color=color)


def token_table(sample: Sample, token: int | None = None) -> str:
    """The tokens with the highest KL, or the token at index `token`, with both models' likeliest
    alternatives."""
    measured = {i: kl for i, kl in enumerate(sample["kl"]) if kl is not None}
    chosen = sorted(measured, key=lambda i: -measured[i])[:NUM_TOKENS]
    if token is not None:
        chosen = [token]
    rows = [
        [
            str(i),
            repr(sample["pieces"][i]),
            _number(sample["kl"][i]),
            _number(sample["logprobs"][i]),
            _top(sample["student_top"], i),
            _top(sample["teacher_top"], i),
        ]
        for i in chosen
    ]
    return table(["token", "text", "kl", "log-prob", "student", "teacher"], rows)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _top(top: list[Alternatives], index: int) -> str:
    shown = "  ".join(f"{text!r} {100 * share:.1f}%" for text, share in (top[index] if top else []))
    return shown or "-"


def _pair(before: Sample | None, after: Sample, columns: int, *, color: bool) -> list[RenderableType]:
    from rich.table import Table
    from rich.text import Text

    prompt = one_line(after["prompt"] or "")
    if len(prompt) > NUM_PROMPT_CHARS:
        prompt = prompt[:NUM_PROMPT_CHARS] + " …"
    head = Text(one_line(after["prompt_id"]), style="bold")
    if after["ground_truth"] is not None:
        head.append(f"  expected {one_line(after['ground_truth'])}", "not bold")
    lines: list[RenderableType] = [head, *([Text(prompt, "dim")] if prompt else [])]
    if before is None:
        return [*lines, _verdict("", after), _tokens(after, color=color)]
    texts = [_verdict("before: ", before), _tokens(before, color=color)]
    texts += [_verdict("after: ", after), _tokens(after, color=color)]
    if columns < SIDE_BY_SIDE_COLUMNS:
        return [*lines, *texts]
    grid = Table.grid(expand=True, padding=(0, 3, 0, 0))
    grid.add_column(ratio=1)
    grid.add_column(ratio=1)
    grid.add_row(texts[0], texts[2])
    grid.add_row(texts[1], texts[3])
    return [*lines, grid]


def _verdict(name: str, sample: Sample) -> Text:
    from rich.text import Text

    verdict = {True: "correct", False: "wrong", None: "not graded"}[sample["correct"]]
    kl = "" if sample["mean_kl"] is None else f", mean kl {sample['mean_kl']:.3f}"
    cut = ", cut at the limit" if sample["finish_reason"] == "length" else ""
    style = {True: "green", False: "red", None: ""}[sample["correct"]]
    return Text(f"{name}{verdict}, {sample['num_tokens']} tokens{kl}{cut}", style=style)


def _tokens(sample: Sample, *, color: bool) -> Text:
    return shaded(sample["pieces"], sample["kl"], newline="\n", marked=not color)


def _render(parts: list[RenderableType], columns: int, *, color: bool) -> Painted:
    from rich.console import Console

    out = io.StringIO()
    console = Console(
        file=out, width=columns, force_terminal=color, color_system="256" if color else None, _environ={},
        legacy_windows=False, markup=False, highlight=False, emoji=False,
    )  # fmt: skip
    for part in parts:
        console.print(part)
    return Painted("\n".join(line.rstrip() for line in out.getvalue().split("\n")).rstrip("\n"))
