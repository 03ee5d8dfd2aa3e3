"""Messages over a real socket pair."""

import socket
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distillctl.rollout import wire


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), min_size=1, max_size=5))
def test_ragged_sequences_survive_packing(sequences):
    back = wire.unpack(*wire.pack(sequences, "int32"))
    assert [b.tolist() for b in back] == sequences


def test_packing_nothing_gives_nothing():
    flat, lengths = wire.pack([], "int32")
    assert flat.dtype == np.int32
    assert wire.unpack(flat, lengths) == []


def test_a_message_arrives_as_sent(pair):
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.array([], np.float32)}
    wire.send(pair[0], {"request": "x", "n": 3}, arrays)
    header, got = wire.receive(pair[1])
    assert header == {"request": "x", "n": 3}
    assert got["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert got["b"].dtype == np.float32
    assert got["b"].size == 0


def test_a_closed_connection_is_told_apart_from_a_broken_message(pair):
    pair[0].close()
    with pytest.raises(wire.Closed):
        wire.receive(pair[1])


def test_object_arrays_are_refused(pair):
    head = b'{"arrays": [["x", "object", [1]]]}'
    pair[0].sendall(struct.pack(">I", len(head)) + head)
    with pytest.raises(ValueError, match="dtype 'object'"):
        wire.receive(pair[1])


def test_an_oversized_header_is_refused_before_it_is_read(pair):
    pair[0].sendall(struct.pack(">I", 1 << 31))
    with pytest.raises(ValueError, match="message header"):
        wire.receive(pair[1])
