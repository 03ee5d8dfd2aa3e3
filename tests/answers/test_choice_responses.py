"""Whole answers as models write them, and the letter that a person reads in them, by what makes them hard."""

import pytest

from distillctl.answers.choice import chosen_letter

OPTION_TEXTS = [
    ("Therefore, D. Vitamin A is correct.", "D"),
    ("Therefore, D) Vitamin A is the correct answer.", "D"),
    ("Therefore, (D) Vitamin A is the correct answer.", "D"),
    ("Option D: Vitamin A is the best answer.", "D"),
    ("Option D - Vitamin A is the correct answer.", "D"),
    ('Option C, "Plan B", is correct.', "C"),
    ("**Option C** (Plan B) is right.", "C"),
    ("(D) Vitamin K is the right answer.", "D"),
    ("Thus, option A (Gene X) is correct.", "A"),
    ("Hence, (B) Company C is the right choice.", "B"),
    ("So, **C. Hepatitis A** is the correct answer.", "C"),
    ("Option (C), which is vitamin D, is correct.", "C"),
    ("(C) vitamin D is correct because it helps calcium absorption.", "C"),
    ("Therefore, (B) Factor X is the correct answer.", "B"),
    ("A) Vitamin E is correct.", "A"),
    ("Option E: Hepatitis C is the best answer.", "E"),
    ("So option B (Type A) is correct.", "B"),
    ("Therefore, option C (Plan A or Plan B) is the correct answer.", "C"),
    ("(E) Class I is the right answer.", "E"),
    ('Option A, "Both P and Q", is correct.', "A"),
    ("Hence the correct one is (B) Influenza A.", "B"),
    ("**(D) Vitamin A** is the correct answer.", "D"),
    ("**D) Vitamin A** is correct.", "D"),
    ("D: Vitamin A is correct.", "D"),
    ("D - Vitamin A is correct.", "D"),
    ("In conclusion, D. Vitamin A is the right answer.", "D"),
    ("Clearly, (D) Vitamin A is the only correct answer.", "D"),
    ("(D) Hepatitis B and hepatitis C is the best answer.", "D"),
    ("Option B (increase in A) must be the answer.", "B"),
    ("Therefore (C) decrease in B is right.", "C"),
    ("Option C (A and B) is correct.", "C"),
]

LAYOUTS = [
    ("B. Paris\n\nExplanation:\nA. Lyon is not the capital.\nC. Nice is not.", "B"),
    ("(C) 42\n\n(A) is too small, (B) too large.", "C"),
    ("C) 42\n\nA) is too small\nB) too large", "C"),
    ("**C) 42**\n\n**A)** wrong\n**B)** wrong", "C"),
    ("**C) 42**\n\n- **A)** wrong\n- **B)** wrong\n- **D)** wrong", "C"),
    ("### C) 42\n\n- A) wrong\n- B) wrong", "C"),
    ("**A) Mars**\n\nWhy the others are wrong:\n- **B) Venus** is too hot.\n- **C) Earth** is blue.", "A"),
    ("A) Mars\n\nExplanation:\nB) Venus is too hot.\nC) Earth is blue.", "A"),
    ("D) 9\n\nA) 3 is too small.\nB) 5 is too small.\nC) 7 is too small.", "D"),
    ("B) 5\n\nWe compute 2+3 = 5, so it's 5.\n\nA) 3 is wrong, C) 7 is wrong.", "B"),
    ("We have A = 3, B = 4, so A + B = 7.\n\n(C)", "C"),
    (
        "**B) Earth**\n\n**Explanation of the others:**\n\n* **A) Venus**: hot.\n* **C) Mars**: cold.",
        "B",
    ),
    ("**A) 42**\n\n- **B)** wrong\n- **C)** wrong\n- **D)** wrong", "A"),
    ("A) Mars\n\nWhy not the others?\nB) Venus is hot\nC) Earth", "A"),
    ("### A) 42\n\n- B) wrong\n- C) wrong", "A"),
    ("B) 42\n- A) too small\n- C) too big", "B"),
    ("B) 42\n- A: too small\n- C: too big", "B"),
    ("**Mars (C)**\n\n- **Venus (A)**: too hot\n- **Earth (B)**: blue", "C"),
    ("Option C: Mars\n\nOption A: Venus is too hot.\nOption B: Earth is blue.", "C"),
    ("The red planet is (C) Mars.\n\n(A) Venus is hot.\n(B) Earth is blue.", "C"),
    ("> C) Mars\n\nA) Venus is hot.", "C"),
]

