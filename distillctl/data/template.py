"""Checks before anything starts whether a chat template renders the data. Uses transformers without torch.

A template is a program from the model's repository. It may not parse, it may refuse roles, and it may fail
like any program.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from distillctl.data.read import PromptRow
from distillctl.errors import ConfigError

FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What an expression in a template may raise. Jinja's own errors are `TemplateError`s."""
_MAX_SHOWN = 200
"""Characters shown of a template's own message, which may repeat the prompt."""


def require_rendering(rows: Sequence[PromptRow], template: str, special_tokens: Mapping[str, str]) -> None:
    """Render one row for each distinct sequence of roles. Raises ConfigError for the first that fails.

    Templates depend on roles and hardly on contents, so one row stands for all rows with the same roles. Does
    nothing if transformers is not installed; another check reports that.
    """
    if importlib.util.find_spec("transformers") is None:
        return
    from jinja2 import TemplateError
    from transformers.utils.chat_template_utils import render_jinja_template

    by_roles = {tuple(message["role"] for message in row.messages): row for row in reversed(rows)}
    for row in by_roles.values():
        try:
            render_jinja_template(
                [row.messages], chat_template=template, add_generation_prompt=True, **special_tokens
            )
        except (TemplateError, *FAILURES) as error:
            raise refusal(row, error) from error


def refusal(row: PromptRow, error: Exception) -> ConfigError:
    """The error for a row that the template does not render."""
    told = " ".join(f"{type(error).__name__}: {error}".split())[:_MAX_SHOWN]
    return ConfigError(
        f"{row.split}/{row.index}: the chat template does not render the messages: {told}",
        "change the roles of the row, correct chat_template.jinja, or choose another model",
    )
