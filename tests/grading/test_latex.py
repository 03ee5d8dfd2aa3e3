"""LaTeX answers through the real math-verify, and what happens when a comparison hangs."""

import importlib.util
import time

import pytest

from distillctl.errors import EnvironmentUnfit
from distillctl.grading import latex
from distillctl.grading.answer_types import Verdict, load
from distillctl.grading.latex import compare_latex

needs_math = pytest.mark.skipif(
    importlib.util.find_spec("math_verify") is None, reason="needs the extra math (math-verify)"
)


@needs_math
def test_expressions_are_compared_by_their_value_and_in_order():
    pairs = [
        (r"so the answer is $\boxed{\frac{1}{2}}$", "0.5"),
        (r"$\boxed{\frac{1}{3}}$", "0.5"),
        (r"$x^2 + 2x + 1$", "(x+1)^2"),
        (r"$\boxed{\sqrt{8}}$", r"2\sqrt{2}"),
        ("no answer", "1"),
        (r"\boxed{3}, no: \boxed{4}", "4"),
        (r"\boxed{3}, no: \boxed{4}", "3"),
        (r"\boxed{3} or \boxed{4}", r"\{3, 4\}"),
        (r"#### \frac{1}{2}", r"so \boxed{0.5}"),
        (r"<think>\boxed{3}", "3"),
        (r"$\boxed{1,2,3}$", r"\{1,2,3\}"),
        (r"\sqrt{8}", r"2\sqrt{2}"),
        ("x^2+1", r"\[1 + x^2\]"),
    ]
    verdicts = compare_latex(pairs)
    expected = [True, False, True, True, False, True, False, False, True, False, True, True, True]
    assert [verdict.same for verdict in verdicts] == expected
    assert verdicts[4].extracted is None
    assert not any(verdict.timed_out for verdict in verdicts)


@needs_math
def test_of_several_formulas_the_one_that_the_words_state_is_compared():
    pairs = [
        ("The answer is $4$ for $x=3$.", "4", True),
        ("The answer is $4$ for $x=3$.", "3", False),
        ("#### $4$ (with $x = 3$)", "4", True),
        (r"The answer is \(4\), where \(x=3\).", "4", True),
        ("Answer: For $n=3$, the value is $4$.", "4", True),
        ("The final answer is $5$ because $2+3=5$, not $4$.", "4", False),
        (r"**Answer:** $\frac{1}{3}$ (approximately $0.33$)", r"\frac13", True),
        (r"The answer is $\frac12$. Check: $\frac12+\frac12=1$", r"\frac12", True),
        ("The answer is $x = 3$ and $y = 4$.", "4", False),
        (r"The answer is $\frac{1}{2}$ or $2$.", "2", False),
        ("The answer is $x=1$ or $x=2$.", "1,2", True),
        ("The answer is not $4$.", "4", False),
        ("The answer can't be $4$.", "4", False),
        ("The answer is not $4$ but $5$.", "5", True),
        (r"\boxed{5} Wait, I made an error. The correct answer is $6$.", "6", True),
        (r"La respuesta es $\frac12$.", r"\frac12", True),
        ("Answer:\n- $4$", "4", True),
        ("The answer is x^2 + 1, since a = 1.", "x^2+1", True),
        (r"\boxed{\textcolor{red}{4}}", "4", True),
    ]
    verdicts = compare_latex([(response, truth) for response, truth, _ in pairs])
    assert [verdict.same for verdict in verdicts] == [same for _, _, same in pairs]


@needs_math
@pytest.mark.parametrize(
    "truth",
    [
        r"\[5\]",
        r"\(5\)",
        "$$5$$",
        "$5$",
        r"\$5",
        "$5",
        "#### 5",
        "The answer is $5$.",
        "**5**",
        "*5*",
        "__5__",
        "`5`",
    ],
)
def test_a_truth_may_have_any_marks_around_its_formula(truth):
    verdicts = compare_latex([(r"\boxed{5}", truth), (r"\boxed{\$5}", truth), (r"\boxed{6}", truth)])
    assert [verdict.same for verdict in verdicts] == [True, True, False]


