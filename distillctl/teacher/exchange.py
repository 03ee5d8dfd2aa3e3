"""One request and its whole reply, with limits of time and size that the server cannot exceed.

httpx limits the wait for each piece of a reply, so one byte per second keeps a request alive for ever. Here a
timer shuts the connection down, wherever the request waits: in the handshake, the headers or the body.
"""

from __future__ import annotations

import os
import socket
import ssl
import threading
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import httpcore
import httpx

from distillctl.errors import RunFailed
from distillctl.teacher.interface import ScoringStopped

MAX_ERROR_BYTES = 1 << 16
"""Most bytes to read of a reply with an error status."""
_thread = threading.local()
"""Its attribute `exchange` is the exchange that this thread works on."""


class Exchange:
    """A request in progress. Any thread may end it."""

    def __init__(self) -> None:
        self.is_over = False
        self._socket: socket.socket | None = None

    def use(self, connection: socket.socket) -> None:
        """Remember the connection. Called before every wait on one."""
        self._socket = connection
        if self.is_over:
            self.end()

    def end(self) -> None:
        """Shut the connection down, which wakes the thread that waits on it."""
        self.is_over = True
        if self._socket is not None:
            with suppress(OSError):  # the connection has already ended
                # The method of a TLS socket would not do: it would go on without encryption.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)


@dataclass(slots=True)
class Exchanges:
    """Requests in progress that can be ended together."""

    is_over: bool = False
    under_way: dict[int, Exchange] = field(default_factory=dict)
    """The exchanges, by the number of the request."""

    def begin(self, number: int) -> Exchange:
        """Begin the exchange of a request. Raises ScoringStopped after `end`."""
        self.under_way[number] = exchange = Exchange()
        if self.is_over:
            raise ScoringStopped
        return exchange

    def end(self) -> None:
        """End all requests in progress, and let no new one begin."""
        self.is_over = True
        for exchange in list(self.under_way.values()):
            exchange.end()


def fetch(
    client: httpx.Client, exchange: Exchange, method: str, path: str, body: Any = None, *, timeout_s: float,
    max_bytes: int,
) -> httpx.Response:  # fmt: skip
    """Send a request and return the whole reply.

    Raises httpx.TransportError without a reply (its subclass `ReadTimeout` when the reply takes more than
    `timeout_s` or `exchange` was ended), RunFailed for a reply of more than `max_bytes` or a compressed one.
    """
    _thread.exchange = exchange
    timer = threading.Timer(timeout_s, exchange.end)
    timer.daemon = True
    timer.start()
    try:
        with client.stream(method, path, json=body) as response:
            content = _content(response, max_bytes)
    except httpx.TransportError:
        if exchange.is_over:
            raise httpx.ReadTimeout(f"no whole reply within {timeout_s:g} s") from None
        raise
    finally:
        timer.cancel()
        _thread.exchange = None
    if exchange.is_over:  # a truncated reply without a length header looks like a whole one
        raise httpx.ReadTimeout(f"no whole reply within {timeout_s:g} s")
    return httpx.Response(response.status_code, content=content)


def _content(response: httpx.Response, max_bytes: int) -> bytes:
    encoding = response.headers.get("content-encoding", "identity").lower()
    if encoding != "identity":  # a few compressed bytes may unpack to gigabytes
        raise RunFailed(
            f"{response.url.host} sends compressed replies ({encoding[:20]!r}), which are not supported",
            "turn compression off in the proxy between this machine and vLLM",
        )
    is_error = response.status_code != 200
    parts = []
    size = 0
    for part in response.iter_raw():
        parts.append(part)
        size += len(part)
        if is_error and size > MAX_ERROR_BYTES:
            break
        if size > max_bytes:
            raise RunFailed(
                f"{response.url.host} replies with more than {max_bytes / 2**20:.1f} MiB, which no reply to "
                "this request can have",
                "teacher.url takes the addresses of vLLM servers, http://HOST:PORT",
            )
    return b"".join(parts)


def make_client(**options: Any) -> httpx.Client:
    """An httpx client for `fetch`. `options` are those of `httpx.Client`."""
    client = httpx.Client(**options)
    client.headers["Accept-Encoding"] = "identity"
    # httpx has no public option for a network backend. The mounts hold the proxies of the environment.
    transports: list[Any] = [client._transport, *client._mounts.values()]
    for transport in transports:
        if transport is not None:
            transport._pool._network_backend = _Backend()
    return client


class _Backend(httpcore.NetworkBackend):
    """Makes connections that register with the thread's exchange before each wait."""

    def connect_tcp(
        self, host: str, port: int, timeout: float | None = None, local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:  # fmt: skip
        return _Stream(httpcore.SyncBackend().connect_tcp(host, port, timeout, local_address, socket_options))

    def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore.NetworkStream:
        return _Stream(httpcore.SyncBackend().connect_unix_socket(path, timeout, socket_options))


def _wait_on(connection: socket.socket) -> None:
    exchange = getattr(_thread, "exchange", None)
    if exchange is not None:
        exchange.use(connection)


class _Stream(httpcore.NetworkStream):
    def __init__(self, stream: httpcore.NetworkStream) -> None:
        self._stream = stream

    @property
    def _socket(self) -> socket.socket:
        found: socket.socket = self._stream.get_extra_info("socket")
        return found

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        _wait_on(self._socket)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        _wait_on(self._socket)
        self._stream.write(buffer, timeout)

    def close(self) -> None:
        self._stream.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        # The handshake detaches the connection from its socket object, so wait on a duplicate.
        with socket.socket(fileno=os.dup(self._socket.fileno())) as connection:
            _wait_on(connection)
            return _Stream(self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        return self._stream.get_extra_info(info)
