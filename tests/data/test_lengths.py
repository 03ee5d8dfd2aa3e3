"""The lower bound on a prompt's tokens, against the tokens of the rendered prompt."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from distillctl.data.lengths import fewest_tokens, require_usable
from distillctl.data.prompts import render
from distillctl.data.read import PromptRow
from distillctl.errors import ConfigError
from distillctl.models.locate import find_model

STUDENT = find_model("builtin:tiny-student", "student.model")
COUNT = STUDENT.num_tokens
TOKENIZER = AutoTokenizer.from_pretrained(STUDENT.path)
texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300).filter(str.strip)
words = st.lists(
    st.sampled_from(["Tom", " ", "has", "12", "\n", "apples", "?", "user"]), min_size=1, max_size=60
)


def row(*contents):
    messages = [{"role": "user", "content": content} for content in contents]
    return PromptRow(
        index=0, messages=messages, question=contents[-1], ground_truth=None, data_source=None, split="train"
    )


@settings(max_examples=100, deadline=None)
@given(contents=st.lists(texts | words.map("".join).filter(str.strip), min_size=1, max_size=3))
def test_no_rendered_prompt_is_shorter(contents):
    prompt = row(*contents)
    ((rendered,), _) = render([prompt], TOKENIZER, 100_000)
    assert fewest_tokens(prompt, COUNT) <= len(rendered.token_ids)


def test_a_long_prompt_is_known_to_be_long():
    assert fewest_tokens(row("How many apples has Tom? " * 40), COUNT) > 200


@pytest.mark.parametrize(("num_needed", "refused"), [(1, False), (2, False), (3, True)])
def test_as_many_rows_as_needed_have_to_be_short(num_needed, refused):
    rows = [row("Why?"), row("How many apples has Tom? " * 40), row("Why not?")]
    if not refused:
        require_usable(rows, COUNT, 16, num_needed, "data.train_files")
        return
    with pytest.raises(ConfigError, match="at most 2 of 3 prompts"):
        require_usable(rows, COUNT, 16, num_needed, "data.train_files")


def test_no_more_rows_are_encoded_than_needed():
    def count(text):
        return 1 if text == "first" else pytest.fail(f"{text} was encoded")

    require_usable([row("first"), row("second")], count, 16, 1, "data.train_files")
