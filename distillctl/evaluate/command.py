"""`distillctl eval`: one model after the other through a rollout engine, one table."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from distillctl import children
from distillctl.children import Child
from distillctl.data.lengths import fewest_tokens
from distillctl.data.prompts import render
from distillctl.data.read import PromptRow, read_rows
from distillctl.data.template import require_rendering
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.evaluate.evaluation import Evaluation, answers, summarise
from distillctl.fit import require_shared_memory, require_writable
from distillctl.machine import model_path, model_shape, num_gpus, require_packages
from distillctl.memory import scratch_directory
from distillctl.presets import load_config
from distillctl.rollout.client import RolloutClient, Sampling
from distillctl.rollout.process import READY_TIMEOUT_S, engine_settings, start_engine
from distillctl.run import RunDir, resolve_checkpoint
from distillctl.teacher.compat import token_counter
from distillctl.tokenizer_files import chat_template, special_tokens, tokenizer_config

DEFAULT_MAX_TOKENS = 512
MAX_NUM_SEQS = 256


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """What the command line asks for; None means: as the run had it."""

    data: Path | None
    limit: int | None
    temperature: float
    max_tokens: int | None


@dataclass(frozen=True, slots=True)
class _Target:
    label: str
    path: Path


def run(
    models: list[str], settings: EvalSettings, out: Path | None, *, quiet: bool
) -> tuple[dict[str, Any], str]:
    """Evaluate `models` (the checkpoint first, then its baselines) on the same prompts."""
    device = "cuda" if num_gpus() else "cpu"
    require_packages(device)
    resolved = [resolve_checkpoint(spec) for spec in models]
    targets = [_Target(r.label, model_path(r.model, "--checkpoint")) for r in resolved]
    data, max_tokens = _from_run(resolved[0].run, settings)
    rows = read_rows(data)[: settings.limit]
    for target in targets:  # refused here, not after the models before it were evaluated
        _require_prompts(target, rows, _room(target, max_tokens))
    if out is not None:
        _require_directory(out)
    results = []
    for target in targets:
        started = time.perf_counter()
        result = _evaluate_one(target, rows, settings.temperature, max_tokens, device)
        results.append({"model": target.label, **asdict(result)})
        if not quiet:
            seconds = time.perf_counter() - started
            print(f"{target.label}: acc={result.acc:.3f} in {seconds:.0f} s", file=sys.stderr, flush=True)
    report = {"data": str(data), "max_tokens": max_tokens, "temperature": settings.temperature,
              "results": results}  # fmt: skip
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
        (out / "eval.json").write_text(json.dumps(report, indent=1))
    return report, render_table(results)


def _require_directory(out: Path) -> None:
    """Raise when results could not be written, before hours are spent on them."""
    if out.exists() and not out.is_dir():
        raise ConfigError(f"{out}: is not a directory", "--out names the directory to write")
    require_writable(out, option="--out")


def _from_run(run_path: Path | None, settings: EvalSettings) -> tuple[Path, int]:
    """Data and token limit: the command line's, else those of the run the checkpoint belongs to."""
    config = load_config(RunDir(run_path).config_path) if run_path else None
    max_tokens = settings.max_tokens
    if max_tokens is None:
        max_tokens = config.data.max_response_length if config else DEFAULT_MAX_TOKENS
    if settings.data is not None:
        return settings.data, max_tokens
    if config is None or not config.data.val_files:
        raise ConfigError(
            "--data is needed: the checkpoint does not belong to a run with data.val_files",
            "e.g. --data data/gsm8k/test.parquet",
        )
    return Path(config.data.val_files[0]), max_tokens


def _room(target: _Target, max_tokens: int) -> int:
    """Tokens that a prompt may have; raises ConfigError where there are none."""
    room = model_shape(target.path).max_positions - max_tokens
    if room < 1:
        message = f"--max-tokens {max_tokens} leaves {target.label} no room for a prompt"
        raise ConfigError(message, f"give at most {room + max_tokens - 1}")
    return room


