"""A teacher behind vLLM servers: the log-probabilities that a server gives, over HTTP or a unix socket.

Dimensions: T response tokens of one sequence, N of a micro-batch, K listed tokens.
"""

from __future__ import annotations

import re
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from os import environ
from typing import Any

import httpx
import numpy as np
import torch

from distillctl.errors import ConfigError, DistillError, EnvironmentUnfit, RunFailed
from distillctl.objective.views import TopK
from distillctl.samples import MicroBatch, Scored
from distillctl.teacher.answers import Values, read_asked, read_most_likely

START_TIMEOUT_S = 600.0
"""Longest start of a server that starts with the run."""
CONNECT_WAIT_S = 30.0
"""Longest wait for a server that should be running."""
CONCURRENCY = 16
"""Requests under way per endpoint; vLLM batches them. Bounds the answers held in memory."""
ATTEMPTS = 4
"""Of one request, one second apart at first, then two, then four; each at the next endpoint."""
API_KEY = "DISTILLCTL_TEACHER_API_KEY"
"""Environment variable with the key that servers want; sent to them and written nowhere."""
_KEY_HINT = f"set the environment variable {API_KEY} to a key that the server takes (vllm serve --api-key)"
_UNIX = "unix:"
_HINTS = {
    "requires the V2 model runner": "loss.kind=student_topk needs a teacher server on a GPU, where vLLM "
    "scores chosen tokens: use loss.kind=topk or sampled",
    "Scale-out endpoints are disabled": "loss.kind=student_topk needs a server started with "
    "--enable-scale-out",
    "greater than max allowed": "start it with --max-logprobs {max_logprobs} or lower loss.topk",
    "does not exist": "the server no longer serves the model that it listed when the run began",
    "maximum context length": "start it with a larger --max-model-len, or lower data.max_prompt_length or "
    "data.max_response_length",
}
"""By a part of vLLM's message."""
_INPUT = re.compile(r"""[\\"', ]*\binput(?:_value)?[\\"']* *[:=]|\[ *-?\d+ *(?:, *-?\d+ *){2,}""")
"""Where a message begins to repeat a request: pydantic's `input`, or a list of more than two numbers."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    name: str
    client: httpx.Client
    model: str


@dataclass(frozen=True, slots=True)
class _Job:
    """One sequence to score."""

    number: int
    token_ids: list[int]
    """Up to the end of the part that is trained on."""
    start: int
    """Where the response begins."""
    asked_TK: np.ndarray | None
    """int64, -1 fills up; None asks for the most likely tokens."""


class ServedTeacher:
    """Asks vLLM servers for the teacher's view of whole micro-batches."""

    def __init__(
        self,
        endpoints: list[str],
        model: str,
        *,
        num_topk: int,
        ask_ids: bool,
        vocab_size: int,
        max_length: int,
        timeout_s: float,
    ) -> None:
        """Find `model` on every endpoint, `http://HOST:PORT` or `unix:/PATH`; wait for one that is starting.

        `num_topk`: most likely tokens to ask for, at most `vocab_size`, the number of ids that both models
        share. `ask_ids` asks for `MicroBatch.topk_ids_NK` instead (not yet run on a GPU, which it needs).
        `max_length`: longest sequence in tokens. `timeout_s`: longest wait for an answer. Raises ConfigError
        for a server that does not fit, EnvironmentUnfit or RunFailed for one that does not answer.
        """
        self._num_topk = 0 if ask_ids else min(num_topk, vocab_size)
        self._max_logprobs = num_topk + ask_ids
        self._ask_ids = ask_ids
        self._vocab_size = vocab_size
        self._num_sent = 0
        self._reading = threading.Lock()
        self._endpoints = [_find(spec, model, max_length, timeout_s) for spec in endpoints]

    def score(self, batches: list[MicroBatch]) -> list[Scored]:
        """The teacher's log-probabilities (`TopK`, on the batch's device) for each micro-batch, in order.

        Raises RunFailed when a server refuses a request, when none answers, and when an answer is not about
        the tokens that were sent.
        """
        jobs = [list(self._jobs(batch)) for batch in batches]
        with ThreadPoolExecutor(CONCURRENCY * len(self._endpoints)) as pool:
            values = pool.map(self._score, [job for of_batch in jobs for job in of_batch])
            read = [[next(values) for _ in of_batch] for of_batch in jobs]
        return [Scored(batch, _topk(batch, rows)) for batch, rows in zip(batches, read, strict=True)]

    def close(self) -> None:
        """Close the connections."""
        for endpoint in self._endpoints:
            endpoint.client.close()

    def _jobs(self, batch: MicroBatch) -> Iterator[_Job]:
        asked_NK = None
        if self._ask_ids:
            assert batch.topk_ids_NK is not None
            asked_NK = batch.topk_ids_NK.cpu().numpy()
            asked_NK = np.where(asked_NK < self._vocab_size, asked_NK, -1)
        row = 0
        for token_ids, (start, end) in zip(batch.sequences, batch.spans, strict=True):
            asked_TK = None if asked_NK is None else asked_NK[row : row + end - start]
            yield _Job(self._num_sent, token_ids, start, asked_TK)
            row += end - start
            self._num_sent += 1

    def _score(self, job: _Job) -> Values:
        answer, source = self._post(job)
        with self._reading:  # threads gain nothing here, and one parsed answer at a time is large enough
            if job.asked_TK is not None:
                return read_asked(answer, job.token_ids, job.start, job.asked_TK, source)
            return read_most_likely(
                answer, job.token_ids, job.start, self._num_topk, self._vocab_size, source
            )

    def _post(self, job: _Job) -> tuple[bytes, str]:
        """The answer to one request, and who gave it."""
        trouble = ""
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(2 ** (attempt - 1))
            endpoint = self._endpoints[(job.number + attempt) % len(self._endpoints)]
            path, body = _request(job, endpoint.model, self._num_topk)
            try:
                response = endpoint.client.post(path, json=body)
            except httpx.TransportError as error:
                trouble = f"{endpoint.name}: {type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                return response.content, endpoint.name
            trouble = f"{endpoint.name} answered {response.status_code}: {_message(response)}"
            if response.status_code in (401, 403):
                raise RunFailed(trouble, _KEY_HINT)
            if response.status_code < 500 and response.status_code != 429:
                hints = (hint for part, hint in _HINTS.items() if part in trouble)
                raise RunFailed(trouble, next(hints, "").format(max_logprobs=self._max_logprobs))
        raise RunFailed(
            f"the teacher's server did not score a sequence of {len(job.token_ids)} tokens in {ATTEMPTS} "
            f"attempts; the last: {trouble}",
            "see the server's log; a slow server needs a larger teacher.timeout_s",
        )


