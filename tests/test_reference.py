"""The reference pages of docs/ are what the code says."""

from pathlib import Path

import pytest
from reference import PAGES, cli_markdown, config_markdown, events_markdown, metrics_markdown
from typer.main import get_command

from distillctl.cli.app import app
from distillctl.config.loading import all_keys, preset_names
from distillctl.run.event_form import KINDS
from distillctl.run.metrics import METRICS

DOCS = Path(__file__).parent.parent / "docs"


def commands(command, name):
    """Every command of the parser by its name as typed, without the groups."""
    if not hasattr(command, "list_commands"):
        yield name, command
        return
    for word in command.list_commands(None):
        yield from commands(command.get_command(None, word), f"{name} {word}")


def section(page, heading):
    """The lines of a page below one of its headings."""
    _, found = page.split(f"\n## {heading}\n")
    return found.split("\n## ")[0].splitlines()


@pytest.mark.parametrize("name", PAGES)
def test_the_page_is_up_to_date(name):
    current = (DOCS / name).is_file() and (DOCS / name).read_text() == PAGES[name]()
    assert current, "run: python .ci/docs/reference.py"


@pytest.mark.parametrize(("name", "command"), [*commands(get_command(app), "distillctl")])
def test_every_option_that_is_parsed_has_one_row(name, command):
    rows = [line for line in section(cli_markdown(), name) if line.startswith("| `")]
    flags = [", ".join(f"`{flag}`" for flag in one.opts) for one in command.params if one.opts[0][0] == "-"]
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows if row.startswith("| `-")] == flags
    num_arguments = len(command.params) - len(flags)
    assert len(rows) - len(flags) == num_arguments


@pytest.mark.parametrize(
    ("command", "row"),
    [
        (
            "train",
            "| `--resume` | `never`, `auto`, `must` | `auto` "
            "| Whether to continue from the run's last checkpoint. |",
        ),
        ("eval", "| `--n` | int >= 1 | `1` | Responses to each prompt. |"),
        ("prep jsonl", "| `--source` | path | required | Your file, or a folder with train and test. |"),
        (
            "inspect report",
            "| `RUNS` | path, several | required | Run directories; several runs share the same charts. |",
        ),
    ],
)
def test_values_and_defaults_of_options_are_readable(command, row):
    assert row in section(cli_markdown(), f"distillctl {command}")


def test_a_metric_has_its_unit_and_meaning():
    rows = [line for line in metrics_markdown().splitlines() if line.startswith("| `")]
    assert len(rows) == len(METRICS)
    assert "| `kl/reverse` | nats | " + METRICS["kl/reverse"].meaning.replace("|", "\\|") + " |" in rows


def test_an_event_has_its_keys():
    rows = [line for line in section(events_markdown(), "checkpoint") if line.startswith("| `")]
    assert rows == ["| `path` | its folder in the run directory |"]
    assert all(section(events_markdown(), kind) for kind in KINDS)


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
