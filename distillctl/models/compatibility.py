"""Do the two models belong together? Tokenizers id by id, stop ids, and heads that are plain linear maps.

Works on files and plain values, so that the preflight and the ranks decide by the same rules. No torch here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError
from distillctl.files.reading import MAX_TOKENIZER_BYTES, read_json

_LOGIT_TRANSFORMS = ("final_logit_softcapping", "logit_scale", "logits_scaling")
"""Config keys of architectures (Gemma 2, Cohere, Granite) that change logits after the head."""


def tokenizer_vocab(path: Path) -> dict[str, int]:
    """Every token of a model directory's tokenizer.json, added ones included, and its id.

    Raises ConfigError when the file is missing or is no tokenizer.
    """
    vocab: dict[str, int] = _tokenizer(path).get_vocab(with_added_tokens=True)
    return vocab


def token_counter(path: Path) -> Callable[[str], int]:
    """How many tokens a text has with a model directory's tokenizer.json; raises as `tokenizer_vocab`."""
    tokenizer = plain_tokenizer(path)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def plain_tokenizer(path: Path) -> Any:
    """A `tokenizers.Tokenizer` of a model directory's tokenizer.json; raises as `tokenizer_vocab`."""
    tokenizer = _tokenizer(path)
    tokenizer.no_truncation()  # a tokenizer.json may bring a limit of its own
    tokenizer.no_padding()
    return tokenizer


def _tokenizer(path: Path) -> Any:
    file = path / "tokenizer.json"
    if not file.is_file():
        raise ConfigError(
            f"{path} has no tokenizer.json",
            "load its tokenizer once with transformers.AutoTokenizer and write it with save_pretrained",
        )
    again = "download it again, or write it with save_pretrained"
    if "model" not in read_json(file, MAX_TOKENIZER_BYTES):
        raise ConfigError(f"{file} is not a tokenizer: it has no 'model'", again)
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # the package raises nothing more specific
        if type(error) is not Exception:
            raise
        raise ConfigError(f"{file} is not a tokenizer: {error}", again) from None


def shared_vocab(
    ours: Mapping[str, int], theirs: Mapping[str, int], padded_sizes: tuple[int, int], key: str
) -> tuple[int, list[str]]:
    """Number of token ids that student and teacher share, and the tokens beyond them in readable form.

    `ours`, `theirs`: ids by token, of the student and of the teacher under the dotted `key`; `padded_sizes`:
    rows of the two heads. Releases of one family differ in special tokens at the end (Qwen3 has `<think>`
    after all ids of Qwen2.5), so a token that only one of the two knows is tolerated when its id lies above
    all shared ones and is nothing to the other; the shared ids end below it. Any other difference raises
    ConfigError with the first few tokens.
    """
    agreed = [i for token, i in ours.items() if theirs.get(token) == i]
    end = max(agreed, default=-1) + 1
    our_ids, their_ids = set(ours.values()), set(theirs.values())
    tail = {t: i for t, i in ours.items() if t not in theirs and i >= end > 0 and i not in their_ids}
    tail |= {t: i for t, i in theirs.items() if t not in ours and i >= end > 0 and i not in our_ids}
    differing = [token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)]
    wrong = sorted(
        (token for token in differing if token not in tail),
        key=lambda token: (ours.get(token, -1), theirs.get(token, -1)),
    )
    if wrong:
        shown = ", ".join(f"{token!r}: {ours.get(token)} / {theirs.get(token)}" for token in wrong[:5])
        raise ConfigError(
            f"student.model and {key}.model have different tokenizers: {len(differing)} tokens differ "
            f"(token: student id / teacher id): {shown}",
            "choose a teacher of the student's family; distillation compares probabilities id by id",
        )
    beyond = [
        f"{token!r} {tail[token]} ({'student' if token in ours else key} only)"
        for token in sorted(tail, key=tail.__getitem__)
    ]
    return min(end, *padded_sizes), beyond


def require_plain_head(config: Any, key: str) -> None:
    """Refuse a model whose logits are not simply `head @ hidden`: raises ConfigError naming `key`."""
    for name in _LOGIT_TRANSFORMS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"{key}: {config.model_type} changes its logits after the head ({name}), "
                "which the chunked objective does not do",
                "use a model of the Llama or Qwen families",
            )


def stop_token_ids(generation: Mapping[str, Any], eos_token_id: int | None) -> list[int]:
    """Ids that end a response: those of `generation` (a generation_config.json) and the tokenizer's."""
    ids = generation.get("eos_token_id")
    listed = ids if isinstance(ids, list) else [ids]
    return sorted({i for i in [*listed, eos_token_id] if i is not None})


def model_stop_token_ids(path: Path, tokenizer: Any) -> list[int]:
    """`stop_token_ids` of a model directory and its transformers tokenizer."""
    return stop_token_ids(generation_config(path), tokenizer.eos_token_id)


def generation_config(path: Path) -> dict[str, Any]:
    """A model directory's generation_config.json; empty where it has none.

    Raises ConfigError when it is no JSON object or its `eos_token_id` is neither an id nor a list of ids.
    """
    file = path / "generation_config.json"
    tree = read_json(file) if file.is_file() else {}
    ids = tree.get("eos_token_id")
    if any(type(i) is not int for i in (ids if isinstance(ids, list) else [ids]) if i is not None):
        raise ConfigError(f"{file}: eos_token_id is no id and no list of ids", "set it to the id of a token")
    return tree
