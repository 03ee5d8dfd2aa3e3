"""The parts of a run that come from outside: prompts that are too long are left out and counted; paths."""

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import AutoTokenizer

from distillctl.config.loading import load_preset
from distillctl.data_types import Prompt, Rollout
from distillctl.errors import ConfigError
from distillctl.models.locate import find_model
from distillctl.train.build import located, reward_function, train_prompts, val_prompts

SHORT, LONG = {"prompt": "What is 1 + 1?"}, {"prompt": "How many apples has Tom? " * 30}


@pytest.fixture(scope="module")
def tokenizer():
    return AutoTokenizer.from_pretrained(find_model("builtin:tiny-student", "").path)


def config(tmp_path, rows):
    file = tmp_path / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    files = [f"data.train_files={file}", f"data.val_files={file}"]
    return load_preset("tiny-from-small-arith", [*files, "data.max_prompt_length=64", "eval.every=5"])


@pytest.mark.parametrize(("prompts", "key"), [(train_prompts, "train"), (val_prompts, "val")])
def test_long_prompts_are_left_out_and_counted(tmp_path, tokenizer, prompts, key):
    warnings = []
    found = prompts(config(tmp_path, [SHORT, LONG, SHORT, LONG, LONG]), tokenizer, warnings.append)
    assert [prompt.prompt_id for prompt in found] == ["data/0", "data/2"]
    assert warnings == [f"data.{key}_files: 3 of 5 prompts exceed data.max_prompt_length=64 and are left out"]


def test_nothing_is_said_when_all_fit(tmp_path, tokenizer):
    assert len(train_prompts(config(tmp_path, [SHORT]), tokenizer, pytest.fail)) == 1


def test_what_the_estimate_lets_through_is_refused_when_it_is_rendered(tmp_path, tokenizer):
    with pytest.raises(ConfigError, match="none of 2 prompts has at most 64 tokens") as caught:
        train_prompts(config(tmp_path, [LONG, LONG]), tokenizer, pytest.fail)
    assert "raise data.max_prompt_length" in caught.value.hint


def test_prompts_of_several_files_have_ids_of_their_own(tmp_path, tokenizer):
    """Else answers before and after, which are told apart by them, would be those to other prompts."""
    settings = config(tmp_path, [SHORT, SHORT])
    (tmp_path / "more").mkdir()
    other = tmp_path / "more" / "data.jsonl"
    other.write_text(json.dumps(SHORT) + "\n")
    settings.data.val_files.append(str(other))
    found = val_prompts(settings, tokenizer, pytest.fail)
    assert [prompt.prompt_id for prompt in found] == ["data/0", "data/1", "data/0#1"]


# Ranks do not work in the directory where the command was typed.


def test_data_files_are_seen_from_where_the_command_was_typed():
    overrides = ['data.train_files=["a.jsonl","/data/b.jsonl"]', "data.val_files=val/c.jsonl"]
    found = located(load_preset("tiny-from-small-arith", overrides), Path("/home/me")).data
    assert found.train_files == ["/home/me/a.jsonl", "/data/b.jsonl"]
    assert found.val_files == ["/home/me/val/c.jsonl"]


REWARD = """
from pathlib import Path

LENGTH = len(Path("table.txt").read_text())
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    with open("log.txt", "a") as log:
        log.write("scored ")
    return LENGTH
"""


def test_the_reward_finds_and_writes_files_where_the_command_was_typed(tmp_path, tokenizer, monkeypatch):
    typed, elsewhere = tmp_path / "typed", tmp_path / "elsewhere"
    typed.mkdir()
    elsewhere.mkdir()
    (typed / "reward.py").write_text(REWARD)
    (typed / "table.txt").write_text("12345")
    monkeypatch.chdir(elsewhere)
    settings = load_preset("tiny-from-small-arith", ["reward.path=reward.py", "rollout.n=2"])
    score = reward_function(settings, tokenizer, typed)
    answer = Rollout(
        prompt=Prompt("train/0", [5], "q", "1"),
        group=0,
        sample=0,
        response_ids=np.array([5], np.int32),
        response_logprobs=np.zeros(1),
        finish_reason="stop",
        weight_version=0,
    )
    assert score([answer]).tolist() == [5.0]
    assert (typed / "log.txt").read_text() == "scored "
    assert Path.cwd() == elsewhere
