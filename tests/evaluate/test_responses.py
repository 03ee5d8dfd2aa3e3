"""Answers through a real engine: batch by batch, interrupted and gone on with, and from the cache."""

from contextlib import contextmanager, nullcontext
from dataclasses import replace

import pytest

from distillctl.data import arith
from distillctl.data.read import PromptRow
from distillctl.evaluate import responses as module
from distillctl.evaluate.cache import ResponseCache, model_hash
from distillctl.evaluate.responses import Target, Task, response_cache, responses, running_engine
from distillctl.machine import model_path

NUM_ROWS, MAX_TOKENS = 12, 48


@pytest.fixture(scope="module")
def target():
    return Target("student", model_path("builtin:tiny-student", "test"))


@pytest.fixture(scope="module")
def engine(target):
    """One real engine for all tests."""
    with running_engine(target, 256, "cpu") as client:
        yield client


@pytest.fixture
def work(tmp_path, monkeypatch, engine):
    """The task, in a directory of its own; asking starts no other engine."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "running_engine", lambda *_: nullcontext(engine))
    _, problems = arith.splits(8, NUM_ROWS, 0)
    rows = [
        PromptRow(i, [{"role": "user", "content": p.question}], p.question, "1", "arith", "test")
        for i, p in enumerate(problems)
    ]
    return Task(rows, "0" * 64, 1, 0.0, MAX_TOKENS, "cpu")


def answers(target, work):
    found, seconds, num_dropped = responses(target, work)
    assert seconds > 0
    assert num_dropped == 0
    return {(one.row, one.sample): one for one in found}


@pytest.fixture
def reference(target, work):
    """The answers, all in one batch."""
    found = answers(target, work)
    assert sorted(found) == [(row, 0) for row in range(NUM_ROWS)]
    assert all(one.text and one.response_ids and one.prompt_ids for one in found.values())
    return found


def test_a_second_call_reads_what_the_first_one_wrote(target, work, reference, monkeypatch):
    monkeypatch.setattr(module, "running_engine", lambda *_: pytest.fail("an engine was started"))
    assert answers(target, work) == reference


@contextmanager
def emptied(target, work):
    """As if nothing had been asked yet, elsewhere."""
    folder = response_cache(target, work).folder
    kept = folder.rename(folder.with_name("kept"))
    yield
    assert kept.exists()


@pytest.mark.parametrize("size", [1, 5])
def test_greedy_answers_do_not_depend_on_the_batches(target, work, reference, monkeypatch, size):
    monkeypatch.setattr(module, "FIRST_BATCH", size)
    monkeypatch.setattr(module, "BATCH_S", 0.0)
    with emptied(target, work):
        assert answers(target, work) == reference


class Interrupted(Exception):
    pass


def test_an_interrupted_evaluation_goes_on_where_it_was(target, work, reference, engine, monkeypatch):
    asked = []

    class Client:
        """The engine, until it has been asked twice."""

        def generate(self, prompts, *arguments, **options):
            if len(asked) == 2:
                raise Interrupted  # as by Ctrl-C
            asked.append(len(prompts))
            return engine.generate(prompts, *arguments, **options)

    monkeypatch.setattr(module, "FIRST_BATCH", 4)
    monkeypatch.setattr(module, "BATCH_S", 0.0)
    with emptied(target, work):
        monkeypatch.setattr(module, "running_engine", lambda *_: nullcontext(Client()))
        with pytest.raises(Interrupted):
            responses(target, work)
        assert asked == [4, 4]
        assert response_cache(target, work).done is None
        seen = []
        monkeypatch.setattr(module, "running_engine", lambda *_: nullcontext(engine))
        generate = engine.generate
        monkeypatch.setattr(
            engine,
            "generate",
            lambda prompts, *a, **o: seen.append(len(prompts)) or generate(prompts, *a, **o),
        )
        assert answers(target, work) == reference
        assert seen == [4]


def test_sampled_answers_are_the_same_again_and_each_one_its_own(target, work, monkeypatch):
    several = replace(work, num_samples=3, temperature=1.0)
    found = answers(target, several)
    assert sorted(found) == [(row, n) for row in range(NUM_ROWS) for n in range(3)]
    assert any(found[row, 0].text != found[row, 1].text for row in range(NUM_ROWS))
    monkeypatch.setattr(module, "FIRST_BATCH", 7)
    with emptied(target, several):
        again = answers(target, several)
    assert {key: one.text for key, one in again.items()} == {key: one.text for key, one in found.items()}


def test_what_decides_the_answers_decides_where_they_are_kept(target, work):
    others = [
        replace(work, temperature=0.5), replace(work, max_tokens=7), replace(work, num_samples=2),
        replace(work, data_sha256="1" * 64), replace(work, rows=work.rows[:3]), replace(work, device="cuda"),
    ]  # fmt: skip
    folders = {response_cache(target, task).folder for task in [work, *others]}
    folders.add(response_cache(Target("x", model_path("builtin:tiny-teacher", "test")), work).folder)
    assert len(folders) == 8
    assert response_cache(Target("another label", target.path), work).folder in folders


def test_a_model_is_known_by_its_bytes(tmp_path):
    (tmp_path / "m").mkdir()
    weights = tmp_path / "m" / "model.safetensors"
    weights.write_bytes(b"one")
    (tmp_path / "m" / "notes.md").write_text("of no account")
    first = model_hash(tmp_path / "m", tmp_path)
    assert model_hash(tmp_path / "m", tmp_path) == first
    (tmp_path / "m" / "notes.md").write_text("changed")
    assert model_hash(tmp_path / "m", tmp_path) == first
    weights.write_bytes(b"two")
    second = model_hash(tmp_path / "m", tmp_path)
    assert second != first
    weights.rename(tmp_path / "m" / "other.safetensors")
    assert model_hash(tmp_path / "m", tmp_path) not in (first, second)


def test_facts_are_remembered_with_the_responses(tmp_path):
    cache = ResponseCache({"a": 1}, tmp_path)
    cache.append([], 1.0)
    cache.note("kl x", 0.5)
    cache.note("kl y", 0.25)
    assert ResponseCache({"a": 1}, tmp_path).facts == {"kl x": 0.5, "kl y": 0.25}
