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
from distillctl.objective.aggregate import token_weights
from distillctl.objective.inputs import Tokens
from distillctl.train.distributed import Distributed


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


def weighted(rollouts: Sequence[Rollout], config: Config) -> list[Rollout]:
    """The rollouts of a step with what they count in the loss: `num_trained` and `token_weight`.

    Trained on are the first `loss.token_fraction` of a response's tokens, rounded up, and at least one.
    """
    loss = config.loss
    lengths = [_trained_length(len(rollout.response_ids), loss.token_fraction) for rollout in rollouts]
    divisor = loss.loss_scale_factor or config.data.max_response_length
    weights = token_weights(loss.aggregate, lengths, divisor)
    return [
        replace(rollout, num_trained=length, token_weight=weight)
        for rollout, length, weight in zip(rollouts, lengths, weights, strict=True)
    ]


def _trained_length(length: int, token_fraction: float) -> int:
    # 0.07 * 100 is 7.000000000000001 in floating point, which is not to become 8.
    return min(length, max(1, math.ceil(round(token_fraction * length, 9))))


def references(rollouts: Sequence[Rollout], coefficient: float) -> list[Rollout]:
    """The data's own answers to the prompts of a batch, in the form of rollouts; one for each prompt that has
    one. Their mean cross-entropy per token counts `coefficient` in the loss."""
    prompts = {rollout.group: rollout.prompt for rollout in rollouts}
    answers = {group: prompt.reference_ids for group, prompt in prompts.items() if prompt.reference_ids}
    num_tokens = sum(map(len, answers.values()))
    return [
        Rollout(
            prompt=prompts[group],
            group=group,
            sample=0,
            response_ids=np.array(ids, np.int32),
            response_logprobs=np.zeros(len(ids), np.float32),
            finish_reason="stop",
            weight_version=rollouts[0].weight_version,
            token_weight=coefficient / num_tokens,
        )
        for group, ids in answers.items()
    ]


def micro_batches(
    rollouts: Sequence[Rollout], members: Sequence[int], config: Config, distributed: Distributed
) -> list[MicroBatch]:
    """This rank's micro-batches of some of the rollouts; as many on every rank, none when there are none."""
    if not members:
        return []
    lengths = [len(rollouts[i].prompt.token_ids) + len(_trained_ids(rollouts[i])) for i in members]
    shares = plan(lengths, config.train.micro_batch_tokens, distributed.world_size)
    return [
        collate(rollouts, [members[i] for i in share], distributed.device)
        for share in shares[distributed.rank]
    ]


def collate(rollouts: Sequence[Rollout], members: Sequence[int], device: torch.device) -> MicroBatch:
    """Tensors of one micro-batch on `device`. No members makes a filler of one short sequence."""
    if not members:
        shortest = min(range(len(rollouts)), key=lambda i: rollouts[i].length)
        filler = collate(rollouts, [shortest], device)
        weights_N = torch.zeros_like(filler.tokens.weights_N)
        return replace(filler, members=(), tokens=replace(filler.tokens, weights_N=weights_N))
    chosen = [rollouts[i] for i in members]
    input_ids: list[Tensor] = []
    rows: list[Tensor] = []
    spans: list[tuple[int, int]] = []
    offset = 0
    for rollout in chosen:
        response_ids = _trained_ids(rollout)
        input_ids += [torch.tensor(rollout.prompt.token_ids), torch.as_tensor(response_ids)]
        start = len(rollout.prompt.token_ids)
        end = start + len(response_ids)
        # Position t predicts token t + 1: the last prompt token predicts the first response token.
        rows.append(torch.arange(start - 1, end - 1) + offset)
        spans.append((start, end))
        offset += end
    input_ids_T = torch.cat(input_ids).long()
    rows_N = torch.cat(rows)
    topk = [torch.as_tensor(r.topk_ids[: r.num_trained]).long() for r in chosen if r.topk_ids is not None]
    return MicroBatch(
        input_ids_T=input_ids_T.to(device),
        rows_N=rows_N.to(device),
        tokens=_tokens(chosen, input_ids_T[rows_N + 1], device),
        spans=tuple(spans),
        members=tuple(members),
        topk_ids_NK=torch.cat(topk).to(device) if topk else None,
    )


def _trained_ids(rollout: Rollout) -> np.ndarray:
    return rollout.response_ids[: rollout.num_trained]


def _tokens(chosen: Sequence[Rollout], target_ids_N: Tensor, device: torch.device) -> Tokens:
    """The response tokens of the rollouts of a micro-batch, and how they count in the loss."""
    lengths = torch.tensor([len(_trained_ids(rollout)) for rollout in chosen])
    logprobs = [torch.as_tensor(rollout.response_logprobs[: rollout.num_trained]) for rollout in chosen]
    weights = torch.tensor([rollout.token_weight for rollout in chosen])
    advantages = [rollout.advantage for rollout in chosen if rollout.advantage is not None]
    return Tokens(
        target_ids_N=target_ids_N.to(device),
        weights_N=weights.repeat_interleave(lengths).to(device),
        rollout_logp_N=torch.cat(logprobs).to(device),
        advantages_N=torch.tensor(advantages).repeat_interleave(lengths).to(device) if advantages else None,
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
