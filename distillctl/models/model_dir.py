"""A model directory: the content of its files, each of which is read once.

All code that needs a model's files takes a `ModelDir`, so no file is opened twice. Imports neither torch nor
transformers.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.files.reading import MAX_TOKENIZER_BYTES, read_json, read_text
from distillctl.models.architecture import ModelShape, model_shape
from distillctl.models.compatibility import stop_token_ids
from distillctl.models.tokenizer_files import (
    chat_template,
    no_chat_template,
    parse_tokenizer,
    special_tokens,
    token_text,
)

INDEX = "model.safetensors.index.json"
"""The file that says which shard holds which tensor, in a model of several weight files."""


@dataclass(frozen=True)
class ModelDir:
    """A local model directory. Reading a file raises ConfigError when it is missing or unusable."""

    path: Path
    hub_id: str | None = None
    """The repository on the Hugging Face Hub, when the directory is a snapshot of one."""

    def __str__(self) -> str:
        return str(self.path)

    @cached_property
    def config(self) -> dict[str, Any]:
        """config.json."""
        return read_json(self.path / "config.json")

    @cached_property
    def shape(self) -> ModelShape:
        """The model's sizes. Raises ConfigError for an unsupported model (`models.supported`)."""
        return model_shape(self.config, self.path / "config.json")

    @property
    def has_tokenizer(self) -> bool:
        """Whether there is a tokenizer.json."""
        return (self.path / "tokenizer.json").is_file()

    @cached_property
    def tokenizer(self) -> Any:
        """A `tokenizers.Tokenizer` of tokenizer.json, without its truncation and padding."""
        file = self.path / "tokenizer.json"
        if not self.has_tokenizer:
            raise ConfigError(
                f"{self.path} has no tokenizer.json",
                "load its tokenizer once with transformers.AutoTokenizer and write it with save_pretrained",
            )
        return parse_tokenizer(read_text(file, MAX_TOKENIZER_BYTES, bom=False), file)

    @cached_property
    def vocabulary(self) -> dict[str, int]:
        """Every token of the tokenizer, added ones included, and its id."""
        vocabulary: dict[str, int] = self.tokenizer.get_vocab(with_added_tokens=True)
        return vocabulary

    def num_tokens(self, text: str) -> int:
        """Number of tokens of a text, without special tokens that a template would add."""
        return len(self.tokenizer.encode(text, add_special_tokens=False).ids)

    @cached_property
    def tokenizer_config(self) -> dict[str, Any]:
        """tokenizer_config.json over special_tokens_map.json; either may be missing."""
        files = (self.path / name for name in ("special_tokens_map.json", "tokenizer_config.json"))
        tree: dict[str, Any] = {}
        for file in files:
            if file.is_file():
                tree |= read_json(file)
        return tree

    @property
    def special_tokens(self) -> dict[str, str]:
        """The tokens that a chat template may name, such as `bos_token`."""
        return special_tokens(self.tokenizer_config)

    @cached_property
    def chat_template(self) -> str | None:
        """The template that transformers would render with; None for a model without one."""
        return chat_template(self.path, self.tokenizer_config)

    def require_chat_template(self, named: str) -> str:
        """The chat template. Raises ConfigError when there is none; `named` names the model in the error."""
        if self.chat_template is None:
            raise no_chat_template(named)
        return self.chat_template

    @cached_property
    def generation_config(self) -> dict[str, Any]:
        """generation_config.json; empty when there is none.

        Raises ConfigError when its `eos_token_id` is neither an id nor a list of ids.
        """
        file = self.path / "generation_config.json"
        tree = read_json(file) if file.is_file() else {}
        ids = tree.get("eos_token_id")
        if any(type(i) is not int for i in (ids if isinstance(ids, list) else [ids]) if i is not None):
            raise ConfigError(
                f"{file}: eos_token_id is neither an id nor a list of ids", "set it to the id of a token"
            )
        return tree

    @property
    def stop_token_ids(self) -> list[int]:
        """Ids that end a response: those of generation_config.json and the tokenizer's `eos_token`."""
        eos = self.vocabulary.get(token_text(self.tokenizer_config.get("eos_token")))
        return stop_token_ids(self.generation_config, eos)

    @property
    def weight_files(self) -> list[Path]:
        """The safetensors files. Every call looks again, because a download adds files.

        Hidden files are left out, such as those that macOS writes beside each file: no loader reads them.
        """
        return sorted(file for file in self.path.glob("*.safetensors") if not file.name.startswith("."))

    @property
    def has_weight_index(self) -> bool:
        """Whether there is an index of shards."""
        return (self.path / INDEX).is_file()

    @cached_property
    def weight_index(self) -> dict[str, Any]:
        """model.safetensors.index.json."""
        return read_json(self.path / INDEX)
