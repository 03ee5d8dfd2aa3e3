"""From rollouts to micro-batches: which samples go together, on which rank, and as which tensors.

Every rank computes the same plan from the same rollouts, so nothing about it is communicated.
Dimensions: B sequences of a micro-batch, T its longest, N its response tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from distillctl.samples import MicroBatch, Rollout


def plan(lengths: Sequence[int], micro_batch_tokens: int, num_ranks: int) -> list[list[list[int]]]:
    """Samples of each micro-batch of each rank: `plan(...)[rank][i]`, as many for every rank.

    Samples are sorted by length, longest first, and cut where the padded size would pass
    `micro_batch_tokens` (a sample longer than that stands alone). The largest are then split until their
    number divides by `num_ranks`; neighbours in length go to different ranks at the same time. An empty list
    is a filler, needed only when there are fewer samples than ranks.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    batches: list[list[int]] = []
    for index in order:
        fits = batches and (len(batches[-1]) + 1) * lengths[batches[-1][0]] <= micro_batch_tokens
        if fits:
            batches[-1].append(index)
        else:
            batches.append([index])
    while len(batches) % num_ranks:
        widest = max(range(len(batches)), key=lambda i: len(batches[i]))
        batch = batches[widest]
        half = len(batch) // 2
        batches[widest : widest + 1] = [batch[:half], batch[half:]] if half else [batch, []]
    return [batches[rank::num_ranks] for rank in range(num_ranks)]


def collate(rollouts: Sequence[Rollout], members: Sequence[int], device: torch.device) -> MicroBatch:
    """Tensors of one micro-batch on `device`. No members makes a filler of one short sequence."""
    if not members:
        shortest = min(range(len(rollouts)), key=lambda i: rollouts[i].length)
        return replace(collate(rollouts, [shortest], device), members=(), weight=0.0)
    chosen = [rollouts[i] for i in members]
    width = max(rollout.length for rollout in chosen)
    input_ids_BT = torch.zeros(len(chosen), width, dtype=torch.int64)
    rows: list[Tensor] = []
    for b, rollout in enumerate(chosen):
        start = len(rollout.prompt.token_ids)
        input_ids_BT[b, :start] = torch.tensor(rollout.prompt.token_ids)
        input_ids_BT[b, start : rollout.length] = torch.as_tensor(rollout.response_ids)
        # Position t predicts token t + 1: the last prompt token predicts the first response token.
        rows.append(torch.arange(start - 1, rollout.length - 1) + b * width)
    rows_N = torch.cat(rows)
    logprobs = [torch.as_tensor(rollout.response_logprobs) for rollout in chosen]
    return MicroBatch(
        input_ids_BT=input_ids_BT.to(device),
        rows_N=rows_N.to(device),
        target_ids_N=input_ids_BT.flatten()[rows_N + 1].to(device),
        rollout_logp_N=torch.cat(logprobs).to(device),
        members=tuple(members),
        weight=1.0,
    )


def within_vocabulary(rollouts: Sequence[Rollout], vocab_size: int) -> list[Rollout]:
    """Cut each response before its first token id >= `vocab_size` (then it counts as `length`).

    Padded heads have rows beyond the tokenizer; the engine can sample them, the other model may lack them.
    A response that would become empty keeps that token's position out of the loss by being dropped.
    """
    kept = []
    for rollout in rollouts:
        outside = (rollout.response_ids >= vocab_size).nonzero()[0]
        if len(outside):
            end = int(outside[0])
            rollout = replace(
                rollout,
                response_ids=rollout.response_ids[:end],
                response_logprobs=rollout.response_logprobs[:end],
                finish_reason="length",
            )
        if len(rollout.response_ids):
            kept.append(rollout)
    return kept
