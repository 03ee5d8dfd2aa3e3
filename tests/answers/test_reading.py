"""Numbers as a person reads them: tables of responses and of ground truths, and sizes that must not hang."""

import sys
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.answers.expressions import MAX_BITS, evaluate, tokens
from distillctl.answers.truths import read_truth
from distillctl.grading.scorers import grade, parse_number, verl_strict

RIGHT = [
    (r"\boxed{10^3}", "1000"),
    ("#### 6*7", "42"),
    ("#### 2^5", "32"),
    ("#### 1.5 x 10^3", "1500"),
    (r"\boxed{1.5 \times 10^{3}}", "1500"),
    ("#### 1.5 \xd7 10\xb3", "1500"),
    (r"\boxed{\cfrac{3}{4}}", "0.75"),
    (r"\boxed{\tfrac{3}{4}}", "3/4"),
    (r"\boxed{\frac{\frac{1}{2}}{3}}", "1/6"),
    (r"\boxed{\frac{1+2}{6}}", "0.5"),
    ("#### - 3", "-3"),
    ("#### -3", "-3"),
    ("#### \u22123", "-3"),
    ("#### \u2013 3", "-3"),
    (r"\boxed{- 3}", "-3"),
    ("The answer is - 3", "-3"),
    ("x = - 5", "-5"),
    ("#### ≈ 12", "12"),
    ("#### about 12", "12"),
    ("#### ~12", "12"),
    (r"\boxed{\approx 3.14}", "3.14"),
    ("#### x ≈ 3.14", "3.14"),
    (r"\boxed{x \approx 3.14}", "3.14"),
    ("#### 1 000", "1000"),
    ("#### 12 500 000", "12500000"),
    ("#### 1\u2009000", "1000"),
    ("#### 1\xa0000", "1000"),
    (r"\boxed{12\,500}", "12500"),
    (r"\boxed{12\ 500}", "12500"),
    (r"\boxed{12~500}", "12500"),
    ("#### 1'000", "1000"),
    ("#### 1,00,000", "100000"),
    ("#### 2/3 of 30 = 20", "20"),
    ("#### 5 apples + 7 apples = 12 apples", "12"),
    ("#### 3 * $5 = $15 per day", "15"),
    ("#### 20 - 8 = 12 eggs", "12"),
    ("#### 6*7 apples", "42"),
    ("#### 5 + 7 apples", "12"),
    ("#### USD 42", "42"),
    ("#### 42 USD", "42"),
    ("#### Rs. 42", "42"),
    ("#### Rs42", "42"),
    ("#### US$42", "42"),
    ("#### 42 dollars", "42"),
    ("#### £42.50", "42.5"),
    ("#### EUR 5", "5"),
    ("#### 18€", "18"),
    ("#### $18.00", "18"),
    ("#### $ 18", "18"),
    ("#### -$5", "-5"),
    ("#### $-5", "-5"),
    (r"\boxed{\$18}", "18"),
    (r"\boxed{18\text{ dollars}}", "18"),
    (r"\boxed{18\ \text{dollars}}", "18"),
    (r"\boxed{\text{\$}18}", "18"),
    (r"\boxed{50\%}", "50"),
    (r"\boxed{90^\circ}", "90"),
    (r"\boxed{90^{\circ}}", "90"),
    ("#### 90°", "90"),
    (r"\boxed{12\text{ cm}^2}", "12"),
    (r"\boxed{12\,\mathrm{m/s}}", "12"),
    ("#### 12 m/s^2", "12"),
    ("#### 12 m", "12"),
    ("#### 5m", "5"),
    ("#### 5 kg", "5"),
    ("#### 42 km/h", "42"),
    ("#### $5/hour", "5"),
    ("#### 12 per day", "12"),
    ("#### 12 = x", "12"),
    ("#### Total: 42", "42"),
    ("#### Total cost = $42", "42"),
    ("#### The total for 3 people is 42", "42"),
    ("#### There are 42 apples in 3 boxes", "42"),
    ("#### 42 for 3 people", "42"),
    ("#### not 5 but 6", "6"),
    ("#### 3 and 1/2", "3.5"),
    ("#### 3 1/2", "3.5"),
    ("#### 3½", "3.5"),
    (r"\boxed{3 \frac{1}{2}}", "3.5"),
    (r"\boxed{-3\frac12}", "-3.5"),
    ("#### 1/2 or 0.5", "0.5"),
    (r"\boxed{\frac{1}{2} = 0.5}", "0.5"),
    (r"\boxed{\frac12 \approx 0.5}", "1/2"),
    (r"\boxed{\sqrt{144}}", "12"),
    (r"\boxed{2\sqrt{9}}", "6"),
    (r"\boxed{5!}", "5"),
    ("#### 2(3+4)", "14"),
    ("#### (3+4)*2", "14"),
    ("#### (42)", "42"),
    ("#### [42]", "42"),
    (r"\boxed{(42)}", "42"),
    ("#### 42 (6*7)", "42"),
    ("#### 42 (forty-two)", "42"),
    ("#### 42!", "42"),
    ("The answer is 42!", "42"),
    ("#### 2**3", "8"),
    ("#### 10^-3", "0.001"),
    (r"\boxed{10^{-3}}", "0.001"),
    ("#### 1e3", "1000"),
    ("#### 1.5E+3", "1500"),
    ("#### 5²", "25"),
    ("The answer is 42. I checked it 3 times.", "42"),
    ("The final answer is: $42$.\nThis took 3 steps", "42"),
    ("Answer: 42\n\nStep 1 done", "42"),
    ("**Answer:** 42\n\n3 steps", "42"),
    ("**Final Answer:** **42** (in 3 steps)", "42"),
    ("The answer is:\n\n42\n\nThat was 1 problem", "42"),
    ("**Final Answer**\n\n42\n\nThat was 1 problem", "42"),
    ("The answer to the question is 42, in 3 steps", "42"),
    ("\u7b54\u6848\uff1a42\u3002\u51713\u6b65", "42"),
    ("答案是42", "42"),
    (r"The answer is $\frac{1}{2}$ after 3 steps", "0.5"),
    ("So we get **42** apples after 3 steps", "42"),
    ("total is **$42.00** in 7 days", "42"),
    ("**x = 42** in 7 days", "42"),
    ("**Step 1:** add 3+4. We get 7", "7"),
    ("**1. Add** 3 + 4\nso 7", "7"),
    ("<think>#### 3</think>#### 4", "4"),
    ("<think>3</think>The answer is 4", "4"),
    ("so 3</think>\n\\boxed{4}", "4"),
    (r"<think>a</think>\boxed{3}<think>b</think>\boxed{4}", "4"),
    ("#### 3\nso \\boxed{4}", "4"),
    (r"\boxed{3} and then \boxed{4}", "4"),
    ("\\boxed{}\n#### 4", "4"),
    ("共有42个苹果", "42"),
    ("she has 10 - 4 apples", "6"),
    ("so 3*4 = 12.", "12"),
    ("5 + 7 = 12 + 3 = 15", "15"),
    ("<b>42</b>", "42"),
    ("#### <b>42</b>", "42"),
    ("$$x = 42$$", "42"),
    (r"\[ x = 42 \]", "42"),
    (r"\(42\)", "42"),
    (r"#### \(42\)", "42"),
    (r"#### $\frac{3}{4}$", "0.75"),
    ("#### $42$ apples", "42"),
    ("In 2020, 15 people came.", "15"),
    ("1. First 3\n2. Then 5", "5"),
    ("#### 42.", "42"),
    ("#### 42,", "42"),
    ('#### "42"', "42"),
    ("#### 42;", "42"),
    ("#### 42 hours and then some", "42"),
    ("#### 4th", "4"),
    ("#### 12pm", "12"),
    ("#### 100,000", "100000"),
    ("#### 1,234.5", "1234.5"),
    ("#### +5", "5"),
    ("#### 007", "7"),
    ("#### 0", "0"),
    ("#### -0", "0"),
    ("#### 12 - because it is", "12"),
    ("#### 12 \u2014 because 3", "12"),
    (r"\boxed{x=\frac{3}{4}}", "0.75"),
    (r"\boxed{\dfrac{3}{4}\text{ cups}}", "0.75"),
    (r"\boxed{3/4}", "0.75"),
    (r"\boxed{0.75}", "3/4"),
    (r"\boxed{\left(42\right)}", "42"),
    (r"\boxed{{42}}", "42"),
    (r"\boxed{ 42 }", "42"),
    (r"$\boxed{\mathbf{42}}$", "42"),
    (r"\fbox{42}", "42"),
    ("#### 5 * 10 ^ 2", "500"),
    ("#### 8 ÷ 2", "4"),
    (r"\boxed{8 \div 2}", "4"),
    (r"\boxed{6 \cdot 7}", "42"),
    ("#### 6 \xb7 7", "42"),
    ("#### 100 - 58 = 42 apples left", "42"),
    ("#### 5 boxes x 6 = 30", "30"),
    ("#### 12 apples", "12"),
    ("The answer is 3x4=12", "12"),
    ("#### 42\n\n**Note**: 3 steps", "42"),
    ("#### $1,000,000 (one million dollars)", "1000000"),
    ("#### -1/2", "-0.5"),
    ("#### 12 %", "12"),
    ("#### 70% - 20% = 50%", "50"),
    ("So the final answer is **42**.", "42"),
    (r"Therefore, the answer is \( 42 \).", "42"),
    (r"#### 42 \text{ apples}", "42"),
    (r"#### 42\%", "42"),
    ("A: 42", "42"),
    ("Q: how many of 3? A: 42", "42"),
    ("#### 5 million", "5"),
    ("3/4 + 1/4 = 1", "1"),
    ("#### 2 1/4 cups", "2.25"),
    (r"\boxed{2 \times 3 = 6}", "6"),
    ("#### 12 (or a dozen)", "12"),
    ("It is 5.", "5"),
    ("#### 7.5 hours", "7.5"),
    ("#### 7 hours 30 minutes", "7"),
    ("#### 42\n#### 1. Check", "42"),
    ("#### 42\n#### Verification: 6*7=42", "42"),
    ("#### thrice 4", "12"),
    ("15 / 90 * 100% = 16.66...%, which rounds up to 17%.", "17"),
    ("> 42", "42"),
    ("#### 60% of the members of the club is 60/100*50=30", "30"),
    ("#### 1/4 cup of soap can make (1/4)*200=50 bubbles", "50"),
    ("#### 9 litres in minus 4 litres out is 9-4=5 litres", "5"),
    ("#### To get 48, where 1 box has 16, 48 / 16 = 3 boxes", "3"),
    ("#### Since 1 is less than 2 feet, he is done in 6 days", "6"),
    ("#### 3 times", "3"),
    ("#### 3 times as many", "3"),
    ("The answer is 3 times.", "3"),
    ("She ran **3 times**", "3"),
    ("\\boxed{3 \\text{ times}}", "3"),
    ("Answer: 3 times a week", "3"),
    ("She runs 3 times a week", "3"),
    ("#### 3 minus tax", "3"),
    ("#### 3 and a bit", "3"),
    ("#### 5 more times", "5"),
    ("#### 42% of the students", "42"),
    ("#### 5 plus tip", "5"),
    ("The answer is 3/4 of a pizza.", "3/4"),
    ("Answer: 50% of them", "50"),
    ("#### 42\n#### Check", "42"),
    ("#### 42\n#### Note: 3 left", "42"),
    ("#### 42\n#### Explanation", "42"),
    ("#### 42; 6 rows, 7 each", "42"),
    ("#### x=12, since 12-3=9", "12"),
    ("x=12, since 12-3=9", "12"),
    ("42\n\nHere's why: 6 rows with 7 each.", "42"),
    ("3 times 4 is 12", "12"),
    ("#### 3 times 4 is 12", "12"),
    ("5 plus 7 is 12", "12"),
    ("#### 5 plus 7 is 12", "12"),
    ("1/5 of 60 is 12", "12"),
    ("#### 1/5 of 60 is 12", "12"),
    ("#### 20% of 60 is 12", "12"),
    ("#### 1/5 of 60", "12"),
    ("#### 3 times 4", "12"),
    ("Answer: minus 5", "-5"),
    ("Answer: negative 5", "-5"),
    ("so it is minus 5", "-5"),
    ("#### minus 5", "-5"),
    ("The answer is negative 5.", "-5"),
    ("#### 12 minus 5", "7"),
    ("#### 42,5", "42.5"),
    ("42,5", "42.5"),
    ("#### 3,50 euros", "3.5"),
    ("3,50 euros", "3.5"),
    ("#### 1.234,50 €", "1234.5"),
    ("1.234,50 €", "1234.5"),
    ("#### 0,125", "1/8"),
    ("#### 1 234,50", "1234.5"),
    ("\\boxed{0.\\overline{3}}", "1/3"),
    ("#### 0.(3)", "1/3"),
    ("\\boxed{0.1\\overline{6}}", "1/6"),
    ("0.(3)", "1/3"),
    ("#### 0x1F", "31"),
    ("0x1F", "31"),
    ("#### 42 squared", "1764"),
    ("#### square root of 49", "7"),
    ("the square root of 49", "7"),
    ("half of 42", "21"),
    ("#### half of 42", "21"),
    ("twice 42", "84"),
    ("#### 42 divided by 7", "6"),
    ("42 divided by 7", "6"),
    ("#### 2 cubed", "8"),
    ("#### a quarter of 8", "2"),
    ("#### 42 squared feet", "42"),
    ("#### 5 plus 7 apples", "12"),
    ("#### Total: 5 times 3 equals 15", "15"),
    ("#### twice a day: 6", "6"),
    ("She has 5 apples minus 2 = 3", "3"),
    ("#### 42 or so", "42"),
    ("#### 3 + 4 + 1,000", "1007"),
    ("#### 42+8", "50"),
    ("#### 1,234,567", "1234567"),
    ("She bought 3 boxes, 20 in all", "20"),
    ("#### 50% of the 20 is 10", "10"),
    ("#### 3/4 of an hour", "3/4"),
    ("#### 42\n#### 43", "43"),
    ("#### 42\n#### Total: 43", "43"),
    ("\\boxed{|-42|}", "42"),
    ("\\boxed{\\left|-42\\right|}", "42"),
    ("\\boxed{\\lvert 3 - 45 \\rvert}", "42"),
    ("#### |-42|", "42"),
    ("| Change | -42 |", "-42"),
    ("#### 210 * 20%", "42"),
    ("20% * 210", "42"),
    ("#### 20% of 210", "42"),
    ("3/4 * 100%", "75"),
    ("\\boxed{\\textcolor{blue}{42}}", "42"),
    ("\\boxed{\\color{red}{42}}", "42"),
    ("\\boxed{\\large 42}", "42"),
    ("\\boxed{\\binom{5}{2}}", "10"),
    ("\\boxed{\\sqrt[3]{27}}", "3"),
    ("\\boxed{\\sqrt[3]{-\\frac{8}{27}}}", "-2/3"),
    ("42 over 7", "6"),
    ("She has 42 over 7 days", "42"),
    ("Die Antwort lautet: 1.250 €", "1250"),
    ("0.250 €", "0.25"),
    ("#### 71.6 rounded to 2 decimals", "71.6"),
    ("It adds up to 42", "42"),
]

