"""A user and password in teacher.url: stored and shown nowhere, and there for the servers all the same."""

import json

import pytest
import yaml

from distillctl.config import loading
from distillctl.config.schema import Config
from distillctl.errors import ConfigError
from distillctl.errors.redact import without_logins
from distillctl.launch import preflight, train_command
from distillctl.launch.plan import resolve
from distillctl.launch.preflight import login_checks
from distillctl.launch.processes import logins_environment
from distillctl.run.events import EventLog
from distillctl.teacher.logins import API_KEY, LOGIN, found_logins, logins_of
from distillctl.train.job import TeacherJob, TrainJob

SECRET = "s3cret-of-mine"
URL, MASKED = f"http://me:{SECRET}@host:8000", "http://***@host:8000"
PRESET = "tiny-from-small-arith"
SERVED = ["loss.kind=topk", "train.device=cpu", "data.train_batch_size=4"]


def load(*overrides):
    return loading.load_preset(PRESET, [*SERVED, *overrides])


def test_what_is_written_down_has_none():
    config = load(
        f"teacher.url={URL}", f'teachers.law.url=["http://a:1", "{URL}"]', "teachers.law.model=builtin:x"
    )
    assert config.teacher.url == [MASKED]
    assert config.teacher.logins == (f"me:{SECRET}",)
    assert config.teachers["law"].logins == (None, f"me:{SECRET}")
    for text in (loading.to_yaml(config), repr(config), json.dumps(config.model_dump(mode="json"))):
        assert SECRET not in text
        assert MASKED in text


@pytest.mark.parametrize(
    ("url", "masked", "login"),
    [
        ("https://token@host/v1", "https://***@host/v1", "token"),
        ("http://a:b@c@host:1", "http://***@host:1", "a:b@c"),
        ("http://host:1", "http://host:1", None),
        ("http://***@host:1", "http://***@host:1", None),
        ("http://@host:1", "http://host:1", None),
        ("unix:/run/a@b.sock", "unix:/run/a@b.sock", None),
    ],
)
def test_addresses_are_split(url, masked, login):
    teacher = load(f"teacher.url={url}").teacher
    assert (teacher.url, teacher.logins) == ([masked], (login,))


@pytest.mark.parametrize(
    "url",
    [f"http://me:{SECRET}/x@host:1", f"http://me:{SECRET} @host", f"me:{SECRET}@host:1", f"ftp://me:{SECRET}@host",
     f"http://host:1/?key={SECRET}", f"http://host:1#{SECRET}"],
)  # fmt: skip
def test_an_address_that_cannot_be_split_is_refused_without_showing_it(url):
    with pytest.raises(ConfigError, match=r"teacher \(.*\): url ") as error:
        load(f"teacher.url={url}")
    assert SECRET not in error.value.message + error.value.hint


@pytest.mark.parametrize(
    "override",
    [URL, f"teacher.urls={URL}", f"teacher.model={URL}", f"student.model={URL}", f"data.train_files={URL}",
     f'teacher.url={{"a": "{URL}"}}', f"optim.lr={URL}", f"loss.kind={URL}"],
)  # fmt: skip
def test_no_error_shows_it(folder, distillctl, override):
    code, out, err = distillctl("train", "--preset", PRESET, *SERVED, "--", override)
    assert code in (2, 3)
    assert SECRET not in out + err


def test_no_event_shows_it(tmp_path):
    log = EventLog(tmp_path / "events.jsonl", 1)
    log.emit("warn", step=0, message=f"no answer of {URL}/v1")
    log.close()
    assert f"no answer of {MASKED}/v1" in (tmp_path / "events.jsonl").read_text()


def test_only_the_login_of_an_address_is_masked():
    assert without_logins("mail me@host, see http://host/a@b") == "mail me@host, see http://host/a@b"


@pytest.fixture
def started(folder, monkeypatch):
    """Runs `train` up to its start; the configuration that the launcher got."""
    found = []
    monkeypatch.setattr(train_command.supervisor, "run", lambda plan, *_, **__: found.append(plan.config))
    monkeypatch.setattr(preflight, "require_fit", lambda *_: None)
    return found


