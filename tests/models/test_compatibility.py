"""Which pairs belong together."""

from types import SimpleNamespace

import pytest

from distillctl.errors import ConfigError
from distillctl.models.compatibility import require_plain_head, shared_vocab, stop_token_ids

LETTERS = {"a": 0, "b": 1, "c": 2}


def test_padding_rows_of_either_head_are_not_shared():
    assert shared_vocab(LETTERS, LETTERS, (8, 16), "teacher") == (3, [])


def test_a_head_smaller_than_the_tokenizer_bounds_the_vocabulary():
    assert shared_vocab(LETTERS, LETTERS, (2, 16), "teacher") == (2, [])


def test_different_tokenizers_are_refused_with_the_ids_that_differ():
    with pytest.raises(ConfigError, match=r"student\.model and teachers\.math\.model") as caught:
        shared_vocab({"a": 0, "b": 1}, {"a": 0, "b": 2, "c": 1}, (4, 4), "teachers.math")
    assert "2 tokens differ" in caught.value.message
    assert "'b': 1 / 2" in caught.value.message
    assert "'c': None / 1" in caught.value.message


def test_at_most_five_of_the_differing_tokens_are_named():
    moved = {chr(97 + i): i for i in range(8)}, {chr(97 + i): (i + 1) % 8 for i in range(8)}
    with pytest.raises(ConfigError, match="8 tokens differ") as caught:
        shared_vocab(*moved, (8, 8), "teacher")
    assert caught.value.message.endswith("'a': 0 / 1, 'b': 1 / 2, 'c': 2 / 3, 'd': 3 / 4, 'e': 4 / 5")


def test_all_differing_tokens_are_counted_once_the_tokenizers_are_refused():
    with pytest.raises(ConfigError, match="3 tokens differ") as caught:
        shared_vocab({"a": 0, "b": 1, "c": 2}, {"a": 1, "b": 0, "c": 2, "<x>": 3}, (4, 4), "teacher")
    assert caught.value.message.endswith("'b': 1 / 0")


def test_tokens_that_only_the_teacher_has_after_all_shared_ones_end_the_vocabulary():
    theirs = {**LETTERS, "<think>": 3, "</think>": 4}
    shared = shared_vocab(LETTERS, theirs, (8, 8), "teachers.math")
    assert shared == (3, ["'<think>' 3 (teachers.math only)", "'</think>' 4 (teachers.math only)"])


def test_tokens_that_only_the_student_has_after_all_shared_ones_end_the_vocabulary():
    assert shared_vocab({**LETTERS, "<x>": 7}, LETTERS, (8, 8), "teacher") == (3, ["'<x>' 7 (student only)"])


def test_both_may_have_tokens_of_their_own_on_ids_that_the_other_does_not_use():
    size, beyond = shared_vocab({**LETTERS, "<x>": 4}, {**LETTERS, "<y>": 3}, (8, 8), "teacher")
    assert (size, beyond) == (3, ["'<y>' 3 (teacher only)", "'<x>' 4 (student only)"])


@pytest.mark.parametrize(
    ("ours", "theirs", "message"),
    [
        ({**LETTERS, "<x>": 3}, {**LETTERS, "<y>": 3}, "'<x>': 3 / None"),
        ({**LETTERS, "<x>": 3}, {**LETTERS, "<x>": 4}, "'<x>': 3 / 4"),
        ({"a": 0, "c": 2}, LETTERS, "'b': None / 1"),
        ({"a": 0}, {"b": 1}, "'a': 0 / None"),
    ],
    ids=["one id, two tokens", "one token, two ids", "a gap below shared ids", "nothing shared"],
)
def test_other_differences_are_refused_even_at_the_end(ours, theirs, message):
    with pytest.raises(ConfigError, match="different tokenizers") as caught:
        shared_vocab(ours, theirs, (8, 8), "teacher")
    assert message in caught.value.message


@pytest.mark.parametrize("key", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_models_that_change_their_logits_after_the_head_are_refused(key):
    with pytest.raises(ConfigError, match=key):
        require_plain_head(SimpleNamespace(model_type="x", **{key: 30.0}), "teacher.model")
    require_plain_head(SimpleNamespace(model_type="x", **{key: None}), "teacher.model")


def test_stop_ids_come_from_generation_config_and_tokenizer():
    assert stop_token_ids({"eos_token_id": [7, 5]}, 9) == [5, 7, 9]
    assert stop_token_ids({"eos_token_id": 7}, 7) == [7]
    assert stop_token_ids({}, 3) == [3]
    assert stop_token_ids({"eos_token_id": 7}, None) == [7]