VERDICTS = [
    ("A? No. B? No. C? Yes.", "C"),
    ("A - no. B - no. C - yes!", "C"),
    ("(A) 5 ✗\n(B) 4 ✓\n(C) 3 ✗", "B"),
    ("✅ B) Paris", "B"),
    ("A) 1\nB) 2\nC) 3\n\nC) 3", "C"),
    ("C is the best answer. A is true but irrelevant. B is true but irrelevant.", "C"),
    ("A is true but irrelevant. C is the best answer. B is true too.", "C"),
    ("A. Lyon - incorrect\nB. Paris - correct\nC. Nice - incorrect", "B"),
    ("- **A**: wrong\n- **B**: correct\n- **C**: wrong", "B"),
    ("Since angle A is right, the triangle is right-angled.\n\n(D)", "D"),
    ("(A) False\n(B) True\n(C) False", "B"),
    ("A. No\nB. Yes\nC. No", "B"),
    ("A) incorrect\nB) correct\nC) incorrect\n", "B"),
    ("A - Incorrect: it is too hot.\nB - Incorrect: too blue.\nC - Correct: red.\nD - Incorrect: big.", "C"),
    ("A) Venus (incorrect)\nB) Mars (correct)", "B"),
    ("| A | wrong |\n| B | right |\n| C | wrong |", "B"),
    ("A: Incorrect, B: Incorrect, C: Correct", "C"),
    ("1. A - no\n2. B - yes\n3. C - no", "B"),
    ("A. Paris is in Spain: false\nB. Paris is in France: true\nC. Paris is in Italy: false", "B"),
    (
        "A) Incorrect - reason one.\nB) Correct - reason two.\nC) Incorrect - reason three.",
        "B",
    ),
    ("A = incorrect\nB = correct\nC = incorrect", "B"),
    ("A) Venus: Not correct.\nB) Earth: Not correct.\nC) Mars: Correct!", "C"),
    ("- A: Wrong, since it is hot.\n- B: Wrong, since it is blue.\n- C: Right, since it is red.", "C"),
    ("The answer is clear:\n\n**D) 42**\n\n- **A)** wrong\n- **B)** wrong\n- **C)** wrong", "D"),
    ("**A) Venus** - Wrong.\n**B) Earth** - Wrong.\n**C) Mars** - Right.\n**D) Jupiter** - Wrong.", "C"),
    ("Option A: Wrong.\nOption B: Right.\nOption C: Wrong.", "B"),
    ("Option A: Yes.\nOption B: No.\nOption C: No.", "A"),
    ("(A) True\n(B) False\n(C) False", "A"),
    ("A. Lyon: No.\nB. Paris: Yes.\nC. Nice: No.", "B"),
    ("| A | No |\n| B | Yes |\n| C | No |", "B"),
    ("A) Venus [incorrect]\nB) Mars [correct]", "B"),
    ("a) wrong\nb) correct\nc) wrong", "B"),
    ("A (incorrect), B (correct), C (incorrect)", "B"),
    ("A. INCORRECT\nB. CORRECT\nC. INCORRECT", "B"),
]

