"""`eval --teacher`: the KL of each response from a teacher, computed once and kept with the responses."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from distillctl.data_types import Rollout
from distillctl.evaluate.cache import Cache
from distillctl.evaluate.model_hash import model_hash
from distillctl.evaluate.questions import Questions
from distillctl.evaluate.responses import Task, cache_key, kept
from distillctl.grading.summary import GradedResponse
from distillctl.models.compatibility import shared_vocab
from distillctl.models.model_dir import ModelDir


@dataclass(frozen=True, slots=True)
class KlTeacher:
    """A teacher, and the token ids that it shares with one model."""

    model: ModelDir
    num_rows: int
    """Rows of the teacher's embedding table; it cannot read token ids from there on."""
    vocab_size: int
    """Number of token ids, from 0, that it shares with the model."""


@dataclass(frozen=True, slots=True)
class ResponseKl:
    """KL(model || teacher) of one response."""

    kl: float
    """Nats, summed over `num_tokens`."""
    num_tokens: int
    is_cut: bool
    """Whether the tokens from the first one that the teacher does not share were left out."""


def kl_teacher(student: ModelDir, teacher: ModelDir) -> KlTeacher:
    """Find what a model shares with the teacher; raises ConfigError if their tokenizers differ."""
    rows = teacher.shape.vocab_size
    sizes = student.shape.vocab_size, rows
    shared, _ = shared_vocab(student.vocabulary, teacher.vocabulary, sizes, "--teacher")
    return KlTeacher(teacher, rows, shared)


def response_kls(
    asked: Questions, teacher: KlTeacher, responses: Sequence[GradedResponse], work: Task, cache: Cache
) -> list[ResponseKl]:
    """The KL of each response from the teacher, up to its first token that the teacher does not share.

    If the teacher cannot read a token of the prompt, no token of the response is measured.
    """
    rollouts = [_readable(response.rollout, teacher) for response in responses]
    lengths = [len(rollout.response_ids) for rollout in rollouts]
    sums = _sums(asked, teacher, rollouts, work, cache)
    return [
        ResponseKl(kl, length, length < len(response.rollout.response_ids))
        for kl, length, response in zip(sums, lengths, responses, strict=True)
    ]


def mean_kl(found: Sequence[ResponseKl]) -> float | None:
    """Mean KL in nats per token over all responses; None if no token was measured."""
    num_tokens = sum(one.num_tokens for one in found)
    return sum(one.kl for one in found) / num_tokens if num_tokens else None


def _readable(rollout: Rollout, teacher: KlTeacher) -> Rollout:
    from distillctl.train.batch import cut_to_vocabulary

    if max(rollout.prompt.token_ids) >= teacher.num_rows:
        return replace(rollout, response_ids=np.zeros(0, np.int32), response_logprobs=np.zeros(0, np.float32))
    return cut_to_vocabulary(rollout, teacher.vocab_size)


def _sums(
    asked: Questions, teacher: KlTeacher, rollouts: Sequence[Rollout], work: Task, cache: Cache
) -> list[float]:
    """KL of each rollout, summed over its tokens; the cache keeps it with the responses."""
    with cache.entry(cache_key(asked, work, cache)) as entry:
        kept(asked, work, cache, entry)
        name = "" if entry is None else _fact(teacher, rollouts, cache)
        known = None if entry is None else entry.fact(name)
        if isinstance(known, list) and len(known) == len(rollouts):
            return [float(value) for value in known]
        from distillctl.evaluate.teacher_kl import response_kl

        measured = [i for i, rollout in enumerate(rollouts) if len(rollout.response_ids)]
        chosen = [rollouts[i] for i in measured]
        sums = [0.0] * len(rollouts)
        if chosen:
            found = response_kl(asked.target.model, teacher.model, chosen, teacher.vocab_size, work.device)
            for i, value in zip(measured, found, strict=True):
                sums[i] = value
        if entry is not None and cache.root is not None:
            try:
                entry.note(name, sums)
            except OSError as error:
                cache.give_up(error)
        return sums


def _fact(teacher: KlTeacher, rollouts: Sequence[Rollout], cache: Cache) -> str:
    ids = [rollout.response_ids.tolist() for rollout in rollouts]
    content = [model_hash(teacher.model.path, cache.memory), teacher.vocab_size, ids]
    return f"kl {hashlib.sha256(json.dumps(content).encode()).hexdigest()}"