def command(*more, url=URL):
    address = [f"teacher.url={url}"] if url else []
    return ["train", "--preset", PRESET, "--run-dir", "RUN", *SERVED, *address, *more]


def test_a_run_holds_it_nowhere_and_goes_on_with_the_same_command(folder, started, distillctl):
    for _ in range(2):
        code, out, err = distillctl(*command())
        assert (code, out) == (0, "RUN\n"), err
        assert SECRET not in out + err
    assert [config.teacher.logins for config in started] == [(f"me:{SECRET}",)] * 2
    files = [path for path in (folder / "RUN").rglob("*") if path.is_file()]
    assert {"config.yaml", "provenance.json", "events.jsonl"} <= {path.name for path in files}
    assert not [path for path in files if SECRET in path.read_text()]
    assert MASKED in (folder / "RUN/provenance.json").read_text()
    assert SECRET not in distillctl("inspect", "config", "RUN")[1]


def test_a_run_that_goes_on_without_it_says_what_to_do(started, distillctl, monkeypatch):
    monkeypatch.delenv(LOGIN, raising=False)
    assert distillctl(*command())[0] == 0
    stored = ["train", "--config", "RUN/config.yaml", "--run-dir", "RUN"]
    code, _, err = distillctl(*stored)
    assert code == 2
    assert f"teacher.url: the user and password of {MASKED} are not stored with a run" in err
    assert "teacher.url=http://USER:PASSWORD@host:8000" in err
    assert distillctl(*stored, f"teacher.url={URL}")[0] == 0
    monkeypatch.setenv(LOGIN, f"me:{SECRET}")
    assert distillctl(*stored)[0] == 0
    assert found_logins("default", started[-1].teacher) == [f"me:{SECRET}"]


def test_a_stored_password_of_an_older_run_is_masked_when_it_is_read(folder, started, distillctl):
    assert distillctl(*command())[0] == 0
    file = folder / "RUN/config.yaml"
    file.write_text(file.read_text().replace("***", f"me:{SECRET}"))
    assert SECRET not in distillctl("inspect", "config", "RUN")[1]
    assert distillctl(*command())[0] == 0


def test_ranks_get_it_by_their_environment_alone(monkeypatch, tmp_path):
    plan = resolve(load(f"teacher.url={URL}"))
    assert SECRET not in json.dumps([plan.rank_environment(0), plan.rank_command()])
    for name, value in logins_environment(plan.config).items():
        monkeypatch.setenv(name, value)
    assert logins_of("default") == [f"me:{SECRET}"]
    assert logins_of("another") == []
    teachers = {"default": TeacherJob("t", "float32", plan.teachers["default"].endpoints)}
    job = TrainJob(
        run_dir="r", working_directory="/", attempt=1, student="s", teachers=teachers, device="cpu",
        world_size=1, student_dtype="float32", socket="x", scratch="y", checkpoint=None,
        parent_pid=1, gpus={},
    )  # fmt: skip
    job.save(tmp_path / "job.json")
    assert SECRET not in (tmp_path / "job.json").read_text()


def test_a_key_that_is_not_sent_beside_a_login_is_said(monkeypatch):
    monkeypatch.setenv(API_KEY, "sk-key")
    (found,) = login_checks(load(f"teacher.url={URL}"))
    assert found.name == "teacher login"
    assert found.level == "warn"
    assert f"teacher.url {MASKED} gets the user and password in it" in found.detail
    assert "sk-key" not in found.detail
    monkeypatch.delenv(API_KEY)
    assert login_checks(load(f"teacher.url={URL}")) == []


def test_a_configuration_without_logins_is_written_as_before():
    tree = yaml.safe_load(loading.to_yaml(load("teacher.url=http://a:1")))
    assert Config.model_validate(tree) == load("teacher.url=http://a:1")
    assert logins_environment(load("teacher.url=http://a:1")) == {}
