"""The replies of a vLLM server as arrays. Each reply is checked against the tokens that were sent.

Dimensions: T response tokens of one sequence, K listed tokens, E entries of all positions.
"""

from __future__ import annotations

import base64
import re
from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple, NoReturn

import numpy as np
from pydantic_core import from_json

from distillctl.errors import RunFailed

FLOOR = -1e4
"""Nats. It replaces a log-probability of minus infinity."""
MAX_LOGP = 1e-3
"""Nats. Rounding in half precision may put a log-probability this far above 0."""
MAX_MASS = 1.01
"""Largest sum of probabilities that rounding in half precision can explain."""
_MAX_RANK = 2**31
_NPY_START = b"\x93NUMPY\x01\x00"
"""The first bytes of a .npy file of version 1.0, which numpy writes for numbers. Two bytes with the header's
length follow (https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html)."""
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>]f[248])', 'fortran_order': (True|False), 'shape': \(([0-9, ]{0,50})\), \} *\n"
)
"""The header in the form that numpy writes. numpy's own reader also takes headers of Python 2, through a
tokenizer that fails on other text in many ways."""


class Values(NamedTuple):
    """The scores of one sequence, with the fields of `objective.teacher_scores.TopK`."""

    target_logp_T: np.ndarray
    ids_TK: np.ndarray
    logp_TK: np.ndarray


def read_most_likely(
    reply: bytes, token_ids: list[int], start: int, num_topk: int, vocab_size: int, source: str
) -> Values:
    """Read the reply of /v1/completions to `prompt_logprobs=num_topk`, from position `start` on.

    vLLM lists the prompt's own token first, whatever its rank, and then the most likely tokens. The tokens of
    rank 1 to `num_topk` are kept, in that order. Ids of `vocab_size` and above (rows of a padded head) become
    -1. `source` names the server in errors. Raises RunFailed for a reply about other tokens, for one that
    vLLM would not give, and for values that cannot be log-probabilities.
    """
    try:
        positions = from_json(reply)["choices"][0]["prompt_logprobs"]
    except (IndexError, KeyError, TypeError, ValueError):
        raise _unreadable(source, "no choices[0].prompt_logprobs in it") from None
    if not isinstance(positions, list) or not all(isinstance(row, dict) for row in positions[1:]):
        raise _unreadable(source, "prompt_logprobs is not a list of objects")
    if len(positions) != len(token_ids):
        _misaligned(source, f"{len(token_ids)} tokens were sent, {len(positions)} came back")
    names = list(map(str, token_ids))
    for place in range(1, len(names)):
        if names[place] not in positions[place]:
            _misaligned(source, f"the token at position {place} is not in the reply")
    rows = positions[start:]
    # `_ranked` checks every entry, so the look-up below cannot fail.
    ids_TK, logp_TK = _ranked(rows, np.array(token_ids[start:], np.int64), num_topk, vocab_size, source)
    target = [row[name]["logprob"] for row, name in zip(rows, names[start:], strict=True)]
    return Values(_checked(np.array(target, np.float64), source), ids_TK, logp_TK)


def _ranked(
    rows: list[dict[str, Any]], own_T: np.ndarray, num_topk: int, vocab_size: int, source: str
) -> tuple[np.ndarray, np.ndarray]:
    """ids [T, K] and log-probabilities [T, K] by rank; the prompt's own tokens are `own_T`."""
    ids_E, rank_E, logp_E = _entries(rows, num_topk, source)
    row_E = np.repeat(np.arange(len(rows)), np.fromiter(map(len, rows), np.int64, len(rows)))
    logp_E = _checked(logp_E, source)
    _require_mass(np.bincount(row_E, np.exp(logp_E.astype(np.float64)), len(rows)), source)
    _require_order(row_E, rank_E, logp_E, ids_E == own_T[row_E], source)
    kept_E = rank_E <= num_topk
    ids_TK = np.full((len(rows), num_topk), -1, np.int64)
    logp_TK = np.full((len(rows), num_topk), FLOOR, np.float32)
    place = row_E[kept_E], rank_E[kept_E] - 1
    ids_TK[place] = ids_E[kept_E]
    logp_TK[place] = logp_E[kept_E]
    if (ids_TK[:, :vocab_size] < 0).any():  # a vocabulary of fewer than num_topk tokens is listed in full
        raise _unreadable(source, f"not all of the {num_topk} most likely tokens of a position are listed")
    ids_TK[ids_TK >= vocab_size] = -1
    return ids_TK, logp_TK


