"""Messages over a real socket pair."""

import contextlib
import socket
import struct
import threading
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.rollout import protocol


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield left, right


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), max_size=5), min_size=1, max_size=5))
def test_ragged_sequences_survive_packing(sequences):
    back = protocol.unpack(*protocol.pack(sequences, "int32"))
    assert [b.tolist() for b in back] == sequences


def test_packing_nothing_gives_nothing():
    flat, lengths = protocol.pack([], "int32")
    assert flat.dtype == np.int32
    assert protocol.unpack(flat, lengths) == []


def test_a_message_arrives_as_sent(pair):
    arrays = {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.array([], np.float32)}
    protocol.send(pair[0], {"request": "x", "n": 3}, arrays)
    header, got = protocol.receive(pair[1])
    assert header == {"request": "x", "n": 3}
    assert got["a"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert got["b"].dtype == np.float32
    assert got["b"].size == 0


def test_a_closed_connection_is_told_apart_from_a_broken_message(pair):
    pair[0].close()
    with pytest.raises(protocol.Closed):
        protocol.receive(pair[1])


def test_object_arrays_are_refused(pair):
    head = b'{"arrays": [["x", "object", [1]]]}'
    pair[0].sendall(struct.pack(">I", len(head)) + head)
    with pytest.raises(ValueError, match="dtype 'object'"):
        protocol.receive(pair[1])


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff{}", "not JSON"),
        (b"[" * 500_000, "not JSON"),
        (b"[]", "not an object with a list"),
        (b"null", "not an object with a list"),
        (b"{}", "not an object with a list"),
        (b'{"arrays": {}}', "not an object with a list"),
        (b'{"arrays": ["abc"]}', r"not \[name, dtype, shape\]"),
        (b'{"arrays": [["x", "int32"]]}', r"not \[name, dtype, shape\]"),
        (b'{"arrays": [[1, "int32", [1]]]}', r"not \[name, dtype, shape\]"),
        (b'{"arrays": [["x", ["int32"], [1]]]}', r"not \[name, dtype, shape\]"),
        (b'{"arrays": [["x", "int32", "12"]]}', r"not \[name, dtype, shape\]"),
        (b'{"arrays": [["x", "int32", 1]]}', r"not \[name, dtype, shape\]"),
        (b'{"arrays": [["x", "float16", [1]]]}', "dtype 'float16'"),
        (b'{"arrays": [["x", "O", [1]]]}', "dtype 'O'"),
        (b'{"arrays": [["x", "int32", [-1]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int32", [-1, -1]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int32", [1.0]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int32", [true]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int32", ["1"]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int32", [1e400]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int32", [1, 1, 1, 1, 1]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int32", [1152921504606846976]]]}', "impossible shape"),  # 2**60
        (b'{"arrays": [["x", "int32", [0, 1152921504606846976]]]}', "impossible shape"),
        (b'{"arrays": [["x", "int64", [4294967296, 4294967296]]]}', "more than 17179869184 bytes"),  # 2**67
        (b'{"arrays": [["x", "uint8", [9000000000]], ["y", "uint8", [9000000000]]]}', "more than"),
    ],
)
def test_malformed_messages_are_refused_without_allocating(pair, header, message):
    """The sender stays connected: what waited for the bytes a header claims would hang here."""
    pair[1].settimeout(5)
    tracemalloc.start()
    sender = threading.Thread(target=pair[0].sendall, args=(struct.pack(">I", len(header)) + header,))
    sender.start()
    try:
        with pytest.raises(ValueError, match=message):
            protocol.receive(pair[1])
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
        sender.join()


@given(st.binary(max_size=200))
@settings(deadline=None)
def test_no_bytes_make_anything_but_a_message_or_one_of_two_errors(data):
    ours, theirs = socket.socketpair()
    with ours, theirs:
        ours.sendall(struct.pack(">I", len(data)) + data)
        ours.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ValueError, protocol.Closed):
            protocol.receive(theirs)


def test_an_array_without_elements_keeps_its_shape(pair):
    protocol.send(pair[0], {}, {"x": np.zeros((0, 3), np.int32)})
    assert protocol.receive(pair[1])[1]["x"].shape == (0, 3)


def test_an_oversized_header_is_refused_before_it_is_read(pair):
    pair[0].sendall(struct.pack(">I", 1 << 31))
    with pytest.raises(ValueError, match="message header"):
        protocol.receive(pair[1])
