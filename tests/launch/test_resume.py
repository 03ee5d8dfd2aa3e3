"""Which runs may go on, and from which checkpoint."""

import pytest

from distillctl.config.loading import load_config, load_preset
from distillctl.errors import ConfigError
from distillctl.launch.resume import choose_checkpoint, open_run, write_config
from distillctl.run import checkpoints
from distillctl.run.directory import RunDir, write_status

PRESET = "tiny-from-small-arith"


@pytest.fixture
def run(tmp_path):
    found = RunDir(tmp_path / "run")
    found.path.mkdir()
    write_config(found, load_preset(PRESET))
    write_status(found.status_path, {"state": "stopped", "attempt": 1})
    return found


def save(run, step, world_size=1):
    partial = checkpoints.partial_dir(run.checkpoints, step)
    partial.mkdir(parents=True)
    (partial / "weights").write_bytes(b"abc")
    return checkpoints.commit(partial, step, world_size, checkpoints.seal(partial))


def test_a_run_goes_on_with_the_same_configuration(run):
    opened = open_run(load_preset(PRESET), PRESET, run.path, "auto", elastic=False)
    assert opened.path == run.path


@pytest.mark.parametrize("elastic", [False, True])
def test_another_configuration_is_refused_with_the_keys_that_differ(run, elastic):
    changed = load_preset(PRESET, ["optim.lr=0.5"])
    with pytest.raises(ConfigError, match=r"optim\.lr: .* -> 0\.5"):
        open_run(changed, PRESET, run.path, "auto", elastic=elastic)


def test_another_number_of_ranks_is_for_elastic_runs(run):
    changed = load_preset(PRESET, ["train.world_size=3"])
    with pytest.raises(ConfigError, match=r"train\.world_size: .* -> 3"):
        open_run(changed, PRESET, run.path, "auto", elastic=False)
    open_run(changed, PRESET, run.path, "auto", elastic=True)
    write_config(run, changed)
    assert load_config(run.config_path) == changed


def test_the_newest_checkpoint_is_chosen(run):
    save(run, 1)
    newest = save(run, 2)
    assert choose_checkpoint(run, "must", 1, elastic=False) == (newest, [])


def test_a_run_without_a_checkpoint_starts_anew_unless_it_must_not(run):
    assert choose_checkpoint(run, "auto", 1, elastic=False) == (None, [])
    with pytest.raises(ConfigError, match="no checkpoint to resume from"):
        choose_checkpoint(run, "must", 1, elastic=False)


@pytest.mark.parametrize("resume", ["auto", "must"])
def test_a_run_whose_checkpoints_are_all_damaged_does_not_silently_start_anew(run, resume):
    (save(run, 1) / "weights").write_bytes(b"abd")
    with pytest.raises(ConfigError, match=r"every checkpoint .* is damaged: .*SHA-256 differs"):
        choose_checkpoint(run, resume, 1, elastic=False)


def test_a_checkpoint_of_more_ranks_needs_the_flag(run):
    path = save(run, 1, world_size=2)
    with pytest.raises(ConfigError, match="written by 2 rank") as refused:
        choose_checkpoint(run, "auto", 1, elastic=False)
    assert "--elastic" in refused.value.hint
    assert choose_checkpoint(run, "auto", 1, elastic=True) == (path, [])
