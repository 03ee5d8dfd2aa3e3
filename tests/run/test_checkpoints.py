"""The files of a checkpoint: what a kill at any moment, or a bad disk, leaves of them."""

import hashlib
import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest

from distillctl.files import atomic
from distillctl.run import checkpoints, unfinished
from distillctl.run.checkpoints import find_damage, latest, newest_good, partial_dir, rotate, step_dir, sweep

WEIGHTS, OPTIMIZER = "hf/model.safetensors", "state/zero_pp_rank_0_mp_rank_00_optim_states.pt"


def save(folder, step, *, keep=2, weights=b"abc", best=None):
    """What `train.checkpoint.save` does on one rank, with two small files in place of a model."""
    partial = partial_dir(folder, step)
    unfinished.make_way(partial)
    for name in (WEIGHTS, OPTIMIZER):
        (partial / name).parent.mkdir(parents=True, exist_ok=True)
        (partial / name).write_bytes(weights + str(step).encode())
    path = checkpoints.commit(partial, step, 1, checkpoints.seal(partial))
    rotate(folder, step, keep, best)
    return path


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_commit_lists_every_file_with_its_hash_and_moves_the_pointer(tmp_path):
    path = save(tmp_path, 4)
    manifest = json.loads((path / "manifest.json").read_text())
    expected = {"sha256": hashlib.sha256(b"abc4").hexdigest(), "size_bytes": 4}
    assert manifest["files"] == {WEIGHTS: expected, OPTIMIZER: expected}
    assert json.loads((tmp_path / "latest.json").read_text()) == {"step": 4, "path": "step_000004"}
    assert names(tmp_path) == ["latest.json", "step_000004"]


def test_shares_of_the_ranks_make_up_the_whole(tmp_path):
    for index in range(5):
        (tmp_path / f"file_{index}").write_text(str(index))
    shares = [checkpoints.seal(tmp_path, rank, 3) for rank in range(3)]
    assert all(shares)
    assert checkpoints.merge(shares) == checkpoints.seal(tmp_path)


def test_the_same_step_can_be_committed_again(tmp_path):
    save(tmp_path, 4)
    path = save(tmp_path, 4, weights=b"other")
    assert (path / WEIGHTS).read_bytes() == b"other4"
    assert names(tmp_path) == ["latest.json", "step_000004"]


def test_rotation_keeps_the_newest(tmp_path):
    for step in (1, 2, 30):
        save(tmp_path, step)
    assert checkpoints.steps(tmp_path) == [2, 30]


def test_rotation_keeps_the_best_too_until_a_better_one_comes(tmp_path):
    assert checkpoints.best(tmp_path) is None
    for step in (1, 2, 3, 4):
        save(tmp_path, step, best=2)
        if step == 2:
            checkpoints.mark_best(tmp_path, 2, 0.5)
    assert checkpoints.steps(tmp_path) == [2, 3, 4]
    assert checkpoints.best(tmp_path) == tmp_path / "step_000002"
    save(tmp_path, 5, best=5)
    checkpoints.mark_best(tmp_path, 5, 0.75)
    assert checkpoints.steps(tmp_path) == [4, 5]
    assert json.loads((tmp_path / "best.json").read_text()) == {
        "step": 5,
        "path": "step_000005",
        "val/acc": 0.75,
    }


def test_rotation_never_drops_the_checkpoint_just_written(tmp_path):
    """After a fall back to step 10 there may be a damaged step 20, which must not count as the newest."""
    save(tmp_path, 10)
    (save(tmp_path, 20) / WEIGHTS).write_bytes(b"damaged")
    save(tmp_path, 11, keep=1)
    assert checkpoints.steps(tmp_path) == [11, 20]
    assert newest_good(tmp_path)[0] == tmp_path / "step_000011"


