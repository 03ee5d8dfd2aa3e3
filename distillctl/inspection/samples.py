"""`distillctl inspect samples`: responses before and after, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from distillctl.errors import ConfigError
from distillctl.run.directory import RunDir, open_run
from distillctl.run.sample_files import Sample, load_samples, prompt_ids, sample_steps, validation_ends

LIMIT = 10
"""Responses that are shown unless asked for more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which responses are shown; all that are set have to hold."""

    wrong: bool = False
    truncated: bool = False
    worst: int | None = None
    """So many with the highest mean KL, highest first."""
    prompt_id: str | None = None
    """`SPLIT/N`, or `N` for that row of any split."""
    limit: int = LIMIT

    def choose(self, samples: list[Sample]) -> list[Sample]:
        """Those that match, `limit` or `worst` of them at most."""
        chosen = [sample for sample in samples if self._holds(sample)]
        if self.worst is None:
            return chosen[: self.limit]
        measured = {i: kl for i, sample in enumerate(chosen) if (kl := sample["mean_kl"]) is not None}
        return [chosen[i] for i in sorted(measured, key=lambda i: -measured[i])[: self.worst]]

    def _holds(self, sample: Sample) -> bool:
        return (
            (not self.wrong or sample["correct"] is False)
            and (not self.truncated or sample["finish_reason"] == "length")
            and self.prompt_id in (None, sample["prompt_id"], str(sample["prompt_id"]).rpartition("/")[2])
        )


class SamplePair(TypedDict):
    """A response and, where there is one, the response to the same prompt before."""

    before: Sample | None
    after: Sample


class SamplesView(TypedDict):
    """What is shown of a run's responses."""

    run: str
    file: str
    """Within the run directory."""
    num_responses: int
    """In the file."""
    samples: list[SamplePair]
    """Those that were asked for."""


def show_samples(path: Path, step: int | None, filters: Filters, token: int | None = None) -> SamplesView:
    """Responses of a run with, where there is one, the response to the same prompt before.

    Without `step` these are the greedy answers to the validation prompts, of the newest evaluation and of the
    first; in a run with fewer than two evaluations the newest rollouts. With `step` they are the rollouts of
    that step, and the earliest saved rollout of each prompt. Raises ConfigError where nothing is saved or
    nothing matches, or `token` is beyond a response.
    """
    run = open_run(path)
    ends = validation_ends(run) if step is None else None
    after = ends[1] if ends else _rollouts(run, step)
    samples = load_samples(after)
    chosen = filters.choose(samples)
    if not chosen:
        message = f"{after}: none of its {len(samples)} responses matches"
        raise ConfigError(message, _other_prompts(samples) if filters.prompt_id else "ask for less")
    shortest = min(sample["num_tokens"] for sample in chosen)
    if token is not None and (filters.prompt_id is None or token >= shortest):
        raise ConfigError(f"--token {token}", f"with --prompt-id it takes 0 to {shortest - 1}")
    earlier = [ends[0]] if ends else _earlier(run, after)
    before = _earliest(earlier, {sample["prompt_id"] for sample in chosen})
    return {
        "run": str(run.path),
        "file": str(after.relative_to(run.path)),
        "num_responses": len(samples),
        "samples": [{"before": before.get(sample["prompt_id"]), "after": sample} for sample in chosen],
    }


def _rollouts(run: RunDir, step: int | None) -> Path:
    """The samples file of a step, the newest one without."""
    files = sample_steps(run.samples_dir)
    if not files:
        raise ConfigError(f"{run.path} has no samples yet", "they come with the first step")
    if step is not None and step not in files:
        there = ", ".join(map(str, files))
        raise ConfigError(f"{run.path} has no samples of step {step}", f"steps there: {there}")
    return files[step] if step is not None else list(files.values())[-1]


def _earlier(run: RunDir, path: Path) -> list[Path]:
    """Samples files of the steps before that of `path`."""
    files = list(sample_steps(run.samples_dir).values())
    return files[: files.index(path)]


def _other_prompts(samples: list[Sample]) -> str:
    some = ", ".join(sorted({str(sample["prompt_id"]) for sample in samples})[:5])
    return f"prompts there: {some}, …"


def _earliest(files: list[Path], wanted: set[str]) -> dict[str, Sample]:
    """For each prompt its first response in the first of `files` that has one."""
    found: dict[str, Sample] = {}
    for path in files:
        if prompt_ids(path) & (wanted - found.keys()):
            for sample in reversed(load_samples(path)):
                if sample["prompt_id"] in wanted and sample["prompt_id"] not in found:
                    found[sample["prompt_id"]] = sample
    return found
