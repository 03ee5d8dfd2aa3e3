"""Served teachers against a real vLLM server of the tiny teacher, and what goes wrong with servers.

The reference is the same model in transformers, in float32.
"""

import base64
import io
import json
import os
import shutil
import signal
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from distillctl.config.schema import Config
from distillctl.data_types import MicroBatch
from distillctl.errors import ConfigError, EnvironmentUnfit, RunFailed
from distillctl.host.shared_memory import scratch_directory
from distillctl.launch.gpu_assignment import check_gpus
from distillctl.launch.plan import fetch_models, file_name, resolve
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir
from distillctl.objective.inputs import Tokens
from distillctl.rollout.start import engine_environment, kv_cache_bytes
from distillctl.teacher import endpoints, served
from distillctl.teacher.replies import FLOOR, read_asked, read_most_likely
from distillctl.teacher.served import ServedTeacher
from distillctl.teacher.server import server_arguments, start_server
from distillctl.train import self_checks
from distillctl.train.self_checks import served_agrees

MODEL = "builtin:tiny-teacher"
VOCAB = 512
MAX_LENGTH = 120
MAX_LOGPROBS = 33


@pytest.fixture(scope="module")
def path():
    return find_model(MODEL, "test").path


@pytest.fixture(scope="module")
def server(path):
    """The process and its socket; it is asked for chosen tokens too, which a CPU refuses."""
    with scratch_directory() as scratch:
        socket = scratch / "teacher_0.sock"
        arguments = server_arguments(
            path,
            dtype="float32",
            socket=socket,
            max_model_len=MAX_LENGTH + 1,
            max_logprobs=MAX_LOGPROBS,
            ask_ids=True,
            kv_cache_bytes=kv_cache_bytes(ModelDir(path).shape, MAX_LENGTH + 1, 16),
            num_gpus=0,
            gpu_memory_utilization=0.9,
        )
        process = start_server(arguments, engine_environment(0, None, scratch), scratch / "teacher.log")
        yield process, socket
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def connect(server, path):
    """Builds teachers on the server and closes them at the end."""
    made = []

    def build(endpoints=None, model=str(path), **changed):
        settings = {"num_topk": 16, "ask_ids": False, "vocab_size": VOCAB, "max_length": MAX_LENGTH}
        made.append(
            ServedTeacher(endpoints or [f"unix:{server[1]}"], model, timeout_s=60, **settings | changed)
        )
        return made[-1]

    yield build
    for teacher in made:
        teacher.close()


@pytest.fixture(scope="module")
def reference(path):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def micro_batch(seed, lengths, members=None, topk=None):
    """Ragged random sequences; `lengths`: (prompt, response) of each."""
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(rng.integers(5, 400, sum(map(sum, lengths))))
    starts = np.cumsum([0, *map(sum, lengths)])
    rows = [
        torch.arange(prompt - 1, prompt + response - 1) + start
        for start, (prompt, response) in zip(starts, lengths, strict=False)
    ]
    rows_N = torch.cat(rows)
    return MicroBatch(
        input_ids_T=ids,
        rows_N=rows_N,
        tokens=Tokens(ids[rows_N + 1], torch.ones(len(rows_N)), torch.zeros(len(rows_N))),
        spans=tuple((prompt, prompt + response) for prompt, response in lengths),
        members=tuple(range(len(lengths))) if members is None else members,
        topk_ids_NK=None if topk is None else torch.from_numpy(rng.integers(0, 400, (len(rows_N), topk))),
    )


RAGGED = [(3, 20), (50, 70), (17, 1), (30, 13)]


@pytest.fixture(scope="module")
def batches():
    filler = micro_batch(2, [(5, 4)], members=())
    return [micro_batch(0, RAGGED), micro_batch(1, RAGGED[::-1]), filler]


def logp_of(model, batch):
    """[N, V] log-probabilities at the rows of the batch's response tokens, one sequence at a time."""
    with torch.no_grad():
        logits = torch.cat([model(torch.tensor([ids])).logits[0] for ids in batch.sequences])
    return logits[batch.rows_N].double().log_softmax(-1)


