"""What is known about a pair of models before anything starts: from their files and the configuration alone.

`static_checks` refuses pairs whose training would mean nothing and notes what is legal but rarely wanted. To
add a check: a function that returns `Check`s, called in `static_checks`. Imports neither torch nor
transformers: templates are compared as text, tokenizers by their vocabularies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from distillctl.config.schema import Config, teacher_section
from distillctl.errors import ConfigError
from distillctl.files.reading import read_json
from distillctl.models.compatibility import (
    generation_config,
    require_plain_head,
    shared_vocab,
    stop_token_ids,
    tokenizer_vocab,
)
from distillctl.models.tokenizer_files import chat_template, token_text, tokenizer_config
from distillctl.run.checks import Check
from distillctl.teacher.logins import API_KEY, unsent_keys

_MAX_SHOWN = 5
"""Tokens named in one line."""
_SAMPLING_KEYS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "no_repeat_ngram_size", "max_new_tokens", "max_length",
)  # fmt: skip
"""Keys of generation_config.json that engines take as defaults when they are told nothing."""


def static_checks(config: Config, student: Path, teachers: Mapping[str, Path]) -> list[Check]:
    """Check the student against every teacher, and the configuration against itself.

    `student`, `teachers` (named as in `config.all_teachers`): model directories, which may lack weights. One
    with neither weights nor tokenizer.json is a partial download: a single `warn` says that it was not
    checked. Raises ConfigError where training would mean nothing (tokenizers that differ, a head that is no
    linear map) and for files that cannot be read.
    """
    ours = _read("student", config.student.model, student)
    checks = [ours] if isinstance(ours, Check) else _student_checks(config, ours)
    for name, path in teachers.items():
        settings = config.all_teachers[name]
        key = teacher_section(name)
        theirs = _read(key, settings.model, path)
        if isinstance(theirs, Check):
            checks.append(theirs)
            continue
        if not settings.is_served:
            require_plain_head(theirs.config, f"{key}.model")
        if not isinstance(ours, Check):
            checks += [*_vocabulary_checks(ours, theirs), _eos_check(ours, theirs)]
            checks.append(_template_check(ours, theirs))
    for url in unsent_keys(config):
        detail = f"{url} gets the user and password in it; the API key in {API_KEY} is not sent to it"
        checks.append(Check("teacher login", "warn", detail, "leave one of the two out"))
    checks += [_objective_check(config), _sampling_check(config)]
    return [*checks, *_staleness_checks(config)]


@dataclass(frozen=True, slots=True)
class _Model:
    """A model's files, read."""

    key: str
    """`student`, `teacher` or `teachers.NAME`."""
    config: SimpleNamespace
    """config.json."""
    generation: dict[str, Any]
    """generation_config.json."""
    vocab: dict[str, int]
    stop_ids: list[int]
    template: str | None


def _read(key: str, spec: str, path: Path) -> _Model | Check:
    """The model, or the check that says that only a part of it is here."""
    if not (path / "tokenizer.json").is_file() and not list(path.glob("*.safetensors")):
        detail = f"not checked: {key}.model={spec} has no tokenizer.json here"
        return Check("tokenizers", "warn", detail)
    config = SimpleNamespace(**{"model_type": "it", **read_json(path / "config.json")})
    if not isinstance(getattr(config, "vocab_size", None), int):
        raise ConfigError(f"{path / 'config.json'} has no vocab_size")
    vocab, generation = tokenizer_vocab(path), generation_config(path)
    tokenizer = tokenizer_config(path)
    stops = stop_token_ids(generation, vocab.get(token_text(tokenizer.get("eos_token"))))
    return _Model(key, config, generation, vocab, stops, chat_template(path, tokenizer))


def _vocabulary_checks(ours: _Model, theirs: _Model) -> list[Check]:
    rows = ours.config.vocab_size, theirs.config.vocab_size
    size, beyond = shared_vocab(ours.vocab, theirs.vocab, rows, theirs.key)
    pair = f"student and {theirs.key}"
    if beyond:
        more = f" and {len(beyond) - _MAX_SHOWN} more" if len(beyond) > _MAX_SHOWN else ""
        tokens = Check(
            "tokenizers", "warn",
            f"{pair} share {size} ids, above which are {', '.join(beyond[:_MAX_SHOWN])}{more}; responses are "
            "cut before such a token",
        )  # fmt: skip
    else:
        tokens = Check("tokenizers", "ok", f"{pair}: {len(ours.vocab)} ids agree")
    if rows == (size, size):
        return [tokens, Check("heads", "ok", f"{pair} have the shared {size} rows each")]
    detail = f"{pair}: heads of {rows[0]} and {rows[1]} rows are both cut to the shared {size}"
    return [tokens, Check("heads", "ok", detail)]