WRONG = [
    (r"\boxed{2\sqrt{3}}", "2"),
    (r"\boxed{2 \sqrt{3}}", "2"),
    ("#### 2√3", "2"),
    ("#### 2sqrt(3)", "2"),
    (r"\boxed{\sqrt{2}}", "2"),
    (r"\boxed{2\pi}", "2"),
    ("#### 2π", "2"),
    ("#### 2pi", "2"),
    (r"\boxed{2 \pi}", "2"),
    (r"\boxed{3x+5}", "3"),
    (r"\boxed{3x+5}", "5"),
    (r"\boxed{3 x + 5}", "3"),
    ("#### 3x", "3"),
    ("#### 3n", "3"),
    ("#### 3y + 2", "2"),
    (r"\boxed{x+5}", "5"),
    (r"\boxed{x^2}", "2"),
    ("#### x^2", "2"),
    ("#### 5 + x", "5"),
    ("#### 3a", "3"),
    ("#### 3i", "3"),
    ("#### 3 + 2i", "3"),
    ("#### 3 + 2i", "2"),
    ("#### (3, 4)", "3"),
    (r"\boxed{(3,4)}", "4"),
    (r"\boxed{x=3, y=4}", "4"),
    (r"\boxed{[3, 4]}", "3"),
    (r"\boxed{\{3, 4\}}", "4"),
    ("#### 3, 4", "3"),
    ("#### 3, 4", "4"),
    ("(3, 4)", "4"),
    ("the point is (3, 4).", "4"),
    ("#### 3:30", "3"),
    ("#### 3:30", "30"),
    ("#### 3:4", "3"),
    ("it is 3:30", "30"),
    ("#### 5^2", "5"),
    ("#### 5^2", "2"),
    (r"\boxed{5^{2}}", "5"),
    ("#### 5²", "5"),
    ("#### 5**2", "5"),
    ("#### 15 and 20", "15"),
    ("#### 15 and 20", "20"),
    ("#### 15 or 20", "15"),
    ("#### 15 or 20", "20"),
    ("The answer is 15 or 20.", "15"),
    ("The answer is 15 or 20.", "20"),
    ("#### either 15 or 20", "15"),
    ("#### either 15 or 20", "20"),
    ("#### between 15 and 20", "20"),
    ("#### 15 to 20", "15"),
    ("#### x = 2 or x = 3", "3"),
    ("#### x = 2 or x = 3", "2"),
    ("#### 15 apples and 20 oranges", "15"),
    ("#### 15 & 20", "15"),
    ("so it is 15 or 20", "20"),
    ("#### 15-20", "15"),
    ("#### 15\u201320", "20"),
    ("#### 6*7", "6"),
    ("#### 6*7", "7"),
    ("#### 6+7", "6"),
    ("#### 6-7", "6"),
    ("#### 6/7", "6"),
    (r"\boxed{\frac{6}{7}}", "6"),
    (r"\boxed{3!}", "6000"),
    ("#### x > 3", "3"),
    ("#### > 3", "3"),
    (r"\boxed{x \leq 5}", "5"),
    ("#### x ≥ 3", "3"),
    ("#### 3 < x < 5", "5"),
    ("#### 3 ± 1", "3"),
    ("#### x <= 5", "5"),
    ("#### 9^9^9", "9"),
    ("#### 9^9^9^9", "9"),
    (r"\boxed{9^{9^{9}}}", "9"),
    ("#### 100000!", "1"),
    ("#### 5/0", "5"),
    ("#### 1.2.3", "1.2"),
    ("#### 1.2.3", "3"),
    ("<think>The answer is 4. #### 4", "4"),
    (r"<think>\boxed{4}", "4"),
    ("#### 4<think>hmm", "4"),
    ("<think>#### 4</think> I do not know", "4"),
    ("The answer is 42. I checked it 3 times.", "3"),
    ("#### 42 or so, or 43", "43"),
    (r"\boxed{3} or \boxed{4}", "3"),
    (r"\log_2 8", "8"),
    (r"#### \log_2 8", "2"),
    ("#### sin(30)", "30"),
    ("#### f(3)", "3"),
    ("#### 12e999999999", "12"),
    ("#### 3:2:1", "3"),
    ("#### 2020-12-25", "2020"),
    (r"The answer is $2\sqrt{3}$.", "2"),
    (r"The answer is $2\sqrt{3}$.", "3"),
    (r"so 2\sqrt{3}", "3"),
    ("#### |x| = 3 or 4", "3"),
    ("#### 3 mod 5", "3000"),
    ("#### H2O", "2"),
    ("#### m2", "2"),
    ("#### no number", "42"),
    ("so she has 6 + 1 =", "7"),
    ("2 + 2 = 4\n#### I do not know", "4"),
    ("#### 3x = 12 or 4", "4"),
    ("#### 42 at least", "42"),
    ("≥42", "42"),
    ("#### 5 percent of 40", "5"),
    ("#### log 42", "42"),
    ("#### thrice 42", "42"),
    ("Answer: minus 5", "5"),
    ("Answer: negative 5", "5"),
    ("42,5", "5"),
    ("3,50 euros", "50"),
    ("1.234,50 €", "50"),
    ("1.234,50 €", "1.234"),
    ("\\boxed{0.\\overline{3}}", "0"),
    ("0.(3)", "0"),
    ("0.(3)", "3"),
    ("0x1F", "0"),
    ("42 squared", "42"),
    ("square root of 42", "42"),
    ("half of 42", "42"),
    ("twice 42", "42"),
    ("42 divided by 7", "42"),
    ("42 divided by 7", "7"),
    ("∛42", "42"),
    ("at least 42", "42"),
    ("42 or more", "42"),
    ("42+", "42"),
    ("n choose 2", "2"),
    ("#### n choose 2", "2"),
    ("#### at least 42", "42"),
    ("#### 42 or more", "42"),
    ("#### 42+", "42"),
    ("#### ∛42", "42"),
    ("#### square root of 42", "42"),
    ("#### 42 apples or more", "42"),
    ("The answer is at least 42.", "42"),
    ("#### more than 42", "42"),
    ("#### two thirds of 42", "42"),
    ("#### cube root of 42", "42"),
    ("#### 5 choose 2", "5"),
    ("#### 42 divided by 7", "42"),
    ("#### 42 times 2", "42"),
    ("#### (3,4)", "3.4"),
    ("#### 2 to the power of 3", "2"),
    ("**at least 42**", "42"),
    ("#### 1 or 2\n#### Check", "2"),
    ("#### 3 times 4", "3"),
    ("The answer is 42+", "42"),
    ("\\boxed{\\sqrt[3]{28}}", "3"),
    ("\\boxed{\\sqrt[3]{28}}", "28"),
    ("\\boxed{\\binom{2}{5}}", "5"),
    ("#### |-42|", "-42"),
    ("#### 42% of 50", "42"),
]