CORRECTIONS = [
    ("The answer is B. Wait, actually it should be A.", "A"),
    ("The answer is B. Hmm, wait. Re-reading the question, it asks for the smallest, so it's A.", "A"),
    ("Answer: B\n\nActually, C is correct.", "C"),
    ("\\boxed{B}\n\nActually, the answer is C.", "C"),
    ("答案是B。不对,应该是C。", "C"),
    ("Answer: A. Sorry, I meant D.", "D"),
    ("A. Actually, B.", "B"),
    ("The answer is A.\n\nOn second thought, I'd go with B.", "B"),
    ("#### A\n\nWait, that is wrong. The correct answer is B.", "B"),
    ("#### A\n\nCorrection: B", "B"),
    ("My answer is A. No, B.", "B"),
    ("B. Oops, C.", "C"),
    ("The answer is B, or rather C.", "C"),
    ("答案是A?不对,是B。", "B"),
    ("A不对,B不对,C对。", "C"),
    ("Answer: C\n\nActually, A is correct.", "A"),
    ("Answer: D\n\nCorrection: A", "A"),
    ("The answer is C... no, B.", "B"),
    ("C, no wait, D", "D"),
    ("B (wait, no: C)", "C"),
    ("The answer is B, no, C.", "C"),
    ("Answer: B. Let me correct that: C.", "C"),
    ("Answer: B. Edit: C", "C"),
    ("Answer: B\n\nUpon re-reading, I realize C is correct.", "C"),
    ("Answer: B\n\nHowever, C is actually the correct answer.", "C"),
    ("#### B\n\nSorry, the correct answer is C.", "C"),
    ("Answer: B. Strike that, C.", "C"),
    ("The answer is B. My apologies, it is C.", "C"),
    ("The answer is B. Apologies, C is the correct one.", "C"),
]

SUPPOSED = [
    ("C is correct. B is correct only for x > 0.", "C"),
    ("C is correct. A common mistake is to think B is correct.", "C"),
    ("The answer is C. One might think the answer is B.", "C"),
    ("The answer is C. If the question had asked for the largest, the answer would be B.", "C"),
    ("The answer is C. If it were 5, the answer would be B.", "C"),
    ("Why C? Because the answer is B only when x>0. So C.", "C"),
    ("The answer is C. Had the question asked for the smallest, the answer would be A.", "C"),
    ("Answer: C\n\nNote: if x were 0, then the answer would be D.", "C"),
    ("The answer is B. Some people might answer C.", "B"),
    ("I think option D, vitamin A, is the correct answer.", "D"),
    ("The answer is A. If the question had asked for the smallest, the answer would be D.", "A"),
    ("The answer is D. One might think the answer is A.", "D"),
    ("D is correct. A common mistake is to think A is correct.", "D"),
    ("The answer is D. A common wrong answer is A.", "D"),
    ("The answer is D. It is easy to think the answer is A.", "D"),
    ("The answer is D. Were x negative, the answer would be A.", "D"),
    ("The answer is D. In the other case, the answer would be A.", "D"),
    ("The answer is D. Otherwise the answer would be A.", "D"),
    ("The answer is D. For x < 0 the answer would be A.", "D"),
    ("The answer is D. Don't be fooled into thinking the answer is A.", "D"),
    ("The answer is D. A student who forgets the sign would say the answer is A.", "D"),
    ("D is correct. B would be correct only if x > 0.", "D"),
    ("D is correct. Students often choose B.", "D"),
    ("C is correct. Some may believe B is correct.", "C"),
    ("The answer is C. Beginners often answer B.", "C"),
]

FIELDS = [
    ('{"answer": "B"}', "B"),
    ('```json\n{"answer": "B"}\n```', "B"),
    ('{"reasoning": "A is wrong", "answer": "B"}', "B"),
    ("【答案】B", "B"),
    ("【答案】(B)", "B"),
    ('{"answer":"C","reason":"A is wrong"}', "C"),
    ("{'answer': 'C'}", "C"),
    ("A, B, D wrong <answer>C</answer>", "C"),
    ("[ANSWER] C [/ANSWER]", "C"),
    ("【答案】D", "D"),
    ('{"answer":"B","confidence":0.9,"comment":"A common wrong answer is C"}', "B"),
    ("{'answer': 'B', 'reason': \"it's not A\"}", "B"),
    ('{"answer": ["B"]}', "B"),
    ("<reasoning>A is correct?</reasoning><answer>B</answer>", "B"),
    ('{"answer": "D"}', "D"),
    ('{"answer":"(D)"}', "D"),
    ('{ "answer" : "D. Mars" }', "D"),
    ('{"Answer": "D"}', "D"),
    ('{"thought": "A?", "final_answer": "D"}', "D"),
    ('{"correct_answer": "D"}', "D"),
    ('{"selected_option": "D"}', "D"),
    ('{"correct_option": "D"}', "D"),
    ("【答案】 D 【解析】略", "D"),
    ("【答案】:D", "D"),
    ("A, B, C wrong <answer>D</answer>", "D"),
]

