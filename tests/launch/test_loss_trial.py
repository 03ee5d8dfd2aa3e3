"""`train` tries the function of loss.path before the start, in a process of its own."""

import json

import pytest

TINY = ["train", "--preset", "tiny-from-small-arith", "--dry-run", "--json", "train.device=cpu",
        "data.train_batch_size=4", "eval.every=0", "loss.path=mine.py"]  # fmt: skip


@pytest.fixture
def refused(tmp_path, monkeypatch, distillctl):
    """Runs `train --dry-run` with a file of the given source, which has to be refused: its message."""
    monkeypatch.chdir(tmp_path)
    assert distillctl("prep", "arith", "--limit", 10)[0] == 0

    def run(source):
        (tmp_path / "mine.py").write_text(source)
        code, out, _ = distillctl(*TINY)
        assert code == 2
        return json.loads(out)["error"]["message"]

    return run


def test_a_function_without_a_loss_is_refused_with_file_and_line(refused):
    message = refused("print('hello')\ndef loss(student_log_p, teacher_log_p):\n    return teacher_log_p\n")
    assert message.startswith("loss.path: mine.py:2: function loss returned the shape [7, 465]")


@pytest.mark.parametrize("code", [0, 3])
def test_a_function_that_ends_its_process_is_refused_with_what_it_said(refused, code):
    message = refused(f"import os\nprint('so long', flush=True)\nos._exit({code})\n")
    assert message == (
        f"loss.path: mine.py: the process that tried it ended with code {code}; its last lines:\n  so long"
    )
