"""The samples of a report in a compact form: each text once, numbers rounded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypedDict

from distillctl.run.directory import RunDir
from distillctl.run.sample_files import Alternatives, Sample, load_samples, sample_steps, validation_ends

MAX_SAMPLES = 500
"""Most responses in a report; a pair of before and after counts as two."""
MAX_TOKENS = 50_000
"""Most tokens of these responses. A token with its alternatives takes about 80 bytes."""
_VALIDATION = "validation"
MIN_PERMILLE = 1
"""Lowest probability, in thousandths, of an alternative that is kept."""


class PackedSample(TypedDict):
    """A response as the page reads it. Token texts are indices into `PackedSamples.texts`."""

    ok: bool | None
    cut: bool
    text: str
    mean: float | None
    """Mean KL in nats."""
    t: list[int]
    """The tokens."""
    kl: list[int | None]
    """KL at each token in thousandths of a nat."""
    lp: list[int | None]
    """Log-probability of each token in hundredths of a nat."""
    st: list[list[int]]
    """The student's alternatives at each token: text, permille, text, permille, …"""
    tt: list[list[int]]
    """The teacher's alternatives at each token, in the same form."""


class PackedPair(TypedDict):
    """A prompt with a response and, if there is one, an earlier response."""

    id: str
    prompt: str
    truth: str | None
    before: PackedSample | None
    after: PackedSample


class PackedGroup(TypedDict):
    """Samples that the page lists under one name."""

    name: str
    samples: list[PackedPair]


class PackedSamples(TypedDict):
    """All samples of a report."""

    texts: list[str]
    groups: list[PackedGroup]
    left_out: int
    """Number of responses that exceeded the limits."""


class Packer:
    """Packs responses: it replaces token texts by indices into one list of texts."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self._numbers: dict[str, int] = {}

    def pack(self, sample: Sample) -> PackedSample:
        """A response as the page reads it."""
        return {
            "ok": sample["correct"],
            "cut": sample["finish_reason"] == "length",
            "text": sample["text"],
            "mean": None if sample["mean_kl"] is None else round(sample["mean_kl"], 4),
            "t": [self._number(piece) for piece in sample["pieces"]],
            "kl": [None if kl is None else round(1000 * kl) for kl in sample["kl"]],
            "lp": [None if lp is None else round(100 * lp) for lp in sample["logprobs"]],
            "st": [self._top(top) for top in sample["student_top"]],
            "tt": [self._top(top) for top in sample["teacher_top"]],
        }

    def _top(self, top: Alternatives) -> list[int]:
        kept = [
            (self._number(text), round(1000 * share)) for text, share in top if 1000 * share >= MIN_PERMILLE
        ]
        return [value for pair in kept for value in pair]

    def _number(self, text: str) -> int:
        if text not in self._numbers:
            self._numbers[text] = len(self.texts)
            self.texts.append(text)
        return self._numbers[text]


def pack_samples(runs: list[tuple[str, RunDir]]) -> PackedSamples:
    """Samples of all runs, up to the limits, and the number of responses left out.

    Each run gets an equal share of the limits. The responses of its newest evaluation come first, each paired
    with the first evaluation's response; they take at most half of the run's share of MAX_SAMPLES. The newest
    rollouts follow.
    """
    packer = Packer()
    groups: list[PackedGroup] = []
    num_left_out = 0
    for label, run in runs:
        room = MAX_SAMPLES // len(runs)
        token_room = MAX_TOKENS // len(runs)
        for name, pairs in _groups(run):
            entries = []
            kept_room = room // 2 if name.startswith(_VALIDATION) else 0  # reserved for the rollouts
            for before, after in pairs:
                several = [sample for sample in (before, after) if sample is not None]
                num_tokens = sum(sample["num_tokens"] for sample in several)
                if len(several) > room - kept_room or num_tokens > token_room:
                    num_left_out += len(several)
                    continue
                room -= len(several)
                token_room -= num_tokens
                entries.append(_entry(packer, before, after))
            if entries:
                groups.append({"name": f"{label} {name}" if len(runs) > 1 else name, "samples": entries})
    return {"texts": packer.texts, "groups": groups, "left_out": num_left_out}


def _entry(packer: Packer, before: Sample | None, after: Sample) -> PackedPair:
    return {
        "id": after["prompt_id"],
        "prompt": after["prompt"] or "",
        "truth": after["ground_truth"],
        "before": None if before is None else packer.pack(before),
        "after": packer.pack(after),
    }


def _groups(run: RunDir) -> Iterator[tuple[str, list[tuple[Sample | None, Sample]]]]:
    """Validation responses before and after, then the rollouts, newest step first. Each group has at most
    MAX_SAMPLES pairs."""
    ends = validation_ends(run)
    if ends is not None:
        before = {sample["prompt_id"]: sample for sample in load_samples(ends[0], MAX_SAMPLES)}
        after = load_samples(ends[1], MAX_SAMPLES)
        yield f"{_VALIDATION}, before and after", [(before.get(one["prompt_id"]), one) for one in after]
    for step, path in reversed(sample_steps(run.samples_dir).items()):
        yield f"rollouts of step {step}", [(None, one) for one in load_samples(path, MAX_SAMPLES)]
