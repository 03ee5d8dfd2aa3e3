"""The request to a vLLM server that scores one sequence.

Dimensions: T response tokens of one sequence, K listed tokens.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True)
class Job:
    """One sequence to score."""

    number: int
    token_ids: list[int]
    """Prompt and response, up to the end of the part that is trained on."""
    start: int
    """The position at which the response begins."""
    asked_TK: np.ndarray | None
    """int64: the tokens to score, padded with -1; None asks for the most likely tokens."""


def request(job: Job, model: str, num_topk: int) -> tuple[str, dict[str, Any]]:
    """Path and body of the request. The server must generate something: one token, which is ignored."""
    if job.asked_TK is None:
        body = {"prompt": job.token_ids, "prompt_logprobs": num_topk, "add_special_tokens": False}
        return "/v1/completions", {"model": model, "max_tokens": 1, "temperature": 0.0, **body}
    sampled_T1 = np.array(job.token_ids[job.start :])[:, None]
    sampling = {
        "max_tokens": 1,
        "temperature": 0.0,
        "detokenize": False,
        "prompt_logprob_token_ids": np.concatenate([sampled_T1, job.asked_TK], axis=1).tolist(),
        "prompt_logprob_start": job.start - 1,
    }
    body = {"model": model, "token_ids": job.token_ids, "return_token_ids": True}
    return "/inference/v1/generate", {**body, "sampling_params": sampling}
