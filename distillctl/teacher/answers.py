"""What a vLLM server answers, as arrays: checked to be about the tokens that were sent.

Dimensions: T response tokens of one sequence, K listed tokens.
"""

from __future__ import annotations

import base64
import io
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

import numpy as np
from pydantic_core import from_json

from distillctl.errors import RunFailed

FLOOR = -1e4
"""Nats; takes the place of a log-probability of minus infinity."""


class Values(NamedTuple):
    """One sequence as `objective.views.TopK` describes it."""

    target_logp_T: np.ndarray
    ids_TK: np.ndarray
    logp_TK: np.ndarray


def read_most_likely(
    answer: bytes, token_ids: list[int], start: int, num_topk: int, vocab_size: int, source: str
) -> Values:
    """The answer of /v1/completions to `prompt_logprobs=num_topk`, from position `start` on.

    vLLM lists the prompt's own token first, whatever its rank, and then the most likely ones: those of rank
    1 to `num_topk` are kept, in that order; ids from `vocab_size` on (rows of a padded head) become -1.
    `source` names the server in errors. Raises RunFailed for an answer about other tokens, for one that vLLM
    would not give, and for a log-probability of NaN.
    """
    try:
        positions = from_json(answer)["choices"][0]["prompt_logprobs"]
        if len(positions) != len(token_ids):
            _misaligned(source, f"{len(token_ids)} tokens were sent, {len(positions)} came back")
        names = list(map(str, token_ids))
        for place in range(1, len(names)):
            if names[place] not in positions[place]:
                _misaligned(source, f"token {names[place]} at position {place} is not in the answer")
        rows = positions[start:]
        target = [row[name]["logprob"] for row, name in zip(rows, names[start:], strict=True)]
        return Values(
            _checked(np.array(target, np.float32), source), *_ranked(rows, num_topk, vocab_size, source)
        )
    except (IndexError, KeyError, TypeError, ValueError) as error:
        raise _unreadable(source, error) from None


def _ranked(
    rows: list[dict[str, dict[str, Any]]], num_topk: int, vocab_size: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """ids [T, K] and log-probabilities [T, K] by rank. Flat arrays: T times K entries are many."""
    entries = list(chain.from_iterable(map(dict.values, rows)))
    ids_E = np.fromiter(map(int, chain.from_iterable(rows)), np.int64, len(entries))
    logp_E = np.fromiter(map(itemgetter("logprob"), entries), np.float32, len(entries))
    rank_E = np.fromiter(map(itemgetter("rank"), entries), np.int64, len(entries))
    row_E = np.repeat(np.arange(len(rows)), np.fromiter(map(len, rows), np.int64, len(rows)))
    kept_E = (rank_E >= 1) & (rank_E <= num_topk)
    ids_TK = np.full((len(rows), num_topk), -1, np.int64)
    logp_TK = np.full((len(rows), num_topk), FLOOR, np.float32)
    place = row_E[kept_E], rank_E[kept_E] - 1
    ids_TK[place] = ids_E[kept_E]
    logp_TK[place] = _checked(logp_E[kept_E], source)
    ids_TK[ids_TK >= vocab_size] = -1
    return ids_TK, logp_TK


def read_asked(answer: bytes, token_ids: list[int], start: int, asked_TK: np.ndarray, source: str) -> Values:
    """The answer of /inference/v1/generate to the sampled tokens and `asked_TK`, from position `start` on.

    Raises RunFailed as `read_most_likely` does.
    """
    try:
        told = from_json(answer)
        if told["prompt_token_ids"] != token_ids:
            _misaligned(source, "the tokens it scored are not those that were sent")
        scores = np.load(io.BytesIO(base64.b64decode(told["prompt_token_id_logprobs"])), allow_pickle=False)
    except (KeyError, TypeError, ValueError) as error:
        raise _unreadable(source, error) from None
    expected = (len(token_ids) - start, 1 + asked_TK.shape[1])
    if scores.shape != expected:
        _misaligned(source, f"its scores have the shape {scores.shape}, not {expected}")
    scores = _checked(scores.astype(np.float32), source)
    return Values(scores[:, 0], asked_TK, scores[:, 1:])


def _checked(logp: np.ndarray, source: str) -> np.ndarray:
    if np.isnan(logp).any():
        raise RunFailed(
            f"the teacher at {source} gave a log-probability of NaN",
            "its weights or its precision overflow: try another --dtype",
        )
    floored: np.ndarray = np.maximum(logp, np.float32(FLOOR))
    return floored


def _misaligned(source: str, what: str) -> NoReturn:
    raise RunFailed(
        f"the answer of {source} is misaligned with the tokens it is about: {what}",
        "something between here and vLLM changes prompts; use vLLM's own server, 0.10 or later",
    )


def _unreadable(source: str, error: Exception) -> RunFailed:
    return RunFailed(
        f"{source} did not answer as a vLLM server does ({type(error).__name__}: {str(error)[:100]})",
        "teacher.url takes the addresses of vLLM servers, http://HOST:PORT",
    )