def _entries(
    rows: list[dict[str, Any]], num_topk: int, source: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """ids, ranks and log-probabilities [E], each checked. The arrays are flat for speed: E is about T * K."""
    most = max(map(len, rows), default=0)
    if most > num_topk + 1:
        raise _unreadable(
            source, f"{most} tokens at one position, but {num_topk} and the prompt's were asked for"
        )
    names = list(chain.from_iterable(rows))
    entries = list(chain.from_iterable(map(dict.values, rows)))
    # Ids must be canonical decimals: with two spellings of an id, one token could be listed twice.
    if not all(name.isdecimal() and name.isascii() and len(name) < 10 for name in names) or any(
        name[0] == "0" and name != "0" for name in names
    ):
        raise _unreadable(source, "a listed token is not an id")
    try:
        values = list(map(itemgetter("logprob"), entries))
        ranks = list(map(itemgetter("rank"), entries))
    except (KeyError, TypeError):
        raise _unreadable(source, "an entry has no logprob or no rank") from None
    if not set(map(type, values)) <= {int, float} or not set(map(type, ranks)) <= {int}:
        raise _unreadable(source, "a logprob or a rank is not a number")
    if any(not 1 <= rank <= _MAX_RANK for rank in ranks) or any(
        abs(v) > _MAX_RANK for v in values if type(v) is int
    ):
        raise _unreadable(source, "a logprob or a rank is out of range")
    return (
        np.fromiter(map(int, names), np.int64, len(names)),
        np.array(ranks, np.int64),
        np.array(values, np.float64),
    )


def _require_order(
    row_E: np.ndarray, rank_E: np.ndarray, logp_E: np.ndarray, is_own_E: np.ndarray, source: str
) -> None:
    """Raise RunFailed when ranks do not fit the log-probabilities.

    Each listed token has a rank of its own. A prompt's token that is not listed has as its rank the number of
    tokens that are at least as likely. Some versions of vLLM count itself and the tokens that are more
    likely. It may then share the rank of a listed token that is as likely.
    """
    listed_E = row_E[~is_own_E] * (_MAX_RANK + 1) + rank_E[~is_own_E]
    if len(np.unique(listed_E)) < len(listed_E):
        raise _unreadable(source, "two tokens at one position have the same rank")
    order = np.lexsort((-logp_E, rank_E, row_E))
    row_E = row_E[order]
    rank_E = rank_E[order]
    # vLLM writes -9999 for minus infinity, but ranks tokens by their original values.
    rise_E = np.diff(np.maximum(logp_E[order], FLOOR + 1))
    within = row_E[1:] == row_E[:-1]
    shared = within & (rank_E[1:] == rank_E[:-1])
    if (within & (rise_E > MAX_LOGP)).any() or (shared & (rise_E < -MAX_LOGP)).any():
        raise _unreadable(source, "ranks are not in the order of the log-probabilities")


def read_asked(reply: bytes, token_ids: list[int], start: int, asked_TK: np.ndarray, source: str) -> Values:
    """Read the reply of /inference/v1/generate, from position `start` on.

    The server was asked about the sampled tokens and `asked_TK`. Raises RunFailed as `read_most_likely` does.
    """
    expected = (len(token_ids) - start, 1 + asked_TK.shape[1])
    try:
        told = from_json(reply)
        sent_back = told["prompt_token_ids"]
        scores = told["prompt_token_id_logprobs"]
        data = base64.b64decode(scores, validate=True)
    except (KeyError, TypeError, ValueError):
        raise _unreadable(source, "no prompt_token_ids and prompt_token_id_logprobs in it") from None
    if sent_back != token_ids:
        _misaligned(source, "it scored other tokens than those that were sent")
    values = _checked(_array(data, expected, source), source)
    is_own_TK = asked_TK == np.array(token_ids[start:], np.int64)[:, None]
    counted_TK = np.where((asked_TK < 0) | is_own_TK, np.float32(FLOOR), values[:, 1:])
    _require_mass(np.exp(values[:, 0]) + np.exp(counted_TK).sum(-1), source)
    return Values(values[:, 0], asked_TK, values[:, 1:])


def _array(data: bytes, expected: tuple[int, int], source: str) -> np.ndarray:
    """The floating-point numbers of a .npy file. Raises RunFailed unless header and shape are as expected."""
    start = len(_NPY_START) + 2
    end = start + int.from_bytes(data[len(_NPY_START) : start], "little")
    header = _NPY_HEADER.fullmatch(data, start, end)
    if header is None or not data.startswith(_NPY_START):
        raise _unreadable(source, "prompt_token_id_logprobs is not an array of floating-point numbers")
    shape = tuple(int(size) for size in re.findall(rb"[0-9]+", header[3]))
    if shape != expected:
        _misaligned(source, f"its scores have the shape {shape}, not {expected}")
    dtype = np.dtype(header[1].decode())
    if len(data) - end != dtype.itemsize * expected[0] * expected[1]:
        raise _unreadable(
            source, "prompt_token_id_logprobs is not an array of floating-point numbers of its size"
        )
    values = np.frombuffer(data, dtype, offset=end)
    return values.reshape(expected, order="F" if header[2] == b"True" else "C")


def _checked(logp: np.ndarray, source: str) -> np.ndarray:
    """The log-probabilities as float32 between `FLOOR` and 0. Raises RunFailed for NaN and values above 0."""
    if np.isnan(logp).any():
        raise RunFailed(
            f"the teacher at {source} gave a log-probability of NaN",
            "its weights or its precision overflow: try another --dtype",
        )
    highest = logp.max(initial=FLOOR)
    if highest > MAX_LOGP:
        raise RunFailed(
            f"the teacher at {source} gave a log-probability of {highest:.3g}; none can be above 0",
            "the server is broken or not vLLM's; nothing was trained on this reply",
        )
    bounded: np.ndarray = np.clip(logp, FLOOR, 0.0).astype(np.float32)
    return bounded


def _require_mass(mass_T: np.ndarray, source: str) -> None:
    """Raise RunFailed when the probabilities of tokens at one position add up to more than 1."""
    mass = mass_T.max(initial=0.0)
    if mass > MAX_MASS:
        raise RunFailed(
            f"the teacher at {source} lists tokens whose probabilities add up to {mass:.4g}, more than 1",
            "the server is broken or not vLLM's; nothing was trained on this reply",
        )


def _misaligned(source: str, what: str) -> NoReturn:
    raise RunFailed(
        f"the reply of {source} is misaligned with the tokens that were sent: {what}",
        "something between this machine and vLLM changes prompts; use vLLM's own server, 0.10 or later",
    )


def _unreadable(source: str, what: str) -> RunFailed:
    """The error for a reply of another form. `what` never quotes the reply, which may repeat the prompt."""
    return RunFailed(
        f"{source} did not reply as a vLLM server does: {what}",
        "teacher.url takes the addresses of vLLM servers, http://HOST:PORT",
    )
