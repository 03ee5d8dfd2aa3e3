"""Do the two models belong together? Tokenizers id by id, and heads that are plain linear maps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of architectures (Gemma 2, Cohere, Granite) that change logits after the head."""


def shared_vocab_size(student: Any, teacher: Any, padded_sizes: tuple[int, int]) -> int:
    """Number of token ids both models share: every tokenizer entry, no padding row.

    `student`, `teacher`: tokenizers; `padded_sizes`: rows of the two heads. Raises ConfigError when the
    tokenizers differ in any id, naming the first few.
    """
    ours, theirs = student.get_vocab(), teacher.get_vocab()
    if ours != theirs:
        tokens = sorted(
            (t for t in ours.keys() | theirs.keys() if ours.get(t) != theirs.get(t)),
            key=lambda t: (ours.get(t, -1), theirs.get(t, -1)),
        )
        shown = ", ".join(f"{t!r}: {ours.get(t)} / {theirs.get(t)}" for t in tokens[:5])
        raise ConfigError(
            f"student.model and teacher.model have different tokenizers: {len(tokens)} tokens differ "
            f"(token: student id / teacher id): {shown}",
            "choose a teacher of the student's family; distillation compares probabilities id by id",
        )
    highest: int = max(ours.values())
    return min(highest + 1, *padded_sizes)


def require_plain_head(config: Any, key: str) -> None:
    """Refuse a model whose logits are not simply `head @ hidden`: raises ConfigError naming `key`."""
    for name in _LOGIT_TRANSFORMS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"{key}: {config.model_type} changes its logits after the head ({name}), "
                "which the chunked objective does not do",
                "use a model of the Llama or Qwen families",
            )


def stop_token_ids(generation_config: Any, tokenizer: Any) -> list[int]:
    """Ids that end a response: the generation config's and the tokenizer's."""
    ids = getattr(generation_config, "eos_token_id", None)
    listed = ids if isinstance(ids, list) else [ids]
    return sorted({i for i in [*listed, tokenizer.eos_token_id] if i is not None})


def model_stop_token_ids(path: Path, tokenizer: Any) -> list[int]:
    """`stop_token_ids` of a model directory, which may lack a generation config."""
    from transformers import GenerationConfig

    has_config = (path / "generation_config.json").is_file()
    return stop_token_ids(GenerationConfig.from_pretrained(path) if has_config else None, tokenizer)
