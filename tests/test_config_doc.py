"""docs/config.md is what the schema says."""

from pathlib import Path

import pytest

from distillctl.config.loading import all_keys, preset_names
from distillctl.config.markdown import config_markdown

PAGE = Path(__file__).parent.parent / "docs" / "config.md"


def test_the_page_is_up_to_date():
    current = PAGE.is_file() and PAGE.read_text() == config_markdown()
    assert current, "run: python -m distillctl.config.markdown > docs/config.md"


@pytest.mark.parametrize("key", all_keys())
def test_every_key_has_one_row_with_type_default_and_meaning(key):
    (row,) = [line for line in config_markdown().splitlines() if line.startswith(f"| `{key}` |")]
    cells = [cell.strip() for cell in row.replace("\\|", "").strip("|").split("|")]
    assert len(cells) == 4
    assert all(cells)


def test_every_preset_is_named():
    assert all(f"`{name}`" in config_markdown() for name in preset_names())


@pytest.mark.parametrize(
    ("key", "type_", "default"),
    [
        ("student.model", "text", "required"),
        ("data.train_files", "list of text, not empty", "required"),
        ("rollout.temperature", "float > 0, <= 10", "`1.0`"),
        ("rollout.gpus", "list of int or null", "`null`"),
        ("zero.stage", "`0`, `1`, `2`, `3`", "`3`"),
        ("optim.betas", "list of 2 x float >= 0, < 1", "`[0.9, 0.999]`"),
        ("student.dtype", "`auto`, `float32`, `bfloat16`", "`auto`"),
        ("loss.topk_divergence", "a [divergence](objectives.md)", "`forward_kl`"),
    ],
)
def test_types_and_defaults_are_readable(key, type_, default):
    (row,) = [line for line in config_markdown().splitlines() if line.startswith(f"| `{key}` |")]
    assert row.startswith(f"| `{key}` | {type_} | {default} |")
