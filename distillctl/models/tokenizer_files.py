"""What a model directory says about its tokenizer besides the vocabulary: special tokens, chat template."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.files.reading import read_json, read_text

_MAX_TEMPLATE_BYTES = 1 << 20
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


def tokenizer_config(path: Path) -> dict[str, Any]:
    """tokenizer_config.json over special_tokens_map.json; either may be missing."""
    tree: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if (path / name).is_file():
            tree |= read_json(path / name)
    return tree


def token_text(token: Any) -> str:
    """Text of a token as written in tokenizer files: a string, an object, or null."""
    return str(token.get("content", "")) if isinstance(token, dict) else str(token or "")


def special_tokens(tokenizer: Mapping[str, Any]) -> dict[str, str]:
    """The tokens that a chat template may name, such as `bos_token`; blank where `tokenizer` has none.

    Not undefined, because a tokenizer's class may know one that no file names.
    """
    return {name: token_text(tokenizer.get(name)) for name in _SPECIAL_TOKENS}


def chat_template(path: Path, tokenizer: Mapping[str, Any]) -> str | None:
    """The template transformers would render with: chat_template.jinja before tokenizer_config.json.

    `tokenizer`: what `tokenizer_config` found. None without a template; raises ConfigError for one that is no
    text, or begins with a byte order mark, which would stand in every prompt.
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
            f"{path / 'tokenizer_config.json'}: chat_template is no text", "save the model again"
        )
    if template and len(template) > _MAX_TEMPLATE_BYTES:
        raise ConfigError(
            f"{path / 'tokenizer_config.json'}: chat_template is longer than {_MAX_TEMPLATE_BYTES >> 20} MiB",
            "check that it is the model you mean",
        )
    return template or None
