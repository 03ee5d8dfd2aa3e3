"""A teacher's server that turns against who asks it: every answer is checked, in time, size and content."""

import base64
import contextlib
import gzip
import io
import json
import socket
import threading
import time

import numpy as np
import pytest
import torch

from distillctl.data_types import MicroBatch
from distillctl.errors import ConfigError, EnvironmentUnfit, RunFailed
from distillctl.objective.inputs import Tokens
from distillctl.teacher import endpoints, served
from distillctl.teacher.interface import ScoringStopped
from distillctl.teacher.replies import read_asked, read_most_likely
from distillctl.teacher.served import ServedTeacher

MODEL = {"id": "served", "root": None, "max_model_len": 4096}
IDS = [1, 7, 4]


def http(body, *, status="200 OK", headers=""):
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{headers}\r\n".encode() + body


def models(*listed):
    return http(json.dumps({"data": list(listed)}).encode())


@contextlib.contextmanager
def server(answer, listed=None):
    """Gives GETs the list of models and POSTs to `answer(connection)`. The URL."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def handle(connection):
            # Who asks may go at any moment: in the middle of an answer, or with a part of it unread.
            with connection, contextlib.suppress(OSError):
                while request := connection.recv(1 << 16):
                    if request.startswith(b"GET"):
                        connection.sendall(listed or models(MODEL))
                    else:
                        answer(connection)

        def accept():
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=handle, args=(connection,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)


def teacher_of(url, **changed):
    settings = {"num_topk": 2, "ask_ids": False, "vocab_size": 100, "max_length": 50, "timeout_s": 20.0}
    return ServedTeacher([url], "served", **settings | changed)


BATCH = MicroBatch(
    input_ids_T=torch.tensor(IDS), rows_N=torch.tensor([0, 1]),
    tokens=Tokens(torch.tensor(IDS[1:]), torch.ones(2), torch.zeros(2)), spans=((1, 3),), members=(0,),
)  # fmt: skip


def score(answer, **changed):
    with server(answer) as url:
        teacher = teacher_of(url, **changed)
        try:
            return teacher.score([BATCH])
        finally:
            teacher.close()


# Content.


def entry(logprob, rank):
    return {"logprob": logprob, "rank": rank}


def read(first, num_topk=2):
    positions = [None, first, {"4": entry(-1.5, 2), "3": entry(-0.5, 1)}]
    answer = json.dumps({"choices": [{"prompt_logprobs": positions}]}).encode()
    return read_most_likely(answer, IDS, 1, num_topk, 100, "here")


OWN = {"7": entry(-9.0, 40)}
CONTENTS = {
    "a log-probability of 50": ({**OWN, "3": entry(50.0, 1)}, "a log-probability of 50; none can be above 0"),
    "infinity": ({**OWN, "3": entry(float("inf"), 1)}, "a log-probability of inf; none can be above 0"),
    "the prompt's own of 50": ({"7": entry(50.0, 40)}, "a log-probability of 50; none can be above 0"),
    "of an entry that is not used": ({**OWN, "3": entry(3.0, 99)}, "3; none can be above 0"),
    "NaN": ({**OWN, "3": entry(float("nan"), 1)}, "NaN"),
    "a probability of 1.2 together": ({**OWN, "3": entry(-0.5, 1), "4": entry(-0.5, 2)}, "add up to 1.213"),
    "a negative id": ({**OWN, "-3": entry(-0.5, 1)}, "a listed token is not an id"),
    "an id of text": ({**OWN, "x": entry(-0.5, 1)}, "a listed token is not an id"),
    "an id of other digits": ({**OWN, "\u0663": entry(-0.5, 1)}, "a listed token is not an id"),
    "a huge id": ({**OWN, "9" * 30: entry(-0.5, 1)}, "a listed token is not an id"),
    "an id twice": ({**OWN, "07": entry(-0.5, 1)}, "a listed token is not an id"),
    "a log-probability of text": ({**OWN, "3": entry("-1", 1)}, "a logprob or a rank is not a number"),
    "a log-probability that is true": ({**OWN, "3": entry(True, 1)}, "a logprob or a rank is not a number"),
    "none": ({**OWN, "3": entry(None, 1)}, "a logprob or a rank is not a number"),
    "a rank of text": ({**OWN, "3": entry(-1.0, "1")}, "a logprob or a rank is not a number"),
    "a huge rank": ({**OWN, "3": entry(-1.0, 10**30)}, "out of range"),
    "a huge integer": ({**OWN, "3": entry(-(10**400), 1)}, "out of range"),
    "a probability of 2 with its own": ({"7": entry(0.0, 5), "3": entry(-0.01, 1)}, "add up to 1.99"),
    "rank 0": ({**OWN, "3": entry(-1.0, 0)}, "out of range"),
    "rank -1": ({**OWN, "3": entry(-1.0, -1)}, "out of range"),
    "a rank with a fraction": ({**OWN, "3": entry(-1.0, 1.0)}, "a logprob or a rank is not a number"),
    "a rank twice": ({**OWN, "3": entry(-2.0, 1), "4": entry(-2.0, 1)}, "have the same rank"),
    "a rank twice, beside its own": ({"7": entry(-2.0, 1), "3": entry(-2.0, 1), "4": entry(-2.0, 1)},
                                     "have the same rank"),
    "its own with the rank of a likelier one": ({"7": entry(-5.0, 1), "3": entry(-2.0, 1)}, "in the order"),
    "ranks against the order": ({**OWN, "3": entry(-3.0, 1), "4": entry(-1.0, 2)}, "in the order"),
    "a rank too high for its own": ({"7": entry(-0.5, 40), "3": entry(-2.0, 1)}, "in the order"),
    "a rank too low for its own": ({"7": entry(-9.0, 1), "3": entry(-2.0, 2)}, "in the order"),
    "an entry that is a list": ({**OWN, "3": [-1.0]}, "no logprob or no rank"),
    "the prompt's own alone": ({"7": entry(-9.0, 50)}, "not all of the 2 most likely tokens"),
    "one too few": ({"7": entry(-1.0, 1)}, "not all of the 2 most likely tokens"),
    "no rank 1": ({"7": entry(-0.5, 2), "3": entry(-2.0, 3)}, "not all of the 2 most likely tokens"),
    "too many": ({**OWN, **{str(i): entry(-9.0, i) for i in range(1, 4)}}, "4 tokens at one position"),
    "a list": ([1], "not a list of objects"),
}  # fmt: skip


@pytest.mark.parametrize("name", CONTENTS)
def test_what_no_teacher_says_is_refused(name):
    first, told = CONTENTS[name]
    with pytest.raises(RunFailed, match=told) as error:
        read(first)
    assert "here" in error.value.message


def test_rounding_above_zero_is_taken_as_zero():
    values = read({"7": entry(1e-4, 1), "3": entry(-9.0, 2)})
    assert values.target_logp_T[0] == 0.0
    assert values.logp_TK[0].tolist() == [0.0, -9.0]


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    ("first", "target", "listed"),
    [
        ({"7": entry(-1e308, 90), "3": entry(-0.5, 1), "4": entry(-1e308, 2)}, -1e4, [-0.5, -1e4]),
        # What vLLM makes of minus infinity, beside what it leaves.
        ({"7": entry(-9999.0, 90), "3": entry(-0.5, 1), "4": entry(-9999.5, 2)}, -9999.0, [-0.5, -9999.5]),
        # Its rank counts the tokens that are as likely, or those that are likelier.
        ({"7": entry(-2.0, 4), "3": entry(-2.0, 1), "4": entry(-2.0, 2)}, -2.0, [-2.0, -2.0]),
        ({"7": entry(-2.0, 1), "3": entry(-2.0, 1), "4": entry(-2.0, 2)}, -2.0, [-2.0, -2.0]),
        # Rounded.
        ({"7": entry(-2.0, 9), "3": entry(-1.0005, 1), "4": entry(-1.0, 2)}, -2.0, [-1.0005, -1.0]),
    ],
)
def test_what_teachers_say_at_the_edges_is_read(first, target, listed):
    values = read(first)
    assert values.target_logp_T[0] == np.float32(target)
    assert values.ids_TK[0].tolist() == [3, 4]
    assert values.logp_TK[0].tolist() == np.float32(listed).tolist()


@pytest.mark.parametrize(
    "answer",
    ["[]", "7", "{}", '{"choices": []}', '{"choices": [{"prompt_logprobs": 3}]}', "[" * 10_000, "\ufeff", "",
     '{"choices": [{"prompt_logprobs": "abc"}]}', '{"choices": {"0": 1}}'],
)  # fmt: skip
def test_other_shapes_are_refused(answer):
    with pytest.raises(RunFailed, match="here did not reply as a vLLM server does"):
        read_most_likely(answer.encode(), IDS, 1, 2, 100, "here")


def test_no_message_repeats_the_ids_of_a_prompt():
    answer = json.dumps({"choices": [{"prompt_logprobs": [None, {"31337": entry(-1.0, 1)}, {}]}]}).encode()
    with pytest.raises(RunFailed, match="the token at position 1 is not in the reply") as error:
        read_most_likely(answer, [1, 424242, 5], 1, 2, 100, "here")
    assert not any(number in error.value.message + error.value.hint for number in ("31337", "424242"))


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return base64.b64encode(file.getvalue()).decode()


def header(shape, dtype="<f4"):
    text = f"{{'descr': {dtype!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return base64.b64encode(b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()).decode()


def npy_of(text):
    data = text.encode()
    data = b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + bytes(24)
    return base64.b64encode(data).decode()


PYTHON_2 = "{'descr': '<f4', 'fortran_order': False, 'shape': (2L, 3), }\n"


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "text",
    ["(" * 5000, "[" * 5000, "'''", "  {'descr'", "-" * 9000 + "1", "", "\\", "{[]: 1}", PYTHON_2,
     PYTHON_2.replace("2L", "9" * 5000), PYTHON_2.replace("2L", "-1"), PYTHON_2.replace("2L", "2.0"),
     PYTHON_2.replace("2L", "2").replace("'<f4'", "[('a', '<f4')]")],
)  # fmt: skip
def test_headers_of_arrays_that_numpy_does_not_write_are_refused(text):
    answer = json.dumps({"prompt_token_ids": IDS, "prompt_token_id_logprobs": npy_of(text)}).encode()
    with pytest.raises(RunFailed, match="prompt_token_id_logprobs is not an array"):
        read_asked(answer, IDS, 1, np.array([[3, 4], [3, 4]]), "here")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_as_numpy_writes_them_are_read(dtype, order):
    expected = np.array([[-4.0, -1.5, -2.0], [-1.5, -0.5, -1.5]])
    scores = npy(np.array(expected, dtype, order=order))
    answer = json.dumps({"prompt_token_ids": IDS, "prompt_token_id_logprobs": scores}).encode()
    values = read_asked(answer, IDS, 1, np.array([[3, 5], [3, 4]]), "here")  # the last is its own again
    assert values.target_logp_T.tolist() == expected[:, 0].tolist()
    assert values.logp_TK.tolist() == expected[:, 1:].tolist()


@pytest.mark.parametrize(
    ("scores", "told"),
    [
        (npy(np.full((2, 3), 50.0, np.float32)), "a log-probability of 50; none can be above 0"),
        (npy(np.full((2, 3), -0.1, np.float32)), "add up to 2.715"),
        (npy(np.zeros((2, 3), np.int64)), "not an array of floating-point numbers"),
        (npy(np.zeros((2, 3), "U4")), "not an array of floating-point numbers"),
        (header((2**40, 3)), "misaligned"),
        (header((2, 3)), "not an array of floating-point numbers"),
        (header((2, 3), "|O"), "not an array"),
        (base64.b64encode(b"PK\x03\x04" + bytes(50)).decode(), "not an array"),
        ("\u00e9", "no prompt_token_ids and prompt_token_id_logprobs"),
        (7, "no prompt_token_ids and prompt_token_id_logprobs"),
    ],
)
def test_scores_of_chosen_tokens_are_checked(scores, told):
    answer = json.dumps({"prompt_token_ids": IDS, "prompt_token_id_logprobs": scores}).encode()
    with pytest.raises(RunFailed, match=told):
        read_asked(answer, IDS, 1, np.array([[3, 4], [3, 4]]), "here")


@pytest.mark.parametrize(
    "listed",
    [
        {"id": 7},
        {"id": "served", "max_model_len": "4096"},
        {"id": "served", "max_model_len": True},
        7,
        {},
        [],
    ],
)
def test_a_list_of_models_of_other_types_is_refused(listed):
    with (
        server(None, models(listed)) as url,
        pytest.raises(ConfigError, match="does not list its models as a vLLM server does"),
    ):
        teacher_of(url)


# Size.


def test_a_compressed_answer_is_not_unpacked():
    bomb = gzip.compress(bytes(1 << 24))
    with pytest.raises(RunFailed, match=r"sends compressed replies \('gzip'\)"):
        score(lambda connection: connection.sendall(http(bomb, headers="Content-Encoding: gzip\r\n")))


def test_an_answer_without_end_is_cut_off():
    def answer(connection):
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        while True:
            connection.sendall(bytes(1 << 16))

    with pytest.raises(RunFailed, match=r"replies with more than 1\.0 MiB"):
        score(answer)


def test_an_error_without_end_is_read_in_part(monkeypatch):
    monkeypatch.setattr(served, "ATTEMPTS", 1)

    def answer(connection):
        connection.sendall(b"HTTP/1.1 500 Broken\r\n\r\n")
        while True:
            connection.sendall(b"no " * (1 << 14))

    with pytest.raises(RunFailed, match="replied 500: no no no"):
        score(answer)


# Time.


def drip(connection):
    """A byte now and then, from the first of the headers on."""
    for byte in http(bytes(1000)):
        connection.sendall(bytes([byte]))
        time.sleep(0.05)


def test_timeout_s_is_of_the_whole_answer(monkeypatch):
    monkeypatch.setattr(served, "ATTEMPTS", 1)
    with pytest.raises(RunFailed, match=r"ReadTimeout: no whole reply within 0\.3 s"):
        score(drip, timeout_s=0.3)


def test_a_list_of_models_that_takes_too_long_is_given_up(monkeypatch):
    monkeypatch.setattr(endpoints, "CONNECT_WAIT_S", 0.2)
    listing = b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{"
    with (
        server(None, listing) as url,
        pytest.raises(EnvironmentUnfit, match=r"no whole reply within 0\.2 s"),
    ):
        teacher_of(url)


def test_a_stop_is_answered_while_a_request_hangs():
    asked = threading.Event()

    def answer(connection):
        asked.set()
        drip(connection)

    with pytest.raises(ScoringStopped):
        score(answer, should_stop=asked.is_set, timeout_s=600.0)


def test_a_redirect_is_not_followed():
    target = "Location: http://127.0.0.1:1/\r\n"
    with pytest.raises(RunFailed, match="replied 307"):
        score(lambda connection: connection.sendall(http(b"", status="307 There", headers=target)))


def test_a_login_is_sent_and_the_api_key_is_not(monkeypatch):
    monkeypatch.setenv("DISTILLCTL_TEACHER_API_KEY", "sk-key")
    seen = []

    def handle(connection):
        with connection:
            seen.append(connection.recv(1 << 16))
            connection.sendall(models(MODEL))

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=lambda: handle(listening.accept()[0]))
        thread.start()
        url = f"http://***@127.0.0.1:{listening.getsockname()[1]}"
        teacher_of(url, logins=["me:p%40ss"]).close()
        thread.join()
    assert b"Authorization: Basic " + base64.b64encode(b"me:p@ss") in seen[0]
    assert b"sk-key" not in seen[0]
    assert b"Accept-Encoding: identity" in seen[0]
