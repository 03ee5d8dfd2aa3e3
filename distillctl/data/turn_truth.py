"""The ground truth that an assistant's whole turn holds."""

from __future__ import annotations

from distillctl.answers.choice import chosen_letter
from distillctl.answers.final_answer import fold
from distillctl.answers.latex_answer import expression_in_turn
from distillctl.answers.plain import plain
from distillctl.answers.text_answer import final_text
from distillctl.answers.truths import number_in_turn


def truth_in_turn(turn: str, kind: str) -> str | None:
    """The ground truth of type `kind` in an assistant's turn, or None: what grading finds in the same text.

    A number is marked as the answer (`####`, a box, `answer is`) or stands alone; a choice is its letter;
    text is what is marked, else the last line; an expression is marked, or the turn has formulas; no turn is
    a regular expression.
    """
    if kind == "numeric":
        number = number_in_turn(turn)
        return None if number is None else number.text
    if kind == "choice":
        return chosen_letter(turn)
    if kind == "latex":
        return expression_in_turn(turn)
    text = final_text(turn) if kind == "exact" else None
    return text if text and fold(plain(text)) else None