def _request(job: _Job, model: str, num_topk: int) -> tuple[str, dict[str, Any]]:
    """Path and body. A server has to generate something: one token, which is not read."""
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


def _topk(batch: MicroBatch, rows: list[Values]) -> TopK:
    device = batch.rows_N.device
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    target_logp_N, ids_NK, logp_NK = (torch.from_numpy(column).to(device) for column in columns)
    return TopK(target_logp_N, ids_NK, logp_NK)


def _find(spec: str, model: str, max_length: int, timeout_s: float) -> _Endpoint:
    """Connect to a server and choose its model."""
    client = _client(spec, timeout_s)
    try:
        return _Endpoint(spec, client, _choose(spec, _listed_models(spec, client), model, max_length))
    except DistillError:
        client.close()
        raise


def _choose(spec: str, listed: list[dict[str, Any]], model: str, max_length: int) -> str:
    """The listed id that is `model`, or of which it is the directory, or the only one."""
    same = [m for m in listed if m["id"] == model] or [m for m in listed if m.get("root") == model]
    if not same and len(listed) != 1:
        raise ConfigError(
            f"{spec} serves {', '.join(m['id'] for m in listed) or 'no model'}, not {model}",
            "set teacher.model to what it serves",
        )
    chosen = (same or listed)[0]
    longest = chosen.get("max_model_len")
    if longest is not None and longest < max_length + 1:
        raise ConfigError(
            f"{spec} takes {longest} tokens; data.max_prompt_length + data.max_response_length = "
            f"{max_length} and one that vLLM has to generate need more",
            f"start it with --max-model-len {max_length + 1}, or lower the two",
        )
    return str(chosen["id"])