FOREIGN = {
    "my_notes": lambda path: path.write_text("precious"),
    "hf/my_notes": lambda path: path.write_text("precious"),
    "my/folder/notes": lambda path: (path.parent.mkdir(parents=True), path.write_text("precious")),
    "state/link": lambda path: path.symlink_to("/precious"),
    "hf/folder": lambda path: path.symlink_to("/", target_is_directory=True),
    "pipe": os.mkfifo,
    "my_empty_folder": Path.mkdir,
}  # fmt: skip


@pytest.mark.parametrize("name", FOREIGN)
def test_what_somebody_put_into_a_checkpoint_outlives_it(tmp_path, name):
    """It stays where it is, and the rest is no checkpoint any more."""
    FOREIGN[name](save(tmp_path, 1) / name)
    for step in (2, 3, 4):
        save(tmp_path, step)
    left = {str(p.relative_to(tmp_path / "step_000001")) for p in (tmp_path / "step_000001").rglob("*")}
    assert left == {str(part) for part in (Path(name), *Path(name).parents)} - {"."}
    assert checkpoints.steps(tmp_path) == [3, 4] if not name.startswith(("hf", "state")) else [1, 3, 4]
    sweep(tmp_path)
    assert names(tmp_path) == ["latest.json", "step_000001", "step_000003", "step_000004"]


def test_what_somebody_put_into_a_checkpoint_outlives_another_of_the_same_step(tmp_path):
    (save(tmp_path, 1) / "my_notes").write_text("precious")
    save(tmp_path, 1, weights=b"other")
    assert find_damage(tmp_path / "step_000001") == ""
    assert names(tmp_path) == ["latest.json", "step_000001", "step_000001.kept_1"]
    assert names(tmp_path / "step_000001.kept_1") == ["my_notes"]
    assert (tmp_path / "step_000001.kept_1" / "my_notes").read_text() == "precious"


def test_a_checkpoint_without_a_manifest_is_not_dropped(tmp_path):
    """Nothing says which of its files are the run's."""
    (save(tmp_path, 1) / "manifest.json").write_text("")
    for step in (2, 3, 4):
        save(tmp_path, step)
    assert checkpoints.steps(tmp_path) == [1, 3, 4]
    assert (tmp_path / "step_000001" / WEIGHTS).read_bytes() == b"abc1"
    save(tmp_path, 1, weights=b"other")
    assert (tmp_path / "step_000001.kept_1" / WEIGHTS).read_bytes() == b"abc1"
    assert find_damage(tmp_path / "step_000001") == ""


def test_a_manifest_that_lists_files_outside_removes_none(tmp_path):
    (tmp_path / "precious").write_text("precious")
    path = save(tmp_path, 1)
    manifest = json.loads((path / "manifest.json").read_text())
    entry = {"sha256": "", "size_bytes": 8}
    manifest["files"] |= {"../precious": entry, str(tmp_path / "precious"): entry}
    (path / "manifest.json").write_text(json.dumps(manifest))
    for step in (2, 3):
        save(tmp_path, step)
    assert names(tmp_path) == ["latest.json", "precious", "step_000001", "step_000002", "step_000003"]


def test_only_what_is_named_and_made_like_ours_is_swept(tmp_path):
    ours = [".tmp-step_000123", ".tmp-universal", ".tmp-rehearsal"]
    for name in (*ours, ".tmp-mine", ".tmp-step_12", ".tmp-step_000123.old"):
        (tmp_path / name / "z").mkdir(parents=True)
    for name in ours:
        (tmp_path / name / "z").rmdir()
    partial = ".distillctl-0123456789abcdef.tmp"
    files = [
        ".notes.tmp",
        ".latest.json.12.tmp",
        ".distillctl-notes.tmp",
        "x.distillctl-0123456789abcdef.tmp",
    ]
    for name in [partial, *files]:
        (tmp_path / name).touch()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    links = [".tmp-step_000124", ".distillctl-0123456789abcdee.tmp"]
    for name in links:
        (tmp_path / name).symlink_to(elsewhere)
    sweep(tmp_path)
    kept = [".tmp-mine", ".tmp-step_12", ".tmp-step_000123.old", "elsewhere", *files, *links]
    assert names(tmp_path) == sorted(kept)


