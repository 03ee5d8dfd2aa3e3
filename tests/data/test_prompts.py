"""Rendering with a chat template, and a stream that is a pure function of seed and step."""

import re
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.config.schema import DEFAULT_TEACHER, Config
from distillctl.data.prep import prepare
from distillctl.data.prompts import PromptStream, render, unused_teachers
from distillctl.data.read import PromptRow, read_rows
from distillctl.data.sets import gsm8k
from distillctl.data_types import Prompt
from distillctl.errors import ConfigError
from distillctl.models.locate import find_model


def row(index: int, content: str = "one two", truth: str | None = "2", **columns) -> PromptRow:
    messages = [{"role": "user", "content": content}]
    return PromptRow(
        index=index,
        messages=messages,
        question=content,
        ground_truth=truth,
        data_source="mine",
        split="train",
        **columns,
    )


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
        data_source="mine",
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
    (prompt,), _ = render(
        [
            PromptRow(
                index=0, messages=chat, question="one", ground_truth=None, data_source=None, split="train"
            )
        ],
        tokenizer,
        512,
    )
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


def test_columns_for_a_reward_function_are_carried_along(tokenizer):
    (prompt,), _ = render([row(0, extra_info={"index": 7})], tokenizer, 512)
    assert (prompt.data_source, prompt.extra_info) == ("mine", {"index": 7})


# --- teachers ------------------------------------------------------------------------------------


def test_routes_choose_the_teacher_and_the_rest_goes_to_the_default_one(tokenizer):
    rows = [row(0, route="law"), row(1, route="math"), row(2, route="art"), row(3)]
    chosen, _ = render(rows, tokenizer, 512, routes={"law": "jurist", "math": "solver"})
    assert [prompt.teacher for prompt in chosen] == ["jurist", "solver", DEFAULT_TEACHER, DEFAULT_TEACHER]


def test_without_routes_every_row_has_the_default_teacher(tokenizer):
    (prompt,), _ = render([row(0, route="law")], tokenizer, 512)
    assert prompt.teacher == DEFAULT_TEACHER == Prompt("train/0", [1], "", None).teacher


def test_teachers_without_a_prompt_are_found(tokenizer):
    chosen, _ = render([row(0, route="law"), row(1)], tokenizer, 512, routes={"law": "jurist"})
    assert unused_teachers(chosen, ["writer", "jurist", DEFAULT_TEACHER, "solver"]) == ["writer", "solver"]


# --- references ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def student_tokenizer():
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(find_model("builtin:tiny-student", "test").path)


def test_references_are_left_out_unless_asked_for(student_tokenizer):
    (prompt,), _ = render([row(0, reference="#### 2")], student_tokenizer, 512)
    assert prompt.reference_ids is None


def test_reference_is_the_answer_and_an_end_of_sequence_token(student_tokenizer):
    rows = [row(0, reference="1 + 1 = 2\n#### 2"), row(1)]
    (first, second), _ = render(rows, student_tokenizer, 512, max_reference_length=64)
    assert student_tokenizer.decode(first.reference_ids) == "1 + 1 = 2\n#### 2<|im_end|>"
    assert {type(token) for token in first.reference_ids} == {int}
    assert second.reference_ids is None


def test_reference_has_no_token_that_a_tokenizer_puts_in_front(tokenizer):
    from tokenizers.processors import TemplateProcessing

    tokenizer.eos_token = "<end>"
    start = ("<assistant>", tokenizer.convert_tokens_to_ids("<assistant>"))
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<assistant> $A", pair="<assistant> $A $B", special_tokens=[start]
    )
    assert tokenizer.decode(tokenizer("one")["input_ids"]) == "<assistant> one"
    (prompt,), _ = render([row(0, reference="one")], tokenizer, 512, max_reference_length=8)
    assert tokenizer.convert_ids_to_tokens(prompt.reference_ids) == ["one", "<end>"]


def test_long_reference_is_cut_and_does_not_end(student_tokenizer):
    rows = [row(0, reference="1 + 1 = 2\n#### 2")]
    (whole,), _ = render(rows, student_tokenizer, 512, max_reference_length=64)
    length = len(whole.reference_ids)
    for limit in (length, length - 1, 1):
        (cut,), _ = render(rows, student_tokenizer, 512, max_reference_length=limit)
        assert cut.reference_ids == whole.reference_ids[:limit]


