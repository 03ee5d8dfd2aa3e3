"""Kept answers: what is trusted, who waits for whom, what is dropped. No engine answers here."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.errors import ConfigError
from distillctl.evaluate import cache as module
from distillctl.evaluate import responses as responses_module
from distillctl.evaluate.cache import open_cache
from distillctl.evaluate.model_hash import model_hash
from distillctl.evaluate.questions import row_of
from distillctl.evaluate.responses import Task, cache_key, responses

WORK = Task(1, 0.0, "cpu")


@pytest.fixture
def engine(monkeypatch, made_up):
    """Stands for an engine; how many prompts it was asked at each start."""
    asked = []

    def generate(questions, work, missing, keeper):
        asked.append(len(missing))
        for part in (missing[:5], missing[5:]):
            keeper.keep(made_up(part), 1.0)
        return made_up(missing), 2.0

    monkeypatch.setattr(responses_module, "_generate", generate)
    return asked


@pytest.fixture
def kept(asked, cache, engine, made_up):
    """The folder of an evaluation that is done."""
    found, seconds = responses(asked, WORK, cache)
    assert (found, seconds) == (made_up(asked.prompts), 2.0)
    (folder,) = [path for path in cache.root.iterdir() if path.is_dir()]
    return folder


def test_answers_are_kept_for_this_user_alone(cache, kept):
    paths = [cache.root, cache.memory, kept, *kept.iterdir(), *cache.memory.iterdir()]
    assert all(path.stat().st_mode & 0o077 == 0 for path in paths)
    assert {path.name for path in kept.iterdir()} == {
        ".lock", "index.json", "part_000000.parquet", "part_000001.parquet",
    }  # fmt: skip


def rewrite(folder, change, name="part_000000.parquet"):
    """A part with other rows, and nothing else about it changed."""
    table = pq.read_table(folder / name)
    pq.write_table(pa.Table.from_pylist(change(table.to_pylist()), table.schema), folder / name)


def index(folder, change):
    tree = json.loads((folder / "index.json").read_text())
    change(tree)
    (folder / "index.json").write_text(json.dumps(tree))


DAMAGE = {
    "an edited answer": lambda f: rewrite(f, lambda rows: [{**row, "text": "#### 1"} for row in rows]),
    "an answer there twice": lambda f: rewrite(f, lambda rows: [*rows, rows[0]]),
    "a torn part": lambda f: os.truncate(f / "part_000001.parquet", 300),
    "an empty part": lambda f: os.truncate(f / "part_000000.parquet", 0),
    "a part that is gone": lambda f: (f / "part_000000.parquet").unlink(),
    "another schema": lambda f: pq.write_table(pa.table({"a": [1]}), f / "part_000000.parquet"),
    "a part that is a link": lambda f: (
        (f / "part_000000.parquet").rename(f / "x"),
        (f / "part_000000.parquet").symlink_to("x"),
    ),
    "no index": lambda f: (f / "index.json").unlink(),
    "an index that is torn": lambda f: os.truncate(f / "index.json", 40),
    "an index that is a list": lambda f: (f / "index.json").write_text("[]"),
    "an index of another key": lambda f: index(f, lambda tree: tree["content"].update(key={})),
    "an edited fact": lambda f: index(f, lambda tree: tree["content"]["facts"].update(kl=0.0)),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_what_is_damaged_is_asked_again_and_that_is_said(case, asked, cache, kept, engine, made_up, capsys):
    DAMAGE[case](kept)
    found, seconds = responses(asked, WORK, cache)
    assert (found, seconds) == (made_up(asked.prompts), 2.0)
    assert engine == [12, 12]
    assert "are not used: " in capsys.readouterr().err
    assert responses(asked, WORK, cache)[0] == found
    assert engine == [12, 12]


def test_a_part_that_the_index_does_not_list_is_not_read(asked, cache, kept, engine, made_up):
    (kept / "part_000002.parquet").write_bytes((kept / "part_000000.parquet").read_bytes())
    assert responses(asked, WORK, cache)[0] == made_up(asked.prompts)
    assert engine == [12]
    assert not (kept / "part_000002.parquet").exists()


def test_answers_of_a_killed_evaluation_are_gone_on_with(asked, cache, engine, made_up):
    with cache.entry(cache_key(asked, WORK, cache)) as entry:
        entry.append(made_up(asked.prompts[:7]), 3.0)
    found, seconds = responses(asked, WORK, cache)
    assert (found, seconds) == (made_up(asked.prompts), 5.0)
    assert engine == [5]


def test_answers_to_other_prompts_are_not_used(asked, cache, engine, made_up, capsys):
    """A key is only a hash: what is in the folder is compared with what is asked."""
    wrong = made_up(asked.prompts[1:])
    with cache.entry(cache_key(asked, WORK, cache)) as entry:
        entry.append([replace(wrong[0], row=row_of(asked.prompts[0]))], 1)
    assert responses(asked, WORK, cache)[0] == made_up(asked.prompts)
    assert "responses to other prompts" in capsys.readouterr().err


def test_a_folder_of_somebody_else_is_not_used(asked, cache, kept, engine, capsys):
    kept.chmod(0o777)
    responses(asked, WORK, cache)
    assert engine == [12, 12]
    assert "only this user can write" in capsys.readouterr().err


def test_facts_stay_with_the_answers(asked, cache, kept):
    prompts = {row_of(prompt): prompt.token_ids for prompt in asked.prompts}
    for name, value in (("x", [0.5]), ("y", [0.25])):
        with cache.entry(cache_key(asked, WORK, cache)) as entry:
            entry.load(prompts, 1)
            entry.note(name, value)
    with cache.entry(cache_key(asked, WORK, cache)) as entry:
        assert len(entry.load(prompts, 1)[0]) == 12
        assert (entry.fact("x"), entry.fact("y"), entry.fact("z")) == ([0.5], [0.25], None)


# --- locks -----------------------------------------------------------------------------------------

HOLDER = """
import sys, time
from pathlib import Path
from distillctl.evaluate.cache_lock import hold
with hold(Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(60)
"""


@contextmanager
def held(folder):
    """Another process holds the folder's lock."""
    command = [sys.executable, "-c", HOLDER, str(folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_second_evaluation_waits_until_the_first_one_is_dead(asked, cache, kept, engine, capsys):
    with held(kept) as first:
        start = time.monotonic()
        threading.Timer(1.0, first.kill).start()
        assert len(responses(asked, WORK, cache)[0]) == 12
        assert time.monotonic() - start > 0.9
    assert f"waiting for process {first.pid}" in capsys.readouterr().err
    assert engine == [12]


def test_whoever_waited_for_a_folder_that_was_dropped_holds_the_new_one(kept):
    """Else a third one could hold the new folder's lock at the same time."""
    seen = []

    def wait():
        with module.hold(kept):
            seen.append(module.try_hold(kept))

    with module.hold(kept):
        waiting = threading.Thread(target=wait)
        waiting.start()
        time.sleep(0.3)  # it has opened the lock by then
        kept.rename(kept.with_name("dropped"))
    waiting.join()
    assert seen == [None]
    assert [path.name for path in kept.iterdir()] == [".lock"]


# --- size ------------------------------------------------------------------------------------------


def folder_of(cache, number, size, used):
    """Kept answers, with a part of that size."""
    with cache.entry({"number": number}) as entry:
        entry.note("kl", 0.5)
        (entry.folder / "part_000000.parquet").write_bytes(
            b"x" * (size - (entry.folder / "index.json").stat().st_size)
        )
    os.utime(entry.folder / ".lock", (used, used))
    return entry.folder


def foreign_folders(root):
    """Makes folders called like ours, with files that are called alike or even the same."""
    content = {"format": 1, "key": {"number": 2}, "parts": {}, "facts": {}}
    of_another = json.dumps({"sha256": module._digest(content), "content": content})
    held = {
        "an index": {".lock": "", "index.json": "mine", "part_000000.parquet": "x" * 900},
        "an index that is JSON": {".lock": "12\n", "index.json": "{}", "part_000000.parquet": "x" * 900},
        "the index of another": {".lock": "12\n", "index.json": of_another, "part_000000.parquet": "x" * 900},
        "other parts": {".lock": "12\n", "part_0001.parquet": "x" * 900, ".a.tmp": "mine"},
        "an empty lock": {".lock": "", "part_000000.parquet": "x" * 900},
        "a note": {".lock": "12\n", "part_000000.parquet": "x" * 900, "keep.txt": "mine"},
    }
    for name, files in held.items():
        folder = root / hashlib.md5(name.encode()).hexdigest()
        folder.mkdir(mode=0o700)
        for file, text in files.items():
            (folder / file).write_text(text)
            (folder / file).chmod(0o600)


def below(root):
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_folder_that_is_not_ours_loses_nothing_and_costs_none_of_ours(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 2500)
    module.make_private(cache.root)
    foreign_folders(cache.root)
    outside = folder_of(cache, 9, 1000, 5)
    outside.rename(tmp_path / outside.name)
    outside.symlink_to(tmp_path / outside.name)
    before = below(cache.root)
    folders = [folder_of(cache, number, 1000, 10 * number) for number in range(4)]
    killed = cache.root / ("e" * 32)
    with module.hold(killed):
        (killed / "part_000000.parquet").write_bytes(b"x" * 1000)
    os.utime(killed / ".lock", (25, 25))
    cache.trim()
    assert [folder.exists() for folder in (*folders, killed)] == [False, False, False, True, True]
    after = below(cache.root)
    assert before.items() <= after.items()
    assert len(list((tmp_path / outside.name).iterdir())) == 3


NOT_OURS = [".notes.tmp", ".vimrc.tmp", "part_mine.parquet", "part_0001.parquet", "part_000009.parquet.bak"]


@pytest.mark.parametrize("is_damaged", [False, True])
def test_files_called_alike_stay_beside_kept_answers(asked, cache, kept, engine, is_damaged):
    for name in NOT_OURS:
        (kept / name).write_text("mine")
    (kept / "part_000009.parquet").mkdir()
    (kept / "part_000007.parquet").symlink_to("part_mine.parquet")
    if is_damaged:
        os.truncate(kept / "part_000000.parquet", 0)
    responses(asked, WORK, cache)
    assert engine == [12, 12][: 1 + is_damaged]
    assert [(kept / name).read_text() for name in NOT_OURS] == ["mine"] * len(NOT_OURS)
    assert (kept / "part_000009.parquet").is_dir()
    assert (kept / "part_000007.parquet").is_symlink()


def test_the_least_recently_used_answers_are_dropped(cache, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 2500)
    cache.root.mkdir()
    folders = [folder_of(cache, n, 1000, used) for n, used in enumerate((300, 100, 400, 200))]
    others = [cache.root / "notes", cache.root / ("f" * 32)]
    for other in others:
        other.mkdir()
        (other / "big").write_bytes(b"x" * 9000)
    (cache.root / ("e" * 32)).write_bytes(b"x" * 9000)
    with held(folders[1]):
        os.utime(folders[1] / ".lock", (100, 100))
        cache.trim()
    assert [folder.exists() for folder in folders] == [False, True, True, False]
    assert all((other / "big").exists() for other in others)


def test_answers_to_real_questions_are_known_for_ours_and_dropped(cache, kept, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 0)
    cache.trim()
    assert not kept.exists()


def test_an_evaluation_does_not_drop_its_own_answers(asked, cache, engine, made_up, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 10)
    for _ in range(2):
        assert responses(asked, WORK, cache)[0] == made_up(asked.prompts)
    assert engine == [12]


def test_a_file_that_is_not_ours_stays(cache, monkeypatch):
    monkeypatch.setattr(module, "MAX_BYTES", 0)
    cache.root.mkdir()
    folder = folder_of(cache, 1, 1000, 100)
    (folder / "thesis.tex").write_text("x")
    cache.trim()
    assert [path.name for path in folder.iterdir()] == ["thesis.tex"]


# --- where -----------------------------------------------------------------------------------------


def test_the_folder_is_the_users_cache_or_the_one_that_is_named(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    user = tmp_path / "xdg/distillctl/eval"
    assert vars(open_cache(None)) == {"root": user, "memory": user}
    assert vars(open_cache(tmp_path / "c")) == {"root": tmp_path / "c", "memory": user}
    assert vars(open_cache(None, keep=False)) == {"root": None, "memory": None}
    for name in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", name)
        assert open_cache(None).root == tmp_path / "home/.cache/distillctl/eval"
    monkeypatch.setenv("HOME", "relative")
    assert open_cache(None).root is None
    (tmp_path / "f").touch()
    with pytest.raises(ConfigError, match=r"--cache-dir .*f: is not a directory"):
        open_cache(tmp_path / "f")
    assert not (tmp_path / "xdg").exists()


def test_tests_have_a_cache_of_their_own():
    assert "pytest" in str(open_cache(None).root)


# --- models ----------------------------------------------------------------------------------------


@pytest.fixture
def model(tmp_path):
    folder = tmp_path / "m"
    folder.mkdir()
    for name in ("model.safetensors", "config.json", "chat_template.jinja", "tokenizer.model", "merges.txt"):
        (folder / name).write_text(name)
    (folder / "notes.md").write_text("of no account")
    return folder


@pytest.mark.parametrize("memory", [True, False])
def test_a_model_is_known_by_its_bytes(model, tmp_path, memory):
    remembered = tmp_path / "user" if memory else None
    first = model_hash(model, remembered)
    (model / "notes.md").write_text("changed")
    assert model_hash(model, remembered) == first
    for path in model.iterdir():
        if path.name != "notes.md":
            old = path.read_text()
            path.write_text(old.upper())
            assert model_hash(model, remembered) != first, path
            path.write_text(old)
            assert model_hash(model, remembered) == first
    (model / "model.safetensors").rename(model / "other.safetensors")
    assert model_hash(model, remembered) != first


def settled(monkeypatch):
    """Files count as unchanged at once, not after two seconds."""
    monkeypatch.setattr("distillctl.evaluate.model_hash._SETTLED_NS", -1)


def test_a_file_with_the_name_of_another_hash_is_read(model, tmp_path):
    """The hub's cache names files by their hash; anybody can name a file so."""
    first = model_hash(model, tmp_path / "user")
    (model / "model.safetensors").unlink()
    blob = tmp_path / ("a" * 64)
    blob.write_text("other weights")
    (model / "model.safetensors").symlink_to(blob)
    second = model_hash(model, tmp_path / "user")
    blob.write_text("still others!")
    assert len({first, second, model_hash(model, tmp_path / "user")}) == 3


def test_a_change_with_the_old_size_and_time_is_seen(model, tmp_path, monkeypatch):
    settled(monkeypatch)
    first = model_hash(model, tmp_path / "user")
    weights = model / "model.safetensors"
    before = weights.stat()
    weights.write_text("MODEL.SAFETENSORS")
    os.utime(weights, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert weights.stat().st_size == before.st_size
    assert model_hash(model, tmp_path / "user") != first


def test_a_remembered_hash_is_not_computed_again(model, tmp_path, monkeypatch):
    settled(monkeypatch)
    first = model_hash(model, tmp_path / "user")
    monkeypatch.setattr("hashlib.file_digest", lambda *_: pytest.fail("a file was read"))
    assert model_hash(model, tmp_path / "user") == first


def test_hashes_that_others_can_write_are_not_believed(model, tmp_path, monkeypatch):
    settled(monkeypatch)
    first = model_hash(model, tmp_path / "user")
    file = tmp_path / "user" / "hashes.json"
    edited = {path: [*entry[:-1], "0" * 64] for path, entry in json.loads(file.read_text()).items()}
    file.write_text(json.dumps(edited))
    assert model_hash(model, tmp_path / "user") != first  # it is the user's own, so it is believed
    file.chmod(0o666)
    assert model_hash(model, tmp_path / "user") == first
    file.write_text("[")
    assert model_hash(model, tmp_path / "user") == first


def test_hashes_of_two_processes_at_once_are_all_kept(tmp_path, monkeypatch):
    code = (
        "import sys; from pathlib import Path; from distillctl.evaluate import model_hash as m\n"
        "m._SETTLED_NS = -1\n"
        "for folder in sys.argv[2:]: m.model_hash(Path(folder), Path(sys.argv[1]))"
    )
    folders = [tmp_path / f"m{n}" for n in range(20)]
    for folder in folders:
        folder.mkdir()
        (folder / "config.json").write_text(folder.name)
    halves = [folders[:10], folders[10:]]
    command = [sys.executable, "-c", code, str(tmp_path / "user")]
    processes = [subprocess.Popen([*command, *map(str, half)]) for half in halves]
    assert [process.wait() for process in processes] == [0, 0]
    assert len(json.loads((tmp_path / "user" / "hashes.json").read_text())) == 20
