"""Answers through a real engine: batch by batch, interrupted and gone on with, and from the cache."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import pytest

from distillctl.evaluate import responses as module
from distillctl.evaluate.cache import Cache
from distillctl.evaluate.questions import Target, all_questions, row_of
from distillctl.evaluate.responses import Task, cache_key, responses, running_engine
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir

pytestmark = pytest.mark.engine

NUM_ROWS = 12


@pytest.fixture(scope="module")
def engine(student, tmp_path_factory):
    """One real engine for all tests; its model says that it has four billion positions, for which there would
    be no memory."""
    path = tmp_path_factory.mktemp("models") / "endless"
    shutil.copytree(student.model.path, path)
    config = json.loads((path / "config.json").read_text()) | {"max_position_embeddings": 4_000_000_000}
    (path / "config.json").write_text(json.dumps(config))
    with running_engine(Target("endless", ModelDir(path)), 256, "cpu") as client:
        yield client


@pytest.fixture
def work(monkeypatch, engine):
    """Greedy; asking starts no other engine."""
    monkeypatch.setattr(module, "running_engine", lambda *_: nullcontext(engine))
    return Task(1, 0.0, "cpu")


def answers(asked, work, cache):
    found, seconds = responses(asked, work, cache)
    assert seconds > 0
    return {(one.row, one.sample): one for one in found}


@pytest.fixture
def reference(asked, work, cache):
    """The answers, all in one batch."""
    found = answers(asked, work, cache)
    assert sorted(found) == [(row, 0) for row in range(NUM_ROWS)]
    assert all(one.text and one.response_ids and one.prompt_ids for one in found.values())
    return found


def test_a_second_call_reads_what_the_first_one_wrote(asked, work, cache, reference, monkeypatch):
    monkeypatch.setattr(module, "running_engine", lambda *_: pytest.fail("an engine was started"))
    assert answers(asked, work, cache) == reference


def test_nothing_kept_is_nothing_written(asked, work, tmp_path, reference, monkeypatch):
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    assert answers(asked, work, Cache(None, None)) == reference
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


@pytest.mark.parametrize("size", [1, 5])
def test_greedy_answers_do_not_depend_on_the_batches(asked, work, tmp_path, reference, monkeypatch, size):
    monkeypatch.setattr(module, "FIRST_BATCH", size)
    monkeypatch.setattr(module, "BATCH_S", 0.0)
    assert answers(asked, work, Cache(tmp_path / "other", None)) == reference


class Interrupted(Exception):
    pass


def test_an_interrupted_evaluation_goes_on_where_it_was(
    asked, work, tmp_path, reference, engine, monkeypatch
):
    numbers = []

    class Client:
        """The engine, until it has been asked twice."""

        def generate(self, prompts, *arguments, **options):
            if len(numbers) == 2:
                raise Interrupted  # as by Ctrl-C
            numbers.append(len(prompts))
            return engine.generate(prompts, *arguments, **options)

    cache = Cache(tmp_path / "other", None)
    monkeypatch.setattr(module, "FIRST_BATCH", 4)
    monkeypatch.setattr(module, "BATCH_S", 0.0)
    monkeypatch.setattr(module, "running_engine", lambda *_: nullcontext(Client()))
    with pytest.raises(Interrupted):
        responses(asked, work, cache)
    assert numbers == [4, 4]
    seen = []
    monkeypatch.setattr(module, "running_engine", lambda *_: nullcontext(engine))
    generate = engine.generate
    monkeypatch.setattr(
        engine,
        "generate",
        lambda prompts, *a, **o: seen.extend(map(row_of, prompts)) or generate(prompts, *a, **o),
    )
    assert answers(asked, work, cache) == reference
    assert seen == [8, 9, 10, 11]


def test_sampled_answers_are_the_same_again_and_each_one_its_own(asked, work, tmp_path, cache, monkeypatch):
    several = replace(work, num_samples=3, temperature=1.0)
    found = answers(asked, several, cache)
    assert sorted(found) == [(row, n) for row in range(NUM_ROWS) for n in range(3)]
    assert any(found[row, 0].text != found[row, 1].text for row in range(NUM_ROWS))
    monkeypatch.setattr(module, "FIRST_BATCH", 7)
    again = answers(asked, several, Cache(tmp_path / "other", None))
    assert {key: one.text for key, one in again.items()} == {key: one.text for key, one in found.items()}


def test_a_folder_that_cannot_be_written_costs_no_answer(asked, work, tmp_path, reference, capsys):
    (tmp_path / "file").write_text("in the way")
    assert answers(asked, work, Cache(tmp_path / "file" / "x", None)) == reference
    said = capsys.readouterr().err
    assert said.count("responses are not kept") == 1
    assert "Not a directory" in said


def test_a_disk_that_is_full_costs_no_answer(asked, work, tmp_path, reference, monkeypatch, capsys):
    def full(*_):
        raise OSError(28, "No space left on device", "part")

    monkeypatch.setattr("distillctl.evaluate.cache.write_private", full)
    assert answers(asked, work, Cache(tmp_path / "other", None)) == reference
    assert capsys.readouterr().err.count("responses are not kept: part: No space left on device") == 1


def test_what_decides_the_answers_decides_where_they_are_kept(asked, student, eval_data, cache, tmp_path):
    work, data = Task(1, 0.0, "cpu"), eval_data(12)
    other_model = Target("x", find_model("builtin:tiny-teacher", "test"))
    fewer = replace(data, rows=data.rows[:3], file_of_row=["a"] * 3, prompt_ids=data.prompt_ids[:3])
    others = [
        (asked, replace(work, temperature=0.5)),
        (asked, replace(work, num_samples=2)),
        (asked, replace(work, device="cuda")),
        (replace(asked, max_tokens=7), work),
        (replace(asked, stop_token_ids=[3]), work),
        (replace(asked, prompts=list(reversed(asked.prompts))), work),
        (all_questions([student], fewer, 48)[0], work),
        (all_questions([other_model], data, 48)[0], work),
    ]
    keys = [cache_key(questions, task, cache) for questions, task in [(asked, work), *others]]
    assert all(keys.count(key) == 1 for key in keys)
    assert set(keys[0]["versions"]) >= {"transformers", "torch", "distillctl"}
    assert all(keys[0]["versions"].values())
    named_otherwise = replace(asked, target=Target("another label", ModelDir(student.model.path)))
    assert cache_key(named_otherwise, work, cache) == keys[0]


def test_a_template_that_renders_otherwise_has_other_answers(student, eval_data, cache, tmp_path):
    """As one with the date in it does every day."""
    shutil.copytree(student.model.path, tmp_path / "m")
    template = tmp_path / "m" / "chat_template.jinja"
    keys = []
    for day in ("Monday", "Tuesday"):
        template.write_text("<|im_start|>system\n" + day + student_template(student))
        (questions,) = all_questions([Target("m", ModelDir(tmp_path / "m"))], eval_data(2), 48)
        keys.append(cache_key(questions, Task(1, 0.0, "cpu"), cache)["prompts"])
    assert keys[0] != keys[1]


def student_template(student):
    return (student.model.path / "chat_template.jinja").read_text()
