"""From rollouts to micro-batches: group the rollouts, assign them to ranks, and make the tensors.

Every rank computes the same plan from the same rollouts, so the ranks need not communicate it.
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
    """The samples of each micro-batch: `plan(...)[rank][i]`. Every rank gets equally many micro-batches.

    A micro-batch has at most `micro_batch_tokens` tokens; a longer sample gets one of its own. All
    micro-batches have nearly the same size, so ranks seldom wait for each other: the samples are assigned
    from the longest to the shortest, each to the emptiest micro-batch (longest processing time first; Graham
    1969, doi:10.1137/0117039). The number of micro-batches is the smallest that holds the samples in this
    way. An empty list is a filler, for a rank that would otherwise have fewer micro-batches than the others.
    """
    order = sorted(range(len(lengths)), key=lambda i: (-lengths[i], i))
    # A sample that is longer than a micro-batch counts as one full micro-batch.
    num_tokens = sum(min(length, micro_batch_tokens) for length in lengths)
    num_large = sum(2 * length > micro_batch_tokens for length in lengths)  # no two of these fit together
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
    """The rollouts of a step with `num_trained` and `token_weight`, which say how they count in the loss.

    The first `loss.token_fraction` of a response's tokens are trained on, rounded up, and at least one token.
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
    # 0.07 * 100 is 7.000000000000001 in floating point and must not become 8.
    return min(length, max(1, math.ceil(round(token_fraction * length, 9))))


def references(rollouts: Sequence[Rollout], coefficient: float) -> list[Rollout]:
    """The reference answers to the prompts of a batch, as rollouts: one for each prompt that has one.

    Their mean cross-entropy per token counts `coefficient` in the loss.
    """
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
    """This rank's micro-batches of the rollouts `members`. Every rank has as many; none without members."""
    if not members:
        return []
    lengths = [len(rollouts[i].prompt.token_ids) + len(_trained_ids(rollouts[i])) for i in members]
    shares = plan(lengths, config.train.micro_batch_tokens, distributed.world_size)
    return [
        collate(rollouts, [members[i] for i in share], distributed.device)
        for share in shares[distributed.rank]
    ]


def collate(rollouts: Sequence[Rollout], members: Sequence[int], device: torch.device) -> MicroBatch:
    """Tensors of one micro-batch on `device`. Without members, it is a filler: a short sequence of weight
    0."""
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
    """The rollout, cut before its first token id >= `vocab_size`. The result may be empty."""
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
    """Cut each response before its first token id >= `vocab_size`; its finish reason becomes `length`.

    A padded LM head has rows above the tokenizer's ids. The engine can sample these ids, and the other model
    may lack them. Responses that become empty are dropped. Raises RunFailed when no response is left.
    """
    kept = [cut for rollout in rollouts if len((cut := cut_to_vocabulary(rollout, vocab_size)).response_ids)]
    if not kept:
        raise RunFailed(
            f"each of the step's {len(rollouts)} responses begins with a token id of {vocab_size} or above, "
            "outside the vocabulary that student and teacher share: nothing is left to train on",
            "the student samples only tokens that the teacher lacks: check that its tokenizer belongs to its "
            "weights",
        )
    return kept
