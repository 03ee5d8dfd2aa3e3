"""Grading: verl's behaviour table to the letter, and a tolerant scorer that reads what people would."""

import json
from fractions import Fraction
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.grading.scorers import grade, normalised, parse_number, verl_flexible, verl_strict

GSM8K = Path(__file__).parents[2].parent / "shared" / "data" / "gsm8k"
NUM_GSM8K = 8792

# (response, strict, flexible): verl.md, section 2.2, row by row.
VERL_TABLE = [
    ("#### 42", "42", "42"),
    ("#### 1,000", "1000", "1,000"),
    ("#### 42.", "42.", "42."),
    ("The answer is 42.", None, "42."),
    ("#### 42.00", "42.00", "42.00"),
    ("#### $42", None, "42"),
    ("#### **42**", None, "42"),
    (r"#### \boxed{42}", None, "42"),
    ("####42", None, "42"),
    ("####  42", None, "42"),
    ("x = 3-5", None, "-5"),
    ("#### 42" + " 7 is the tail" * 30, None, "7"),
    ("#### 5 and then #### 7", "7", "7"),
]


@pytest.mark.parametrize(("text", "strict", "flexible"), VERL_TABLE)
def test_verl_table(text: str, strict: str | None, flexible: str | None) -> None:
    assert verl_strict(text) == strict
    assert verl_flexible(text) == flexible


@pytest.mark.parametrize(
    ("text", "truth", "strict", "flexible"),
    [
        ("#### 42", "42", True, True),
        ("#### 1,000", "1000", True, False),
        ("#### 42.", "42", False, False),
        ("The answer is 42.", "42", False, False),
        ("#### 42.00", "42", False, False),
        ("#### $42", "42", False, True),
        ("####42", "42", False, True),
        ("#### 5 and then #### 7", "7", True, True),
        ("#### 5 and then #### 7", "5", False, False),
    ],
)
def test_verl_compares_strings(text: str, truth: str, strict: bool, flexible: bool) -> None:
    verdict = grade(text, truth)
    assert (verdict.strict, verdict.flexible) == (strict, flexible)


@pytest.mark.parametrize(
    ("text", "strict", "flexible"),
    [
        ("", None, None),
        ("no digits", None, None),
        (".", None, "."),
        (". and . and .", None, "."),
        ("5 then .", None, "5"),
        (",", None, ","),  # verl's loop rejects only the empty string and a single dot
        ("#### ,", "", ","),
        ("#### -", None, None),
        ("#### -1,234.5", "-1234.5", "-1,234.5"),
        ("#### 1.2.3", "1.2.3", "1.2.3"),
        ("##### 42", "42", "42"),
        ("####\t42", None, "42"),
        ("####\n42", None, "42"),
        ("#### ٤٢", None, None),  # only ASCII digits
    ],
)
def test_verl_quirks(text: str, strict: str | None, flexible: str | None) -> None:
    assert verl_strict(text) == strict
    assert verl_flexible(text) == flexible


def test_verl_reads_exactly_300_characters() -> None:
    assert verl_strict("#### 42" + "x" * 293) == "42"
    assert verl_strict("#### 42" + "x" * 294) is None
    assert verl_flexible("123" + "x" * 299) == "3"


@given(st.text(alphabet="#0123456789.,- $x\n", max_size=400))
def test_verl_scorers_match_the_description(text: str) -> None:
    """A second implementation, without regular expressions."""
    tail = text[-300:]
    runs, run = [], ""
    for char in [*tail, "\0"]:
        if char in "0123456789.,":
            run += char
        else:
            if run.strip("-"):
                runs.append(run)
            run = "-" if char == "-" else ""
    valid = [r for r in runs if r != "."]
    assert verl_flexible(text) == (valid[-1] if valid else runs[0] if runs else None)


