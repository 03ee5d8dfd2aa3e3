"""Grade-school word problems in GSM8K's answer format, generated from a seed.

This module makes the text of the `arith` data set, on which the two shipped models were trained. In: a count
and a seed. Out: `Problem`s, each a question and the worked steps that end in `#### N`. Every intermediate
result is a whole number from 0 to `MAX_RESULT`.
"""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from operator import add, floordiv, mul, sub

from distillctl.data.out_folder import SPLITS
from distillctl.data.prep import DataSet
from distillctl.data.schema import Example
from distillctl.data.sets import gsm8k

NUM_TRAIN = 8192
NUM_TEST = 500
SEED = 0
MAX_RESULT = 200

NAMES = ("Tom", "Mia", "Sam", "Ana", "Leo", "Zoe", "Ben", "Eva", "Max", "Ivy")
THINGS = ("apples", "pens", "coins", "books", "cards", "shells", "stamps", "nuts", "balls", "plums")

_SIGNS: dict[str, Callable[[int, int], int]] = {"+": add, "-": sub, "*": mul, "/": floordiv}


@dataclass(frozen=True)
class Problem:
    """One word problem: the question, and steps such as `Tom has 2+3=5.` then `#### 5`."""

    question: str
    answer: str


@dataclass(kw_only=True)
class _Tale:
    """A problem under construction: the sentences and steps so far, the people, and the things they count."""

    rng: random.Random
    name: str
    friend: str
    things: str
    told: list[str] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    total: int = 0

    def step(self, lead: str, left: int, sign: str, right: int) -> int:
        """Append the worked line `lead left+right=result.` and return the result."""
        result = _SIGNS[sign](left, right)
        self.steps.append(f"{lead} {left}{sign}{right}={result}.")
        return result

    def problem(self, ask: str) -> Problem:
        """The problem that ends with the question `ask`. Its answer is the result of the last step."""
        final = self.steps[-1].rsplit("=", 1)[-1].rstrip(".")
        answer = "\n".join([*self.steps, f"#### {final}"])
        return Problem(" ".join([*self.told, ask]), answer)


def _gain(tale: _Tale) -> None:
    """The total grows by a plain number."""
    num = tale.rng.randint(2, 30)
    verb = tale.rng.choice(("finds", "buys", "wins"))
    tale.told.append(f"{tale.name} {verb} {num} more.")
    tale.total = tale.step(f"{tale.name} has", tale.total, "+", num)


def _lose(tale: _Tale) -> None:
    """The total shrinks by a plain number, never below zero."""
    num = tale.rng.randint(1, min(30, tale.total))
    deed = tale.rng.choice((f"gives {num} to {tale.friend}", f"loses {num}", f"sells {num}"))
    tale.told.append(f"{tale.name} {deed}.")
    tale.total = tale.step(f"{tale.name} has", tale.total, "-", num)


def _buy_boxes(tale: _Tale) -> None:
    """The total grows by boxes of equal size: two steps."""
    boxes = tale.rng.randint(2, 9)
    size = tale.rng.randint(2, 9)
    tale.told.append(f"{tale.name} buys {boxes} boxes of {size} {tale.things}.")
    bought = tale.step("The boxes hold", boxes, "*", size)
    tale.total = tale.step(f"{tale.name} has", tale.total, "+", bought)


