"""`distillctl inspect samples`: responses before and after training, token by token."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict

from distillctl.errors import ConfigError
from distillctl.run.directory import RunDir, open_run
from distillctl.run.sample_files import Sample, load_samples, prompt_ids, sample_steps, validation_ends

LIMIT = 10
"""Number of responses shown by default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Which responses are shown: those that pass all filters that are set."""

    wrong: bool = False
    truncated: bool = False
    worst: int | None = None
    """Number of responses to show, those with the highest mean KL first. It replaces `limit`."""
    prompt_id: str | None = None
    """`SPLIT/N`, or `N` for row N of any split."""
    limit: int = LIMIT

    def choose(self, samples: list[Sample]) -> list[Sample]:
        """The samples that pass the filters, at most `worst`, or `limit` if `worst` is None."""
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
    """A response and, if there is one, an earlier response to the same prompt."""

    before: Sample | None
    after: Sample


class SamplesView(TypedDict):
    """What `inspect samples` shows."""

    run: str
    file: str
    """Path of the samples file within the run directory."""
    num_responses: int
    """Number of responses in the file."""
    samples: list[SamplePair]
    """The responses that pass the filters."""


def show_samples(path: Path, step: int | None, filters: Filters, token: int | None = None) -> SamplesView:
    """Responses of a run, each with an earlier response to the same prompt if there is one.

    Without `step`, these are the greedy responses to the validation prompts, from the newest evaluation and
    from the first; a run with fewer than two evaluations shows its newest rollouts instead. With `step`, they
    are the rollouts of that step, each with the earliest saved rollout of its prompt. Raises ConfigError if
    the run has no samples, if no response passes the filters, or if a response is too short for `token`.
    """
    run = open_run(path)
    ends = validation_ends(run) if step is None else None
    after = ends[1] if ends else _rollouts(run, step)
    samples = load_samples(after)
    chosen = filters.choose(samples)
    if not chosen:
        message = f"{after}: none of its {len(samples)} responses matches"
        raise ConfigError(message, _other_prompts(samples) if filters.prompt_id else "remove a filter")
    shortest = min(sample["num_tokens"] for sample in chosen)
    if token is not None and (filters.prompt_id is None or token >= shortest):
        message = f"--token {token} is out of range, or given without --prompt-id"
        raise ConfigError(message, f"with --prompt-id, --token takes 0 to {shortest - 1}")
    earlier = [ends[0]] if ends else _earlier(run, after)
    before = _earliest(earlier, {sample["prompt_id"] for sample in chosen})
    return {
        "run": str(run.path),
        "file": str(after.relative_to(run.path)),
        "num_responses": len(samples),
        "samples": [{"before": before.get(sample["prompt_id"]), "after": sample} for sample in chosen],
    }


def _rollouts(run: RunDir, step: int | None) -> Path:
    """The samples file of a step, or the newest one if `step` is None."""
    files = sample_steps(run.samples_dir)
    if not files:
        raise ConfigError(f"{run.path} has no samples yet", "wait until its first step has ended")
    if step is not None and step not in files:
        steps = ", ".join(map(str, files))
        raise ConfigError(f"{run.path} has no samples of step {step}", f"steps with samples: {steps}")
    return files[step] if step is not None else list(files.values())[-1]


def _earlier(run: RunDir, path: Path) -> list[Path]:
    """Samples files of the steps before the step of `path`."""
    files = list(sample_steps(run.samples_dir).values())
    return files[: files.index(path)]


def _other_prompts(samples: list[Sample]) -> str:
    some = ", ".join(sorted({str(sample["prompt_id"]) for sample in samples})[:5])
    return f"prompts in the file: {some}, …"


def _earliest(files: list[Path], wanted: set[str]) -> dict[str, Sample]:
    """For each wanted prompt, the first response in the first file that has one."""
    found: dict[str, Sample] = {}
    for path in files:
        if prompt_ids(path) & (wanted - found.keys()):
            for sample in reversed(load_samples(path)):
                if sample["prompt_id"] in wanted and sample["prompt_id"] not in found:
                    found[sample["prompt_id"]] = sample
    return found
