"""Saving and loading the state of real DeepSpeed ranks on the tiny student, without an engine."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from distillctl.run import checkpoints

pytestmark = pytest.mark.engine

SCRIPT = Path(__file__).with_name("checkpoint_process.py")
DECAY = "optim.weight_decay=0.1"


def found_in(out, name):
    """What rank 0 found, and the tensors it saved."""
    return json.loads((out / f"{name}.json").read_text()), load_file(out / f"{name}.safetensors")


@pytest.fixture(scope="module")
def one(tmp_path_factory, run_ranks):
    """A checkpoint of one rank."""
    out = tmp_path_factory.mktemp("one")
    run_ranks(SCRIPT, out, "save")
    return out, *found_in(out, "save")


@pytest.fixture(scope="module")
def two(tmp_path_factory, run_ranks):
    """A checkpoint of two ranks, whose optimizer has the two groups that weight decay makes."""
    out = tmp_path_factory.mktemp("two")
    run_ranks(SCRIPT, out, "save", DECAY, world_size=2)
    return out, *found_in(out, "save")


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory, run_ranks):
    """Where two ranks left what they found after a step with a NaN on one, in every stage."""
    out = tmp_path_factory.mktemp("poisoned")
    run_ranks(SCRIPT, out, "nan", world_size=2)
    return out


def copy(out, tmp_path):
    return Path(shutil.copytree(out, tmp_path / "copy"))


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    for name in ours:
        assert torch.equal(ours[name], theirs[name]), name


def test_a_loaded_state_goes_on_bit_for_bit(one, tmp_path, run_ranks):
    out, saved, tensors = one
    here = copy(out, tmp_path)
    run_ranks(SCRIPT, here, "load", "again")
    found, loaded = found_in(here, "again")
    assert found["step"] == 1
    assert found["state"] == {"guards": {"step": 1}}
    assert_equal(loaded, tensors)
    assert found["after"] == saved["after"]
    assert found["after"]["actor/skipped_steps"] == 1
    assert found["digest"] == saved["digest"]


@pytest.mark.parametrize(
    ("fixture", "world_size", "overrides"),
    [("two", 1, [DECAY]), ("one", 2, [])],
    ids=["2 to 1", "1 to 2"],
)
def test_another_number_of_ranks_loads_the_same_weights_and_moments(
    request, tmp_path, run_ranks, fixture, world_size, overrides
):
    out, saved, tensors = request.getfixturevalue(fixture)
    here = copy(out, tmp_path)
    run_ranks(SCRIPT, here, "load", "elastic", *overrides, world_size=world_size)
    found, loaded = found_in(here, "elastic")
    assert_equal(loaded, tensors)
    assert found["state"] == {"guards": {"step": 1}}
    assert found["after"]["loss"] == pytest.approx(saved["after"]["loss"], rel=1e-5)
    assert found["after"]["actor/lr"] == saved["after"]["actor/lr"]
    assert sorted(p.name for p in (here / "checkpoints").iterdir()) == [
        "latest.json", "step_000001", "step_000002",
    ]  # fmt: skip
    assert checkpoints.read_manifest(here / "checkpoints/step_000002")["world_size"] == world_size


def test_every_file_of_every_rank_is_in_the_manifest(two):
    path = two[0] / "checkpoints/step_000001"
    files = checkpoints.read_manifest(path)["files"]
    on_disk = {str(p.relative_to(path)) for p in path.rglob("*") if p.is_file()}
    assert set(files) | {"manifest.json"} == on_disk
    assert sum("zero_pp_rank_1" in name for name in files) >= 1


def test_what_a_killed_save_wrote_is_known_and_swept(one, two, tmp_path):
    for step, out in enumerate((one[0], two[0]), start=1):
        shutil.copytree(out / "checkpoints/step_000001", checkpoints.partial_dir(tmp_path, step))
    checkpoints.sweep(tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_a_step_with_a_nan_on_one_rank_is_skipped_on_all_and_counted(poisoned, stage):
    found, weights = found_in(poisoned, f"nan_{stage}")
    assert found["skipped_steps"] == [0, 1, 1]
    assert found["kept"]
    assert found["lr"][1] == found["lr"][2] > found["lr"][0]  # the schedule waits for the skipped step
    assert all(tensor.isfinite().all() for tensor in weights.values())


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, run_ranks):
    """A file system of 48 MiB in memory; a checkpoint of the tiny student has about 14 MiB."""
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", tmp_path], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    try:
        run_ranks(SCRIPT, tmp_path, "fill")
        found = json.loads((tmp_path / "fill.json").read_text())
        folder = tmp_path / "checkpoints"
        assert "checkpoint of step 2 could not be written" in found["message"]
        assert str(folder) in found["message"]
        assert "make room" in found["hint"]
        checkpoints.sweep(folder)
        assert checkpoints.newest_good(folder) == (folder / "step_000001", [])
        assert checkpoints.steps(folder) == [1]
        assert checkpoints.latest(folder) == folder / "step_000001"
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_the_export_keeps_what_the_models_files_said(one):
    """Dropout is off while it trains, and generation_config.json is one that transformers refuses to save."""
    given, hf = one[0] / "student", one[0] / "checkpoints/step_000001/hf"
    ours, theirs = (json.loads((path / "config.json").read_text()) for path in (hf, given))
    assert ours == theirs
    assert ours["attention_dropout"] == 0.1
    assert (hf / "generation_config.json").read_bytes() == (given / "generation_config.json").read_bytes()


def test_the_export_loads_in_plain_transformers_as_it_was_saved(one):
    from transformers import AutoModelForCausalLM

    hf = one[0] / "checkpoints/step_000001/hf"
    model, info = AutoModelForCausalLM.from_pretrained(hf, output_loading_info=True)
    assert not any(info.values())
    assert (model.generation_config.temperature, model.generation_config.top_p) == (0.6, 0.9)
    for name, parameter in model.named_parameters():
        assert torch.equal(parameter, one[2][name]), name


def test_a_save_is_tried_before_the_first_step_and_leaves_only_what_was_there(one):
    written, named, *_ = one[1]["rehearsed"]["said"]
    assert written == named
    assert written[0] == ["save", "ok", "a checkpoint can be saved: 50 tensors, with the model's names"]
    assert written[1] == [
        "generation_config",
        "warn",
        "student's generation_config.json has temperature=0.6, top_p=0.9, which transformers refuses to "
        "save: it is kept as it is",
    ]
    assert one[1]["rehearsed"]["left"] == [".tmp-rehearsal", ".tmp-rehearsal/mine.txt"]


def test_a_tokenizer_that_cannot_be_saved_is_refused_before_the_first_step(one):
    message = one[1]["rehearsed"]["said"][2]
    assert message.startswith(f"student.model: a checkpoint of {one[0] / 'student'} could not be saved")
    assert message.endswith("NotImplementedError: this tokenizer has no save")


def test_a_file_that_transformers_cannot_read_is_no_fault_of_the_disk(one):
    message = one[1]["rehearsed"]["said"][3]
    assert message.startswith(f"student.model: a checkpoint of {one[0] / 'student'} could not be saved")
    assert message.endswith("OSError: the config file is not a valid JSON file")
