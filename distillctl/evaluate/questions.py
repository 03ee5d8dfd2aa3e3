"""The prompts of each model: the rows rendered with its own chat template, without those too long for it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from distillctl.data.prompts import render
from distillctl.data.read import PromptRow
from distillctl.data.special_tokens import SpecialTokens, special_token_warning
from distillctl.data.template import require_rendering
from distillctl.data_types import Prompt
from distillctl.errors import ConfigError
from distillctl.evaluate.data import EvalData
from distillctl.models.compatibility import stop_token_ids
from distillctl.models.model_dir import ModelDir
from distillctl.models.supported import require_decoder
from distillctl.terminal.progress import note

DEFAULT_MAX_TOKENS = 512
_ROW = "row"


@dataclass(frozen=True, slots=True)
class Target:
    """A model to evaluate."""

    label: str
    model: ModelDir
    option: str = "--checkpoint"
    """The option that names it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Questions:
    """The prompts of one model, and the settings of its responses."""

    target: Target
    tokenizer: Any
    prompts: list[Prompt]
    """The prompts that are short enough; `row_of` gives the row of each."""
    num_dropped: int
    """Number of rows that are too long."""
    max_tokens: int
    """Most tokens of a response."""
    stop_token_ids: list[int]


def row_of(prompt: Prompt) -> int:
    """The row of a prompt of `Questions`, counted from 0 over all files."""
    return int(prompt.prompt_id.removeprefix(f"{_ROW}/"))


def all_questions(targets: Sequence[Target], data: EvalData, max_tokens: int | None) -> list[Questions]:
    """Render the data for each model, and leave out the prompts that are too long for it.

    No model gets a row whose prompt, rendered for the first model, exceeds the run's own limit. Raises
    ConfigError if a model lacks a tokenizer or a chat template, or if all prompts are too long for it.
    """
    rendered = [_render(target, data.rows, data.source) for target in targets]
    asked = [True] * len(data.rows)
    if data.max_prompt_length is not None:
        asked = [len(prompt.token_ids) <= data.max_prompt_length for prompt in rendered[0][1]]
        if not any(asked):
            raise ConfigError(
                f"all {len(asked)} prompts are longer than data.max_prompt_length={data.max_prompt_length}, "
                f"the limit of the run of {targets[0].label}",
                "give other data: --data FILE",
            )
    kept = [[p for p, wanted in zip(prompts, asked, strict=True) if wanted] for _, prompts in rendered]
    limit = f"--max-tokens {max_tokens}"
    if max_tokens is None and data.max_response_length is not None:
        max_tokens = data.max_response_length
        limit = f"data.max_response_length={max_tokens} of the run of {targets[0].label}"
    elif max_tokens is None:
        max_tokens = _default_max_tokens(targets, kept)
        limit = f"the default limit of {max_tokens} tokens"
    found = []
    for target, (tokenizer, prompts), wanted in zip(targets, rendered, kept, strict=True):
        fitting = _fitting(target, wanted, max_tokens, limit, data.source)
        found.append(
            Questions(
                target=target,
                tokenizer=tokenizer,
                prompts=fitting,
                num_dropped=len(prompts) - len(fitting),
                max_tokens=max_tokens,
                stop_token_ids=stop_token_ids(target.model.generation_config, tokenizer.eos_token_id),
            )
        )
    return found


def _render(target: Target, rows: Sequence[PromptRow], source: str) -> tuple[Any, list[Prompt]]:
    """The model's tokenizer, and a prompt for each row; `source` names the rows in messages."""
    model = target.model
    require_decoder(model.config, model.path / "config.json")  # transformers would fail in its own way
    tokens = SpecialTokens(model.tokenizer)
    require_rendering(rows, model.require_chat_template(f"{model}:"), model.special_tokens)
    told = special_token_warning(rows, tokens, f"{target.label}: {source}")
    if told is not None:
        note(f"warning: {told}")
    tokenizer = _tokenizer(model.path)
    prompts, _ = render(rows, tokenizer, sys.maxsize)
    empty = next((prompt for prompt in prompts if not prompt.token_ids), None)
    if empty is not None:
        hint = "correct chat_template.jinja, or choose another model"
        message = f"{empty.prompt_id}: the chat template of {model} renders an empty prompt"
        raise ConfigError(message, hint)
    return tokenizer, [replace(prompt, prompt_id=f"{_ROW}/{i}") for i, prompt in enumerate(prompts)]


def _tokenizer(path: Path) -> Any:
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoTokenizer

    failures = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, TypeError, ValueError)
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=False)
    except (StrictDataclassError, *failures) as error:
        told = " ".join(f"{type(error).__name__}: {error}".split())[:200]
        raise ConfigError(
            f"{path}: transformers cannot load the tokenizer: {told}",
            "download it again, or write it with save_pretrained",
        ) from None


def _default_max_tokens(targets: Sequence[Target], kept: Sequence[Sequence[Prompt]]) -> int:
    """DEFAULT_MAX_TOKENS, or less if a short context leaves less room after the longest prompt that fits."""
    room = DEFAULT_MAX_TOKENS
    for target, prompts in zip(targets, kept, strict=True):
        positions = _positions(target)
        longest = max((n for p in prompts if (n := len(p.token_ids)) < positions), default=0)
        if longest and positions - longest < room:
            room = positions - longest
            note(
                f"responses have at most {room} tokens, not {DEFAULT_MAX_TOKENS}: {target.label} takes "
                f"{positions} with the prompt, and the longest prompt has {longest}; --max-tokens changes it"
            )
    return room


def _positions(target: Target) -> int:
    """Most tokens of prompt and response together that a model can take.

    If its position embeddings change with the length, this is the length up to which they stay the same.
    """
    shape = target.model.shape
    return (
        shape.max_positions
        if shape.switch_length is None
        else min(shape.switch_length[1], shape.max_positions)
    )


def _fitting(
    target: Target, prompts: Sequence[Prompt], max_tokens: int, limit: str, source: str
) -> list[Prompt]:
    """The prompts that leave room for a response; raises ConfigError if none does.

    For messages, `limit` says what sets `max_tokens`, and `source` names the prompts.
    """
    positions = _positions(target)
    space = positions - max_tokens
    fitting = [prompt for prompt in prompts if len(prompt.token_ids) <= space]
    if fitting:
        return fitting
    lengths = [n for prompt in prompts if (n := len(prompt.token_ids)) < positions]
    hint = (
        f"give --max-tokens {positions - max(lengths)} or less"
        if lengths
        else "give other data, or another model"
    )
    switch = target.model.shape.switch_length
    why = "" if switch is None else (
        f": its {switch[0]} position embeddings change beyond {switch[1]} tokens "
        "(original_max_position_embeddings)"
    )  # fmt: skip
    if space < 1:
        raise ConfigError(f"{limit} leaves {target.label} no room for a prompt{why}", hint)
    raise ConfigError(
        f"{source}: all {len(prompts)} prompts are longer than the {space} tokens that {target.label} takes "
        f"before a response{why}",
        hint,
    )
