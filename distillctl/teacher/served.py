"""A teacher behind vLLM servers: the log-probabilities that a server gives, over HTTP or a unix socket.

Dimensions: T response tokens of one sequence, N of a micro-batch, K listed tokens.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from os import environ
from typing import Any
from urllib.parse import unquote

import httpx
import numpy as np
import torch
from pydantic_core import from_json

from distillctl.data_types import MicroBatch
from distillctl.errors import ConfigError, DistillError, EnvironmentUnfit, RunFailed
from distillctl.objective.teacher_scores import TopK
from distillctl.teacher.exchange import Exchange, Exchanges, fetch, make_client
from distillctl.teacher.interface import ScoringStopped
from distillctl.teacher.logins import API_KEY
from distillctl.teacher.refusals import refusal_hint
from distillctl.teacher.refusals import server_message as _message
from distillctl.teacher.replies import Values, read_asked, read_most_likely
from distillctl.teacher.request import Job, request
from distillctl.terminal.stream import inline

START_TIMEOUT_S = 600.0
"""Longest start of a server that starts with the run."""
CONNECT_WAIT_S = 30.0
"""Longest wait for a server that should be running."""
CONCURRENCY = 16
"""Requests under way per endpoint; vLLM batches them. Bounds the answers held in memory."""
ATTEMPTS = 4
"""Of one request, one second apart at first, then two, then four; each at the next endpoint."""
_KEY_HINT = f"set the environment variable {API_KEY} to a key that the server takes (vllm serve --api-key)"
_UNIX = "unix:"
_MAX_LIST_BYTES = 16 << 20
"""Of a list of models."""
_FREE_BYTES, _ENTRY_BYTES = 1 << 20, 512
"""Of an answer about a prompt: so many, and so many for each listed token of a position; vLLM's take 80."""
POLL_S = 0.2
"""Longest time between two questions whether to stop."""


@dataclass(frozen=True, slots=True)
class _Endpoint:
    name: str
    client: httpx.Client
    model: str


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
        logins: Sequence[str | None] = (),
        should_stop: Callable[[], bool] = lambda: False,
    ) -> None:
        """Find `model` on every endpoint, `http://HOST:PORT` or `unix:/PATH`; wait for one that is starting.

        `num_topk`: most likely tokens to ask for, at most `vocab_size`, the number of ids that both models
        share. `ask_ids` asks for `MicroBatch.topk_ids_NK` instead (not yet run on a GPU, which it needs).
        `max_length`: longest sequence in tokens. `timeout_s`: longest wait for a whole answer. `logins`:
        `user:password` of each endpoint that wants one. `should_stop` is asked while answers are waited for.
        Raises ConfigError for a server that does not fit, EnvironmentUnfit or RunFailed for one that does not
        answer.
        """
        self._num_topk = 0 if ask_ids else min(num_topk, vocab_size)
        self._max_logprobs = num_topk + ask_ids
        self._ask_ids = ask_ids
        self._vocab_size = vocab_size
        self._num_sent = 0
        self._reading = threading.Lock()
        self._timeout_s, self._should_stop = timeout_s, should_stop
        logins = [*logins, *[None] * (len(endpoints) - len(logins))]
        self._endpoints = [
            _find(spec, login, model, max_length, timeout_s)
            for spec, login in zip(endpoints, logins, strict=True)
        ]

    @property
    def asks_for_topk_ids(self) -> bool:
        """Whether the server is asked for chosen tokens instead of its own most likely ones."""
        return self._ask_ids

    def score(self, batches: Sequence[MicroBatch]) -> list[TopK]:
        """The teacher's log-probabilities for each micro-batch, in order, on its device.

        A micro-batch without `topk_ids_NK`, as of greedy responses, is scored at its own tokens alone.

        Raises RunFailed when a server refuses a request, when none answers, and when an answer is not about
        the tokens that were sent or holds what no teacher says; ScoringStopped once `should_stop` holds.
        """
        jobs, requests = [list(self._jobs(batch)) for batch in batches], Exchanges()
        pool = ThreadPoolExecutor(CONCURRENCY * len(self._endpoints))
        try:
            asked = [[pool.submit(self._score, job, requests) for job in of_batch] for of_batch in jobs]
            read = [[self._await(future) for future in of_batch] for of_batch in asked]
        finally:
            requests.end()  # of those that an error or a stop has left
            pool.shutdown(wait=False, cancel_futures=True)
        return [_topk(batch, rows) for batch, rows in zip(batches, read, strict=True)]

    def _await(self, future: Future[Values]) -> Values:
        while not future.done():
            if self._should_stop():
                raise ScoringStopped
            wait([future], timeout=POLL_S)
        return future.result()

    def close(self) -> None:
        """Close the connections."""
        for endpoint in self._endpoints:
            endpoint.client.close()

    def _jobs(self, batch: MicroBatch) -> Iterator[Job]:
        asked_NK = None
        if self._ask_ids:
            own_N1 = batch.tokens.target_ids_N[:, None]
            asked_NK = (own_N1 if batch.topk_ids_NK is None else batch.topk_ids_NK).cpu().numpy()
            asked_NK = np.where(asked_NK < self._vocab_size, asked_NK, -1)
        row = 0
        for token_ids, (start, end) in zip(batch.sequences, batch.spans, strict=True):
            asked_TK = None if asked_NK is None else asked_NK[row : row + end - start]
            yield Job(self._num_sent, token_ids, start, asked_TK)
            row += end - start
            self._num_sent += 1

    def _score(self, job: Job, requests: Exchanges) -> Values:
        answer, source = self._post(job, requests)
        with self._reading:  # threads gain nothing here, and one parsed answer at a time is large enough
            if job.asked_TK is not None:
                return read_asked(answer, job.token_ids, job.start, job.asked_TK, source)
            return read_most_likely(
                answer, job.token_ids, job.start, self._num_topk, self._vocab_size, source
            )

    def _post(self, job: Job, requests: Exchanges) -> tuple[bytes, str]:
        """The answer to one request, and who gave it."""
        trouble, max_bytes = "", _FREE_BYTES + _ENTRY_BYTES * len(job.token_ids) * (self._max_logprobs + 2)
        for attempt in range(ATTEMPTS):
            for _ in range(2 * 2 ** (attempt - 1) if attempt else 0):
                if not requests.is_over:
                    time.sleep(0.5)
            endpoint = self._endpoints[(job.number + attempt) % len(self._endpoints)]
            path, body = request(job, endpoint.model, self._num_topk)
            exchange = requests.begin(job.number)
            try:
                response = fetch(
                    endpoint.client, exchange, "POST", path, body,
                    timeout_s=self._timeout_s, max_bytes=max_bytes,
                )  # fmt: skip
            except httpx.TransportError as error:
                trouble = f"{endpoint.name}: {type(error).__name__}: {error}"
                continue
            if response.status_code == 200:
                return response.content, endpoint.name
            trouble = f"{endpoint.name} answered {response.status_code}: {_message(response)}"
            if response.status_code in (401, 403):
                raise RunFailed(trouble, _KEY_HINT)
            if response.status_code < 500 and response.status_code != 429:
                raise RunFailed(trouble, refusal_hint(trouble, self._max_logprobs))
        raise RunFailed(
            f"the teacher's server did not score a sequence of {len(job.token_ids)} tokens in {ATTEMPTS} "
            f"attempts; the last: {trouble}",
            "see the server's log; a slow server needs a larger teacher.timeout_s",
        )