LANGUAGES = [
    ("La respuesta correcta es B) París.", "B"),
    ("Option A ✗\nOption B ✓\nOption C ✗", "B"),
    ("A选项错误;B选项正确;C选项错误;D选项错误。", "B"),
    ("正确的是B", "B"),
    ("La risposta esatta è B) Parigi.", "B"),
    ("Somit ist B richtig.", "B"),
    ("Вариант B верный.", "B"),
    ("❌ A) Venus\n❌ B) Earth\n✅ C) Mars", "C"),
    ("A项不正确,B项不正确,C项不正确,D项正确。", "D"),
    ("A错,B错,C对,D错", "C"),
    ("A.错误;B.正确;C.错误", "B"),
    ("答案是C。如果问的是最大的,答案是B。", "C"),
    ("La respuesta es la B) París", "B"),
    ("A resposta correta é a opção B) Paris.", "B"),
    ("La risposta corretta è: B) Parigi", "B"),
    ("A. Venus is not red.\nB. Earth is not red.\nC. Mars is red. ✅", "C"),
    ("因此,C选项是正确答案", "C"),
    ("A is ✗\nB is ✓", "B"),
    ("a: ✗\nb: ✓", "B"),
    ("La respuesta correcta es D, porque A es falsa.", "D"),
    ("A resposta correta é a letra D, pois A é falsa.", "D"),
    ("Правильный ответ — D) Рим.", "D"),
]

DENIALS = [
    ("🅲", "C"),
    ("A. False. B. True. C. False.", "B"),
    ("B is partially correct, but C is the most complete answer.", "C"),
    ("None of A, B, D work; only C does.", "C"),
    ("sol: c", "C"),
    ("C. Point B is the correct answer.", "C"),
    ("Choice E) Interleukin B is the most likely answer.", "E"),
    ("Letter D, Thomas B. Reed, is correct.", "D"),
    ("Statement A: incorrect. Statement B: correct. Statement C: incorrect.", "B"),
    ("B is right. It is tempting to choose A, since it's first.", "B"),
    ("(B), unlike (A), is correct.", "B"),
    ("Jawaban yang benar adalah B) Paris.", "B"),
    ("Đáp án đúng là B) Paris", "B"),
    ("Prawidłowa odpowiedź: B) Paryż", "B"),
    ("It has to be D because the rest are wrong.", "D"),
    ("We see that D is the only possible answer.", "D"),
    ("A, C, and D are ruled out. B remains.", "B"),
    ("Thus, choice B (x = A) is correct.", "B"),
    ("D is partially correct, but A is the most complete answer.", "A"),
    ("None of A, B, C work; only D does.", "D"),
    ("None of A, B, or C is right; only D is.", "D"),
    ("A, B and C are wrong, leaving D.", "D"),
    ("B is mostly right, but D is the more complete answer.", "D"),
    ("B is close but D is more accurate.", "D"),
]

