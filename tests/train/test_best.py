"""Which checkpoint is the best one: a run's steps without models, with given metrics and accuracies."""

import json
from types import SimpleNamespace

import pytest

from distillctl.config.guards import GuardsConfig
from distillctl.run import checkpoints
from distillctl.train import checkpoint, worker
from distillctl.train.reporter import Reporter

METRICS = {"actor/skipped_steps": 0.0, "actor/entropy": 1.0, "response_length/mean": 10.0, "kl/reverse": 1.0}
COLLAPSED = METRICS | {"actor/entropy": 1e-9}


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Trains one step for each of `accs`, which an evaluation gives after it, and keeps one checkpoint of
    every `every` steps besides the best; in the steps `collapsed` a guard is violated. Returns the folder."""

    def export(folder, student, tokenizer, state, distributed):
        folder.mkdir()
        (folder / "model.safetensors").write_bytes(b"weights")

    monkeypatch.setattr(checkpoint, "export", export)
    monkeypatch.setattr(checkpoint, "gathered_state", lambda student, distributed: {})
    monkeypatch.setattr(worker, "Usage", lambda *_: SimpleNamespace(metrics=lambda *_: {}))
    student = SimpleNamespace(deepspeed=SimpleNamespace(save_checkpoint=lambda folder, **_: None))

    def run(accs, collapsed=(), *, every=1):
        config = SimpleNamespace(
            checkpoint=SimpleNamespace(best=True, keep=1, every=every), eval=SimpleNamespace(every=1),
            guards=GuardsConfig(), samples=SimpleNamespace(every=100),
            student=SimpleNamespace(model=""), teacher=SimpleNamespace(model=""),
        )  # fmt: skip
        distributed = SimpleNamespace(
            is_main=True, rank=0, world_size=1, barrier=lambda: None, gather=lambda one: [one],
            sum=lambda one: one, share_flag=bool,
        )  # fmt: skip

        def train_step(step, with_details):
            return SimpleNamespace(metrics=dict(COLLAPSED if step in collapsed else METRICS))

        trainer = SimpleNamespace(
            config=config, distributed=distributed, student=student, engine=None, tokenizer=None,
            train_step=train_step, num_steps=len(accs), num_done=0, saved=None, should_stop=lambda: False,
        )  # fmt: skip
        validation = SimpleNamespace(
            run=lambda step, folder: {"metrics": {"val/acc": accs[step - 1] if step else 0.0}}
        )
        monkeypatch.setattr(worker, "Validation", lambda trainer: validation)
        job = SimpleNamespace(run_dir=tmp_path, device="cpu", gpus={}, run_name="", attempt=1, parent_pid=1)
        stop = SimpleNamespace(listen=lambda: None, signal=0)
        training = worker.TrainingRun(job, trainer, Reporter(None), stop)
        training._report = lambda *_: None
        training.train()
        return training.run.checkpoints

    return run


def best_of(folder):
    """Step and accuracy of `RUN@best`, which is there."""
    path = checkpoints.best(folder)
    assert path is not None
    assert checkpoints.find_damage(path) == ""
    marked = json.loads((folder / "best.json").read_text())
    assert path.name == checkpoints.step_dir(marked["step"])
    return marked["step"], marked["val/acc"]


def test_a_better_one_that_a_guard_keeps_from_being_saved_leaves_the_old_one(train) -> None:
    folder = train([0.5, 0.6, 0.4, 0.4, 0.4], collapsed=[2])
    assert best_of(folder) == (1, 0.5)
    assert checkpoints.steps(folder) == [1, 5]


def test_what_beats_the_saved_best_becomes_it_although_an_unsaved_one_was_better(
    train,
) -> None:
    folder = train([0.5, 0.6, 0.55, 0.4], collapsed=[2], every=0)
    assert best_of(folder) == (3, 0.55)
    assert checkpoints.steps(folder) == [3, 4]


def test_without_guards_the_best_is_the_first_of_the_highest(train) -> None:
    assert best_of(train([0.5, 0.7, 0.7, 0.6], every=0)) == (2, 0.7)


def test_a_loaded_state_marks_its_best_anew_and_forgets_one_that_is_gone(train) -> None:
    """Killed after the save of step 2 and before its mark: `best.json` still names step 1."""
    folder = train([0.5, 0.7, 0.6], every=0)
    checkpoints.mark_best(folder, 1, 0.5)
    main = SimpleNamespace(is_main=True)
    assert checkpoint.kept_best(folder, [2, 0.7], main) == checkpoint.Best(2, 0.7)
    assert best_of(folder) == (2, 0.7)
    assert checkpoint.kept_best(folder, [1, 0.5], main) is None
    assert checkpoint.kept_best(folder, None, main) is None
    assert best_of(folder) == (2, 0.7)
