"""Rendering with a chat template, and a stream that is a pure function of seed and step."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.data.prompts import PromptStream, render
from distillctl.data.read import PromptRow
from distillctl.errors import ConfigError
from distillctl.samples import Prompt


def row(index: int, content: str = "one two", truth: str | None = "2") -> PromptRow:
    messages = [{"role": "user", "content": content}]
    return PromptRow(index, messages, content, truth, "mine", "train")


def prompts(num: int) -> list[Prompt]:
    return [Prompt(f"train/{i}", [i], f"{i}?", None) for i in range(num)]


# --- render --------------------------------------------------------------------------------------


def test_prompt_is_the_template_up_to_the_answer(tokenizer):
    (prompt,), _ = render([row(3)], tokenizer, 512)
    words = ["<user>", "one", "two", "<end>", "<assistant>"]
    assert prompt == Prompt(
        prompt_id="train/3",
        token_ids=[tokenizer.convert_tokens_to_ids(word) for word in words],
        text="one two",
        ground_truth="2",
    )


def test_token_ids_are_plain_ints(tokenizer):
    (prompt,), _ = render([row(0)], tokenizer, 512)
    assert type(prompt.token_ids) is list
    assert {type(token) for token in prompt.token_ids} == {int}


def test_row_without_answer_is_rendered(tokenizer):
    (prompt,), _ = render([row(0, truth=None)], tokenizer, 512)
    assert prompt.ground_truth is None


def test_system_message_reaches_the_template(tokenizer):
    chat = [{"role": "system", "content": "three"}, {"role": "user", "content": "one"}]
    (prompt,), _ = render([PromptRow(0, chat, "one", None, None, "train")], tokenizer, 512)
    expected = "<system> three <end> <user> one <end> <assistant>"
    assert tokenizer.decode(prompt.token_ids) == expected


def test_long_prompts_are_left_out_and_counted(tokenizer):
    # A prompt is its words and three marks of the template: 5, 7 and 4 tokens.
    rows = [row(0), row(1, "one one one one"), row(2, "three")]
    kept, num_dropped = render(rows, tokenizer, 5)
    assert [prompt.prompt_id for prompt in kept] == ["train/0", "train/2"]
    assert num_dropped == 1


def test_no_prompt_short_enough_says_how_long_they_are(tokenizer):
    with pytest.raises(ConfigError, match="none of 2 prompts has at most 4 tokens") as caught:
        render([row(0), row(1)], tokenizer, 4)
    assert "5 tokens" in caught.value.hint
    assert "data.max_prompt_length" in caught.value.hint


def test_tokenizer_without_chat_template_is_named(tokenizer):
    tokenizer.chat_template = None
    tokenizer.name_or_path = "org/base-model"
    with pytest.raises(ConfigError, match="org/base-model: has no chat template"):
        render([row(0)], tokenizer, 512)


def test_template_that_refuses_a_row_names_it(tokenizer):
    tokenizer.chat_template = "{{ raise_exception('roles must alternate') }}"
    with pytest.raises(ConfigError, match=r"train/5: .*roles must alternate"):
        render([row(5)], tokenizer, 512)


# --- stream --------------------------------------------------------------------------------------

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40)).map(sorted)
seeds = st.integers(0, 2**31 - 1)


@given(size=sizes, seed=seeds, num_epochs=st.integers(1, 4))
def test_every_epoch_shows_each_prompt_once(size, seed, num_epochs):
    batch_size, num_prompts = size
    data = prompts(num_prompts)
    stream = PromptStream(data, batch_size, seed)
    num_batches = -(-num_epochs * num_prompts // batch_size)
    seen = [p.prompt_id for step in range(num_batches) for p in stream.batch(step + 1)]
    for epoch in range(num_epochs):
        part = seen[epoch * num_prompts : (epoch + 1) * num_prompts]
        assert sorted(part) == sorted(p.prompt_id for p in data)


@given(size=sizes, seed=seeds, step=st.integers(1, 200))
def test_resuming_at_any_step_gives_the_same_batch(size, seed, step):
    batch_size, num_prompts = size
    stream = PromptStream(prompts(num_prompts), batch_size, seed)
    for earlier in range(1, step):
        stream.batch(earlier)
    fresh = PromptStream(prompts(num_prompts), batch_size, seed)
    assert fresh.batch(step) == stream.batch(step)
    assert len(fresh.batch(step)) == batch_size


@given(size=sizes, num_epochs=st.integers(1, 5))
def test_num_steps_is_whole_batches_and_at_least_one(size, num_epochs):
    batch_size, num_prompts = size
    num_steps = PromptStream(prompts(num_prompts), batch_size, 0).num_steps(num_epochs)
    assert num_steps >= 1
    assert num_steps * batch_size <= num_epochs * num_prompts < (num_steps + 1) * batch_size


def test_order_differs_between_seeds_and_between_epochs():
    data = prompts(50)
    first, second = (PromptStream(data, 50, 0).batch(step) for step in (1, 2))
    assert first != second
    assert first != PromptStream(data, 50, 1).batch(1)
    assert first != data


def test_order_is_pinned():
    # A change of this order would silently break resuming of runs that exist.
    stream = PromptStream(prompts(7), 3, seed=0)
    assert [[p.token_ids[0] for p in stream.batch(step)] for step in (1, 2, 3)] == [
        [2, 4, 3],
        [6, 5, 0],
        [1, 1, 3],
    ]


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"data\.train_batch_size is 8, but there are 7 prompts"):
        PromptStream(prompts(7), 8, 0)


@pytest.mark.parametrize("step", [0, -1])
def test_steps_count_from_one(step):
    with pytest.raises(ValueError, match="count from 1"):
        PromptStream(prompts(7), 3, 0).batch(step)
