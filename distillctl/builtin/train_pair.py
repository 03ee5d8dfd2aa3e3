"""Make the shipped pair from scratch: one tokenizer, `tiny-teacher` and `tiny-student`.

In: the `arith` generator. Out: two model directories that load with plain transformers and vLLM.
Both models train on the same kind of data. The student is smaller and stops training early, which
leaves something to distil. Neither model trains on the test questions of the `arith` data set.
`python -m distillctl.builtin.train_pair --out DIR` takes about 15 minutes on two cores.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import AddedToken, pre_tokenizers, trainers
from transformers import GenerationConfig, Qwen2Config, Qwen2ForCausalLM, Qwen2Tokenizer

from distillctl.data.sets.arith import NUM_TEST, NUM_TRAIN, SEED, Problem, generate, splits
from distillctl.data.sets.gsm8k import INSTRUCTION

CORPUS_SEED = 1
NUM_CORPUS = 200_000
NUM_VALIDATION = 500
VOCAB_SIZE = 480
MAX_POSITIONS = 512
MAX_NEW_TOKENS = 80
END_OF_TEXT = "<|endoftext|>"
TURN_START = "<|im_start|>"
TURN_END = "<|im_end|>"
IGNORE = -100  # label value that torch's cross entropy skips

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


Row = tuple[list[int], int]
"""Token ids of a prompt and its reference answer, and how many of them are the prompt."""


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Shape and training of one model. Training ends early at the validation accuracy `stop_at`."""

    name: str
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    layers: int = 4
    vocab_padding: int = 0
    steps: int = 1600
    lr: float = 2e-3
    stop_at: float | None = None
    check_every: int = 100
    batch_size: int = 64
    warmup_steps: int = 50
    seed: int = 0


TEACHER = Recipe(
    name="tiny-teacher", hidden=128, intermediate=384, heads=4, kv_heads=2, vocab_padding=64, steps=1500
)
STUDENT = Recipe(
    name="tiny-student", hidden=96, intermediate=320, heads=3, kv_heads=1, stop_at=0.27, check_every=20
)