def _client(spec: str, timeout_s: float) -> httpx.Client:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONCURRENCY)
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_WAIT_S))
    if spec.startswith(_UNIX):
        transport = httpx.HTTPTransport(uds=spec.removeprefix(_UNIX), limits=limits)
        return httpx.Client(base_url="http://teacher", transport=transport, timeout=timeout)
    try:
        base = httpx.URL(spec.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise ConfigError(f"teacher.url: {spec}: {error}") from None
    if base.scheme not in ("http", "https") or not base.host:
        raise ConfigError(f"teacher.url: {spec} is not like http://HOST:PORT")
    return httpx.Client(base_url=base, timeout=timeout, limits=limits, headers=_authorization())


def _authorization() -> dict[str, str]:
    key = environ.get(API_KEY, "").strip()
    if not (key.isascii() and key.isprintable()):  # httpx would show it in its error
        raise ConfigError(f"{API_KEY} has characters that a key cannot have")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _listed_models(spec: str, client: httpx.Client) -> list[dict[str, Any]]:
    """What GET /v1/models lists, once the server answers."""
    deadline = time.monotonic() + CONNECT_WAIT_S
    if spec.startswith(_UNIX):
        deadline = time.monotonic() + START_TIMEOUT_S
        _wait_for_socket(spec, deadline)
    while True:
        try:
            response = client.get("/v1/models", timeout=CONNECT_WAIT_S)
            trouble = f"{response.status_code}: {_message(response)}"
        except httpx.TransportError as error:
            response, trouble = None, f"{type(error).__name__}: {error}"
        if response is not None and response.status_code < 500:
            break
        if time.monotonic() > deadline:
            raise EnvironmentUnfit(
                f"no teacher server at {spec} ({trouble})",
                "check teacher.url and that the server is up: GET URL/v1/models",
            )
        time.sleep(0.2)
    if response.status_code in (401, 403):
        raise ConfigError(f"{spec} refuses us with {trouble}", _KEY_HINT)
    try:
        listed: list[dict[str, Any]] = [dict(m) for m in response.json()["data"] if "id" in m]
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"{spec} does not list its models as a vLLM server does: GET /v1/models gave {trouble}",
            "teacher.url takes the addresses of vLLM servers, http://HOST:PORT",
        ) from None
    return listed


def _wait_for_socket(spec: str, deadline: float) -> None:
    """A server that is starting makes its socket at once and listens on it when it is ready."""
    while True:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                return probe.connect(spec.removeprefix(_UNIX))
            except (FileNotFoundError, ConnectionRefusedError) as error:
                if time.monotonic() > deadline:
                    raise RunFailed(
                        f"the teacher server at {spec} was not ready after {START_TIMEOUT_S:.0f} s",
                        "see its log in the attempt's log folder",
                    ) from error
        time.sleep(0.1)


def _message(response: httpx.Response) -> str:
    """The server's own words, cut where they repeat what was sent: token ids are a prompt too."""
    try:
        told = response.json()
        told = told.get("error", told)
        text = told["message"] if isinstance(told, dict) else told
    except (ValueError, AttributeError, KeyError):
        text = response.text
    return _INPUT.split(" ".join(str(text).split()), maxsplit=1)[0][:300]
