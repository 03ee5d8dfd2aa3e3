"""Setting one model's numbers beside another's, always over the prompts that both responded to."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distillctl.evaluate.comparison import difference, gap_closed
from distillctl.evaluate.requirements import BASELINE, NAMES
from distillctl.evaluate.teacher import ResponseKl, mean_kl
from distillctl.grading.summary import GradedResponse, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One evaluated model."""

    label: str
    responses: list[GradedResponse]
    seconds: float
    """Seconds that it took to generate the responses."""
    num_dropped: int
    """Rows that were too long for the model."""
    kls: list[ResponseKl] | None = None
    """KL of each response from the teacher; None without a teacher."""

    @property
    def prompt_ids(self) -> set[str]:
        """Ids of all prompts that the model responded to."""
        return {response.rollout.prompt.prompt_id for response in self.responses}

    def values(self, prompt_ids: Collection[str]) -> dict[str, Any]:
        """The model's numbers over the given prompts; its speed is always over all of its prompts."""
        chosen = [i for i, a in enumerate(self.responses) if a.rollout.prompt.prompt_id in prompt_ids]
        values = asdict(summarise([self.responses[i] for i in chosen], self.seconds))
        if len(chosen) < len(self.responses):
            values["tokens_per_s"] = summarise(self.responses, self.seconds).tokens_per_s
        if self.kls is not None:
            kls = [self.kls[i] for i in chosen]
            values |= {"kl": mean_kl(kls), "kl_num_cut": sum(kl.is_cut for kl in kls)}
        return values


def compared(results: Sequence[Result]) -> dict[str, Any]:
    """The comparisons of the first model with the others, which are its baselines.

    They are the difference from each baseline, the closed share of the gap between the first baseline and the
    second (the teacher), and how many prompts only one of two models responded to.
    """
    first, *others = results
    found = [(other.label, difference(first.responses, other.responses)) for other in others]
    return {
        "differences": [{"baseline": label, **asdict(one)} for label, one in found if one is not None],
        "gap_closed": _gap(results),
        "unpaired": [
            {
                "baseline": other.label,
                "num_both": len(first.prompt_ids & other.prompt_ids),
                "num_model_only": len(first.prompt_ids - other.prompt_ids),
                "num_baseline_only": len(other.prompt_ids - first.prompt_ids),
            }
            for other in others
            if first.prompt_ids != other.prompt_ids
        ],
    }


def required_values(results: Sequence[Result], gap: float | None) -> dict[str, float | None]:
    """The values that requirements may name: those of the first model and its differences from the second."""
    first, *others = results
    own = first.values(first.prompt_ids)
    values: dict[str, float | None] = {name: own.get(name) for name in NAMES} | {"gap_closed": gap}
    if others:
        common = first.prompt_ids & others[0].prompt_ids
        ours = first.values(common)
        theirs = others[0].values(common)
        for name in NAMES:
            pair = ours.get(name), theirs.get(name)
            values[name + BASELINE] = None if pair[0] is None or pair[1] is None else pair[0] - pair[1]
    return values


def _gap(results: Sequence[Result]) -> float | None:
    """The closed share of the gap; None without two baselines, or if the three models share no prompt."""
    if len(results) < 3:
        return None
    common = set.intersection(*(result.prompt_ids for result in results[:3]))
    after, before, teacher = (result.values(common)["acc"] for result in results[:3])
    return gap_closed(before, after, teacher)
