"""The files of a checkpoint (the engine's part is in the end-to-end test)."""

import hashlib
import json

from distillctl.train.checkpoint import _commit, _rotate, step_dir


def write(folder, step):
    partial = folder / f".tmp-{step_dir(step)}"
    (partial / "hf").mkdir(parents=True)
    (partial / "hf" / "weights").write_bytes(b"abc")
    _commit(partial, folder / step_dir(step), step, 1)


def test_commit_lists_every_file_with_its_hash_and_moves_the_pointer(tmp_path):
    write(tmp_path, 4)
    manifest = json.loads((tmp_path / "step_000004/manifest.json").read_text())
    assert manifest["files"] == {
        "hf/weights": {"sha256": hashlib.sha256(b"abc").hexdigest(), "size_bytes": 3}
    }
    assert json.loads((tmp_path / "latest.json").read_text()) == {"step": 4, "path": "step_000004"}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["latest.json", "step_000004"]


def test_the_same_step_can_be_committed_again(tmp_path):
    write(tmp_path, 4)
    write(tmp_path, 4)
    assert (tmp_path / "step_000004/manifest.json").exists()


def test_rotation_keeps_the_newest(tmp_path):
    for step in (1, 2, 30):
        write(tmp_path, step)
    _rotate(tmp_path, 2)
    assert sorted(p.name for p in tmp_path.glob("step_*")) == ["step_000002", "step_000030"]
