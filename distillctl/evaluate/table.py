"""The table of an evaluation."""

from __future__ import annotations

import math
from typing import Any

from distillctl.terminal.stream import inline

_COLUMNS = {
    "acc": "acc",
    "verl_strict": "verl-strict",
    "verl_flexible": "verl-flexible",
    "format_rate": "format",
    "truncation_rate": "truncated",
}


def render_report(report: dict[str, Any]) -> str:
    """Render the report: one row per model, then differences and requirements.

    The 95 % interval follows the accuracy. If there are several files, each has a row below its model.
    """
    results = report["results"]
    several = results[0]["num_samples"] > 1
    header = ["model", "prompts", "acc", "95 % interval", *list(_COLUMNS.values())[1:], "length", "tokens/s"]
    header += [f"pass@{results[0]['num_samples']}", f"maj@{results[0]['num_samples']}"] if several else []
    header += ["kl"] if "kl" in results[0] else []
    rows = [header]
    for result in results:
        rows.append(_row(result["model"], result, several=several))
        files = result["files"].items() if len(result["files"]) > 1 else []
        rows += [_row(f"  {name}", values, several=several) for name, values in files]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines = [lines[0], "-" * len(lines[0]), *lines[1:]]
    lines += [line for result in results for line in _left_out(result)]
    lines += [_difference(found) for found in report["differences"]]
    lines += [_unpaired(results[0]["model"], found) for found in report["unpaired"]]
    if report["gap_closed"] is not None:
        lines.append(f"closes {100 * report['gap_closed']:.1f} % of the gap to {inline(results[2]['model'])}")
    for outcome in report["requirements"]:
        verdict = "met" if outcome["met"] else "not met"
        lines.append(f"{verdict}: {outcome['expression']} ({outcome['reason']})")
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, values: dict[str, Any], *, several: bool) -> list[str]:
    low = 100 * values["acc_low"]
    high = 100 * values["acc_high"]
    interval = "-" if math.isnan(low) else f"{low:.1f} - {high:.1f}"
    shares = [_percent(values[name]) for name in _COLUMNS]
    cells = [inline(name), str(values["num_prompts"]), shares[0], interval, *shares[1:],
             _number(values["response_length"], ".1f"),
             _number(values.get("tokens_per_s", math.nan), ",.0f")]  # fmt: skip
    cells += [_percent(values["pass_at_k"]), _percent(values["maj_at_k"])] if several else []
    return cells + ([_number(values["kl"], ".4f")] if "kl" in values else [])


def _left_out(result: dict[str, Any]) -> list[str]:
    """Lines that say which prompts and tokens of one model were left out."""
    lines = []
    name = inline(result["model"])
    if result["num_dropped"]:
        total = result["num_dropped"] + result["num_prompts"]
        lines.append(f"{name}: {result['num_dropped']} of {total} prompts are too long and were left out")
    if result.get("kl_num_cut"):
        lines.append(
            f"{name}: {result['kl_num_cut']} responses count in kl only up to a token the teacher lacks"
        )
    return lines


def _difference(found: dict[str, Any]) -> str:
    return (
        f"against {inline(found['baseline'])}: {100 * found['difference']:+.1f} points "
        f"({100 * found['low']:+.1f} to {100 * found['high']:+.1f}), p {found['p_value']:.2g}, "
        f"{found['num_gained']} gained and {found['num_lost']} lost of {found['num_prompts']}"
    )


def _unpaired(name: str, found: dict[str, Any]) -> str:
    return (
        f"{found['num_model_only']} prompts only {name} answered, {found['num_baseline_only']} only "
        f"{found['baseline']}: the two are compared over the {found['num_both']} that both answered"
    )


def _number(value: float | None, form: str) -> str:
    return "-" if value is None or math.isnan(value) else format(value, form)


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
