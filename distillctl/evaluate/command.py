"""`distillctl eval`: a model and its baselines on the same prompts, one table, and a verdict."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.data.lengths import fewest_tokens
from distillctl.data.read import PromptRow, read_rows
from distillctl.data.special_tokens import SpecialTokens, special_token_warning
from distillctl.data.template import require_rendering
from distillctl.errors import CheckFailed, ConfigError
from distillctl.evaluate import earlier, junit, requirements
from distillctl.evaluate.cache import Response, model_hash
from distillctl.evaluate.comparison import difference, gap_closed
from distillctl.evaluate.evaluation import Answer, grade_texts, summarise
from distillctl.evaluate.requirements import BASELINE, NAMES, Requirement
from distillctl.evaluate.responses import Target, Task, response_cache, responses, room
from distillctl.evaluate.results import write_results
from distillctl.evaluate.scoring import load_scorer, rescore
from distillctl.evaluate.table import render_report
from distillctl.machine import model_path, model_shape, num_gpus, require_packages
from distillctl.outputs import require_output, written
from distillctl.presets import load_config
from distillctl.rollout.client import request_names
from distillctl.run import RunDir, resolve_checkpoint
from distillctl.samples import Prompt, Rollout
from distillctl.teacher.compat import plain_tokenizer, shared_vocab, token_counter, tokenizer_vocab
from distillctl.tokenizer_files import chat_template, special_tokens, tokenizer_config

DEFAULT_MAX_TOKENS = 512


@dataclass(frozen=True, slots=True)
class EvalSettings:
    """What the command line asks for; None means: as the run had it."""

    data: Path | None = None
    limit: int | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    num_samples: int = 1
    teacher: str | None = None
    score: str | None = None
    require: Sequence[str] = field(default_factory=tuple)
    junit: Path | None = None
    out: Path | None = None


@dataclass(frozen=True, slots=True)
class _Result:
    """One evaluated model."""

    label: str
    answers: list[Answer]
    values: dict[str, Any]


def run(models: Sequence[str], settings: EvalSettings) -> tuple[dict[str, Any], str]:
    """Evaluate `models` (the checkpoint first, then its baselines) on the same prompts.

    Returns the report and its table. Raises CheckFailed, with both, when a requirement is not met.
    """
    wanted = [requirements.parse(expression) for expression in settings.require]
    _require_outputs(settings.out, settings.junit)
    targets, work, data = _prepare(models, settings)
    teacher = None if settings.teacher is None else model_path(settings.teacher, "--teacher")
    shared = {target: _shared(target.path, teacher) for target in targets if teacher is not None}
    scorer = None if settings.score is None else load_scorer(settings.score)
    results = []
    for target in targets:
        found, seconds, num_dropped = responses(target, work)
        answers = _answers(found, work.rows)
        if scorer is not None:
            answers = rescore(answers, scorer)
        values = {"model": target.label, **asdict(summarise(answers, seconds)), "num_dropped": num_dropped}
        if teacher is not None:
            values["kl"] = _kl(target, teacher, shared[target], answers, work)
        results.append(_Result(target.label, answers, values))
    report = {"data": str(data), "max_tokens": work.max_tokens, "temperature": work.temperature,
              "results": [result.values for result in results], **_compared(results)}  # fmt: skip
    return _verdict(report, wanted, settings, results)


def _verdict(
    report: dict[str, Any], wanted: Sequence[Requirement], settings: EvalSettings, results: Sequence[_Result]
) -> tuple[dict[str, Any], str]:
    values = _values(report)
    outcomes = requirements.check(wanted, values)
    report["requirements"] = [asdict(outcome) for outcome in outcomes]
    if settings.junit is not None:
        junit.write_junit(settings.junit, f"distillctl eval {results[0].label}", outcomes, values)
    if settings.out is not None:
        write_results(settings.out / "answers.parquet", {r.label: r.answers for r in results})
        with written(settings.out / "eval.json", "--out") as file:
            file.write(json.dumps(_plain(report), indent=1).encode())
    text = render_report(report)
    failed = [outcome for outcome in outcomes if not outcome.met]
    if failed:
        told = "; ".join(f"{outcome.expression} is not met: {outcome.reason}" for outcome in failed)
        raise CheckFailed(told, result=_plain(report), text=text)
    return _plain(report), text


def _values(report: dict[str, Any]) -> dict[str, float | None]:
    """What requirements are about: values of the checkpoint, and its differences from the first baseline."""
    first, *others = report["results"]
    values = {name: first.get(name) for name in NAMES} | {"gap_closed": report["gap_closed"]}
    if others:
        for name in NAMES:
            pair = first.get(name), others[0].get(name)
            values[name + BASELINE] = None if None in pair else pair[0] - pair[1]
    return values


def _compared(results: Sequence[_Result]) -> dict[str, Any]:
    """Differences from each baseline; the gap from the first one to the second, the teacher."""
    first, *others = results
    found = [difference(other.label, first.answers, other.answers) for other in others]
    accs = [result.values["acc"] for result in results]
    closed = gap_closed(accs[1], accs[0], accs[2]) if len(accs) > 2 else None
    return {"differences": [asdict(one) for one in found if one is not None], "gap_closed": closed}


def _prepare(models: Sequence[str], settings: EvalSettings) -> tuple[list[Target], Task, Path]:
    """Everything that can be refused, before hours are spent."""
    device = "cuda" if num_gpus() else "cpu"
    if settings.num_samples > 1 and settings.temperature == 0.0:
        message = f"--n {settings.num_samples} at temperature 0 gives the same answer every time"
        raise ConfigError(message, "add e.g. --temperature 0.7")
    require_packages(device)
    resolved = [resolve_checkpoint(spec) for spec in models]
    targets = [Target(one.label, model_path(one.model, "--checkpoint")) for one in resolved]
    data, max_tokens = _from_run(resolved[0].run, settings)
    rows = read_rows(data)[: settings.limit]
    digest = hashlib.sha256(data.read_bytes()).hexdigest()
    work = Task(rows, digest, settings.num_samples, settings.temperature, max_tokens, device)
    for target in targets:
        if response_cache(target, work).done is None:
            _require_prompts(target, rows, max_tokens)
    return targets, work, data


def _require_outputs(out: Path | None, junit_file: Path | None) -> None:
    """Raise unless everything that is to be written may and can be."""
    if out is not None:
        if out.exists() and not out.is_dir():
            raise ConfigError(f"{out}: is not a directory", "--out names the directory to write")
        require_output(out / "eval.json", "--out", "a report of an evaluation", earlier.is_report)
        require_output(out / "answers.parquet", "--out", "an evaluation's answers", earlier.is_answers)
    if junit_file is not None:
        require_output(junit_file, "--junit", "an evaluation's suite", earlier.is_junit)
        is_inside = out is not None and junit_file.parent.resolve() == out.resolve()
        if is_inside and junit_file.name in ("eval.json", "answers.parquet"):
            raise ConfigError(f"--junit {junit_file}: is what --out writes", "choose another --junit")


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


def _require_prompts(target: Target, rows: list[PromptRow], max_tokens: int) -> None:
    """Raise ConfigError for a model without tokenizer or template, or with room for none of the rows."""
    space = room(target, max_tokens)
    if space < 1:
        message = f"--max-tokens {max_tokens} leaves {target.label} no room for a prompt"
        raise ConfigError(message, f"give at most {space + max_tokens - 1}")
    count, described = token_counter(target.path), tokenizer_config(target.path)
    template = chat_template(target.path, described)
    if template is None:
        hint = "take an instruction-tuned model, or add a chat template to the tokenizer"
        raise ConfigError(f"{target.path}: has no chat template, so prompts cannot be rendered", hint)
    if not any(fewest_tokens(row, count) <= space for row in rows):
        message = f"--data: none of {len(rows)} prompts has no more than the {space} tokens"
        raise ConfigError(f"{message} that {target.label} takes before a response", "lower --max-tokens")
    require_rendering(rows, template, special_tokens(described))
    told = special_token_warning(rows, SpecialTokens(plain_tokenizer(target.path)), f"{target.label}: --data")
    if told is not None:
        print(f"warning: {told}", file=sys.stderr)


def _answers(found: Sequence[Response], rows: Sequence[PromptRow]) -> list[Answer]:
    """Responses as graded answers, in the order of the rows."""
    prompts: dict[int, Prompt] = {}
    for response in found:
        if response.row not in prompts:
            row = rows[response.row]
            prompts[response.row] = Prompt(
                f"{row.split}/{row.index}", response.prompt_ids, row.question, row.ground_truth,
                data_source=row.data_source, extra_info=row.extra_info, answer_type=row.answer_type,
            )  # fmt: skip
    names = request_names(list(prompts.values()))  # ids are unique from here on
    named = {row: replace(p, prompt_id=name) for (row, p), name in zip(prompts.items(), names, strict=True)}
    ordered = sorted(found, key=lambda response: (response.row, response.sample))
    rollouts = [
        Rollout(named[one.row], one.sample, np.array(one.response_ids, np.int32),
                np.zeros(len(one.response_ids), np.float32), one.finish_reason, 0)
        for one in ordered
    ]  # fmt: skip
    return grade_texts(rollouts, [one.text for one in ordered])


def _shared(student: Path, teacher: Path) -> int:
    """Token ids that a model shares with the teacher; raises ConfigError where their tokenizers differ."""
    sizes = model_shape(student).vocab_size, model_shape(teacher).vocab_size
    return shared_vocab(tokenizer_vocab(student), tokenizer_vocab(teacher), sizes, "--teacher")[0]


def _kl(target: Target, teacher: Path, vocab_size: int, answers: Sequence[Answer], work: Task) -> float:
    """Mean KL from the teacher on the answers; remembered with them."""
    cache, name = response_cache(target, work), f"kl {model_hash(teacher)}"
    if name not in cache.facts:
        from distillctl.evaluate.teacher_kl import mean_kl

        rollouts = [answer.rollout for answer in answers]
        cache.note(name, mean_kl(target.path, teacher, rollouts, vocab_size, work.device))
    return float(cache.facts[name])


def _plain(report: dict[str, Any]) -> dict[str, Any]:
    """The report of JSON's types: NaN, of data without ground truths, as null."""
    cleaned: dict[str, Any] = json.loads(json.dumps(report), parse_constant=lambda _: None)
    return cleaned
