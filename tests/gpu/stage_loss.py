"""Stages b1 and b2: packed attention and the chunked loss in 16 bits, against plain ones in wider floats.

Dimensions: N tokens, H hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from measures import are_small, dtype, error_of, peak_gib, timed, torch_device, written
from random_models import NUM_TOKENS, SHAPES
from settings import ON_GPU, TINY
from torch import Tensor

from distillctl.models import packed_attention
from distillctl.objective.chunked import chunked_loss
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.teacher_scores import Dense

LENGTHS = (9, 1, 5) if TINY else (300, 1, 77, 640, 16)
HEADS = ((14, 2, 64, None), (28, 4, 128, None), (3, 1, 32, None), (14, 2, 64, 50))
"""Query heads, key heads, head size, sliding window: the 0.5B, the 7B and the tiny shape, and a window."""
KINDS = ("reverse_kl", "forward_kl", "jsd", "topk", "student_topk", "sampled")


def stage_b1() -> dict[str, Any]:
    """Packed attention against float32 SDPA, one sequence after another; whether its backward repeats."""
    found: dict[str, Any] = {}
    all_errors: list[float] = []
    for heads, key_heads, size, window in HEADS:
        name = f"{heads}/{key_heads}x{size}" + (f"w{window}" if window else "")
        found[name], errors = _attention_case(heads, key_heads, size, window)
        all_errors += errors
    return found | {"ok": are_small(all_errors)}


def _attention_case(
    heads: int, key_heads: int, size: int, window: int | None
) -> tuple[dict[str, Any], list[float]]:
    """What is reported of one shape, and its errors: output, and gradients of queries, keys, values."""
    device = torch_device()
    total = sum(LENGTHS)

    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=dtype())

    inputs = [random(1, count, total, size).requires_grad_() for count in (heads, key_heads, key_heads)]
    slope = random(1, total, heads, size)
    arguments = packed_attention.packed_arguments(
        torch.zeros(total, dtype=torch.long, device=device), LENGTHS
    )
    module = SimpleNamespace(num_key_value_groups=heads // key_heads, is_causal=True, training=False)

    def ours() -> Tensor:
        return packed_attention._attention(
            module, *inputs, None, scaling=size**-0.5, lengths=arguments["lengths"],
            cu_seq_lens_q=arguments["cu_seq_lens_q"], sliding_window=window,
        )[0]  # fmt: skip

    def gradients() -> tuple[Tensor, ...]:
        return torch.autograd.grad(ours(), inputs, slope)

    wide = [values.detach().float().requires_grad_() for values in inputs]
    wanted = _plain_attention(wide, heads // key_heads, window)
    pairs = [(ours(), wanted)]
    pairs += zip(gradients(), torch.autograd.grad(wanted, wide, slope.float()), strict=True)
    errors = [error_of(*pair) for pair in pairs]
    repeats = [torch.equal(one, other) for one, other in zip(gradients(), gradients(), strict=True)]
    report = {
        "out_dq_dk_dv": written(errors),
        "ms_forward_backward": round(1e3 * timed(gradients), 2),
        "repeats_bit_for_bit": repeats,
    }
    return report, errors


def _plain_attention(inputs: list[Tensor], groups: int, window: int | None) -> Tensor:
    """SDPA with a mask, one sequence after another, keys and values repeated for every head."""
    parts = []
    for query, *others in zip(*(torch.split(values, LENGTHS, 2) for values in inputs), strict=True):
        length = query.shape[2]
        mask = torch.ones(length, length, dtype=torch.bool, device=query.device).tril()
        mask = mask if window is None else mask.triu(1 - window)
        key, value = (other.repeat_interleave(groups, 1) for other in others)
        parts.append(F.scaled_dot_product_attention(query, key, value, mask, scale=query.shape[3] ** -0.5))
    return torch.cat(parts, 2).transpose(1, 2)


def stage_b2() -> dict[str, Any]:
    """The chunked loss in 16 bits against itself in float64, and that against a dense formula.

    Errors of the loss and of the gradients of hidden states and head.
    """
    loss = _random_loss()
    found: dict[str, Any] = {}
    all_errors: list[float] = []
    for kind in KINDS:
        exact = loss(kind, torch.float64)
        errors = [error_of(*pair) for pair in zip(loss(kind, torch.bfloat16), exact, strict=True)]
        found[kind] = written(errors)
        all_errors += errors
    dense = loss("dense", torch.float64)
    differences = [error_of(*pair) for pair in zip(loss("reverse_kl", torch.float64), dense, strict=True)]
    found["float64_against_dense"] = written(differences)
    is_right = are_small(all_errors) and are_small(differences, 1e-8)
    return found | {"errors_are": "loss, hidden, head", "peak_gib": peak_gib(), "ok": is_right}


def _random_loss() -> Callable[[str, torch.dtype], list[Tensor]]:
    """A function from a kind of loss and a dtype to the loss and its two gradients, on one random input."""
    device = torch_device()
    generator = torch.Generator(device).manual_seed(0)
    count = 256 if ON_GPU else 24
    sizes = [SHAPES[name]["hidden_size"] for name in ("student", "teacher")]

    def normal(rows: int, columns: int, scale: float) -> Tensor:
        values = torch.randn(rows, columns, device=device, generator=generator)
        return (values * scale).bfloat16()

    student, teacher = (
        (normal(count, size, 1.0), normal(SHAPES[name]["vocab_size"], size, 3 * size**-0.5))
        for name, size in zip(("student", "teacher"), sizes, strict=True)
    )
    targets_N = torch.randint(NUM_TOKENS, (count,), device=device, generator=generator)
    weights_N = torch.rand(count, device=device, generator=generator) / count

    def run(kind: str, wanted: torch.dtype) -> list[Tensor]:
        own = [values.to(wanted).detach().requires_grad_() for values in student]
        view = Dense(*(values.to(wanted) for values in teacher))
        narrow = torch.float64 if wanted == torch.float64 else torch.float32
        tokens = Tokens(
            targets_N, weights_N.to(narrow), torch.full((count,), -3.0, device=device, dtype=narrow)
        )
        if kind == "dense":
            loss = _dense_reverse_kl(own, view, tokens.weights_N)
        else:
            objective = Objective(vocab_size=NUM_TOKENS, kind=kind, chunk_size=100)
            loss, _ = chunked_loss(*own, view, tokens, objective)
        loss.backward()
        return [loss.detach(), *(values.grad for values in own)]

    return run


def _dense_reverse_kl(own: list[Tensor], view: Dense, weights_N: Tensor) -> Tensor:
    """sum_n w_n KL(q_n || p_n), with all logits at once."""
    hidden_NH, head_VH = own
    logq_NV = (hidden_NH @ head_VH[:NUM_TOKENS].T).log_softmax(-1)
    logp_NV = (view.hidden_NG @ view.head_VG[:NUM_TOKENS].T).log_softmax(-1)
    return (weights_N * (logq_NV.exp() * (logq_NV - logp_NV)).sum(-1)).sum()
