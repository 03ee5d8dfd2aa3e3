"""`distillctl eval`: a model and its baselines on the same prompts, one table, and a verdict."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from distillctl.config.schema import MIN_TEMPERATURE
from distillctl.data_types import Prompt, Rollout
from distillctl.errors import CheckFailed, ConfigError
from distillctl.evaluate import outputs, requirements
from distillctl.evaluate.cache import Cache, Response, open_cache
from distillctl.evaluate.data import EvalData, eval_data
from distillctl.evaluate.outputs import Outputs
from distillctl.evaluate.pairing import Result, compared, required_values
from distillctl.evaluate.questions import Questions, Target, all_questions
from distillctl.evaluate.requirements import Requirement
from distillctl.evaluate.rescore import load_scorer, rescore
from distillctl.evaluate.responses import Task, responses
from distillctl.evaluate.table import render_report
from distillctl.evaluate.teacher import KlTeacher, kl_teacher, response_kls
from distillctl.files.json_values import finite
from distillctl.grading.custom import RewardFunction
from distillctl.grading.summary import GradedResponse, grade_texts
from distillctl.host.gpus import visible_gpus
from distillctl.host.packages import require_gpu_build, require_packages
from distillctl.models.loadable import Suspect, require_loadable
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir
from distillctl.run.resolve import resolve_checkpoint
from distillctl.terminal.progress import note


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSettings:
    """The options of the command line; None means the setting of the run."""

    data: Sequence[str] = ()
    limit: int | None = None
    temperature: float = 0.0
    max_tokens: int | None = None
    num_samples: int = 1
    teacher: str | None = None
    score: str | None = None
    require: Sequence[str] = ()
    junit: str | None = None
    """A file, or a folder that gets `junit.xml`."""
    out: Path | None = None
    cache_dir: Path | None = None
    """Folder for kept responses; None means the user's cache directory."""
    keep: bool = True
    """Whether to read and write kept responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Prepared:
    """What an evaluation needs, after every check that can refuse it."""

    data: EvalData
    questions: list[Questions]
    teachers: list[KlTeacher] | None
    """The teacher of `--teacher` for each model."""
    work: Task
    wanted: list[Requirement]
    outputs: Outputs
    cache: Cache
    scorer: RewardFunction | None


def run(models: Sequence[str], settings: EvalSettings) -> tuple[dict[str, Any], str]:
    """Evaluate `models` (the checkpoint first, then its baselines) on the same prompts.

    Returns the report and its table. Raises CheckFailed, which holds both, if a requirement is not met.
    """
    prepared = _prepare(models, settings)
    results = [_evaluate(prepared, number) for number in range(len(prepared.questions))]
    report = {
        "data": prepared.data.files,
        "max_tokens": prepared.questions[0].max_tokens,
        "temperature": prepared.work.temperature,
        "results": [_reported(result, prepared.data) for result in results],
        **compared(results),
    }
    return _verdict(report, results, prepared)


def _prepare(models: Sequence[str], settings: EvalSettings) -> _Prepared:
    """Run every check that can refuse the evaluation, before it takes hours."""
    _require_sense(settings)
    wanted = [requirements.parse(expression) for expression in settings.require]
    gpus = visible_gpus()
    device = "cuda" if gpus.ids else "cpu"
    if gpus.note:
        note(gpus.note)
    require_packages(device)
    require_gpu_build(device)
    cache = open_cache(settings.cache_dir, keep=settings.keep)
    written = outputs.prepare(settings.junit, settings.out, cache)
    resolved = [resolve_checkpoint(spec) for spec in models]
    labels = [one.label for one in resolved]
    options = ["--checkpoint", *["--baseline"] * (len(models) - 1)]
    named = labels if len(set(labels)) == len(labels) else list(models)
    targets = [
        Target(label, find_model(one.model, option), option)
        for label, one, option in zip(named, resolved, options, strict=True)
    ]
    teacher = None if settings.teacher is None else find_model(settings.teacher, "--teacher")
    data = eval_data(resolved[0].run, settings.data, settings.limit, limits=settings.max_tokens is None)
    written.require_no_input(data.paths, data.source)
    teachers = None if teacher is None else [kl_teacher(target.model, teacher) for target in targets]
    questions = all_questions(targets, data, settings.max_tokens)
    _require_loadable(targets, teacher)
    return _Prepared(
        data=data,
        questions=questions,
        teachers=teachers,
        work=Task(settings.num_samples, settings.temperature, device),
        wanted=wanted,
        outputs=written,
        cache=cache,
        scorer=None if settings.score is None else load_scorer(settings.score),
    )


def _require_loadable(targets: Sequence[Target], teacher: ModelDir | None) -> None:
    """Raise for models whose files lack tensors; note unused tensors on stderr."""
    suspects = [Suspect(target.model, target.option, engine=True) for target in targets]
    if teacher is not None:
        suspects.append(Suspect(teacher, "--teacher", engine=False))
    for told in require_loadable(suspects):
        note(told)


def _require_sense(settings: EvalSettings) -> None:
    if settings.num_samples > 1 and settings.temperature == 0.0:
        message = f"--n {settings.num_samples} at temperature 0 gives the same response every time"
        raise ConfigError(message, "add e.g. --temperature 0.7")
    if settings.temperature and not MIN_TEMPERATURE <= settings.temperature < math.inf:
        raise ConfigError(
            f"--temperature {settings.temperature:g} is not a temperature that vLLM samples at",
            f"give 0, which is greedy, or at least {MIN_TEMPERATURE}: vLLM raises lower ones to that",
        )
    if settings.cache_dir is not None and not settings.keep:
        raise ConfigError("--no-cache and --cache-dir exclude each other", "give one of them")


def _evaluate(prepared: _Prepared, number: int) -> Result:
    """Get the responses of one model and grade them."""
    asked = prepared.questions[number]
    work = prepared.work
    cache = prepared.cache
    found, seconds = responses(asked, work, cache)
    graded = _graded(found, prepared.data)
    if prepared.scorer is not None:
        graded = rescore(graded, prepared.scorer)
    kls = None
    if prepared.teachers is not None:
        kls = response_kls(asked, prepared.teachers[number], graded, work, cache)
    return Result(
        label=asked.target.label,
        responses=graded,
        seconds=seconds,
        num_dropped=asked.num_dropped,
        kls=kls,
    )


def _graded(found: Sequence[Response], data: EvalData) -> list[GradedResponse]:
    """Grade responses, which are in the order of the rows."""
    prompts: dict[int, Prompt] = {}
    for response in found:
        row = data.rows[response.row]
        prompts.setdefault(response.row, Prompt(
            data.prompt_ids[response.row], response.prompt_ids, row.question, row.ground_truth,
            data_source=row.data_source, extra_info=row.extra_info, answer_type=row.answer_type,
        ))  # fmt: skip
    rollouts = [
        Rollout(
            prompt=prompts[one.row],
            group=one.row,
            sample=one.sample,
            response_ids=np.array(one.response_ids, np.int32),
            response_logprobs=np.zeros(len(one.response_ids), np.float32),
            finish_reason=one.finish_reason,
            weight_version=0,
        )
        for one in found
    ]
    return grade_texts(rollouts, [one.text for one in found])


def _reported(result: Result, data: EvalData) -> dict[str, Any]:
    """The numbers of one model, over all files and for each file."""
    ids: dict[str, set[str]] = {name: set() for name in data.files}
    for name, prompt_id in zip(data.file_of_row, data.prompt_ids, strict=True):
        ids[name].add(prompt_id)
    files = {}
    for name, of_file in ids.items():
        values = result.values(of_file)
        del values["tokens_per_s"]  # a file has no speed of its own, because batches mix prompts of files
        files[name] = {**values, "num_dropped": len(of_file - result.prompt_ids)}
    values = result.values(result.prompt_ids)
    return {"model": result.label, **values, "num_dropped": result.num_dropped, "files": files}


def _verdict(
    report: dict[str, Any], results: Sequence[Result], prepared: _Prepared
) -> tuple[dict[str, Any], str]:
    values = required_values(results, report["gap_closed"])
    outcomes = requirements.check(prepared.wanted, values)
    report["requirements"] = [asdict(outcome) for outcome in outcomes]
    plain = finite(report)
    text = render_report(report)
    prepared.outputs.write_junit(f"distillctl eval {results[0].label}", outcomes, values)
    files = dict(zip(prepared.data.prompt_ids, prepared.data.file_of_row, strict=True))
    prepared.outputs.write_results(plain, [(result.label, result.responses) for result in results], files)
    failed = [outcome for outcome in outcomes if not outcome.met]
    if failed:
        told = "; ".join(f"{outcome.expression} is not met: {outcome.reason}" for outcome in failed)
        raise CheckFailed(told, result=plain, text=text)
    return plain, text