TRUTHS = [
    ("#### 12", "12"),
    ("####12", "12"),
    ("The answer is 12.", "12"),
    ("x = 12", "12"),
    ("A: 12", "12"),
    ("12 (twelve)", "12"),
    ("5+13=18\n#### $18", "18"),
    ("The answer is 18.", "18"),
    ("She has 5+13 = 18 apples.", "18"),
    ("18 apples", "18"),
    ("$18", "18"),
    (r"\boxed{18}", "18"),
    (r"$\boxed{18}$", "18"),
    ("**18**", "18"),
    ("$18$", "18"),
    ("1,000", "1000"),
    ("1 000", "1000"),
    ("42.", "42"),
    ("Answer: 7", "7"),
    ("Final answer: 7", "7"),
    ("-3", "-3"),
    ("\u2212 3", "-3"),
    ("- 3", "-3"),
    ("1/2", "0.5"),
    (r"\frac{1}{2}", "0.5"),
    ("3 1/2", "3.5"),
    ("10^3", "1000"),
    ("50%", "50"),
    ("<think>9</think>12", "12"),
    ("12\n", "12"),
    ("It costs 12 dollars", "12"),
    ("x=12", "12"),
    ("= 12", "12"),
    ("12.0", "12"),
    ("3 times", "3"),
    ("3 times as many", "3"),
    ("3/4 of a pizza", "0.75"),
    ("50% of the students", "50"),
    ("3 times 4", "12"),
    ("minus 5", "-5"),
    ("42,5", "42.5"),
    ("at least 3", None),
    ("1e3", "1000"),
    ("Step 1: 3+4=7.\nStep 2: 7+5=12.\nAnswer: 12", "12"),
    ("3 + 4 = 7\n7 + 5 = 12", "12"),
    ("yes", None),
    ("Paris", None),
    ("15 and 20", None),
    ("(3, 4)", None),
    (r"2\sqrt{3}", None),
    ("3x+5", None),
    ("3:30", None),
    ("July 4, 1776", None),
    ("x > 3", None),
    ("no answer", None),
    ("", None),
    ("15 or 20", None),
    ("1, 2, 3", None),
    ("True", None),
    ("x+1", None),
    ("[0, 1]", None),
    ("n/a", None),
    ("A", None),
    ("2024-01-05", None),
    ("2024/01/05", None),
    ("1/2/2024", None),
    ("5 January 2024", None),
    ("July 4", None),
    ("6-7 days", None),
    ("about 6\u20137", None),
    ("$5-$10", None),
    ("It takes 6-7 days.", None),
    ("First a day. Then 6-7 more", None),
    ("#### 6-7", None),
    ("3-2", None),
    ("3 - 2", "1"),
    ("12-3=9", "9"),
    ("555-1234", None),
    ("1-800-555-0199", None),
    ("(555) 123-4567", None),
    ("555 123 4567", None),
    ("1 million", None),
    ("$2.5 billion", None),
    ("3 dozen eggs", None),
    ("9/11", "9/11"),
    ("5-year plan", "5"),
]


