"""`distillctl eval` against plain `vllm.LLM.generate`: same model, prompts, greedy, cores; measured in turns.

    python tests/benchmarks/eval_throughput.py [MODEL] [NUM_PROMPTS] [ROUNDS]

MODEL is the tiny student unless it is named; `random_models.py` makes larger ones, whose answers are all as
long as they may be. Both engines run; the time of `eval` is that of everything between its engine's start and
its graded answers: tokenizer, chat template, batches, decoding, keeping and grading the answers. That of vLLM
is one `generate` of all prompts, which are rendered before. Prints tokens/s of both (median over the rounds)
and their ratio.
"""

import os
import signal
import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

from rollout_throughput import REST_S, ask, start_plain

from distillctl.data.prompts import render
from distillctl.data.read import PromptRow
from distillctl.data.sets import arith
from distillctl.evaluate import responses as evaluation
from distillctl.evaluate.cache import Cache
from distillctl.evaluate.command import _graded
from distillctl.evaluate.data import EvalData
from distillctl.evaluate.questions import Target, all_questions
from distillctl.evaluate.responses import MAX_NUM_SEQS, Task, responses, running_engine
from distillctl.host.shared_memory import scratch_directory
from distillctl.models.locate import find_model
from distillctl.rollout.start import engine_settings
from distillctl.rollout.worker import EngineSettings, build_engine

MAX_TOKENS, MAX_LEN = 96, 256


def rows(count):
    problems, _ = arith.splits(count, 8, 1)
    return [
        PromptRow(
            index=i,
            messages=[{"role": "user", "content": p.question}],
            question=p.question,
            ground_truth="1",
            data_source="arith",
            split="train",
        )
        for i, p in enumerate(problems)
    ]


def plain(settings, model, count):
    """Child process: one generate per line of stdin; answers with tokens and seconds."""
    from transformers import AutoTokenizer
    from vllm import SamplingParams

    llm = build_engine(EngineSettings(**settings))
    prompts, _ = render(rows(count), AutoTokenizer.from_pretrained(model), MAX_LEN - MAX_TOKENS)
    inputs = [{"prompt_token_ids": prompt.token_ids} for prompt in prompts]
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS, detokenize=False)
    print("ready", flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        outputs = llm.generate(inputs, params, use_tqdm=False)
        tokens = sum(len(output.outputs[0].token_ids) for output in outputs)
        print("result", tokens, time.perf_counter() - start, flush=True)


def main(model="builtin:tiny-student", count=2000, rounds=5):
    count, rounds, directory = int(count), int(rounds), find_model(model, "MODEL")
    work, asked = Task(1, 0.0, "cpu"), rows(count)
    ids = [f"train/{i}" for i in range(count)]
    data = EvalData(
        files=["a"], source="--data", paths=[], rows=asked, file_of_row=["a"] * count, prompt_ids=ids
    )
    with scratch_directory() as scratch, tempfile.TemporaryDirectory() as folder:
        settings = engine_settings(
            directory, dtype="float32", socket=scratch / "none.sock", max_model_len=MAX_LEN,
            max_num_seqs=MAX_NUM_SEQS,
        )  # fmt: skip
        code = f"import eval_throughput as b; b.plain({asdict(settings)!r}, {str(directory)!r}, {count})"
        child = start_plain(code, scratch)
        ask(child, "ready")
        rates = {"eval": [], "vllm": []}
        with running_engine(Target("model", directory), MAX_LEN, "cpu") as client:
            evaluation.running_engine = lambda *_: nullcontext(client)
            for turn in range(rounds + 1):  # the first round warms up
                cache = Cache(Path(tempfile.mkdtemp(dir=folder)), None)
                time.sleep(REST_S)
                start = time.perf_counter()
                (questions,) = all_questions([Target("model", directory)], data, MAX_TOKENS)
                found, _ = responses(questions, work, cache)
                graded = _graded(found, data)
                seconds = time.perf_counter() - start
                time.sleep(REST_S)
                child.stdin.write("go\n")
                child.stdin.flush()
                _, tokens, plain_s = ask(child, "result")
                if turn:
                    rates["eval"].append(sum(len(a.rollout.response_ids) for a in graded) / seconds)
                    rates["vllm"].append(int(tokens) / float(plain_s))
        os.killpg(child.pid, signal.SIGKILL)
        child.wait()
    ratios = [a / b for a, b in zip(rates["eval"], rates["vllm"], strict=True)]
    for name, values in rates.items():
        print(f"{name:5s} {statistics.median(values):8.0f} tokens/s  ({min(values):.0f} - {max(values):.0f})")
    print(f"ratio eval / vllm: {statistics.median(ratios):.3f}  ({min(ratios):.3f} - {max(ratios):.3f})")


if __name__ == "__main__":
    main(*sys.argv[1:])
