"""The ground truth in the assistant's turn that a chat ends with."""

import pytest

from distillctl.data.turn_truth import truth_in_turn


@pytest.mark.parametrize(
    ("turn", "kind", "truth"),
    [
        ("5+13=18\n#### 18", "numeric", "18"),
        ("So it costs $1,018 in all.\nThe answer is $1,018.", "numeric", "1018"),
        (r"Half of it: \boxed{\frac{1}{2}}.", "numeric", "1/2"),
        ("18", "numeric", "18"),
        ("I have 3 dogs and 2 cats.", "numeric", None),
        ("Paris is the capital.", "numeric", None),
        ("(B) Paris", "choice", "(B) Paris"),
        ("Paris", "exact", "Paris"),
        ("[a-z]+", "regex", None),
    ],
)
def test_only_what_is_stated_as_the_answer_is_the_truth(turn, kind, truth):
    assert truth_in_turn(turn, kind) == truth