def _eos_check(ours: _Model, theirs: _Model) -> Check:
    """Stop ids; where the engine does not stop at what the teacher ends with, lengths explode."""
    if ours.stop_ids and ours.stop_ids == theirs.stop_ids:
        return Check("eos", "ok", f"student and {theirs.key} stop at {_named(ours.stop_ids, ours.vocab)}")
    extra = sorted(set(ours.stop_ids) - set(theirs.stop_ids))
    if extra and set(theirs.stop_ids) < set(ours.stop_ids):
        detail = f"rollouts also stop at {_named(extra, ours.vocab)}, no stop token of {theirs.key}"
        return Check("eos", "warn", detail)
    detail = (
        f"{theirs.key} ends answers with {_named(theirs.stop_ids, theirs.vocab)}, rollouts stop at "
        f"{_named(ours.stop_ids, ours.vocab)}: the student is not taught to stop where the engine stops, and "
        "responses grow to the length limit"
    )
    ids = theirs.stop_ids or "the id that ends an answer"
    hint = f"set eos_token_id in the student's generation_config.json to {ids}"
    return Check("eos", "warn", detail, f"take the instruction-tuned student, or {hint}")


def _named(ids: Sequence[int], vocab: Mapping[str, int]) -> str:
    """`'<|im_end|>' 151645, '<|endoftext|>' 151643`, or `nothing`."""
    tokens = {i: token for token, i in vocab.items()}
    return ", ".join(f"{tokens[i]!r} {i}" if i in tokens else str(i) for i in ids) or "nothing"


def _template_check(ours: _Model, theirs: _Model) -> Check:
    name, key = "chat template", theirs.key
    assert ours.template is not None  # refused before
    if theirs.template is None:
        detail = f"{key} has none: it scores the student's format, which it was perhaps never trained on"
        return Check(name, "warn", detail, "take an instruction-tuned teacher")
    if ours.template.split() == theirs.template.split():
        return Check(name, "ok", f"student and {key} have the same")
    detail = (
        f"student's and that of {key} differ: prompts are rendered with the student's, so the teacher sees a "
        "format (system prompt, markers) that it was perhaps not trained on"
    )
    return Check(name, "warn", detail, f"compare the two, or give the student the template of {key}")


def _student_checks(config: Config, ours: _Model) -> list[Check]:
    """The head, and what an engine or a template would do on its own."""
    require_plain_head(ours.config, "student.model")
    if ours.template is None:
        raise ConfigError(
            f"student.model={config.student.model} has no chat template, so prompts cannot be rendered",
            "take an instruction-tuned student, or save the tokenizer of one with the student",
        )
    checks = []
    given = {key: ours.generation.get(key) for key in _SAMPLING_KEYS}
    ignored = [f"{key}={value}" for key, value in given.items() if value is not None]
    if ignored:
        detail = (
            f"student's {', '.join(ignored)} are not applied: rollouts use rollout.temperature="
            f"{config.rollout.temperature:g} and rollout.top_p={config.rollout.top_p:g}"
        )
        checks.append(Check("generation_config", "ok", detail))
    if "enable_thinking" in (ours.template or ""):
        detail = (
            "student's chat template has enable_thinking, left at its default: a response may begin with a "
            f"think block, which counts towards data.max_response_length={config.data.max_response_length}"
        )
        hint = "raise data.max_response_length, or change the default in the student's chat_template.jinja"
        checks.append(Check("thinking", "warn", detail, hint))
    return checks


def _objective_check(config: Config) -> Check:
    """Which divergence the gradient of the configured loss reduces."""
    loss = config.loss
    name = "objective"
    if loss.kind == "topk":
        detail = (
            f"{loss.topk_divergence} over the teacher's {loss.topk} most likely tokens and a bucket for "
            "the rest: a lower bound of the full divergence; probabilities within the bucket are not trained"
        )
        return Check(name, "ok", detail)
    if loss.kind == "student_topk":
        detail = (
            f"reverse KL, exact on the student's {loss.topk} most likely tokens and estimated from the "
            "sampled token on the rest; its gradient is right in expectation"
        )
        return Check(name, "ok", detail)
    if loss.kind == "sampled":
        return _estimator_check(config)
    if loss.path is not None:
        detail = f"your own loss, {loss.label}, over the shared vocabulary; its slope is found by autograd"
        return Check(name, "ok", detail)
    return Check(name, "ok", f"{loss.kind}, exact over the shared vocabulary")