MODEL = ["config.json", "generation_config.json", "model-00001-of-00002.safetensors",
         "model.safetensors.index.json", "tokenizer.json", "tokenizer_config.json", "chat_template.jinja",
         "additional_chat_templates/tools.jinja", "tokenizer.model"]  # fmt: skip
STATES = ["mp_rank_00_model_states.pt", "zero_pp_rank_1_mp_rank_00_model_states.pt",
          "bf16_zero_pp_rank_11_mp_rank_00_optim_states.pt"]  # fmt: skip
ZERO = "universal/zero/model.layers.0.mlp.up_proj.weight/"
UNFINISHED = {
    ".tmp-step_000009": [*(f"hf/{name}" for name in MODEL), *(f"state/{name}" for name in STATES),
                         "zero_to_fp32.py", "manifest.json", ".distillctl-0123456789abcdef.tmp"],
    ".tmp-rehearsal": [f"hf-abc_1234/{name}" for name in MODEL],
    ".tmp-universal": ["latest_universal", f"universal/{STATES[1]}", f"{ZERO}exp_avg_sq.pt",
                       "universal/zero/optimizer_state.pt", "universal/tmp/lm_head.weight/0/fp32.01"],
}  # fmt: skip
MINE = ["mine.txt", "hf/mine.txt", "hf/mine.json", "state/mine.pt", "hf-abc_1234/mine.safetensors",
        "universal/zero/mine.pt", "mine/config.json", "hf-mine/config.json", "config.json.bak"]  # fmt: skip


