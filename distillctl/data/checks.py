"""Checks of a run's prompts before anything starts: their teachers, answers, unused text and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from distillctl.config.schema import Config
from distillctl.data.encode import reference_text, require_references
from distillctl.data.lengths import require_usable
from distillctl.data.read import PromptRow, records
from distillctl.data.special_tokens import SpecialTokens, special_token_warning
from distillctl.data.template import require_rendering
from distillctl.errors import ConfigError
from distillctl.files.reading import identity
from distillctl.models.model_dir import ModelDir
from distillctl.run.checks import Check
from distillctl.terminal.stream import inline


def require_routes(config: Config, rows: Sequence[PromptRow]) -> None:
    """Raise ConfigError when a run has several teachers and no training row chooses among them.

    `rows`: read with `data.teacher_key`.
    """
    data = config.data
    if not config.teachers or any(row.route is not None for row in rows):
        return
    columns = dict.fromkeys(
        name
        for file in data.train_files
        for _, row in records(Path(file), ("prompt",), whole=True)
        for name in row
    )
    raise ConfigError(
        f"data.teacher_key={data.teacher_key}: no row of data.train_files has a value in that column, so no "
        f"prompt would go to {', '.join(f'teachers.{name}' for name in config.teachers)}",
        f"name the column with the teachers' keys; the columns are: {', '.join(map(inline, columns))}",
    )


def require_each_once(val_files: list[str]) -> None:
    """Raise ConfigError for a file under two names: its prompts would count twice.

    Training files may be repeated, so that their prompts come more often.
    """
    first: dict[object, int] = {}
    for number, name in enumerate(val_files):
        place = first.setdefault(identity(Path(name)), number)
        if place != number:
            raise ConfigError(
                f"data.val_files[{number}]={name} is the same file as data.val_files[{place}]="
                f"{val_files[place]}: its prompts would count twice",
                "leave one of them out",
            )


def answer_checks(config: Config, train: Sequence[PromptRow], val: Sequence[PromptRow]) -> list[Check]:
    """Warnings about rows without the answers that the loss and the evaluations need.

    `val`: rows of the evaluations, empty when there are none. Raises ConfigError when `loss.sft_coef` is set
    and no training row has a reference answer.
    """
    checks = []
    if config.loss.sft_coef:
        require_references(train)
        missing = sum(reference_text(row) is None for row in train)
        if missing:
            detail = (
                f"{missing} of {len(train)} training prompts have none: loss.sft_coef does not act on them"
            )
            checks.append(Check("reference answers", "warn", detail))
    unknown = sum(row.ground_truth is None for row in val)
    if unknown:
        detail = f"{unknown} of {len(val)} rows of data.val_files have no ground truth: "
        detail += "val/acc counts the others only" if unknown < len(val) else "val/acc is not measured"
        if unknown == len(val) and config.checkpoint.best:
            detail += ", and checkpoint.best keeps no checkpoint"
        hint = "put answers into reward_model.ground_truth, as `distillctl prep` does, or set eval.every=0"
        checks.append(Check("validation answers", "warn", detail, hint))
    return checks


def unused_text_checks(train: Sequence[PromptRow], val: Sequence[PromptRow]) -> list[Check]:
    """A warning for each set of rows whose messages have text under keys that are not read."""
    checks = []
    for key, rows in (("data.train_files", train), ("data.val_files", val)):
        found = [row for row in rows if row.unused_keys]
        if found:
            names = dict.fromkeys(name for row in found for name in row.unused_keys)
            named = ", ".join(f"`{name}`" for name in names)
            detail = (
                f"{key}: messages of {len(found)} of {len(rows)} rows have text in {named}, which is not used"
            )
            hint = "move it into `content` if it belongs to the prompt or the answer"
            checks.append(Check("unused text", "warn", detail, hint))
    return checks


def prompt_checks(
    config: Config, student: ModelDir, train: Sequence[PromptRow], val: Sequence[PromptRow]
) -> list[Check]:
    """Warnings about special tokens in the text of the prompts.

    Raises ConfigError when too few prompts can be short enough for the student, and for rows that its chat
    template does not render. Checks nothing when the student's tokenizer is not on this machine.
    """
    if not student.has_tokenizer:
        return []
    data = config.data
    longest = data.max_prompt_length
    require_usable(train, student.num_tokens, longest, data.train_batch_size, "data.train_files")
    if val:
        require_usable(val, student.num_tokens, longest, 1, "data.val_files")
    template = student.require_chat_template(f"student.model={config.student.model}")
    require_rendering([*train, *val], template, student.special_tokens)
    return special_token_checks(train, val, SpecialTokens(student.tokenizer))


def special_token_checks(
    train: Sequence[PromptRow], val: Sequence[PromptRow], tokens: SpecialTokens
) -> list[Check]:
    """A warning for each set of rows with special tokens of the student's tokenizer in their text."""
    told = [
        special_token_warning(rows, tokens, key)
        for key, rows in (("data.train_files", train), ("data.val_files", val))
    ]
    hint = "remove them from the data where they are not intended"
    return [Check("special tokens", "warn", detail, hint) for detail in told if detail]
