"""The arith problems: the same for a seed, disjoint splits, right arithmetic, short in tokens."""

import re
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

import distillctl.builtin
from distillctl.data.prep import prepare
from distillctl.data.sets.arith import (
    MAX_RESULT,
    NUM_TEST,
    NUM_TRAIN,
    SEED,
    Problem,
    data_set,
    generate,
    splits,
)
from distillctl.data.sets.gsm8k import INSTRUCTION

MODELS = Path(distillctl.builtin.__file__).parent
EQUATION = re.compile(r"(\d+)([-+*/])(\d+)=(\d+)")
MAX_PROMPT_TOKENS = 90
MAX_ANSWER_TOKENS = 64


@pytest.fixture(scope="module")
def problems() -> list[Problem]:
    return generate(2000, seed=7)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(MODELS / "tiny-student")


def read(path: Path) -> list[dict]:
    return pq.ParquetFile(path).read().to_pylist()


def test_same_seed_same_problems() -> None:
    assert generate(200, seed=3) == generate(200, seed=3)
    assert splits(100, 50, seed=3) == splits(100, 50, seed=3)
    assert generate(200, seed=3) != generate(200, seed=4)


def test_shorter_list_is_a_prefix() -> None:
    assert generate(500, seed=3)[:100] == generate(100, seed=3)


def test_splits_are_disjoint_and_without_duplicates() -> None:
    train, test = splits(NUM_TRAIN, NUM_TEST, SEED)
    train_questions, test_questions = {p.question for p in train}, {p.question for p in test}
    assert len(train) == len(train_questions) == NUM_TRAIN
    assert len(test) == len(test_questions) == NUM_TEST
    assert not train_questions & test_questions


def test_test_split_does_not_depend_on_the_train_split() -> None:
    assert splits(10, 50, seed=3)[1] == splits(1000, 50, seed=3)[1]


def test_every_equation_is_right(problems: list[Problem]) -> None:
    for problem in problems:
        *steps, _final = problem.answer.split("\n")
        assert 2 <= len(steps) <= 4
        for step in steps:
            left, sign, right, result = EQUATION.search(step).groups()  # type: ignore[union-attr]
            a, b, c = int(left), int(right), int(result)
            # Division is checked by multiplying back, so a remainder would show.
            holds = {"+": a + b == c, "-": a - b == c, "*": a * b == c, "/": c * b == a}
            assert holds[sign], step
            assert 0 <= c <= MAX_RESULT


def test_every_sign_occurs(problems: list[Problem]) -> None:
    signs = {sign for p in problems for _, sign, _, _ in EQUATION.findall(p.answer)}
    assert signs == set("+-*/")


def test_final_answer_is_the_last_result(problems: list[Problem]) -> None:
    for problem in problems:
        last = EQUATION.findall(problem.answer)[-1][-1]
        assert problem.answer.endswith(f"\n#### {last}")


def test_operands_come_from_the_question_or_an_earlier_step(problems: list[Problem]) -> None:
    for problem in problems:
        known = set(re.findall(r"\d+", problem.question))
        for left, _, right, result in EQUATION.findall(problem.answer):
            assert {left, right} <= known
            known.add(result)


def test_token_lengths(problems: list[Problem], tokenizer: PreTrainedTokenizerBase) -> None:
    messages = [[{"role": "user", "content": f"{p.question} {INSTRUCTION}"}] for p in problems]
    prompts = tokenizer.apply_chat_template(
        messages, add_generation_prompt=True, tokenize=True, return_dict=False
    )
    answers = tokenizer([p.answer + tokenizer.eos_token for p in problems])["input_ids"]
    assert max(map(len, prompts)) <= MAX_PROMPT_TOKENS
    assert max(map(len, answers)) <= MAX_ANSWER_TOKENS
    assert sum(map(len, answers)) / len(answers) <= 40


def test_tokenizer_splits_digits_and_encodes_any_text(tokenizer: PreTrainedTokenizerBase) -> None:
    assert tokenizer.convert_ids_to_tokens(tokenizer("2026")["input_ids"]) == list("2026")
    text = "h\u00e9llo \u4e2d\u6587 \U0001f600\t1,234"
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_both_models_share_one_tokenizer() -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        teacher, student = ((MODELS / m / name).read_bytes() for m in ("tiny-teacher", "tiny-student"))
        assert teacher == student


def test_models_fit_in_the_wheel() -> None:
    assert sum(f.stat().st_size for f in MODELS.rglob("*") if f.is_file()) <= 10_000_000


def test_arith_holds_its_problems_in_verls_layout(tmp_path, verl_row):
    manifest = prepare("arith", data_set(), tmp_path)
    train, test = splits(NUM_TRAIN, NUM_TEST, SEED)
    assert manifest["rows"] == {"train": len(train), "test": len(test)}
    for split, problems in (("train", train), ("test", test)):
        expected = [
            verl_row({"question": p.question, "answer": p.answer}, split, i)
            | {"data_source": "distillctl/arith"}
            for i, p in enumerate(problems)
        ]
        assert read(tmp_path / f"{split}.parquet") == expected


def test_arith_limit_is_a_prefix(tmp_path):
    prepare("arith", data_set(), tmp_path / "all")
    prepare("arith", data_set(), tmp_path / "five", 5)
    for file in ("train.parquet", "test.parquet"):
        assert read(tmp_path / "five" / file) == read(tmp_path / "all" / file)[:5]
