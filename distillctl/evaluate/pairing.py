"""What one model's numbers are beside another's: always over the prompts that both answered."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distillctl.evaluate.comparison import difference, gap_closed
from distillctl.evaluate.requirements import BASELINE, NAMES
from distillctl.evaluate.teacher import AnswerKl, mean_kl
from distillctl.grading.summary import Answer, summarise


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """One evaluated model."""

    label: str
    answers: list[Answer]
    seconds: float
    """That the answers took."""
    num_dropped: int
    """Rows that were too long for it."""
    kls: list[AnswerKl] | None = None
    """Of each answer from the teacher; None without one."""

    @property
    def prompt_ids(self) -> set[str]:
        """Of all prompts that it answered."""
        return {answer.rollout.prompt.prompt_id for answer in self.answers}

    def values(self, prompt_ids: Collection[str]) -> dict[str, Any]:
        """The numbers of its answers to some of the prompts; its speed is that of all of them."""
        chosen = [i for i, a in enumerate(self.answers) if a.rollout.prompt.prompt_id in prompt_ids]
        values = asdict(summarise([self.answers[i] for i in chosen], self.seconds))
        if len(chosen) < len(self.answers):
            values["tokens_per_s"] = summarise(self.answers, self.seconds).tokens_per_s
        if self.kls is not None:
            kls = [self.kls[i] for i in chosen]
            values |= {"kl": mean_kl(kls), "kl_num_cut": sum(kl.is_cut for kl in kls)}
        return values


def compared(results: Sequence[Result]) -> dict[str, Any]:
    """Differences from each baseline, the gap from the first one to the second, the teacher, and how many
    prompts only one of two models answered."""
    first, *others = results
    found = [difference(other.label, first.answers, other.answers) for other in others]
    return {
        "differences": [asdict(one) for one in found if one is not None],
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
    """What requirements are about: the values of the first model, and its differences from the second."""
    first, *others = results
    own = first.values(first.prompt_ids)
    values: dict[str, float | None] = {name: own.get(name) for name in NAMES} | {"gap_closed": gap}
    if others:
        common = first.prompt_ids & others[0].prompt_ids
        ours, theirs = first.values(common), others[0].values(common)
        for name in NAMES:
            pair = ours.get(name), theirs.get(name)
            values[name + BASELINE] = None if pair[0] is None or pair[1] is None else pair[0] - pair[1]
    return values


def _gap(results: Sequence[Result]) -> float | None:
    """None without two baselines, or where no prompt was answered by all three."""
    if len(results) < 3:
        return None
    common = set.intersection(*(result.prompt_ids for result in results[:3]))
    after, before, teacher = (result.values(common)["acc"] for result in results[:3])
    return gap_closed(before, after, teacher)
