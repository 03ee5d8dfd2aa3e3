"""From rollouts to micro-batches: which samples go together, on which rank, and as which tensors.

Every rank computes the same plan from the same rollouts, so nothing about it is communicated.
Dimensions: T tokens of a micro-batch's sequences, N their response tokens.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from distillctl.config.schema import Config
from distillctl.data_types import MicroBatch, Rollout
from distillctl.errors import RunFailed
from distillctl.objective.inputs import Tokens
from distillctl.train.distributed import Ranks


def plan(lengths: Sequence[int], micro_batch_tokens: int, num_ranks: int) -> list[list[list[int]]]:
    """Samples of each micro-batch of each rank: `plan(...)[rank][i]`, as many for every rank.

    Each has at most `micro_batch_tokens` tokens (a longer sample stands alone), and all are of nearly equal
    size, so that ranks seldom wait for each other: from the longest sample on, each goes to the emptiest
    (longest processing time first; Graham 1969, doi:10.1137/0117039). There are as few as hold the samples in
    that order. An empty list is a filler: a rank gets one where samples that stand alone are no multiple of
    the ranks.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # A sample that is longer than a micro-batch fills one, not several.
    num_tokens = sum(min(length, micro_batch_tokens) for length in lengths)
    num_large = sum(2 * length > micro_batch_tokens for length in lengths)  # no two of them go together
    num_needed = max(math.ceil(num_tokens / micro_batch_tokens), num_large)
    num_batches = num_ranks * math.ceil(num_needed / num_ranks)
    while True:
        batches: list[list[int]] = [[] for _ in range(num_batches)]
        emptiest = [(0, i) for i in range(num_batches)]
        for index in order:
            filled, i = emptiest[0]
            heapq.heapreplace(emptiest, (filled + lengths[index], i))
            batches[i].append(index)
        if all(filled <= micro_batch_tokens or len(batches[i]) == 1 for filled, i in emptiest):
            return [batches[rank::num_ranks] for rank in range(num_ranks)]
        num_batches += num_ranks


def trained_length(rollout: Rollout, token_fraction: float) -> int:
    """Response tokens that are trained on: the first `token_fraction` of them, rounded up, at least one."""
    length = len(rollout.response_ids)
    # 0.07 * 100 is 7.000000000000001 in floating point, which is not to become 8.
    return min(length, max(1, math.ceil(round(token_fraction * length, 9))))


def micro_batches(
    rollouts: Sequence[Rollout], members: Sequence[int], config: Config, ranks: Ranks, token_fraction: float
) -> list[MicroBatch]:
    """This rank's micro-batches of some of the rollouts; as many on every rank, none when there are none."""
    if not members:
        return []
    lengths = [
        len(rollouts[i].prompt.token_ids) + trained_length(rollouts[i], token_fraction) for i in members
    ]
    shares = plan(lengths, config.train.micro_batch_tokens, ranks.world_size)
    return [
        collate(rollouts, [members[i] for i in share], ranks.device, token_fraction)
        for share in shares[ranks.rank]
    ]


def references(rollouts: Sequence[Rollout]) -> list[Rollout]:
    """The data's own answers to the prompts of a batch, in the form of rollouts; one for each prompt."""
    prompts = {rollout.group: rollout.prompt for rollout in rollouts}
    return [
        Rollout(
            prompt=prompt,
            group=group,
            sample=0,
            response_ids=ids,
            response_logprobs=np.zeros(len(ids), np.float32),
            finish_reason="stop",
            weight_version=rollouts[0].weight_version,
        )
        for group, prompt in prompts.items()
        if prompt.reference_ids
        for ids in [np.array(prompt.reference_ids, np.int32)]
    ]