SEVERAL = [
    ("Hmm, A and B are both 3. So the answer is C.", "C"),
    ("The answer is C. Wait, A and B look similar. But no.", "C"),
    ("The answer is C. Actually, A and B are similar.", "C"),
    ("So A and B are wrong. The answer is C.", "C"),
    ("It's A or B. The answer is B.", "B"),
    ("I would pick A or B. B is the better choice, so B.", "B"),
    ("Both A and B are correct. But the best answer is B.", "B"),
    ("A and B are correct, so the answer is D) Both A and B.", "D"),
    ("A and B are true. Therefore, (D).", "D"),
    ("A and B are true. D is correct.", "D"),
    ("A and B are both correct. Therefore, **D. All of the above**", "D"),
    ("Options A and B are true, so D.", "D"),
    ("Options A and B are correct; therefore option D (both) is the right choice.", "D"),
    ("Since both A and B are right, choose D.", "D"),
    ("Since A and B are both correct:\n\nD", "D"),
    ("It must be A or C. C is impossible. So A.", "A"),
    ("Because A and C are false, B is the answer.", "B"),
    ("A, B, and C are correct statements. The answer is D) all of the above", "D"),
    ("A and B: both true. Answer: C", "C"),
    ("Either A or B is right; I'd say B.", "B"),
    ("The choice is between A and B. I'd go with A.", "A"),
    ("We can eliminate A and B. Between C and D, C is better.", "C"),
    ("A is better than B but C is best.", "C"),
    ("The options A and D are the same, so the answer is B or C. B is wrong. So C.", "C"),
]

STATED_OPTIONS = [
    ("A: The answer is B.", "B"),
    ("A: The correct answer is B.", "B"),
    ("A: I choose C.", "C"),
    ("A: D is correct.", "D"),
    ("A: It's B", "B"),
    ("A: B", "B"),
    ("A: $B$", "B"),
    ("A: B) Paris", "B"),
    ("A: Option C", "C"),
    ("A: not B but C", "C"),
    ("Q: What is it?\nA: B", "B"),
    ("A. False, the answer is B", "B"),
    ("A) incorrect, so B", "B"),
    ("B. The answer is C.", "C"),
    ("Q. The answer is B", "B"),
    ("C) Looking at the options, B is right", "B"),
    ("C) Not enough information; the answer is D", "D"),
    ("D) Both A and B are correct", "D"),
    ("D) Either A or B is right", "D"),
    ("C) Only B is correct", "C"),
    ("C) Statement A is right", "C"),
    ("B) Option C is wrong", "B"),
    ("A: Paris", "A"),
    ("A: B and C", "A"),
    ("B. E. coli", "B"),
]

FIRST_LINES = [
    ("B\n\nOption A describes osmosis.", "B"),
    ("**B. Paris**\n\nOption A refers to London.", "B"),
    ("B) Paris\n\nExplanation: option C names a river.", "B"),
    ("B\n\nExplanation: choice C relates to DNA.", "B"),
    ("(B)\n\nOption C names a river, and option D a lake.", "B"),
    ("Option B. Option A describes diffusion.", "B"),
    ("Option B: Paris\n\nOption A refers to London.", "B"),
    ("> B\n\nOption A describes osmosis.", "B"),
    ("B. Paris. Option C names a river.", "B"),
    ("B, since option A describes osmosis.", "B"),
    ("B because option C names a river", "B"),
    ("**B**\n\nOption A is true of gases; option C of liquids.", "B"),
    ("B\n\nIf it were cold, the answer would be C.", "B"),
    ("B) 5\n\nBut option C fits better, so the answer is C.", "C"),
    ("C.\n\nWait, option B.", "B"),
    ("A: Let's think. Paris is the capital. Option C names Paris.", "C"),
    ("A. x\nB. y\nC. z\nD. w\n\nOption B", "B"),
    ("A. x\nB. y\nC. z\nD. w\n\nB", "B"),
    ("A. 1\n**B. 2**\nC. 3\nD. 4", "B"),
]

REMARKS = [
    ("The answer is B. However, A is true in some cases.", "B"),
    ("The answer is B. However, note that C is correct when x>0.", "B"),
    ("The answer is B. However, A is a valid answer in some contexts.", "B"),
    ("The answer is B. However, A.", "B"),
    ("The answer is B. Re-reading option C: it describes osmosis.", "B"),
    ("The answer is B. Re-checking A: 2+3 = 5, which is not 6.", "B"),
    ("The answer is B. However, the answer is C.", "C"),
    ("The answer is B. However, C is the correct answer.", "C"),
    ("There is no doubt that the answer is B.", "B"),
    ("No doubt it's B.", "B"),
    ("Without doubt the answer is B.", "B"),
    ("Without any doubt, B is correct.", "B"),
    ("I don't doubt that the answer is B.", "B"),
    ("B is no doubt correct.", "B"),
    ("B is without a doubt the answer.", "B"),
    ("B is undoubtedly correct", "B"),
]

