"""Peak memory of the loss, forward and backward, against a dense one that holds all logits at once.

    python tests/benchmarks/loss_memory.py [--tokens 4096] [--vocab 151936] [--hidden 896]
        [--kinds NAME|FILE.py ...]

A KIND is one of `loss.kind` or a FILE.py of `loss.path`. Each line is one process on the CPU in float32, with
the teacher at hand and the default chunk size. Peak: the largest resident memory (VmHWM, reset just before)
over the resident memory with models and inputs in place. The gradient of the head is part of it; any loss
that trains a head needs that much.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path

import torch

from distillctl.config.loading import load_config, preset_path
from distillctl.host.hardware import memory_bytes
from distillctl.objective.chunked import chunked_loss
from distillctl.objective.inputs import Tokens
from distillctl.objective.teacher_scores import Dense
from distillctl.train.objectives import make_objective

DENSE = "dense"
KINDS = ("reverse_kl", "forward_kl", "jsd", "topk", "student_topk", "sampled")
DENSE_TENSORS = 6
"""Room to ask for before the dense loss is tried, in tensors [tokens, vocabulary] of float32; it takes 5."""
FEW_TOKENS = 1024
"""Tokens of the dense loss where all of them do not fit."""


def memory_kib(name):
    """A line of /proc/self/status, KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    sys.exit(f"/proc/self/status has no {name}: this measurement needs Linux")


def objective(kind, vocab_size):
    """With the chunk size of a run that does not set one; `kind` may be a FILE.py of `loss.path`."""
    key = "loss.path" if kind.endswith(".py") else "loss.kind"
    return make_objective(load_config(preset_path("tiny-from-small-arith"), [f"{key}={kind}"]), vocab_size)


def make_inputs(num_tokens, vocab_size, hidden_size):
    """Random hidden states, heads and tokens; the teacher is as wide as the student."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator)

    hidden_NH, head_VH = normal(num_tokens, hidden_size), normal(vocab_size, hidden_size) / hidden_size**0.5
    teacher = Dense(normal(num_tokens, hidden_size), normal(vocab_size, hidden_size) / hidden_size**0.5)
    tokens = Tokens(
        torch.randint(vocab_size, (num_tokens,), generator=generator),
        torch.full((num_tokens,), 1.0 / num_tokens),
        torch.full((num_tokens,), -2.0),
    )
    return hidden_NH.requires_grad_(), head_VH.requires_grad_(), teacher, tokens


def dense_loss(hidden_NH, head_VH, teacher):
    """Mean reverse KL by autograd."""
    with torch.no_grad():
        logp_NV = (teacher.hidden_NG @ teacher.head_VG.T).log_softmax(-1)
    logq_NV = (hidden_NH @ head_VH.T).log_softmax(-1)
    kl = torch.nn.functional.kl_div(logp_NV, logq_NV, reduction="sum", log_target=True)
    return kl / len(hidden_NH)


def forward_backward(kind, num_tokens, vocab_size, hidden_size):
    """Peak bytes over the inputs, and seconds."""
    hidden_NH, head_VH, teacher, tokens = make_inputs(num_tokens, vocab_size, hidden_size)
    wanted = None if kind == DENSE else objective(kind, vocab_size)
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM starts again from here
    before, start = memory_kib("VmRSS"), time.perf_counter()
    if wanted is None:
        dense_loss(hidden_NH, head_VH, teacher).backward()
    else:
        chunked_loss(hidden_NH, head_VH, teacher, tokens, wanted)[0].backward()
    return (memory_kib("VmHWM") - before) * 1024, time.perf_counter() - start


def measure(arguments):
    """Of this process, after a loss too small to count that starts threads and loads code."""
    forward_backward(arguments.measure, 16, 512, 64)
    peak, seconds = forward_backward(arguments.measure, arguments.tokens, arguments.vocab, arguments.hidden)
    print(json.dumps({"peak": peak, "seconds": seconds}))


def child(kind, num_tokens, arguments):
    """`measure` in a process of its own."""
    command = [
        sys.executable, __file__, "--measure", kind, "--tokens", str(num_tokens),
        "--vocab", str(arguments.vocab), "--hidden", str(arguments.hidden),
    ]  # fmt: skip
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_dense(arguments):
    """Peak bytes and seconds of the dense loss, and a note where not all of its tokens fit."""
    needed = 4 * arguments.vocab * (DENSE_TENSORS * arguments.tokens + 3 * arguments.hidden)
    count = arguments.tokens if needed < 0.9 * memory_bytes() else min(FEW_TOKENS, arguments.tokens)
    found, scale = child(DENSE, count, arguments), arguments.tokens / count
    note = "" if count == arguments.tokens else f"  ({scale:g} times that of {count} tokens: it is linear)"
    return found["peak"] * scale, found["seconds"] * scale, note


def main():
    """One process after another."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--vocab", type=int, default=151936)
    parser.add_argument("--hidden", type=int, default=896)
    parser.add_argument("--kinds", nargs="*", default=KINDS)
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        measure(arguments)
        return
    chunk_size = objective("reverse_kl", arguments.vocab).chunk_size
    print(f"{arguments.tokens:,} tokens, vocabulary {arguments.vocab:,}, hidden size {arguments.hidden:,}, "
          f"chunks of {chunk_size} tokens, float32")  # fmt: skip
    print(f"gradient of the head, in every peak: {4 * arguments.vocab * arguments.hidden / 1e6:,.0f} MB")
    dense, seconds, note = measure_dense(arguments)
    print(f"{'loss':14} {'peak':>10} {'dense / it':>11} {'time':>9}")
    print(f"{DENSE:14} {dense / 1e6:7,.0f} MB {1.0:10.1f}x {seconds:7.1f} s{note}", flush=True)
    for kind in arguments.kinds:
        found = child(kind, arguments.tokens, arguments)
        peak = found["peak"]
        print(f"{kind:14} {peak / 1e6:7,.0f} MB {dense / peak:10.1f}x {found['seconds']:7.1f} s", flush=True)


if __name__ == "__main__":
    main()
