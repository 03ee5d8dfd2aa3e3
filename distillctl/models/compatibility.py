"""Whether two models fit together: tokenizers id by id, stop ids, and LM heads that are linear maps.

The functions take plain values, so the preflight and the ranks apply the same rules. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distillctl.errors import ConfigError
from distillctl.models.supported import LOGIT_TRANSFORMS, USE_SUPPORTED


def shared_vocab(
    ours: Mapping[str, int], theirs: Mapping[str, int], padded_sizes: tuple[int, int], key: str
) -> tuple[int, list[str]]:
    """Number of token ids that student and teacher share, and the tokens above them in readable form.

    `ours` maps the student's tokens to their ids, `theirs` those of the teacher, whose section is `key`.
    `padded_sizes` are the numbers of rows of the two LM heads.

    Releases of one family differ in special tokens at the end (Qwen3 has `<think>` after all ids of Qwen2.5).
    So one model may have a token that the other lacks, provided that its id is above all shared ids and
    unused by the other model. The shared ids end below it. Any other difference raises ConfigError with the
    first few tokens.
    """
    agreed = [i for token, i in ours.items() if theirs.get(token) == i]
    end = max(agreed, default=-1) + 1
    our_ids = set(ours.values())
    their_ids = set(theirs.values())
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
    """Raise ConfigError naming `key` for a model whose logits are not simply `head @ hidden`."""
    for name in LOGIT_TRANSFORMS:
        if getattr(config, name, None) not in (None, 1, 1.0):
            raise ConfigError(
                f"{key}: {config.model_type} changes its logits after the head ({name}), "
                "which the objective does not do",
                USE_SUPPORTED,
            )


def stop_token_ids(generation: Mapping[str, Any], eos_token_id: int | None) -> list[int]:
    """Ids that end a response: those of `generation` (a generation_config.json), and the tokenizer's id."""
    ids = generation.get("eos_token_id")
    listed = ids if isinstance(ids, list) else [ids]
    return sorted({i for i in [*listed, eos_token_id] if i is not None})