def _topk(batch: MicroBatch, rows: list[Values]) -> TopK:
    device = batch.rows_N.device
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    target_logp_N, ids_NK, logp_NK = (torch.from_numpy(column).to(device) for column in columns)
    return TopK(target_logp_N, ids_NK, logp_NK)


def _find(spec: str, login: str | None, model: str, max_length: int, timeout_s: float) -> _Endpoint:
    """Connect to a server and choose its model."""
    client = _client(spec, login, timeout_s)
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
            f"{spec} serves {', '.join(inline(m['id'])[:99] for m in listed[:5]) or 'no model'}, not {model}",
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


def _client(spec: str, login: str | None, timeout_s: float) -> httpx.Client:
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=CONCURRENCY)
    timeout = httpx.Timeout(timeout_s, connect=min(timeout_s, CONNECT_WAIT_S))
    if spec.startswith(_UNIX):
        transport = httpx.HTTPTransport(uds=spec.removeprefix(_UNIX), limits=limits)
        return make_client(base_url="http://teacher", transport=transport, timeout=timeout)
    try:
        base = httpx.URL(spec.rstrip("/").removesuffix("/v1"))
    except httpx.InvalidURL as error:
        raise ConfigError(f"teacher.url: {spec}: {error}") from None
    if base.scheme not in ("http", "https") or not base.host:
        raise ConfigError(f"teacher.url: {spec} is not like http://HOST:PORT")
    options: dict[str, Any] = {"base_url": base, "timeout": timeout, "limits": limits}
    if login is None:
        return make_client(**options, headers=_authorization())
    user, _, password = login.partition(":")
    return make_client(**options, auth=(unquote(user), unquote(password)))


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
            response = fetch(
                client, Exchange(), "GET", "/v1/models", timeout_s=CONNECT_WAIT_S, max_bytes=_MAX_LIST_BYTES
            )
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
    listed = _models(response.content)
    if listed is None:
        raise ConfigError(
            f"{spec} does not list its models as a vLLM server does: GET /v1/models gave {trouble}",
            "teacher.url takes the addresses of vLLM servers, http://HOST:PORT",
        )
    return listed


def _models(content: bytes) -> list[dict[str, Any]] | None:
    """The models of a list as vLLM gives it; None for anything else."""
    try:
        listed = from_json(content)["data"]
    except (ValueError, KeyError, TypeError):
        return None
    whole = isinstance(listed, list) and all(
        isinstance(model, dict)
        and isinstance(model.get("id"), str)
        and (model.get("max_model_len") is None or type(model["max_model_len"]) is int)
        for model in listed
    )
    return listed if whole else None


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