def build_tokenizer(corpus: list[Problem]) -> Qwen2Tokenizer:
    """Train a byte-level BPE on the problems' text with Qwen's pre-tokenizer.

    It encodes any text, and every digit is a token of its own. transformers gives every `qwen2` model Qwen's
    own pre-tokenizer when it loads one.
    """
    specials = {token: index for index, token in enumerate((END_OF_TEXT, TURN_START, TURN_END))}
    core = Qwen2Tokenizer(vocab=dict(specials), merges=[]).backend_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=[AddedToken(token, special=True) for token in specials],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    roles = "user\nassistant\nsystem\n"
    texts = (f"{roles}{p.question} {INSTRUCTION}\n{p.answer}" for p in corpus)
    core.train_from_iterator(texts, trainer)
    learned = json.loads(core.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token=TURN_END,
        pad_token=END_OF_TEXT,
        additional_special_tokens=[TURN_START],
        model_max_length=MAX_POSITIONS,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def build_model(recipe: Recipe, tokenizer: Qwen2Tokenizer) -> Qwen2ForCausalLM:
    """A random Qwen2 of the recipe's shape. The recipe may pad its vocabulary, as real teachers do."""
    torch.manual_seed(recipe.seed)
    vocab = len(tokenizer)
    if recipe.vocab_padding:
        vocab = math.ceil(vocab / 64) * 64 + recipe.vocab_padding
    config = Qwen2Config(
        vocab_size=vocab,
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        num_key_value_heads=recipe.kv_heads,
        max_position_embeddings=MAX_POSITIONS,
        tie_word_embeddings=True,
        initializer_range=0.05,  # a model of this width learns more slowly with the usual 0.02
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        dtype="float32",
    )
    model = Qwen2ForCausalLM(config)
    model.generation_config = GenerationConfig(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    return model


def prompt_text(problem: Problem, tokenizer: Qwen2Tokenizer) -> str:
    """The chat prompt that data of `distillctl prep arith` is rendered to, up to the assistant's turn."""
    message = {"role": "user", "content": f"{problem.question} {INSTRUCTION}"}
    text = tokenizer.apply_chat_template([message], tokenize=False, add_generation_prompt=True)
    assert isinstance(text, str)
    return text


def encode(problems: list[Problem], tokenizer: Qwen2Tokenizer) -> list[Row]:
    """One row per problem: prompt, reference answer, end of turn."""
    prompts = tokenizer([prompt_text(p, tokenizer) for p in problems])["input_ids"]
    answers = tokenizer([p.answer + TURN_END for p in problems])["input_ids"]
    return [(head + tail, len(head)) for head, tail in zip(prompts, answers, strict=True)]


def batches(
    rows: list[Row], batch_size: int, pad_id: int, seed: int
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (input ids, labels) without end, padded on the right: causal attention ignores that padding."""
    rng = random.Random(seed)
    while True:
        rng.shuffle(rows)
        for start in range(0, len(rows) - batch_size + 1, batch_size):
            chosen = rows[start : start + batch_size]
            width = max(len(ids) for ids, _ in chosen)
            inputs = torch.full((batch_size, width), pad_id)
            labels = torch.full((batch_size, width), IGNORE)
            for row, (ids, num_prompt) in enumerate(chosen):
                inputs[row, : len(ids)] = torch.tensor(ids)
                labels[row, num_prompt : len(ids)] = torch.tensor(ids[num_prompt:])
            yield inputs, labels


@torch.no_grad()
def accuracy(model: Qwen2ForCausalLM, tokenizer: Qwen2Tokenizer, problems: list[Problem]) -> float:
    """Share of `problems` whose greedy response ends in the right `#### N` and then ends the turn."""
    model.eval()
    batch = tokenizer([prompt_text(p, tokenizer) for p in problems], return_tensors="pt", padding=True)
    output: Any = model.generate(
        input_ids=batch["input_ids"],
        attention_mask=batch["attention_mask"],
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
    )
    texts = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :])
    model.train()
    ends = [p.answer.rsplit("\n", 1)[-1] + TURN_END for p in problems]
    return sum(end in text for end, text in zip(ends, texts, strict=True)) / len(problems)


def learning_rate(recipe: Recipe, step: int) -> float:
    """Linear warm-up, then cosine decay to a hundredth of the peak."""
    if step < recipe.warmup_steps:
        return recipe.lr * (step + 1) / recipe.warmup_steps
    done = (step - recipe.warmup_steps) / max(1, recipe.steps - recipe.warmup_steps)
    return recipe.lr * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * done)))


def train(
    recipe: Recipe,
    tokenizer: Qwen2Tokenizer,
    rows: list[Row],
    validation: list[Problem],
) -> Iterator[tuple[int, float, Qwen2ForCausalLM]]:
    """Train by next-token loss on the reference answers; yield (step, validation accuracy, model)."""
    model = build_model(recipe, tokenizer)
    optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.lr, betas=(0.9, 0.95), weight_decay=0.01)
    assert isinstance(tokenizer.pad_token_id, int)
    data = batches(list(rows), recipe.batch_size, tokenizer.pad_token_id, recipe.seed)
    for step in range(recipe.steps):
        inputs, labels = next(data)
        answer = labels[:, 1:] != IGNORE
        hidden = model.model(input_ids=inputs).last_hidden_state[:, :-1][answer]
        loss = torch.nn.functional.cross_entropy(model.lm_head(hidden), labels[:, 1:][answer])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(recipe, step)
        optimizer.step()
        if (step + 1) % recipe.check_every == 0:
            solved = accuracy(model, tokenizer, validation)
            print(f"{recipe.name} step {step + 1}: loss {loss:.4f}, solved {solved:.3f}", flush=True)
            yield step + 1, solved, model


def make(
    recipe: Recipe,
    tokenizer: Qwen2Tokenizer,
    rows: list[Row],
    validation: list[Problem],
    out: Path,
) -> Qwen2ForCausalLM:
    """Train one model for all its steps or until `stop_at`, and save it with the tokenizer."""
    for _step, solved, model in train(recipe, tokenizer, rows, validation):
        done = model
        if recipe.stop_at is not None and solved >= recipe.stop_at:
            break
    done.save_pretrained(out / recipe.name)
    tokenizer.save_pretrained(out / recipe.name)
    return done


def corpora() -> tuple[list[Problem], list[Problem], list[Problem]]:
    """(training, validation, test) problems; only the test list has test questions."""
    _, test = splits(NUM_TRAIN, NUM_TEST, SEED)
    asked = {p.question for p in test}
    fresh = [p for p in generate(NUM_CORPUS, CORPUS_SEED) if p.question not in asked]
    return fresh[NUM_VALIDATION:], fresh[:NUM_VALIDATION], test


def main() -> None:
    """Make the tokenizer and both models under `--out` and print their test accuracy."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder to write both model directories into")
    out: Path = parser.parse_args().out
    corpus, validation, test = corpora()
    tokenizer = build_tokenizer(corpus[:20_000])
    rows = encode(corpus, tokenizer)
    for recipe in (TEACHER, STUDENT):
        start = time.monotonic()
        model = make(recipe, tokenizer, rows, validation, out)
        solved = accuracy(model, tokenizer, test)
        print(f"{recipe.name}: {solved:.3f} of the test problems, {time.monotonic() - start:.0f} s")


if __name__ == "__main__":
    main()
