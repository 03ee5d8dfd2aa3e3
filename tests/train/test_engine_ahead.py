"""A request that is begun ahead of its answer, without an engine."""

from concurrent.futures import Future

import pytest

from distillctl.errors import EngineLost
from distillctl.train.engine import _resolve


@pytest.mark.parametrize(
    "error", [EngineLost("gone", ""), ValueError("no answer at all")], ids=["known", "any"]
)
def test_whoever_waits_learns_of_every_error(error) -> None:
    def request(client):
        raise error

    answer: Future = Future()
    _resolve(answer, request, None)
    assert answer.exception(timeout=0) is error