@pytest.mark.parametrize(("text", "truth"), RIGHT)
def test_the_value_that_a_person_reads_is_right(text, truth):
    verdict = grade(text, truth)
    assert verdict.normalised, verdict.extracted


@pytest.mark.parametrize(("text", "truth"), WRONG)
def test_an_expression_a_list_or_a_hedge_is_not_one_of_its_numbers(text, truth):
    verdict = grade(text, truth)
    assert not verdict.normalised, verdict.extracted


@pytest.mark.parametrize(("truth", "value"), TRUTHS)
def test_a_ground_truth_is_read_like_a_response(truth, value):
    assert read_truth(truth).value == (None if value is None else Fraction(value))


@pytest.mark.parametrize("truth", ["6-7 days", "2024-01-05", "555-1234", "1 million"])
def test_a_range_a_date_and_a_telephone_number_are_compared_as_text(truth):
    assert grade(f"#### {truth}", truth).normalised
    assert not grade("#### 1", truth).normalised


@pytest.mark.parametrize("truth", [truth for truth, value in TRUTHS if value == "12"])
def test_right_and_wrong_answers_to_a_truth_with_words_around_it(truth):
    assert grade("so 2+10=12\n#### 12", truth).normalised
    assert not grade("so 2+11=13\n#### 13", truth).normalised


