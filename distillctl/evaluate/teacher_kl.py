"""Exact KL of a model from a teacher on the model's own responses, per token.

Dimensions: N response tokens of a batch.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from distillctl.data_types import Rollout
from distillctl.host.gpus import use_visible
from distillctl.models.model_dir import ModelDir
from distillctl.objective.alternatives import alternatives
from distillctl.teacher.local import LocalTeacher
from distillctl.terminal.progress import task
from distillctl.train.batch import collate, plan

BATCH_TOKENS = 8192
"""Tokens in one forward pass."""


def response_kl(
    student: ModelDir, teacher: ModelDir, rollouts: Sequence[Rollout], vocab_size: int, device: str
) -> list[float]:
    """KL(student || teacher) in nats of each of the student's `rollouts`, summed over its tokens.

    The distributions cover the first `vocab_size` ids, which both models share, at temperature 1.
    """
    if device == "cuda":
        use_visible()  # its first GPU is the one that generated the responses. Not yet run on a GPU
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    place = torch.device(device)
    models = [LocalTeacher(str(model), dtype, place) for model in (student, teacher)]
    sums = [0.0] * len(rollouts)
    # Where the length of a row changes its position embeddings, each sequence gets a row of its own.
    if student.shape.switch_length or teacher.shape.switch_length:
        shares = [[member] for member in range(len(rollouts))]
    else:
        shares = plan([rollout.length for rollout in rollouts], BATCH_TOKENS, 1)[0]
    with task("KL from the teacher", len(rollouts)) as advance:
        for number, members in enumerate(shares):
            batch = collate(rollouts, members, place)
            own, other = [model.score([batch])[0] for model in models]
            found = alternatives(own.hidden_NG, own.head_VG, other, batch.tokens.target_ids_N, vocab_size, 1)
            lengths = [end - start for start, end in batch.spans]
            parts = torch.split(found.kl_N.double(), lengths)
            for member, part in zip(members, parts, strict=True):
                sums[member] = float(part.sum())
            advance(sum(map(len, shares[: number + 1])))
    return sums
