"""Rollout worker against plain `vllm.LLM.generate`: same prompts, settings, cores; measured in turns.

    python tests/benchmarks/rollout_throughput.py [MODEL] [NUM_PROMPTS] [MAX_TOKENS] [ROUNDS]

MODEL is the tiny student unless it is named; `random_models.py` makes one of 106 million parameters. Prints
tokens/s of both (median over the rounds) and their ratio. The plain engine runs in a process of its own with
the worker's engine options and environment, but without distillctl's plugin, protocol and pausing.
"""

import os
import signal
import statistics
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np

from distillctl.data_types import Prompt
from distillctl.host.shared_memory import scratch_directory
from distillctl.models.locate import find_model
from distillctl.rollout.client import RolloutClient, Sampling, sample_seed
from distillctl.rollout.start import engine_environment, engine_settings, start_engine
from distillctl.rollout.vllm_plugin import OWNER_ENV
from distillctl.rollout.worker import EngineSettings, build_engine

PROMPT_TOKENS = 60
REST_S = 2.0  # the plain engine's idle loops spin for a second; neither may disturb the other


def make_prompts(count):
    rng = np.random.default_rng(0)
    return [Prompt(f"p/{i}", rng.integers(5, 400, PROMPT_TOKENS).tolist(), "", None) for i in range(count)]


def plain(settings, count, max_tokens):
    """Child process: one generate per line of stdin; answers with tokens and seconds."""
    from vllm import SamplingParams

    llm = build_engine(EngineSettings(**settings))
    prompts = make_prompts(count)
    params = [
        SamplingParams(temperature=1.0, max_tokens=max_tokens, ignore_eos=True, logprobs=0, detokenize=False,
                       flat_logprobs=True, seed=sample_seed(0, 1, p.prompt_id, 0))
        for p in prompts
    ]  # fmt: skip
    inputs = [{"prompt_token_ids": p.token_ids} for p in prompts]
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        tokens = sum(len(o.outputs[0].token_ids) for o in outputs)
        print("result", tokens, time.perf_counter() - start, flush=True)


def start_plain(code, scratch):
    """A process that runs `code` with the worker's environment, but without distillctl's plugin."""
    env = engine_environment(0, None, scratch)
    del env[OWNER_ENV]
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, env=env, text=True, stdin=subprocess.PIPE,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip


def ask(child, word):
    while True:
        line = child.stdout.readline()
        if not line:
            sys.exit("the plain engine ended")
        if line.startswith(word):
            return line.split()


def main(model="builtin:tiny-student", count=128, max_tokens=60, rounds=7):
    count, max_tokens, rounds = int(count), int(max_tokens), int(rounds)
    with scratch_directory() as scratch:
        settings = engine_settings(
            find_model(model, "MODEL"), dtype="float32", socket=scratch / "rollout.sock",
            max_model_len=PROMPT_TOKENS + max_tokens, max_num_seqs=256,
        )  # fmt: skip
        code = f"import rollout_throughput as b; b.plain({asdict(settings)!r}, {count}, {max_tokens})"
        child = start_plain(code, scratch)
        ask(child, "ready")
        worker = start_engine(settings, scratch / "engine.json", scratch / "rollout.log")
        client = RolloutClient(Path(settings.socket), 300)
        rates = {"worker": [], "plain": []}
        for turn in range(rounds + 1):  # the first round warms up
            time.sleep(REST_S)
            start = time.perf_counter()
            # No stop ids, so that both write max_tokens for every prompt.
            rollouts = client.generate(make_prompts(count), 1, Sampling(1.0, 1.0, max_tokens, []), 0, 1)
            seconds = time.perf_counter() - start
            time.sleep(REST_S)
            child.stdin.write("go\n")
            child.stdin.flush()
            _, tokens, plain_s = ask(child, "result")
            if turn:
                rates["worker"].append(sum(len(r.response_ids) for r in rollouts) / seconds)
                rates["plain"].append(int(tokens) / float(plain_s))
        for process in (child, worker):
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    ratios = [a / b for a, b in zip(rates["worker"], rates["plain"], strict=True)]
    for name, values in rates.items():
        print(f"{name:7s} {statistics.median(values):8.0f} tokens/s  ({min(values):.0f} - {max(values):.0f})")
    print(f"ratio worker / plain: {statistics.median(ratios):.3f}  ({min(ratios):.3f} - {max(ratios):.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