NO_LETTER = [
    "E. coli is a bacterium.",
    "A. x\nB. y\nC. z\nD. w",
    "I doubt the answer is B",
    "The answer is C. Actually, both A and C are correct answers.",
    "✓ A\n✓ B",
    "✗ B",
    "B ✗",
    "B ❌",
    "A) Lyon ❌",
    "Option B: Incorrect.",
    "B: wrong",
    "**Options:**\n**A)** 1\n**B)** 2",
    "(A) 1 (B) 2 (C) 3 (D) 4",
    "A) 1, B) 2, C) 3",
    "Let x = A and y = B.",
    "Use formula A = B * C.",
    "A = 5, B = 6",
    "x + y = 5 where A is the area",
    "Thus, B = 4 and A = 3.",
    "So A is 3 and B is 4.",
    "Triangle ABC has a right angle at C.",
    "The current I is 5 A.",
    "The resistance is 5 and the current is 3 A.",
    "The temperature is 25 C.",
    "Correct answers: A, C",
    "Options (A), (C)",
    "A; C",
    "A and also C are right.",
    "A is right and C is right.",
    "The answer is not among A, B, C, D.",
    "n/a",
    "Answer: [A-D]",
    "Respond with the letter of your choice (A, B, C, or D).",
    "Your answer should be one of A, B, C, D.",
    "A is a vowel? I think so.",
    "- **A) 3** is a number.\n- **B) 5** is a number.\n- **C) 7** is a number.",
    "**A) Venus**\n**B) Earth**\n**C) Mars**",
    "(A) Yes\n(B) No",
    "A: ✓, B: ✓, C: ✗",
    "A: wrong, B: wrong, C: wrong",
    "A选项错误",
    "**B** is wrong.",
    "A is incorrect, and so is B.",
    "La respuesta no es B.",
    "Die Antwort ist nicht B.",
    "La réponse n'est pas B.",
    "B es incorrecta.",
    "Vitamin C is the best treatment.",
    "Options: (A) 1 (B) 2 (C) 3",
    "Statement I is correct and Statement II is incorrect.",
    "A is right. B is right too.",
    "The C programming language is old.",
    "Please select one of the options (A) to (D).",
    "Perhaps B or perhaps C.",
    "A is possible. B is also possible.",
    "I no longer think the answer is B.",
    "There's no way the answer is B.",
    "I disagree that B is correct.",
    "It is false that B is correct.",
    "It's incorrect to say that B is correct.",
]


@pytest.mark.parametrize(("text", "letter"), OPTION_TEXTS)
def test_the_letter_of_an_option_is_not_that_of_its_text(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), LAYOUTS)
def test_an_option_that_stands_out_of_a_list_is_chosen(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), VERDICTS)
def test_of_options_with_a_verdict_each_the_right_one_is_chosen(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), CORRECTIONS)
def test_what_a_correction_says_counts(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), SUPPOSED)
def test_a_statement_counts_before_one_that_is_only_supposed(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), FIELDS)
def test_an_answer_field_marks_the_answer(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), LANGUAGES)
def test_the_letter_in_other_languages(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), DENIALS)
def test_the_letter_that_others_are_denied_for(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), SEVERAL)
def test_a_choice_after_several_that_are_right_counts(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), STATED_OPTIONS)
def test_a_label_before_a_statement_of_another_letter_is_not_chosen(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), FIRST_LINES)
def test_a_first_line_that_is_an_option_counts_before_words_on_others(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize(("text", "letter"), REMARKS)
def test_a_remark_on_another_letter_is_no_correction_and_no_doubt_no_denial(text, letter):
    assert chosen_letter(text) == letter


@pytest.mark.parametrize("text", NO_LETTER)
def test_no_letter_is_better_than_a_wrong_one(text):
    assert chosen_letter(text) is None
