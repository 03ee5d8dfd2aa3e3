"""Whether a chat template renders the data, tried before anything starts. transformers without torch.

A template is a program of the model's repository: it may not parse, refuse roles, or fail like any program.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence

from distillctl.data.read import PromptRow
from distillctl.errors import ConfigError

FAILURES = (
    ArithmeticError, AssertionError, AttributeError, LookupError, RecursionError, TypeError, ValueError,
)  # fmt: skip
"""What an expression in a template raises; what Jinja itself raises is a `TemplateError`."""
_MAX_SHOWN = 200
"""Characters of a template's own message, which may repeat what it was given."""


def require_rendering(rows: Sequence[PromptRow], template: str, special_tokens: Mapping[str, str]) -> None:
    """Render one row of each sequence of roles; raises ConfigError for the first that fails.

    Templates look at roles and hardly at contents, so a thousand rows of one question each are one. Does
    nothing where transformers is not installed, which is reported elsewhere.
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