def value_of(text):
    return evaluate(tokens(text))


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("2 + 3 * 4", 14),
        ("(2 + 3) * 4", 20),
        ("2 - 3 - 4", -5),
        ("12 / 4 / 3", 1),
        ("2 ^ 3 ^ 2", 512),
        ("-2 ^ 2", -4),
        ("(-2) ^ 2", 4),
        ("2 ^ -1", Fraction(1, 2)),
        ("- (3 - 5)", 2),
        ("1 1/2 + 1/2", 2),
        (r"\frac{1 + 2}{3 * 4}", Fraction(1, 4)),
        (r"\sqrt{\frac{9}{4}}", Fraction(3, 2)),
        ("16 ^ (1/2)", 4),
        ("5! / 3!", 20),
        ("0 ^ 0", 1),
        ("(2 + 3", None),
        ("2 +", None),
        ("(2]", None),
        ("2 ^ (1/3)", None),
        ("x", None),
        ("", None),
    ],
)
def test_arithmetic_is_exact(text, value):
    assert value_of(text) == value


@given(st.lists(st.tuples(st.sampled_from("+-*"), st.integers(0, 999)), min_size=1, max_size=8))
def test_arithmetic_agrees_with_python(pairs):
    text = " ".join(f"{sign} {number}" for sign, number in pairs).lstrip("*")
    assert value_of(text) == eval(text)