NORMALISED = [
    # The format of the prompt, and near misses of it.
    ("#### 42", "42"),
    ("####42", "42"),
    ("####   42  ", "42"),
    ("#### 1,000", "1000"),
    ("#### 1,234,567.50", "1234567.5"),
    ("#### 42.", "42"),
    ("#### 42.00", "42"),
    ("#### $42", "42"),
    ("#### 42$", "42"),
    ("#### 42%", "42"),
    ("#### 42 %", "42"),
    ("#### **42**", "42"),
    ("**#### 42**", "42"),
    ("#### `42`", "42"),
    (r"#### \boxed{42}", "42"),
    (r"#### $\boxed{42}$", "42"),
    ("#### $42$", "42"),
    ("#### 42 apples", "42"),
    ("#### 42 km/h", "42"),
    ("#### 42kg", "42"),
    ("#### 42 m^2", "42"),
    ("#### €42", "42"),
    ("#### The answer is 42", "42"),
    ("#### Final answer: 42 dollars.", "42"),
    ("#### Answer: $1,042.", "1042"),
    ("#### 5 + 7 = 12", "12"),
    ("#### x = 12", "12"),
    ("#### 42 (= 6*7)", "42"),
    ("#### 12 x 3 = 36", "36"),
    ("#### 5\n#### 7", "7"),
    ("#### 42\n\nI hope this helps with all 3 parts!", "42"),
    ("#### 42" + " and so on" * 100, "42"),
    # Headings are not answers.
    ("#### Step 1: add\n2+2=4\nThe answer is 4.", "4"),
    ("#### Step 2\nso \\boxed{9}, in 3 steps", "9"),
    ("#### 1. Add the costs\n10 + 20 = 30", "30"),
    ("#### Final Answer\n42", "42"),
    ("#### 42\n#### Explanation\n6 times 7 in 1 step", "42"),
    ("#### Answer: 42\nbecause 6 * 7", "42"),
    # \boxed{}
    (r"so \boxed{42} after 3 steps", "42"),
    (r"\boxed{1} and \boxed{2}", "2"),
    (r"\boxed{\frac{3}{4}}", "0.75"),
    (r"\boxed{\dfrac{1}{2}}", "1/2"),
    (r"\boxed{-\frac{1}{2}}", "-0.5"),
    (r"\boxed{3\frac{1}{2}}", "3.5"),
    (r"\boxed{\frac12}", "0.5"),
    (r"\boxed{\$1{,}234.50}", "1234.5"),
    (r"\boxed{5\,000}", "5000"),
    (r"\boxed{42\%}", "42"),
    (r"\boxed{42\text{ cm}}", "42"),
    (r"\boxed{x = 42}", "42"),
    (r"\boxed{\text{42}}", "42"),
    (r"\boxed{1.5 \times 10^3}", "1500"),
    (r"\boxed{12} is not \boxed{closed", "12"),
    # The last number.
    ("The answer is 42.", "42"),
    ("She has 3 cats, 4 dogs and 7 fish!", "7"),
    ("It costs $42.", "42"),
    ("It costs -$5", "-5"),
    ("It costs $-5", "-5"),
    ("$10-$5", "5"),
    ("x = 3-5", "5"),
    ("x = -5", "-5"),
    ("3 - 5 = -2", "-2"),
    ("- 5 apples", "5"),
    ("<<6*7=42>>42", "42"),
    ("that is 50 cm^2", "50"),
    ("that is 50 cm²", "50"),
    ("that is 50 m2", "50"),
    ("that is 1e3", "1000"),
    ("that is 2.5E-3", "0.0025"),
    ("that is .5", "0.5"),
    ("that is 3/4", "0.75"),
    ("that is 3 1/2", "3.5"),
    ("that is 007", "7"),
    ("between 5\u201310", "10"),
    # Unicode.
    ("#### \u22125", "-5"),
    ("#### \uff0d5", "-5"),
    ("#### \uff14\uff12", "42"),
    ("#### ٤٢", "42"),
    ("#### ½", "0.5"),
    ("#### 3½", "3.5"),
    ("#### 1\u202f000", "1000"),
    # Text.
    ("#### Paris", "paris"),
    ("#### Paris.\nIt has 20 districts.", "Paris"),
    (r"\boxed{\text{Paris}}", "Paris"),
    ("#### (B)", "b"),
    ("#### The answer is Yes", "yes"),
    ("#### New   York", "new york"),
]