def _estimator_check(config: Config) -> Check:
    """What the estimator's gradient is in expectation over the sampled token (`docs/objectives.md`)."""
    estimator = config.loss.estimator
    name = "objective"
    if config.loss.policy_gradient:
        detail = (
            "policy gradient with log p - log q as advantage: in expectation the gradient of the reverse KL"
        )
        return Check(name, "ok", detail)
    if estimator in ("k3", "low_var_kl"):
        detail = (
            f"{estimator} as a loss has the expected gradient of the FORWARD KL (teacher || student), by "
            "the ratio p/q, whose variance is high"
        )
    elif estimator == "abs":
        detail = (
            "abs as a loss does not have the expected gradient of any KL: it is sum q sign(log q - log p) "
            "grad log q, which ignores how far the two are apart"
        )
    else:
        biased = estimator.startswith(("k2", "mse", "abs"))
        value = "a biased value, and " if biased else ""
        return Check(name, "ok", f"{estimator}: {value}in expectation the gradient of the reverse KL")
    hint = f"loss.kl_loss_type={estimator}+ keeps the value and has the gradient of the reverse KL"
    return Check(name, "warn", detail, hint)


def _sampling_check(config: Config) -> Check:
    """Whether rollouts are sampled from the distribution that is trained."""
    loss = config.loss
    rollout = config.rollout
    name = "sampling"
    if rollout.temperature == loss.temperature and rollout.top_p == 1.0:
        return Check(name, "ok", "rollouts are samples of the distribution that is trained")
    how = (
        f"rollouts are at temperature {rollout.temperature:g} and top_p {rollout.top_p:g}, the loss is at "
        f"temperature {loss.temperature:g}"
    )
    if config.reward.path is not None and rollout.top_p < 1.0:
        detail = (
            f"{how}: the task reward's importance ratio compares the whole distribution with the nucleus "
            "that is sampled from, so it is off by the nucleus's mass"
        )
        return Check(name, "warn", detail, "rollout.top_p=1")
    if loss.kind not in ("sampled", "student_topk"):
        detail = f"{how}: only which prefixes are visited changes, not the divergence at each of them"
        if config.reward.path is not None:
            detail += f"; the task reward is that of answers at temperature {rollout.temperature:g}"
        return Check(name, "ok", detail)
    detail = (
        f"{how}: loss.kind={loss.kind} takes them for samples of the trained distribution, so it is biased"
    )
    if loss.policy_gradient:
        detail = (
            f"{how}: the importance ratio corrects this only within the PPO clip range, "
            f"loss.clip_ratio={loss.clip_ratio:g}"
        )
    return Check(name, "warn", detail, f"rollout.temperature={loss.temperature:g} rollout.top_p=1")


def _staleness_checks(config: Config) -> list[Check]:
    """What one-step-off rollouts do to the objective (AsyncOPD, arXiv 2606.24143)."""
    if not config.train.async_depth:
        return []
    loss = config.loss
    name = "staleness"
    divergence = loss.topk_divergence if loss.kind == "topk" else loss.kind or loss.label
    if divergence == "forward_kl":
        return [Check(name, "ok", "rollouts are one step old, which the forward KL tolerates")]
    detail = (
        f"train.async_depth=1 trains {divergence} on rollouts that are one step old: what the student weighs "
        "is no longer what it would write"
    )
    hint = "loss.kind=forward_kl; or a small optim.lr, and watch rollout/mismatch_kl"
    return [Check(name, "warn", detail, hint)]


def schedule_checks(config: Config, num_prompts: int) -> list[Check]:
    """A warm-up that is as long as the run, which on so many training prompts is known with epochs too."""
    steps, warmup = config.num_steps(num_prompts), config.optim.warmup_steps
    if not warmup or warmup < steps:
        return []
    reached = "reaches its peak only in the last step" if warmup == steps else "never reaches its peak"
    told = f"train.steps={steps}" if config.train.steps else f"the {steps} steps of {num_prompts} prompts"
    detail = f"optim.warmup_steps={warmup} of {told}: the learning rate {reached}"
    return [Check("schedule", "warn", detail, f"optim.warmup_steps below {steps}")]
