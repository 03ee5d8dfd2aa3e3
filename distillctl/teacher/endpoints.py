"""The vLLM servers of a served teacher: connect to them, and find the model that they serve."""

from __future__ import annotations

import socket
import time
from dataclasses import dataclass
from os import environ
from typing import Any
from urllib.parse import unquote

import httpx
from pydantic_core import from_json

from distillctl.errors import ConfigError, DistillError, EnvironmentUnfit, RunFailed
from distillctl.teacher.exchange import Exchange, fetch, make_client
from distillctl.teacher.logins import API_KEY
from distillctl.teacher.refusals import server_message
from distillctl.terminal.stream import inline

START_TIMEOUT_S = 600.0
"""Longest wait, in seconds, for a server that starts with the run."""
CONNECT_WAIT_S = 30.0
"""Longest wait, in seconds, for a server that should already be running."""
CONCURRENCY = 16
"""Concurrent requests per endpoint; vLLM batches them. This bounds the replies held in memory."""
KEY_HINT = f"set the environment variable {API_KEY} to a key that the server takes (vllm serve --api-key)"
_UNIX = "unix:"
_MAX_LIST_BYTES = 16 << 20
"""Most bytes of the reply that lists the models."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A server that replies, and its name for the teacher's model."""

    name: str
    client: httpx.Client
    model: str


def find_endpoint(spec: str, login: str | None, model: str, max_length: int, timeout_s: float) -> Endpoint:
    """Connect to a server and choose its model."""
    client = _client(spec, login, timeout_s)
    try:
        return Endpoint(spec, client, _choose(spec, _listed_models(spec, client), model, max_length))
    except DistillError:
        client.close()
        raise


def _choose(spec: str, listed: list[dict[str, Any]], model: str, max_length: int) -> str:
    """The listed id that equals `model`, or else the id whose directory is `model`, or else the only id."""
    same = [m for m in listed if m["id"] == model] or [m for m in listed if m.get("root") == model]
    if not same and len(listed) != 1:
        raise ConfigError(
            f"{spec} serves {', '.join(inline(m['id'])[:99] for m in listed[:5]) or 'no model'}, not {model}",
            "set teacher.model to a model that the server lists",
        )
    chosen = (same or listed)[0]
    longest = chosen.get("max_model_len")
    if longest is not None and longest < max_length + 1:
        raise ConfigError(
            f"{spec} takes {longest} tokens, but data.max_prompt_length + data.max_response_length = "
            f"{max_length}, and vLLM has to generate one more",
            f"start it with --max-model-len {max_length + 1}, or lower the two keys",
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
    if not (key.isascii() and key.isprintable()):  # httpx would show the key in its error
        raise ConfigError(f"{API_KEY} has characters that a key cannot have")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _listed_models(spec: str, client: httpx.Client) -> list[dict[str, Any]]:
    """The models that GET /v1/models lists. Waits until the server replies."""
    deadline = time.monotonic() + CONNECT_WAIT_S
    if spec.startswith(_UNIX):
        deadline = time.monotonic() + START_TIMEOUT_S
        _wait_for_socket(spec, deadline)
    while True:
        try:
            response = fetch(
                client, Exchange(), "GET", "/v1/models", timeout_s=CONNECT_WAIT_S, max_bytes=_MAX_LIST_BYTES
            )
            trouble = f"{response.status_code}: {server_message(response)}"
        except httpx.TransportError as error:
            response = None
            trouble = f"{type(error).__name__}: {error}"
        if response is not None and response.status_code < 500:
            break
        if time.monotonic() > deadline:
            raise EnvironmentUnfit(
                f"no teacher server at {spec} ({trouble})",
                "check teacher.url and that the server is up: GET URL/v1/models",
            )
        time.sleep(0.2)
    if response.status_code in (401, 403):
        raise ConfigError(f"{spec} refuses the request with {trouble}", KEY_HINT)
    listed = _models(response.content)
    if listed is None:
        raise ConfigError(
            f"{spec} does not list its models as a vLLM server does: GET /v1/models gave {trouble}",
            "teacher.url takes the addresses of vLLM servers, http://HOST:PORT",
        )
    return listed


def _models(content: bytes) -> list[dict[str, Any]] | None:
    """The models in a list of vLLM's form; None for any other content."""
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
    """Wait until a starting server is ready: it makes its socket at once, but listens on it only then."""
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