DISPLAYS = [
    "Final answer:\n\\[\nV\n\\]", "The answer is:\n\\[\nV\n\\]", "**Answer:**\n\\[\nV\n\\]",
    "Therefore, the answer is:\n\n\\[\nV\n\\]", "The answer is \\[\nV\n\\].", "#### \\[\nV\n\\]",
    "The answer is:\n$$\nV\n$$", "The answer is:\n$$\ny\n=\nV\n$$", "The final answer is\n\\(\nV\n\\)",
    "The answer is:\n\\begin{align*}\ny &= V\n\\end{align*}", "The answer is:\n```math\nV\n```",
    "The answer is:\n\\begin{align}\ny &= \\frac24 \\\\\n &= V \\tag{1}\n\\end{align}\nDone.",
    "The answer is:\n\\[\n\\begin{aligned}\ny &= \\frac24 \\\\\n&= V\n\\end{aligned}\n\\]",
    "We have\n\\[\n1+1=2\n\\]\nThe answer is:\n\\[\nV\n\\]", "Final answer:\n\\[\n\\boxed{V}\n\\]",
    "The answer is\n\n> \\[\n> V\n> \\]", "The answer is:\n\\[\nV.\n\\]", "答案是**V**。",
    "The answer isn't $6$; it's $V$.", "The answer isn\u2019t $6$ but $V$.",
    "The answer is **V**.", "The answer is *V*.", "The answer is `V`.", "The answer is **$V$**.",
    "The answer is <b>V</b>.", "**V**", "*V*", "__V__", "_V_", "`V`", "***V***",
]  # fmt: skip


@needs_math
def test_an_expression_counts_on_lines_of_its_own_and_in_emphasis():
    texts = [text.replace("V", r"\frac{1}{2}") for text in DISPLAYS]
    turns = [load("latex").truth_in_turn(text) for text in texts]
    verdicts = compare_latex([(text, r"\frac12") for text in texts])
    assert [text for text, verdict in zip(texts, verdicts, strict=True) if not verdict.same] == []
    verdicts = compare_latex([(r"\boxed{\frac12}", turn) for turn in turns])
    assert [turn for turn, verdict in zip(turns, verdicts, strict=True) if not verdict.same] == []


@needs_math
def test_products_indices_and_rows_stay_as_they_are():
    matrix = r"\begin{pmatrix}1\\2\end{pmatrix}"
    pairs = [
        ("2*3*4", "24"),
        ("The answer is $2*x*y$.", "2xy"),
        ("The answer is $a_1+b_2$.", "b_2+a_1"),
        ("The answer is:\n\\[\n\\begin{pmatrix}\n1\\\\\n2\n\\end{pmatrix}\n\\]", matrix),
        ("The answer is:\n\\begin{align*}\nx&=1\\\\\ny&=2\n\\end{align*}", "x=1,y=2"),
    ]
    assert [verdict.same for verdict in compare_latex(pairs)] == [True] * len(pairs)


HANG = """
import json, sys, time
print("ready", flush=True)
for line in sys.stdin:
    response, truth = json.loads(line)
    time.sleep(60 if response == "hang" else 0)
    print(json.dumps([response == truth, response]), flush=True)
"""


@pytest.fixture
def hanging(monkeypatch):
    """Children that hang when told to."""
    import subprocess
    import sys

    monkeypatch.setattr(latex, "require_latex", lambda: None)
    monkeypatch.setattr(latex, "_start", lambda: subprocess.Popen(
        [sys.executable, "-c", HANG], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ))  # fmt: skip


@pytest.mark.usefixtures("hanging")
def test_a_comparison_that_hangs_is_wrong_and_holds_up_no_other():
    started = time.monotonic()
    verdicts = compare_latex([("hang", "1"), ("1", "1"), ("2", "1"), ("hang", "1"), ("1", "1")], timeout_s=1)
    assert time.monotonic() - started < 30
    hung = Verdict(False, None, timed_out=True)
    assert verdicts == [hung, Verdict(True, "1"), Verdict(False, "2"), hung, Verdict(True, "1")]


def test_without_math_verify_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(latex.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(EnvironmentUnfit) as caught:
        compare_latex([("1", "1")])
    assert caught.value.hint == "pip install 'distillctl[math]'"