@pytest.mark.parametrize(
    ("answer", "taught"),
    [
        ("48/2 = <<48/2=24>>24 clips", "48/2 = 24 clips"),
        ("$<<.5*(3-1)=1.0>>1<<1=1>>", "$1"),
        ("x = 1 << 2 >> 1", "x = 1 << 2 >> 1"),
        ("a<<=b>>c", "a<<=b>>c"),
        ("cout << a == b; cin >> c", "cout << a == b; cin >> c"),
    ],
)
def test_calculator_marks_are_not_taught(student_tokenizer, answer, taught):
    (prompt,), _ = render([row(0, reference=answer)], student_tokenizer, 512, max_reference_length=64)
    assert student_tokenizer.decode(prompt.reference_ids, skip_special_tokens=True) == taught


def test_real_gsm8k_references_keep_all_but_the_marks(student_tokenizer, gsm8k_source, tmp_path):
    prepare("gsm8k", gsm8k.data_set(gsm8k_source), tmp_path, 400)
    rows = read_rows(tmp_path / "train.parquet")
    kept, _ = render(rows, student_tokenizer, 100_000, max_reference_length=100_000)
    for prompt in kept:
        text = student_tokenizer.decode(prompt.reference_ids, skip_special_tokens=True)
        answer = prompt.extra_info["answer"]
        assert text == "".join(part.rpartition(">>")[2] for part in re.split("<<", answer))
        assert text.endswith(f"#### {answer.rpartition('#### ')[2]}")


def test_no_reference_at_all_is_refused_by_name(student_tokenizer):
    rows = [row(3), row(4, reference="<<1+1=2>>")]
    with pytest.raises(ConfigError, match=r"none of 2 prompts \(train/3 to train/4\)") as caught:
        render(rows, student_tokenizer, 512, max_reference_length=8)
    assert "extra_info.answer" in caught.value.hint
    assert "loss.sft_coef" in caught.value.hint


def test_reference_that_is_no_unicode_is_named(student_tokenizer):
    with pytest.raises(ConfigError, match=r"train/5: `extra_info\.answer` is not valid Unicode"):
        render([row(5, reference="\ud800")], student_tokenizer, 512, max_reference_length=8)


def test_references_need_an_end_of_sequence_token(tokenizer):
    with pytest.raises(ConfigError, match="no end-of-sequence token") as caught:
        render([row(0, reference="one")], tokenizer, 512, max_reference_length=8)
    assert "loss.sft_coef" in caught.value.hint


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


@settings(deadline=None)
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
def test_epochs_end_with_the_batch_that_shows_the_last_prompt(size, num_epochs):
    batch_size, num_prompts = size
    config = Config.model_validate(
        {"student": {"model": "s"}, "teacher": {"model": "t"}, "train": {"epochs": num_epochs},
         "data": {"train_files": ["x"], "train_batch_size": batch_size}}
    )  # fmt: skip
    stream, num_steps = PromptStream(prompts(num_prompts), batch_size, 0), config.num_steps(num_prompts)
    seen = Counter(p.prompt_id for step in range(1, num_steps + 1) for p in stream.batch(step))
    assert len(seen) == num_prompts
    assert min(seen.values()) >= num_epochs
    earlier = Counter(p.prompt_id for step in range(1, num_steps) for p in stream.batch(step))
    assert len(earlier) < num_prompts or min(earlier.values()) < num_epochs


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


def test_a_prompt_that_stands_twice_in_a_batch_is_two_objects():
    """What belongs to a prompt's answers goes by the object."""
    repeated = next(  # epochs of three in batches of two: the last of one epoch, the first of the next
        batch
        for seed in range(50)
        for batch in [PromptStream(prompts(3), 2, seed).batch(2)]
        if batch[0].prompt_id == batch[1].prompt_id
    )
    assert repeated[0] == repeated[1]
    assert repeated[0] is not repeated[1]


def test_batch_larger_than_the_data_is_refused():
    with pytest.raises(ConfigError, match=r"data\.train_batch_size is 8, but there are 7 prompts"):
        PromptStream(prompts(7), 8, 0)


@pytest.mark.parametrize("step", [0, -1])
def test_steps_count_from_one(step):
    with pytest.raises(ValueError, match="count from 1"):
        PromptStream(prompts(7), 3, 0).batch(step)