def fill(folder, files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(file)


def files_in(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", UNFINISHED)
def test_a_sweep_takes_all_that_is_written_in_a_folder_and_nothing_else(tmp_path, name):
    fill(tmp_path / name, UNFINISHED[name])
    sweep(tmp_path)
    assert names(tmp_path) == []
    fill(tmp_path / name, [*UNFINISHED[name], *MINE])
    (tmp_path / name / "hf").rename(tmp_path / "elsewhere")
    (tmp_path / name / "hf").symlink_to(tmp_path / "elsewhere")
    (tmp_path / name / "empty").mkdir()
    elsewhere = files_in(tmp_path / "elsewhere")
    sweep(tmp_path)
    assert files_in(tmp_path / name) == {file for file in MINE if not file.startswith("hf/")}
    assert files_in(tmp_path / "elsewhere") == elsewhere
    assert (tmp_path / name / "empty").is_dir()


def test_what_somebody_keeps_where_a_checkpoint_is_put_together_moves_aside(tmp_path, capsys):
    for number in (1, 2):
        fill(tmp_path / ".tmp-step_000009", ["mine.txt", "hf/config.json"])
        save(tmp_path, 9)
        assert find_damage(tmp_path / "step_000009") == ""
        assert files_in(tmp_path / "step_000009") == {WEIGHTS, OPTIMIZER, "manifest.json"}
        assert files_in(tmp_path / f".tmp-step_000009.kept_{number}") == {"mine.txt"}
        said = capsys.readouterr().err
        assert said.endswith(
            f"files that are not distillctl's, so it was renamed to .tmp-step_000009.kept_{number}\n"
        )


def test_no_write_replaces_a_temporary_file_or_goes_through_a_link(tmp_path, monkeypatch):
    (tmp_path / "target").write_text("precious")
    (tmp_path / ".distillctl-0123456789abcdef.tmp").symlink_to("target")
    monkeypatch.setattr(atomic.secrets, "token_hex", lambda num_bytes: "0123456789abcdef")
    with pytest.raises(FileExistsError):
        atomic.write_text(tmp_path / "latest.json", "{}")
    assert (tmp_path / "target").read_text() == "precious"
    assert (tmp_path / ".distillctl-0123456789abcdef.tmp").is_symlink()


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    atomic.write_text(tmp_path / "file", "old")

    def write_half():
        with atomic.replacing(tmp_path / "file") as file:
            file.write(b"new")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()
    assert names(tmp_path) == ["file"]
    assert (tmp_path / "file").read_text() == "old"
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask():
    old = os.umask(0)
    os.umask(old)
    return old


DAMAGES = {
    "truncated": (lambda path: (path / OPTIMIZER).write_bytes(b"abc"), "3 bytes instead of 5"),
    "flipped bit": (lambda path: (path / OPTIMIZER).write_bytes(b"abb20"), "SHA-256 differs"),
    "missing file": (lambda path: (path / OPTIMIZER).unlink(), f"{OPTIMIZER} is missing"),
    "no manifest": (lambda path: (path / "manifest.json").unlink(), "manifest.json cannot be used"),
    "empty manifest": (lambda path: (path / "manifest.json").write_text(""), "manifest.json cannot be used"),
    "torn manifest": (lambda path: (path / "manifest.json").write_text('{"format": 1'), "cannot be used"),
    "manifest of another kind": (lambda path: (path / "manifest.json").write_text("[1]"), "cannot be used"),
    "other format": (lambda path: (path / "manifest.json").write_text('{"format": 99}'), "has format 99"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_taken(tmp_path, damage):
    save(tmp_path, 10)
    path = save(tmp_path, 20)
    harm, message = DAMAGES[damage]
    harm(path)
    good, problems = newest_good(tmp_path)
    assert good == tmp_path / "step_000010"
    assert len(problems) == 1
    assert problems[0].startswith(f"{path}: ")
    assert message in problems[0]


def test_undamaged_checkpoints_have_no_problems(tmp_path):
    path = save(tmp_path, 20)
    assert find_damage(path) == ""
    assert newest_good(tmp_path) == (path, [])


@pytest.mark.parametrize("pointer", ["", "[]", '{"path": 4}', '{"path": "step_000009"}', '{"path": "../x"}'])
def test_a_lost_pointer_does_not_lose_the_checkpoint(tmp_path, pointer):
    path = save(tmp_path, 20)
    (tmp_path / "latest.json").write_text(pointer)
    assert newest_good(tmp_path) == (path, [])
    assert latest(tmp_path) == path


def test_there_is_nothing_without_a_folder(tmp_path):
    assert newest_good(tmp_path / "none") == (None, [])
    assert latest(tmp_path / "none") is None
    sweep(tmp_path / "none")


_OPERATIONS = ("rename", "replace", "unlink", "rmdir", "fsync", "mkdir", "open")


def save_and_die(folder, step, at):
    """Save, and SIGKILL this process right before its `at`-th operation on the file system."""
    seen = 0

    def deadly(operation):
        def run(*arguments, **options):
            nonlocal seen
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)
            return operation(*arguments, **options)

        return run

    for name in _OPERATIONS:
        setattr(os, name, deadly(getattr(os, name)))
    save(folder, step, weights=b"new")
    os._exit(0)


@pytest.mark.parametrize("again", [False, True], ids=["next step", "same step"])
def test_a_kill_at_any_moment_leaves_a_good_checkpoint(tmp_path, again):
    """Every operation of a save in turn is the last: the next start finds the old or the new checkpoint."""
    fork = multiprocessing.get_context("fork")
    found = set()
    for at in range(1, 200):
        folder = tmp_path / str(at)
        folder.mkdir()
        save(folder, 10)
        step = 10 if again else 20
        process = fork.Process(target=save_and_die, args=(folder, step, at))
        process.start()
        process.join()
        assert process.exitcode in (0, -signal.SIGKILL)
        sweep(folder)
        good, problems = newest_good(folder)
        assert problems == []
        assert set(names(folder)) <= {"latest.json", "step_000010", "step_000020"}
        found.add((good.name, (good / WEIGHTS).read_bytes()[:3]))
        save(folder, 30)  # and goes on from there
        assert newest_good(folder)[0] == folder / step_dir(30)
        if process.exitcode == 0:
            break
    else:
        pytest.fail("a save has more operations than were tried")
    assert at > 15
    assert found == {("step_000010", b"abc"), (step_dir(step), b"new")}
