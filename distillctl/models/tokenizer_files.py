"""The files of a model's tokenizer: vocabulary, special tokens, chat template. Imports no transformers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.files.reading import parse_json, read_text

_MAX_TEMPLATE_BYTES = 1 << 20
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def parse_tokenizer(text: str, file: Path) -> Any:
    """A `tokenizers.Tokenizer` from the text of a tokenizer.json, without its truncation and padding.

    `file` is the file that the text comes from. Raises ConfigError for a text that is not a tokenizer.
    """
    again = "download it again, or write it with save_pretrained"
    if "model" not in parse_json(text, file):
        raise ConfigError(f"{file} is not a tokenizer: it has no 'model'", again)
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(text)
    except Exception as error:  # the package raises nothing more specific
        if type(error) is not Exception:
            raise
        raise ConfigError(f"{file} is not a tokenizer: {error}", again) from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_text(token: Any) -> str:
    """Text of a token. Tokenizer files hold a token as a string, an object, or null."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def special_tokens(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that a chat template may name, such as `bos_token`; empty where `tokenizer` has none.

    They are empty rather than undefined, because a tokenizer's class may define a token that no file names.
    """
    return {name: token_text(tokenizer.get(name)) for name in _SPECIAL_TOKENS}


def chat_template(path: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """The template transformers would render with: chat_template.jinja before tokenizer_config.json.

    `tokenizer` is the merged tokenizer configuration. Returns None for a model without a template. Raises
    ConfigError for a template that is not text, and for one that begins with a byte order mark, which would
    be part of every prompt.
    """
    file = path / "chat_template.jinja"
    if file.is_file():
        return read_text(file, _MAX_TEMPLATE_BYTES, bom=False) or None
    template = tokenizer.get("chat_template")
    if isinstance(template, list):
        named = [entry for entry in template if isinstance(entry, dict)]
        template = {entry.get("name"): entry.get("template") for entry in named}.get("default")
    if template and not isinstance(template, str):
        raise ConfigError(
            f"{path / 'tokenizer_config.json'}: chat_template is not text", "save the model again"
        )
    if template and len(template) > _MAX_TEMPLATE_BYTES:
        raise ConfigError(
            f"{path / 'tokenizer_config.json'}: chat_template is longer than {_MAX_TEMPLATE_BYTES >> 20} MiB",
            "check that it is the model you mean",
        )
    return template or None


def no_chat_template(named: str) -> ConfigError:
    """The error for a model, or its tokenizer, without a chat template. The message begins with `named`."""
    return ConfigError(
        f"{named} has no chat template, so prompts cannot be rendered",
        "take an instruction-tuned model, or add a chat template to the tokenizer",
    )