def collate(
    rollouts: Sequence[Rollout], members: Sequence[int], device: torch.device, token_fraction: float = 1.0
) -> MicroBatch:
    """Tensors of one micro-batch on `device`. No members makes a filler of one short sequence."""
    if not members:
        shortest = min(range(len(rollouts)), key=lambda i: rollouts[i].length)
        filler = collate(rollouts, [shortest], device, token_fraction)
        return replace(filler, members=(), weight=0.0)
    chosen = [rollouts[i] for i in members]
    starts = [len(rollout.prompt.token_ids) for rollout in chosen]
    kept = [trained_length(rollout, token_fraction) for rollout in chosen]
    parts = list(zip(chosen, kept, strict=True))
    ids = [
        part
        for r, n in parts
        for part in (torch.tensor(r.prompt.token_ids), torch.as_tensor(r.response_ids[:n]))
    ]
    input_ids_T = torch.cat(ids).long()
    rows: list[Tensor] = []
    offset = 0
    for start, length in zip(starts, kept, strict=True):
        # Position t predicts token t + 1: the last prompt token predicts the first response token.
        rows.append(torch.arange(start - 1, start + length - 1) + offset)
        offset += start + length
    rows_N = torch.cat(rows)
    logprobs = [torch.as_tensor(rollout.response_logprobs[:length]) for rollout, length in parts]
    topk = [torch.as_tensor(r.topk_ids[:n]).long() for r, n in parts if r.topk_ids is not None]
    return MicroBatch(
        input_ids_T=input_ids_T.to(device),
        rows_N=rows_N.to(device),
        target_ids_N=input_ids_T[rows_N + 1].to(device),
        rollout_logp_N=torch.cat(logprobs).to(device),
        spans=tuple((start, start + length) for start, length in zip(starts, kept, strict=True)),
        members=tuple(members),
        weight=1.0,
        topk_ids_NK=torch.cat(topk).to(device) if topk else None,
    )


def tokens(batch: MicroBatch, weights: Sequence[float], advantages: Sequence[float] | None) -> Tokens:
    """The loss's view of a micro-batch, from a weight and an advantage for each of the step's rollouts."""
    lengths = torch.tensor([end - start for start, end in batch.spans])

    def per_token(values: Sequence[float]) -> Tensor:
        chosen = [values[member] for member in batch.members] if batch.members else [0.0]
        return torch.tensor(chosen).repeat_interleave(lengths).to(batch.rows_N.device)

    return Tokens(
        target_ids_N=batch.target_ids_N,
        weights_N=per_token(weights),
        rollout_logp_N=batch.rollout_logp_N,
        advantages_N=None if advantages is None else per_token(advantages),
    )


def cut_to_vocabulary(rollout: Rollout, vocab_size: int) -> Rollout:
    """The rollout before its first token id >= `vocab_size`, which may be nothing; itself without one."""
    outside = (rollout.response_ids >= vocab_size).nonzero()[0]
    if not len(outside):
        return rollout
    end = int(outside[0])
    return replace(
        rollout,
        response_ids=rollout.response_ids[:end],
        response_logprobs=rollout.response_logprobs[:end],
        topk_ids=None if rollout.topk_ids is None else rollout.topk_ids[:end],
        finish_reason="length",
    )


def within_vocabulary(rollouts: Sequence[Rollout], vocab_size: int) -> list[Rollout]:
    """Cut each response before its first token id >= `vocab_size` (then it counts as `length`).

    Padded heads have rows beyond the tokenizer; the engine can sample them, the other model may lack them.
    A response that would become empty keeps that token's position out of the loss by being dropped. Raises
    RunFailed when nothing would be left.
    """
    kept = [cut for rollout in rollouts if len((cut := cut_to_vocabulary(rollout, vocab_size)).response_ids)]
    if not kept:
        raise RunFailed(
            f"each of the step's {len(rollouts)} responses begins with a token id of {vocab_size} or above, "
            "beyond the vocabulary that student and teacher share: nothing is left to train on",
            "the student samples only tokens that the teacher lacks: check that its tokenizer belongs to its "
            "weights",
        )
    return kept
