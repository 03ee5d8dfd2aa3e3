"""Which pairs belong together."""

from types import SimpleNamespace

import pytest

from distillctl.errors import ConfigError
from distillctl.teacher.compat import require_plain_head, shared_vocab_size, stop_token_ids


def tokenizer(vocab, eos=0):
    return SimpleNamespace(get_vocab=lambda: dict(vocab), eos_token_id=eos)


def test_padding_rows_of_either_head_are_not_shared():
    vocab = {"a": 0, "b": 1, "c": 2}
    assert shared_vocab_size(tokenizer(vocab), tokenizer(vocab), (8, 16)) == 3


def test_a_head_smaller_than_the_tokenizer_bounds_the_vocabulary():
    vocab = {"a": 0, "b": 1, "c": 2}
    assert shared_vocab_size(tokenizer(vocab), tokenizer(vocab), (2, 16)) == 2


def test_different_tokenizers_are_refused_with_the_ids_that_differ():
    with pytest.raises(ConfigError) as caught:
        shared_vocab_size(tokenizer({"a": 0, "b": 1}), tokenizer({"a": 0, "b": 2, "c": 1}), (4, 4))
    assert "2 tokens differ" in caught.value.message
    assert "'b': 1 / 2" in caught.value.message
    assert "'c': None / 1" in caught.value.message


@pytest.mark.parametrize("key", ["final_logit_softcapping", "logit_scale", "logits_scaling"])
def test_models_that_change_their_logits_after_the_head_are_refused(key):
    with pytest.raises(ConfigError, match=key):
        require_plain_head(SimpleNamespace(model_type="x", **{key: 30.0}), "teacher.model")
    require_plain_head(SimpleNamespace(model_type="x", **{key: None}), "teacher.model")


def test_stop_ids_come_from_generation_config_and_tokenizer():
    assert stop_token_ids(SimpleNamespace(eos_token_id=[7, 5]), tokenizer({}, eos=9)) == [5, 7, 9]
    assert stop_token_ids(SimpleNamespace(eos_token_id=7), tokenizer({}, eos=7)) == [7]
    assert stop_token_ids(None, tokenizer({}, eos=3)) == [3]
