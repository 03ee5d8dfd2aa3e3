"""The table of an evaluation."""

from __future__ import annotations

import math
from typing import Any

_COLUMNS = {
    "acc": "acc",
    "verl_strict": "verl-strict",
    "verl_flexible": "verl-flexible",
    "format_rate": "format",
    "truncation_rate": "truncated",
}


def render_report(report: dict[str, Any]) -> str:
    """One row per model with the 95 % interval behind the accuracy, then differences and requirements."""
    results = report["results"]
    several = results[0]["num_samples"] > 1
    header = ["model", "prompts", "acc", "95 % interval", *list(_COLUMNS.values())[1:], "length", "tokens/s"]
    header += [f"pass@{results[0]['num_samples']}", f"maj@{results[0]['num_samples']}"] if several else []
    header += ["kl"] if "kl" in results[0] else []
    rows = [header, *(_row(result, several=several) for result in results)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(header))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))])
        for row in rows
    ]
    lines = [lines[0], "-" * len(lines[0]), *lines[1:]]
    lines += [_difference(found) for found in report["differences"]]
    if report["gap_closed"] is not None:
        lines.append(f"closes {100 * report['gap_closed']:.1f} % of the gap to {results[2]['model']}")
    for outcome in report["requirements"]:
        verdict = "met" if outcome["met"] else "not met"
        lines.append(f"{verdict}: {outcome['expression']} ({outcome['reason']})")
    return "\n".join(line.rstrip() for line in lines)


def _row(result: dict[str, Any], *, several: bool) -> list[str]:
    interval = f"{100 * result['acc_low']:.1f} - {100 * result['acc_high']:.1f}"
    shares = [_percent(result[name]) for name in _COLUMNS]
    cells = [result["model"], str(result["num_prompts"]), shares[0], interval, *shares[1:],
             f"{result['response_length']:.1f}", f"{result['tokens_per_s']:,.0f}"]  # fmt: skip
    cells += [_percent(result["pass_at_k"]), _percent(result["maj_at_k"])] if several else []
    return cells + ([f"{result['kl']:.4f}"] if "kl" in result else [])


def _difference(found: dict[str, Any]) -> str:
    return (
        f"against {found['baseline']}: {100 * found['difference']:+.1f} points "
        f"({100 * found['low']:+.1f} to {100 * found['high']:+.1f}), p {found['p_value']:.2g}, "
        f"{found['num_gained']} gained and {found['num_lost']} lost of {found['num_prompts']}"
    )


def _percent(share: float) -> str:
    return "-" if math.isnan(share) else f"{100 * share:.1f} %"
