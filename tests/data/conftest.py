"""Fixtures of the data tests: the real GSM8K, small files, a tokenizer made on the spot."""

import json
import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GSM8K = Path(__file__).resolve().parents[3] / "shared" / "data" / "gsm8k"
TEMPLATE = (
    "{% for m in messages %}<{{ m['role'] }}> {{ m['content'] }} <end> {% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture
def gsm8k_source() -> Path:
    """Directory with upstream's train.jsonl and test.jsonl."""
    if not (GSM8K / "train.jsonl").is_file():
        pytest.skip(f"the real GSM8K is not at {GSM8K}")
    return GSM8K


@pytest.fixture
def write_lines() -> Callable[[Path, Iterable[object]], Path]:
    """Writes a .jsonl file; str items go in as they are, all else as JSON."""

    def write(path: Path, items: Iterable[object]) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = [item if isinstance(item, str) else json.dumps(item) for item in items]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        return path

    return write


@pytest.fixture
def source(tmp_path, write_lines) -> Path:
    """A small GSM8K: three training rows, two test rows."""
    for split, num_rows in (("train", 3), ("test", 2)):
        rows = [
            {"question": f"{split} {i}?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"} for i in range(num_rows)
        ]
        write_lines(tmp_path / "src" / f"{split}.jsonl", rows)
    return tmp_path / "src"


@pytest.fixture
def verl_row() -> Callable[[dict[str, str], str, int], dict[str, object]]:
    """verl's mapping of GSM8K, written anew from the words of its `examples/data_preprocess/gsm8k.py`."""

    def verl_row(example: dict[str, str], split: str, index: int) -> dict[str, object]:
        found = re.search("#{4} -?[0-9.,]+", example["answer"])
        assert found is not None
        instruction = 'Let\'s think step by step and output the final answer after "####".'
        return {
            "data_source": "openai/gsm8k",
            "prompt": [{"role": "user", "content": example["question"] + " " + instruction}],
            "ability": "math",
            "reward_model": {
                "style": "rule",
                "ground_truth": found[0].removeprefix("#### ").replace(",", ""),
            },
            "extra_info": {
                "split": split,
                "index": index,
                "answer": example["answer"],
                "question": example["question"],
            },
        }

    return verl_row


@pytest.fixture
def tokenizer() -> PreTrainedTokenizerFast:
    """One token per word, split at spaces, with a chat template."""
    words = ["<unk>", "<user>", "<system>", "<assistant>", "<end>", "one", "two", "three"]
    model = models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>")
    backend = Tokenizer(model)
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>")
    fast.chat_template = TEMPLATE
    return fast