def assert_agrees(scores, batch, model, num_topk):
    expected_NV = logp_of(model, batch)
    assert (scores.target_logp_N.dtype, scores.logp_NK.dtype, scores.ids_NK.dtype) == (
        torch.float32,
        torch.float32,
        torch.int64,
    )
    assert scores.ids_NK.shape == scores.logp_NK.shape == (len(batch.rows_N), num_topk)
    target = expected_NV.gather(-1, batch.tokens.target_ids_N[:, None])[:, 0]
    torch.testing.assert_close(scores.target_logp_N.double(), target, atol=1e-4, rtol=0)
    top = expected_NV.topk(num_topk)
    # Tokens that are equally likely to the last digits may be listed in either order.
    torch.testing.assert_close(scores.logp_NK.double(), top.values, atol=1e-4, rtol=0)
    listed = expected_NV.gather(-1, scores.ids_NK)
    torch.testing.assert_close(listed, top.values, atol=1e-4, rtol=0)
    assert all(len(set(row)) == num_topk for row in scores.ids_NK.tolist())


@pytest.mark.engine
@pytest.mark.parametrize("num_topk", [0, 1, 32])
def test_scores_are_those_of_the_model(connect, batches, reference, num_topk):
    teacher = connect(num_topk=num_topk)
    for scores, batch in zip(teacher.score(batches), batches, strict=True):
        assert_agrees(scores, batch, reference, num_topk)