def _require_prompts(target: _Target, rows: list[PromptRow], room: int) -> None:
    """Raise ConfigError for a model that has no tokenizer or template, or takes none of the rows."""
    count, described = token_counter(target.path), tokenizer_config(target.path)
    template = chat_template(target.path, described)
    if template is None:
        hint = "take an instruction-tuned model, or add a chat template to the tokenizer"
        raise ConfigError(f"{target.path}: has no chat template, so prompts cannot be rendered", hint)
    if not any(fewest_tokens(row, count) <= room for row in rows):
        message = f"--data: none of {len(rows)} prompts has no more than the {room} tokens"
        raise ConfigError(f"{message} that {target.label} takes before a response", "lower --max-tokens")
    require_rendering(rows, template, special_tokens(described))


def _evaluate_one(
    target: _Target, rows: list[PromptRow], temperature: float, max_tokens: int, device: str
) -> Evaluation:
    from transformers import AutoTokenizer

    from distillctl.teacher.compat import model_stop_token_ids

    tokenizer = AutoTokenizer.from_pretrained(target.path, trust_remote_code=False)
    prompts, dropped = render(rows, tokenizer, _room(target, max_tokens))
    if dropped:
        print(f"{target.label}: {dropped} prompts are too long and left out", file=sys.stderr)
    longest = max(len(prompt.token_ids) for prompt in prompts)
    sampling = Sampling(temperature, 1.0, max_tokens, model_stop_token_ids(target.path, tokenizer))
    with running_engine(target.path, longest + max_tokens, device) as client:
        return summarise(*answers(client, prompts, tokenizer, sampling))


@contextmanager
def running_engine(model: Path, max_model_len: int, device: str) -> Iterator[RolloutClient]:
    """A rollout engine of its own for `model`, stopped at the end. Raises EnvironmentUnfit if it dies."""
    on_gpu = device == "cuda"
    require_shared_memory(0)
    with scratch_directory() as scratch:
        settings = engine_settings(
            model,
            dtype="bfloat16" if on_gpu else "float32",
            socket=scratch / "rollout.sock",
            max_model_len=max_model_len,
            max_num_seqs=MAX_NUM_SEQS,
            num_gpus=1 if on_gpu else 0,
        )
        log = scratch / "rollout.log"
        process = start_engine(settings, scratch / "engine.json", log)
        engine = Child("rollout engine", process, log)
        try:
            deadline = time.monotonic() + READY_TIMEOUT_S
            while not Path(settings.socket).exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise EnvironmentUnfit(f"the rollout engine did not start:\n{engine.tail()}")
                time.sleep(0.1)
            client = RolloutClient(Path(settings.socket), READY_TIMEOUT_S)
            yield client
            client.close()
        finally:
            children.kill([engine])


_COLUMNS = {
    "acc": "acc",
    "verl_strict": "verl-strict",
    "verl_flexible": "verl-flexible",
    "format_rate": "format",
    "truncation_rate": "truncated",
}


def render_table(results: list[dict[str, Any]]) -> str:
    """The results as a table: percentages, the 95 % Wilson interval behind the accuracy."""
    header = ["model", "prompts", "acc", "95 % interval", *list(_COLUMNS.values())[1:], "length", "tokens/s"]
    table = [header]
    for result in results:
        shares = [f"{100 * result[name]:.1f} %" for name in _COLUMNS]
        interval = f"{100 * result['acc_low']:.1f} - {100 * result['acc_high']:.1f}"
        table.append(
            [
                result["model"],
                str(result["num_prompts"]),
                shares[0],
                interval,
                *shares[1:],
                f"{result['response_length']:.1f}",
                f"{result['tokens_per_s']:,.0f}",
            ]
        )
    widths = [max(len(row[i]) for row in table) for i in range(len(header))]
    lines = []
    for row in table:
        cells = [row[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(row[1:], widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
