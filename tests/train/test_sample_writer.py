"""Token texts as they stand inside a text, with tokenizers of both kinds, made here."""

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from distillctl.train.sample_writer import token_text


def byte_level():
    """Bytes as tokens, and a few merged ones: GPT-2's and Qwen's kind."""
    vocab = {char: i for i, char in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    for left, right in (("Ġ", "a"), ("Ġa", "b")):
        vocab[left + right] = len(vocab)
    tokenizer = Tokenizer(models.BPE(vocab, [("Ġ", "a"), ("Ġa", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


def metaspace():
    """Words with the space before them as ▁: SentencePiece's kind."""
    vocab = {"<unk>": 0, "▁a": 1, "▁ab": 2, "c": 3, "▁": 4, "a": 5}
    tokenizer = Tokenizer(models.BPE(vocab, [], unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>")


@pytest.mark.parametrize(
    ("make", "token", "text"),
    [
        (byte_level, "Ġab", " ab"),
        (byte_level, "b", "b"),
        (byte_level, "Ċ", "\n"),
        (byte_level, "â", "�"),
        (metaspace, "▁ab", " ab"),
        (metaspace, "c", "c"),
        (metaspace, "▁", " "),
    ],
)
def test_the_text_of_a_token_keeps_its_space(make, token, text):
    tokenizer = make()
    number = tokenizer.convert_tokens_to_ids(token)
    assert token_text([number], tokenizer) == {number: text}