@pytest.mark.engine
def test_endpoints_are_asked_in_turn(connect, server, batches, reference, tmp_path):
    """The same server under two names; both have to be used."""
    link = tmp_path / "other.sock"
    link.symlink_to(server[1])
    teacher = connect([f"unix:{server[1]}", f"unix:{link}"])
    asked = []
    for endpoint in teacher._endpoints:
        endpoint.client.event_hooks["request"] = [lambda _, name=endpoint.name: asked.append(name)]
    scored = teacher.score(batches)
    assert_agrees(scored[0], batches[0], reference, 16)
    num_sequences = sum(len(batch.spans) for batch in batches)
    assert sorted(asked.count(name) for name in set(asked)) == [num_sequences // 2, num_sequences // 2 + 1]


@pytest.mark.engine
def test_another_endpoint_takes_over_what_one_drops(connect, server, batches, reference, monkeypatch):
    monkeypatch.setattr(served.time, "sleep", lambda _: None)
    with stand_in(lambda request: (503, {"error": {"message": "warming up"}})) as url:
        teacher = connect([url, f"unix:{server[1]}"])
        assert_agrees(teacher.score(batches[:1])[0], batches[0], reference, 16)


@pytest.mark.engine
@pytest.mark.parametrize("model", ["builtin:anything", None])
def test_the_only_model_of_a_server_is_taken_whatever_its_name(connect, batches, path, model):
    assert connect(model=model or str(path)).score(batches[2:])


@pytest.mark.engine
def test_the_preflight_compares_a_server_with_the_model_it_should_serve(connect, batches, path):
    found = served_agrees("default", connect(), str(path), torch.float32, batches[0])
    assert found.level == "ok"


@pytest.mark.engine
def test_the_preflight_refuses_a_server_of_other_weights(connect, batches):
    other = str(find_model("builtin:tiny-student", "test").path)
    with pytest.raises(RunFailed, match="default: server and local model differ by"):
        served_agrees("default", connect(), other, torch.float32, batches[0])


@pytest.mark.engine
def test_the_preflight_says_when_there_is_nothing_to_compare_with(connect, batches, tmp_path):
    found = served_agrees("default", connect(), str(tmp_path), torch.float32, batches[0])
    assert (found.level, "not on this machine" in found.detail) == ("warn", True)


@pytest.mark.engine
def test_too_many_tokens_asked_for_is_explained(connect, batches):
    with pytest.raises(RunFailed, match="greater than max allowed: 33") as error:
        connect(num_topk=40).score(batches)
    assert error.value.hint == "start it with --max-logprobs 40 or lower loss.topk"


@pytest.mark.engine
def test_a_sequence_that_is_too_long_is_explained(connect):
    batch = micro_batch(0, [(60, MAX_LENGTH)])
    with pytest.raises(RunFailed, match="maximum context length is 121") as error:
        connect().score([batch])
    assert "--max-model-len" in error.value.hint


@pytest.mark.engine
def test_a_server_that_is_too_short_is_refused_at_the_start(connect):
    with pytest.raises(ConfigError, match=r"takes 121 tokens, but data\.max_prompt_length") as error:
        connect(max_length=MAX_LENGTH + 1)
    assert "--max-model-len 122" in error.value.hint


@pytest.mark.engine
def test_chosen_tokens_are_refused_on_a_cpu_and_why_is_said(connect):
    batch = micro_batch(0, RAGGED, topk=8)
    with pytest.raises(RunFailed, match="requires the V2 model runner") as error:
        connect(num_topk=8, ask_ids=True).score([batch])
    assert "loss.kind=student_topk needs a teacher server on a GPU" in error.value.hint


@pytest.mark.engine
def test_the_socket_is_private_and_nothing_listens_beyond_loopback(server, connect, process_group, loopback):
    connect()
    process, socket = server
    assert stat.S_IMODE(socket.stat().st_mode) & 0o077 == 0
    assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
    assert set(process_group(process.pid).addresses()) <= loopback


@pytest.mark.engine
def test_no_prompt_is_logged(server, connect, batches):
    connect().score(batches)
    log = (server[1].parent / "teacher.log").read_text()
    assert "/v1/completions HTTP" not in log
    assert str(batches[0].sequences[0][:5])[1:-1] not in log


@pytest.mark.engine
def test_an_idle_server_leaves_the_cores_alone(server, connect, batches, process_group):
    connect().score(batches)
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu_s():
        fields = [
            Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
            for pid in process_group(server[0].pid).pids
        ]
        return sum(int(f[11]) + int(f[12]) for f in fields) / ticks

    start = cpu_s()
    time.sleep(2.0)
    assert cpu_s() - start < 0.5


# What answers below is no vLLM: a small HTTP server for what the real one cannot do on this machine
# (`prompt_logprob_token_ids` needs a GPU) or would not do (answers about other tokens).


@contextmanager
def stand_in(answer, models=({"id": "served", "root": "/models/served", "max_model_len": 4096},), key=None):
    """Answers POSTs with `answer(request)`: a status and a JSON value. Gives the URL.

    With `key`, a function of no arguments, requests without that API key get a 401, as vLLM answers them.
    """

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self._reply(*self._refusal() or (200, {"data": list(models)}))

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            self._reply(*self._refusal() or answer(body))

        def _refusal(self):
            if key is None or self.headers["Authorization"] == f"Bearer {key()}":
                return None
            return 401, {"error": "Unauthorized"}

        def _reply(self, status, value):
            content = json.dumps(value).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        thread = threading.Thread(target=http.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{http.server_port}"
        finally:  # also when a test ends in an exception: the interpreter waits for this thread at its exit
            http.shutdown()
            thread.join()


@pytest.fixture
def of_stand_in(monkeypatch):
    """Scores one micro-batch with a stand-in for the server."""
    monkeypatch.setattr(served.time, "sleep", lambda _: None)

    def score(answer, batch, **changed):
        settings = {"num_topk": 2, "ask_ids": False, "vocab_size": VOCAB, "max_length": 200}
        with stand_in(answer) as url:
            teacher = ServedTeacher([url], "served", timeout_s=5, **settings | changed)
            try:
                return teacher.score([batch])[0]
            finally:
                teacher.close()

    return score


@pytest.fixture(scope="module")
def answer_chosen(reference):
    """vLLM scores chosen tokens on a GPU only, so its protocol is answered here from the same model."""

    def answer(body):
        asked = torch.tensor(body["sampling_params"]["prompt_logprob_token_ids"])
        start = body["sampling_params"]["prompt_logprob_start"]
        assert len(asked) == len(body["token_ids"]) - 1 - start  # vLLM refuses anything else
        with torch.no_grad():
            logits = reference(torch.tensor([body["token_ids"]])).logits[0, start:-1]
        logp = logits.log_softmax(-1).gather(-1, asked.clamp_min(0)).masked_fill(asked < 0, -torch.inf)
        file = io.BytesIO()
        np.save(file, logp.numpy())
        scores = base64.b64encode(file.getvalue()).decode()
        return 200, {"prompt_token_ids": body["token_ids"], "prompt_token_id_logprobs": scores}

    return answer


def test_chosen_tokens_get_the_models_log_probabilities(of_stand_in, answer_chosen, reference):
    batch = micro_batch(0, RAGGED, topk=8)
    batch.topk_ids_NK[3, 5:] = -1
    batch.topk_ids_NK[4, 2] = VOCAB + 1
    scores = of_stand_in(answer_chosen, batch, num_topk=8, ask_ids=True)
    expected_NV = logp_of(reference, batch)
    ids = torch.where(batch.topk_ids_NK < VOCAB, batch.topk_ids_NK, -1)
    assert torch.equal(scores.ids_NK, ids)
    target = expected_NV.gather(-1, batch.tokens.target_ids_N[:, None])[:, 0]
    torch.testing.assert_close(scores.target_logp_N.double(), target, atol=1e-4, rtol=0)
    there = ids >= 0
    chosen = expected_NV.gather(-1, ids.clamp_min(0))
    torch.testing.assert_close(scores.logp_NK[there].double(), chosen[there], atol=1e-4, rtol=0)


@pytest.fixture
def asking_teacher(answer_chosen):
    """A teacher that is asked for chosen tokens, as `student_topk` does."""
    with stand_in(answer_chosen) as url:
        teacher = ServedTeacher(
            [url], "served", num_topk=8, ask_ids=True, vocab_size=VOCAB, max_length=200, timeout_s=60
        )
        yield teacher
        teacher.close()


def test_the_preflight_compares_a_teacher_that_is_asked_for_chosen_tokens(asking_teacher, path):
    """The preflight's prompts come from no engine, so nothing is listed for them."""
    batch = micro_batch(0, RAGGED)
    assert batch.topk_ids_NK is None
    assert served_agrees("default", asking_teacher, str(path), torch.float32, batch).level == "ok"


def test_the_preflight_loads_no_model_that_memory_has_no_room_for(asking_teacher, path, monkeypatch):
    monkeypatch.setattr(self_checks, "memory_bytes", lambda: 2**30)
    monkeypatch.setattr(self_checks, "LocalTeacher", None)
    found = served_agrees("default", asking_teacher, str(path), torch.float32, micro_batch(0, RAGGED))
    assert found.level == "warn"
    assert "not compared with the local model: a copy of it needs" in found.detail


def completion(positions):
    return {"choices": [{"prompt_logprobs": positions}]}


def test_an_answer_about_fewer_tokens_is_refused(of_stand_in):
    def answer(body):
        return 200, completion([None] + [{str(t): {"logprob": -1.0, "rank": 1}} for t in body["prompt"][2:]])

    with pytest.raises(RunFailed, match=r"misaligned.*23 tokens were sent, 22 came back"):
        of_stand_in(answer, micro_batch(0, RAGGED[:1]))


def test_an_answer_about_other_tokens_is_refused(of_stand_in):
    def answer(body):
        shifted = [4, *body["prompt"]]
        return 200, completion([None] + [{str(t): {"logprob": -1.0, "rank": 1}} for t in shifted[1:-1]])

    with pytest.raises(RunFailed, match=r"misaligned.*at position 1 is not in the reply"):
        of_stand_in(answer, micro_batch(0, RAGGED[:1]))


def test_something_that_is_no_vllm_server_is_named(of_stand_in):
    with pytest.raises(RunFailed, match="did not reply as a vLLM server does"):
        of_stand_in(lambda body: (200, {"choices": [{"text": "hello"}]}), micro_batch(0, RAGGED[:1]))


@pytest.mark.parametrize("status", [429, 500])
def test_an_overloaded_server_is_asked_again(of_stand_in, status):
    seen = []

    def answer(body):
        seen.append(1)
        if len(seen) < served.ATTEMPTS:
            return status, {"error": {"message": "later"}}
        positions = [{str(t): entry(-1.0, 1), str(t + 1): entry(-2.0, 2)} for t in body["prompt"][1:]]
        return 200, completion([None, *positions])

    of_stand_in(answer, micro_batch(0, RAGGED[:1]))
    assert len(seen) == served.ATTEMPTS


def test_a_server_that_only_fails_is_given_up_with_its_words(of_stand_in):
    with pytest.raises(RunFailed, match=r"in 4 attempts; the last error: .* replied 500: out of memory"):
        of_stand_in(lambda body: (500, {"error": {"message": "out of memory"}}), micro_batch(0, RAGGED[:1]))


def test_a_server_that_answers_too_late_is_asked_again_and_then_given_up(monkeypatch):
    seen, pause = [], time.sleep
    monkeypatch.setattr(served.time, "sleep", lambda _: None)

    def answer(body):
        seen.append(1)
        pause(0.6)
        return 500, {"error": {"message": "nobody waits for this"}}

    with stand_in(answer) as url:
        teacher = ServedTeacher(
            [url], "served", num_topk=1, ask_ids=False, vocab_size=VOCAB, max_length=200, timeout_s=0.2
        )
        with pytest.raises(RunFailed, match=r"in 4 attempts; the last error: .*ReadTimeout") as error:
            teacher.score([micro_batch(0, RAGGED[:1])])
        teacher.close()
    assert len(seen) == served.ATTEMPTS
    assert "a slow server needs a larger teacher.timeout_s" in error.value.hint


# API keys.

SECRET = "sk-not-to-be-seen"
KEY_VARIABLE = "DISTILLCTL_TEACHER_API_KEY"


def keyed_teacher(url):
    return ServedTeacher(
        [url], "served", num_topk=1, ask_ids=False, vocab_size=VOCAB, max_length=200, timeout_s=5
    )


def test_the_key_of_the_environment_is_sent(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, f"{SECRET}\n")

    def answer(body):
        return 200, completion([None] + [{str(t): {"logprob": -1.0, "rank": 1}} for t in body["prompt"][1:]])

    with stand_in(answer, key=lambda: SECRET) as url:
        teacher = keyed_teacher(url)
        assert teacher.score([micro_batch(0, RAGGED[:1])])
        teacher.close()


@pytest.mark.parametrize("wrong", [None, SECRET])
def test_a_server_that_wants_a_key_says_so_at_the_start(monkeypatch, wrong):
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    if wrong:
        monkeypatch.setenv(KEY_VARIABLE, wrong)
    with stand_in(None, key=lambda: "another") as url, pytest.raises(ConfigError, match="401") as error:
        keyed_teacher(url)
    assert KEY_VARIABLE in error.value.hint
    assert SECRET not in error.value.message + error.value.hint


def test_a_key_that_is_taken_back_ends_the_run_at_once(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, SECRET)
    keys = [SECRET]
    with stand_in(None, key=lambda: keys[-1]) as url:
        teacher = keyed_teacher(url)
        keys.append("another")
        with pytest.raises(RunFailed, match="replied 401: Unauthorized") as error:
            teacher.score([micro_batch(0, RAGGED[:1])])
        teacher.close()
    assert KEY_VARIABLE in error.value.hint
    assert SECRET not in error.value.message + error.value.hint


def test_a_key_that_fits_no_header_is_refused_without_showing_it(monkeypatch):
    monkeypatch.setenv(KEY_VARIABLE, f"{SECRET}\nX-Other: 1")
    with pytest.raises(ConfigError, match=KEY_VARIABLE) as error:
        keyed_teacher("http://127.0.0.1:9")
    assert SECRET not in error.value.message + error.value.hint


def test_a_refusal_is_not_repeated(of_stand_in):
    seen = []

    def answer(body):
        seen.append(1)
        return 404, {"error": {"message": "The model `served` does not exist."}}

    with pytest.raises(RunFailed, match="does not exist") as error:
        of_stand_in(answer, micro_batch(0, RAGGED[:1]))
    assert len(seen) == 1
    assert "no longer serves the model" in error.value.hint


TWO = ({"id": "org/base", "root": "/models/base"}, {"id": "adapter", "root": "/adapters/one"})


@pytest.mark.parametrize(("model", "taken"), [("adapter", "adapter"), ("/models/base", "org/base")])
def test_a_model_is_found_by_its_name_or_its_directory(model, taken):
    with stand_in(None, TWO) as url:
        teacher = ServedTeacher(
            [url + "/v1/"], model, num_topk=1, ask_ids=False, vocab_size=9, max_length=9, timeout_s=5
        )
        assert teacher._endpoints[0].model == taken
        teacher.close()


def test_a_server_of_other_models_is_refused():
    with stand_in(None, TWO) as url, pytest.raises(ConfigError, match="serves org/base, adapter, not org/x"):
        ServedTeacher([url], "org/x", num_topk=1, ask_ids=False, vocab_size=9, max_length=9, timeout_s=5)


@pytest.mark.parametrize("url", ["localhost:8000", "http://", "http://host:port", "unix"])
def test_what_is_no_address_is_refused(url):
    with pytest.raises(ConfigError, match=r"teacher\.url"):
        ServedTeacher([url], "x", num_topk=1, ask_ids=False, vocab_size=9, max_length=9, timeout_s=5)


def test_a_server_that_is_not_there_is_named(monkeypatch):
    monkeypatch.setattr(endpoints, "CONNECT_WAIT_S", 0.1)
    with pytest.raises(EnvironmentUnfit, match=r"no teacher server at http://127\.0\.0\.1:9") as error:
        ServedTeacher(
            ["http://127.0.0.1:9"],
            "x",
            num_topk=1,
            ask_ids=False,
            vocab_size=9,
            max_length=9,
            timeout_s=5,
        )
    assert "teacher.url" in error.value.hint


def entry(logprob, rank):
    return {"logprob": logprob, "rank": rank, "decoded_token": "\u2581x"}


def read(positions, token_ids, num_topk, start=1, vocab_size=100):
    answer = json.dumps(completion(positions)).encode()
    return read_most_likely(answer, token_ids, start, num_topk, vocab_size, "here")


def test_the_prompts_own_token_is_listed_only_when_it_is_among_the_most_likely():
    positions = [
        None,
        {"7": entry(-9.0, 40), "3": entry(-0.5, 1), "4": entry(-1.0, 2)},
        {"4": entry(-1.5, 2), "3": entry(-0.5, 1)},
    ]
    values = read(positions, [1, 7, 4], 2)
    assert values.target_logp_T.tolist() == [-9.0, -1.5]
    assert values.ids_TK.tolist() == [[3, 4], [3, 4]]
    assert values.logp_TK.tolist() == [[-0.5, -1.0], [-0.5, -1.5]]


def test_only_the_response_is_read():
    positions = [None, {"2": entry(-1.0, 1)}, {"3": entry(-2.0, 1)}, {"4": entry(-3.0, 1)}]
    assert read(positions, [1, 2, 3, 4], 1, start=2).target_logp_T.tolist() == [-2.0, -3.0]


def test_a_prompt_token_as_likely_as_the_last_of_the_list_takes_no_second_place():
    """Some versions of vLLM give tied tokens the same rank."""
    positions = [None, {"7": entry(-2.0, 2), "3": entry(-0.5, 1), "4": entry(-2.0, 2)}]
    values = read(positions, [1, 7], 2)
    assert values.ids_TK.tolist() == [[3, 4]]


def test_rows_of_a_padded_head_are_left_out():
    positions = [None, {"7": entry(-1.0, 2), "150": entry(-0.5, 1), "99": entry(-9.0, 3)}]
    values = read(positions, [1, 7], 3)
    assert values.ids_TK.tolist() == [[-1, 7, 99]]
    assert values.logp_TK[0, 1] == -1.0


def test_impossible_tokens_are_floored():
    positions = [None, {"7": entry(-np.inf, 90), "3": entry(0.0, 1), "4": entry(-np.inf, 2)}]
    values = read(positions, [1, 7], 2)
    assert values.target_logp_T.tolist() == [FLOOR]
    assert values.logp_TK.tolist() == [[0.0, FLOOR]]


@pytest.mark.parametrize("broken", ["7", "3"])
def test_nan_is_refused(broken):
    position = {"7": entry(-2.0, 9), "3": entry(-0.1, 1)}
    position[broken]["logprob"] = np.nan
    with pytest.raises(RunFailed, match="NaN"):
        read([None, position], [1, 7], 1)


@pytest.mark.parametrize(
    ("prompt", "shape", "message"),
    [([1, 2, 3, 5], (2, 3), "other tokens than those that were sent"), ([1, 2, 3, 4], (3, 3), "shape")],
)
def test_misaligned_scores_of_chosen_tokens_are_refused(prompt, shape, message):
    file = io.BytesIO()
    np.save(file, np.zeros(shape, np.float32))
    scores = base64.b64encode(file.getvalue()).decode()
    answer = json.dumps({"prompt_token_ids": prompt, "prompt_token_id_logprobs": scores}).encode()
    with pytest.raises(RunFailed, match=f"misaligned.*{message}"):
        read_asked(answer, [1, 2, 3, 4], 2, np.zeros((2, 2), np.int64), "here")


# The launcher's side.


def config_of(**changed):
    tree = {
        "student": {"model": "builtin:tiny-student"},
        "teacher": {"model": MODEL},
        "data": {"train_files": ["x.parquet"], "max_prompt_length": 100, "max_response_length": 100},
        "loss": {"kind": "topk", "topk": 20},
        "train": {"steps": 1, "device": "cpu"},
    }
    return Config.model_validate(
        {name: {**tree.get(name, {}), **keys} for name, keys in {**tree, **changed}.items()}
    )


def test_teachers_are_resolved_each_by_its_own_settings():
    math = {"model": MODEL, "dtype": "bfloat16", "url": ["http://a:1", "http://b:2"]}
    plan = resolve(config_of(teacher={"serve": True}, teachers={"org/math": math}))
    assert plan.served == ["default"]
    assert plan.teachers["default"].endpoints == []
    assert plan.teachers["default"].dtype == "float32"
    assert plan.teachers["org/math"].endpoints == ["http://a:1", "http://b:2"]
    assert plan.teachers["org/math"].dtype == "bfloat16"


def test_a_server_is_started_with_room_for_what_it_is_asked():
    asking = config_of(teacher={"serve": True}, loss={"kind": "student_topk", "topk": 20})
    plan = replace(resolve(config_of(teacher={"serve": True})), config=asking)
    arguments = plan.server_arguments("default", Path("/scratch/teacher_0.sock"))
    values = dict(pairwise(arguments))
    assert values["--uds"] == "/scratch/teacher_0.sock"
    assert values["--max-model-len"] == "201"
    assert int(values["--max-logprobs"]) >= 21
    assert "--enable-scale-out" in arguments
    assert plan.engine(Path("/scratch")).max_logprobs == plan.num_rollout_topk == 20


def test_a_server_of_the_run_is_not_asked_for_chosen_tokens_on_a_cpu():
    math = {"model": MODEL, "serve": True}
    with pytest.raises(ConfigError, match=r"teachers\.math\.serve with loss\.kind=student_topk needs a GPU"):
        resolve(config_of(teachers={"math": math}, loss={"kind": "student_topk", "topk": 20}))
    elsewhere = {"url": ["http://a:1"]}
    assert resolve(config_of(teacher=elsewhere, loss={"kind": "student_topk", "topk": 20}))


def test_a_teacher_behind_a_url_needs_no_weights_here(path, tmp_path):
    for file in ("config.json", "tokenizer.json"):
        shutil.copy(path / file, tmp_path)
    plan = resolve(config_of(teacher={"model": str(tmp_path), "url": ["http://a:1"]}))
    assert plan.teachers["default"].model.path == tmp_path
    fetch_models(plan)
    with pytest.raises(ConfigError, match=r"no \.safetensors weights"):
        fetch_models(resolve(config_of(teacher={"model": str(tmp_path)})))


def test_a_served_teacher_needs_a_position_more_than_the_sequences(path):
    full = ModelDir(path).shape.max_positions
    lengths = {"max_prompt_length": full - 100, "max_response_length": 100}
    assert resolve(config_of(data=lengths))
    for server in ({"serve": True}, {"url": ["http://a:1"]}):
        with pytest.raises(ConfigError, match=r"and a server generates one more, but teacher\.model takes"):
            resolve(config_of(data=lengths, teacher=server))


def test_an_offloaded_teacher_is_an_ordinary_one_on_a_cpu():
    plan = resolve(config_of(teachers={"math": {"model": MODEL, "offload": "cpu"}}))
    assert plan.config.teachers["math"].offload == "none"


def test_the_path_of_a_servers_socket_is_absolute_for_processes_that_work_elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    urls = ["unix:t.sock", "unix:/run/t.sock", "http://h:1/unix:x"]
    plan = resolve(config_of(teacher={"url": urls}))
    expected = [f"unix:{tmp_path}/t.sock", "unix:/run/t.sock", "http://h:1/unix:x"]
    assert plan.teachers["default"].endpoints == expected


@pytest.mark.parametrize(
    ("gpus", "message"),
    [
        (None, "is missing"),
        ([1, 2], "names GPU 1, which the ranks"),
        ([5], "names GPU 5, which rollout.gpus uses already"),
        ([8], "names GPU 8, but there are 8 GPUs"),
        ([3, 3], r"names GPU 3, which teacher\.gpus uses already"),
    ],
)
def test_a_served_teacher_on_gpus_has_some_of_its_own(gpus, message):
    config = config_of(teacher={"serve": True, "gpus": gpus}, rollout={"gpus": [5]})
    with pytest.raises(ConfigError, match=rf"teacher\.gpus.*{message}"):
        check_gpus(config, world_size=2, num_gpus=8)
    check_gpus(config_of(teacher={"serve": True, "gpus": [3, 4]}, rollout={"gpus": [5]}), 2, 8)


@pytest.mark.parametrize(
    ("gpus", "message"), [([0, 0], "names a GPU twice"), ([-1], "names GPU -1"), ([8], "but there are 8")]
)
def test_gpus_of_the_engine_are_gpus_of_the_machine(gpus, message):
    with pytest.raises(ConfigError, match=rf"rollout\.gpus .*{message}") as caught:
        check_gpus(config_of(rollout={"gpus": gpus}), world_size=1, num_gpus=8)
    assert caught.value.hint


def test_names_of_teachers_become_different_file_names():
    names = ["a/b", "a_b", "a%2Fb", "..", "org/Model-1.5B", "\u00e9"]
    made = [file_name(name) for name in names]
    assert len(set(made)) == len(names)
    assert not any("/" in name for name in made)


@pytest.mark.engine
@pytest.mark.filterwarnings("ignore:Exception ignored in. <socket")  # httpcore leaves it when connect fails
def test_a_dead_server_is_an_error_after_the_attempts(connect, server, batches, monkeypatch, process_group):
    """Last in the module: it ends the server."""
    teacher = connect()
    group = process_group(server[0].pid)
    server[0].kill()
    server[0].wait()
    monkeypatch.setattr(served.time, "sleep", lambda _: None)
    with pytest.raises(RunFailed, match=r"in 4 attempts; the last error: unix:.*ConnectError") as error:
        teacher.score(batches)
    assert "log" in error.value.hint
    monkeypatch.undo()
    group.wait_until_dead(5)