def _split(tale: _Tale) -> str | None:
    """Pack the total in 2 to 9 equal bags of at most 12 things. Returns the question, or None if it does not
    divide."""
    parts = [k for k in range(2, 10) if tale.total % k == 0 and 1 <= tale.total // k <= 12]
    if not parts:
        return None
    num = tale.rng.choice(parts)
    tale.told.append(f"{tale.name} puts them into {num} equal bags.")
    tale.total = tale.step("Each bag has", tale.total, "/", num)
    return f"How many {tale.things} are in each bag?"


def _chain(tale: _Tale) -> Problem:
    """One person gains and loses things, and perhaps packs them into bags at the end."""
    tale.total = tale.rng.randint(5, 50)
    tale.told.append(f"{tale.name} has {tale.total} {tale.things}.")
    for event in tale.rng.sample((_gain, _lose, _buy_boxes), 2):
        event(tale)
    ask = _split(tale) if tale.rng.random() < 0.5 else None
    return tale.problem(ask or f"How many {tale.things} does {tale.name} have?")


def _together(tale: _Tale) -> Problem:
    """Two people have things, the second relative to the first. The question asks for the sum."""
    rng = tale.rng
    first = rng.randint(5, 30)
    tale.told.append(f"{tale.name} has {first} {tale.things}.")
    kind = rng.choice(("more", "fewer", "times"))
    num = rng.randint(2, min(20, first)) if kind == "fewer" else rng.randint(2, 20)
    if kind == "times":
        num = rng.randint(2, 3)
        tale.told.append(f"{tale.friend} has {num} times as many.")
    else:
        tale.told.append(f"{tale.friend} has {num} {kind}.")
    sign = {"more": "+", "fewer": "-", "times": "*"}[kind]
    second = tale.step(f"{tale.friend} has", first, sign, num)
    tale.total = tale.step("Together", first, "+", second)
    return tale.problem(f"How many {tale.things} do they have together?")


def _wages(tale: _Tale) -> Problem:
    """Daily pay times days, minus spending, perhaps plus a gift."""
    rate = tale.rng.randint(3, 9)
    days = tale.rng.randint(3, 9)
    tale.told.append(f"{tale.name} earns {rate} dollars a day for {days} days.")
    tale.total = tale.step(f"{tale.name} earns", rate, "*", days)
    spent = tale.rng.randint(1, min(30, tale.total))
    tale.told.append(f"{tale.name} spends {spent} dollars.")
    tale.total = tale.step(f"{tale.name} has", tale.total, "-", spent)
    if tale.rng.random() < 0.5:
        gift = tale.rng.randint(2, 30)
        tale.told.append(f"{tale.friend} gives {tale.name} {gift} dollars.")
        tale.total = tale.step(f"{tale.name} has", tale.total, "+", gift)
    return tale.problem(f"How many dollars does {tale.name} have?")


_KINDS: tuple[Callable[[_Tale], Problem], ...] = (_chain, _chain, _together, _wages)


def _generate(num_problems: int, rng: random.Random, taken: set[str]) -> list[Problem]:
    """`num_problems` problems whose questions are not in `taken`. Adds their questions to `taken`."""
    problems: list[Problem] = []
    while len(problems) < num_problems:
        name, friend = rng.sample(NAMES, 2)
        tell = rng.choice(_KINDS)
        problem = tell(_Tale(rng=rng, name=name, friend=friend, things=rng.choice(THINGS)))
        if problem.question not in taken:
            taken.add(problem.question)
            problems.append(problem)
    return problems


def generate(num_problems: int, seed: int) -> list[Problem]:
    """`num_problems` different problems; the same for the same `seed`."""
    return _generate(num_problems, random.Random(seed), set())


def splits(num_train: int, num_test: int, seed: int) -> tuple[list[Problem], list[Problem]]:
    """Train and test problems without a common question, each without duplicates.

    The test split is drawn first, so it does not change with `num_train`.
    """
    rng = random.Random(seed)
    taken = set[str]()
    test = _generate(num_test, rng, taken)
    return _generate(num_train, rng, taken), test


def data_set() -> DataSet:
    """Generated arithmetic word problems for the tiny preset.

    Example: distillctl prep arith
    """
    return DataSet(
        data_source="distillctl/arith",
        source=f"distillctl/arith seed {SEED}",
        splits={split: _examples(number) for number, split in enumerate(SPLITS)},
    )


def _examples(number: int) -> Iterator[Example]:
    """The examples of one split, given by its position in `SPLITS`."""
    for problem in splits(NUM_TRAIN, NUM_TEST, SEED)[number]:
        yield gsm8k.example(problem.question, problem.answer)