NOT_NORMALISED = [
    ("", "42"),
    ("no number", "42"),
    ("#### 43", "42"),
    ("#### -42", "42"),
    ("#### 42.001", "42"),
    ("#### 4,2", "42"),
    ("42 and then 43", "42"),
    ("#### Paris, not 42", "43"),
    ("#### 5/0", "5"),
    ("#### London", "Paris"),
    ("Paris it is", "Paris"),  # text needs a mark
    ("3" * 5000, "3"),  # past Python's limit for integers: no answer, and no crash
    ("#### 1e999999999", "3"),
    ("#### 0.1000000000000000055511151231257827", "0.1"),  # equal as floats
    ("#### 9007199254740993", "9007199254740992"),  # equal as floats
    ("#### 50%", "0.5"),
]


@pytest.mark.parametrize(("text", "truth"), NORMALISED)
def test_normalised_right(text: str, truth: str) -> None:
    verdict = grade(text, truth)
    assert verdict.normalised, verdict.extracted


@pytest.mark.parametrize(("text", "truth"), NOT_NORMALISED)
def test_normalised_wrong(text: str, truth: str) -> None:
    verdict = grade(text, truth)
    assert not verdict.normalised, verdict.extracted


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("42", Fraction(42)),
        ("+42", Fraction(42)),
        ("1e3", Fraction(1000)),
        ("1,000", Fraction(1000)),
        ("$1,000.50", Fraction(2001, 2)),
        ("-3/4", Fraction(-3, 4)),
        ("3 1/2", Fraction(7, 2)),
        ("42 apples", Fraction(42)),
        ("42%", Fraction(42)),
        (" 42. ", Fraction(42)),
        ("3x", None),
        ("3 and 5", None),
        ("Room 5", None),
        ("5/0", None),
        ("", None),
        ("1" * 5000, None),
        ("(1, 2)", None),
    ],
)
def test_parse_number(text: str, value: Fraction | None) -> None:
    assert parse_number(text) == value


def test_equal_numbers_have_one_value_and_text_has_none() -> None:
    assert parse_number("42.00") == parse_number("42") == 42
    assert parse_number("Paris") is None


def test_extracted_is_plain() -> None:
    assert normalised("#### **$1,234.50** per week") == "1234.50"
    assert normalised("#### Paris") == "Paris"
    assert normalised("nothing") is None


def test_has_format_is_a_strict_match_right_or_wrong() -> None:
    assert grade("#### 41", "42").has_format
    assert not grade("The answer is 42", "42").has_format
    assert not grade("#### 42" + "x" * 300, "42").has_format


@given(st.fractions(max_denominator=10**6), st.sampled_from(["#### {}", r"\boxed{{{}}}", "it is {}"]))
def test_any_fraction_is_read_back(value: Fraction, frame: str) -> None:
    assert grade(frame.format(value), str(value)).normalised
    assert not grade(frame.format(value), str(value + 1)).normalised


@given(st.decimals(allow_nan=False, allow_infinity=False, places=4, min_value=-(10**9), max_value=10**9))
def test_any_decimal_with_separators_is_read_back(value: object) -> None:
    assert grade(f"#### {value:,}", str(value)).normalised


@given(st.text(max_size=200), st.text(max_size=20))
def test_grades_anything(text: str, truth: str) -> None:
    grade(text, truth)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "piece",
    [
        "\\boxed{",
        "1,1",
        "#",
        "1 ",
        "(",
        "1/",
        "$-",
        "-",
        "\\frac{",
        "*",
        "42 ",
        "}{",
        "####1\n",
        "1" * 9 + "/",
    ],
)
def test_degenerate_output_is_graded_in_linear_time(piece: str) -> None:
    """Untrained students repeat themselves for thousands of tokens."""
    grade(piece * (50_000 // len(piece)), "42")


@pytest.fixture(scope="module")
def gold_answers() -> list[str]:
    if not GSM8K.is_dir():
        pytest.skip(f"GSM8K is not at {GSM8K}")
    texts = [(GSM8K / f"{name}.jsonl").read_text() for name in ("train", "test")]
    return [json.loads(line)["answer"] for text in texts for line in text.rstrip("\n").split("\n")]


def test_every_gold_answer_is_right_for_itself_and_for_nothing_else(gold_answers: list[str]) -> None:
    assert len(gold_answers) == NUM_GSM8K
    for answer in gold_answers:
        truth = verl_strict(answer)
        assert truth is not None
        right, wrong = grade(answer, truth), grade(answer, str(Fraction(truth) + 1))
        assert right.strict, answer
        assert right.normalised, answer
        assert not wrong.strict, answer
        assert not wrong.normalised, answer
