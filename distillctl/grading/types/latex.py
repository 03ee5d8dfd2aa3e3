"""An expression in LaTeX, compared by math-verify (extra `math`)."""

from __future__ import annotations

from distillctl.answers.latex_answer import expression_in_turn
from distillctl.grading.answer_types import AnswerType
from distillctl.grading.latex import compare_latex
from distillctl.grading.scorers import same_answer_key

TYPE = AnswerType(compare=compare_latex, truth_in_turn=expression_in_turn, answer_key=same_answer_key)
