"""A teacher behind vLLM servers, which give its log-probabilities over HTTP or a unix socket.

Dimensions: T response tokens of one sequence, N of a micro-batch, K listed tokens.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import httpx
import numpy as np
import torch

from distillctl.data_types import MicroBatch
from distillctl.errors import RunFailed
from distillctl.objective.teacher_scores import TopK
from distillctl.teacher.endpoints import CONCURRENCY, KEY_HINT, find_endpoint
from distillctl.teacher.exchange import Exchanges, fetch
from distillctl.teacher.interface import ScoringStopped
from distillctl.teacher.refusals import refusal_hint, server_message
from distillctl.teacher.replies import Values, read_asked, read_most_likely
from distillctl.teacher.request import Job, request

ATTEMPTS = 4
"""Attempts per request, each at the next endpoint, with pauses of 1, 2 and 4 seconds between them."""
_FREE_BYTES = 1 << 20
"""Bytes that every reply may have, however short the sequence is."""
_ENTRY_BYTES = 512
"""Further bytes that a reply may have for each listed token of a position. vLLM's entries take 80."""
POLL_S = 0.2
"""Longest time, in seconds, between two calls of `should_stop`."""


class ServedTeacher:
    """Asks vLLM servers for the teacher's log-probabilities of whole micro-batches."""

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

        `num_topk` is the number of most likely tokens to ask for, at most `vocab_size`, the number of ids
        that both models share. `ask_ids` asks for `MicroBatch.topk_ids_NK` instead (it needs a GPU, and has
        not yet run on one). `max_length` is the longest sequence in tokens. `timeout_s` is the longest wait
        for a whole reply. `logins` are the `user:password` of each endpoint that wants one. `should_stop` is
        called repeatedly during the wait for replies.

        Raises ConfigError for a server that does not fit, EnvironmentUnfit or RunFailed for one that does not
        reply.
        """
        self._num_topk = 0 if ask_ids else min(num_topk, vocab_size)
        self._max_logprobs = num_topk + ask_ids
        self._ask_ids = ask_ids
        self._vocab_size = vocab_size
        self._num_sent = 0
        self._reading = threading.Lock()
        self._timeout_s = timeout_s
        self._should_stop = should_stop
        logins = [*logins, *[None] * (len(endpoints) - len(logins))]
        self._endpoints = [
            find_endpoint(spec, login, model, max_length, timeout_s)
            for spec, login in zip(endpoints, logins, strict=True)
        ]

    @property
    def asks_for_topk_ids(self) -> bool:
        """Whether the server is asked for chosen tokens instead of its own most likely ones."""
        return self._ask_ids

    def score(self, batches: Sequence[MicroBatch]) -> list[TopK]:
        """The teacher's log-probabilities for each micro-batch, in order, on its device.

        A micro-batch without `topk_ids_NK`, such as one of greedy responses, is scored at its own tokens.

        Raises RunFailed when a server refuses a request, when no server replies, when a reply is about other
        tokens than those that were sent, and when it holds values that no teacher can give. Raises
        ScoringStopped once `should_stop` returns True.
        """
        jobs = [list(self._jobs(batch)) for batch in batches]
        requests = Exchanges()
        pool = ThreadPoolExecutor(CONCURRENCY * len(self._endpoints))
        try:
            asked = [[pool.submit(self._score, job, requests) for job in of_batch] for of_batch in jobs]
            read = [[self._await(future) for future in of_batch] for of_batch in asked]
        finally:
            requests.end()  # after an error or a stop, some may still be in progress
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
        reply, source = self._post(job, requests)
        with self._reading:  # one at a time: threads parse no faster together, and parsed replies are large
            if job.asked_TK is not None:
                return read_asked(reply, job.token_ids, job.start, job.asked_TK, source)
            return read_most_likely(reply, job.token_ids, job.start, self._num_topk, self._vocab_size, source)

    def _post(self, job: Job, requests: Exchanges) -> tuple[bytes, str]:
        """The reply to one request, and the name of the endpoint that gave it."""
        trouble = ""
        max_bytes = _FREE_BYTES + _ENTRY_BYTES * len(job.token_ids) * (self._max_logprobs + 2)
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
            trouble = f"{endpoint.name} replied {response.status_code}: {server_message(response)}"
            if response.status_code in (401, 403):
                raise RunFailed(trouble, KEY_HINT)
            if response.status_code < 500 and response.status_code != 429:
                raise RunFailed(trouble, refusal_hint(trouble, self._max_logprobs))
        raise RunFailed(
            f"the teacher's server did not score a sequence of {len(job.token_ids)} tokens in {ATTEMPTS} "
            f"attempts; the last error: {trouble}",
            "see the server's log; a slow server needs a larger teacher.timeout_s",
        )


def _topk(batch: MicroBatch, rows: list[Values]) -> TopK:
    device = batch.rows_N.device
    columns = (np.concatenate(column) for column in zip(*rows, strict=True))
    target_logp_N, ids_NK, logp_NK = (torch.from_numpy(column).to(device) for column in columns)
    return TopK(target_logp_N, ids_NK, logp_NK)