@pytest.mark.timeout(10)
@pytest.mark.parametrize(
    "text",
    ["9^9^9", "9^9^9^9^9", "(9^999)^999", "99999999!", "1/9^99999", "2^" * 5000 + "2", "(" * 5000 + "1",
     "9" * 5000, "-" * 5000 + "x", "*".join(["9" * 900] * 900)],
)  # fmt: skip
def test_absurd_sizes_have_no_value_and_take_no_time(text):
    assert value_of(text) is None
    assert not grade(f"#### {text}", "9").normalised


def test_results_up_to_the_limit_are_kept():
    assert value_of(f"2^{MAX_BITS // 2 - 1}") == 2 ** (MAX_BITS // 2 - 1)


def num_calls(function, *arguments):
    """Calls of Python's and of C's functions, and steps of generators, that a call makes."""
    count = 0

    def counted(_frame, event, _argument):
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(counted)
    try:
        function(*arguments)
    finally:
        sys.setprofile(None)
    return count


PIECES = [
    "1+", "2^(", "1,11", "1 000 ", "<think>", "answer is ", "**1**", "x = 1 or ", "(1,", "1 and ",
    "\\frac{1}{", "3 1/2 ", "1:1", "1=1", "1!", "\\text{", "(", "1+(", "x = ", "A: x\n", "#### a\n",
    "not 1+", "not 1 ", "is ", "half of ", "1 times ", "at least ", "1 squared ", "0.(1", " ", "\n",
]  # fmt: skip


@pytest.mark.parametrize("piece", PIECES)
@pytest.mark.parametrize("frame", ["{}1", "#### {}", "\\boxed{{{}1}}"])
def test_the_work_grows_no_faster_than_the_text(piece, frame):
    short, long = (frame.format(piece * (size // len(piece))) for size in (400, 1600))
    assert num_calls(grade, long, "42") < 6 * num_calls(grade, short, "42")


def test_brackets_in_brackets_take_linear_work():
    short, long = ("(" * size + "1" + ")" * size for size in (200, 800))
    assert num_calls(grade, long, "42") < 6 * num_calls(grade, short, "42")


@pytest.mark.timeout(10)
@pytest.mark.parametrize("piece", ["x = ", "A: x\n", "(", "is ", "#### x = \n"])
def test_long_answers_and_truths_take_no_time(piece):
    text = piece * (40_000 // len(piece))
    for answer in (text, f"\\boxed{{{text}}}", f"#### {text}"):
        grade(answer, "1")
        grade("#### 1", answer)


def test_an_answer_of_thousands_of_characters_has_no_value():
    assert grade("#### 42" + " and so on" * 100, "42").normalised
    assert not grade("#### 42" + " and so on" * 200, "42").normalised


UNITS = ("", " apples", " dollars.", "%", "\n", "kg", " m", "!", " because 3 * 14 = 42", " (6*7)", " of 50",
         "</s>", "<|im_end|>", "\n\n3 + 4 = 7", "\n#### Explanation\nin 3 steps", ", which is 3 more",
         " per 3 days", " times", " times a week", " more times", " plus tip", " of them",
         "% of the students", "; 6 rows, 7 each", "\n#### Check", "\n#### Note: 3 left")  # fmt: skip


@given(
    st.from_regex(r"-?[0-9]{1,6}(\.[0-9]{1,3})?", fullmatch=True),
    st.sampled_from(UNITS),
    st.sampled_from(["", "so 3+4=7\n", "The answer is 5?\n", "### Step 1\n", "(3, 4)\n", "**3**\n"]),
)
def test_what_verl_strict_finds_right_is_right(number, unit, before):
    text = f"{before}#### {number}{unit}"
    truth = verl_strict(text)
    if truth is not None and not truth.endswith("."):
        assert grade(text, truth).normalised


def test_a_computation_is_one_number_and_a_sentence_none():
    assert parse_number("6*7 apples") == 42
    assert parse_number("she has 42") is None
