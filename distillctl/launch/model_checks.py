"""Whether the models of a run fit together, from their files alone, before anything starts.

Imports neither torch nor transformers: templates are compared as text, tokenizers by their vocabularies.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace

from distillctl.config.schema import Config, teacher_section
from distillctl.errors import ConfigError
from distillctl.launch.plan import Plan
from distillctl.models.compatibility import require_plain_head, shared_vocab
from distillctl.models.loadable import Suspect, require_loadable
from distillctl.models.model_dir import ModelDir
from distillctl.models.supported import require_decoder
from distillctl.run.checks import Check

_MAX_SHOWN = 5
"""Tokens named in one line."""
_SAMPLING_KEYS = (
    "temperature", "top_p", "top_k", "min_p", "typical_p", "repetition_penalty", "presence_penalty",
    "frequency_penalty", "no_repeat_ngram_size", "max_new_tokens", "max_length",
)  # fmt: skip
"""Keys of generation_config.json that engines use as defaults when a request does not set them."""


def pair_checks(plan: Plan) -> list[Check]:
    """Check the student against every teacher.

    A model with neither weights nor tokenizer.json is a partial download: a single `warn` says that it was
    not checked. Raises ConfigError when training would be meaningless (tokenizers that differ, an LM head
    that is not a linear map) and for files that cannot be read.
    """
    config = plan.config
    student = plan.student
    checks = []
    if _is_partial(student):
        checks.append(_not_checked("student", config.student.model))
    else:
        checks += _student_checks(config, student)
    for name, planned in plan.teachers.items():
        settings = config.all_teachers[name]
        teacher = planned.model
        key = teacher_section(name)
        if _is_partial(teacher):
            checks.append(_not_checked(key, settings.model))
            continue
        if not settings.is_served:
            _require_plain_head(teacher, f"{key}.model")
        if not _is_partial(student):
            checks += _vocabulary_checks(student, teacher, key)
            checks += [_eos_check(student, teacher, key), _template_check(student, teacher, key)]
    return checks


def weight_checks(plan: Plan) -> list[Check]:
    """Check that the weights are complete, and list tensors that are not used.

    Raises ConfigError when tensors are missing. Models whose weights are not here are skipped.
    """
    suspects = [Suspect(plan.student, "student.model", engine=True, trained=True)]
    for name, planned in plan.teachers.items():
        teacher = plan.config.all_teachers[name]
        if teacher.url is not None or (teacher.serve and not _is_supported(planned.model)):
            continue
        suspects.append(Suspect(planned.model, f"{teacher_section(name)}.model", engine=teacher.serve))
    return [Check("weights", "warn", note) for note in require_loadable(suspects)]


def _is_supported(model: ModelDir) -> bool:
    """Whether the model has a supported architecture. A served teacher may have any other that vLLM has."""
    try:
        require_decoder(model.config, model.path / "config.json")
    except ConfigError:
        return False
    return True


def _is_partial(model: ModelDir) -> bool:
    return not model.has_tokenizer and not model.weight_files


def _not_checked(key: str, spec: str) -> Check:
    return Check("tokenizers", "warn", f"not checked: {key}.model={spec} has no tokenizer.json here")


def _require_plain_head(model: ModelDir, key: str) -> None:
    require_plain_head(SimpleNamespace(**{"model_type": "it", **model.config}), key)


def _num_rows(model: ModelDir) -> int:
    """Number of rows of the LM head, for a model of any architecture."""
    size = model.config.get("vocab_size")
    if not isinstance(size, int):
        raise ConfigError(
            f"{model.path / 'config.json'} has no vocab_size", "download it again, or save the model again"
        )
    return size


def _vocabulary_checks(student: ModelDir, teacher: ModelDir, key: str) -> list[Check]:
    rows = _num_rows(student), _num_rows(teacher)
    size, beyond = shared_vocab(student.vocabulary, teacher.vocabulary, rows, key)
    pair = f"student and {key}"
    if beyond:
        more = f" and {len(beyond) - _MAX_SHOWN} more" if len(beyond) > _MAX_SHOWN else ""
        tokens = Check(
            "tokenizers", "warn",
            f"{pair} share {size} ids; above them are {', '.join(beyond[:_MAX_SHOWN])}{more}; responses are "
            "cut before such a token",
        )  # fmt: skip
    else:
        tokens = Check("tokenizers", "ok", f"{pair}: {len(student.vocabulary)} ids agree")
    if rows == (size, size):
        return [tokens, Check("heads", "ok", f"{pair} have the shared {size} rows each")]
    detail = f"{pair}: heads of {rows[0]} and {rows[1]} rows are both cut to the shared {size}"
    return [tokens, Check("heads", "ok", detail)]


def _eos_check(student: ModelDir, teacher: ModelDir, key: str) -> Check:
    """Check the stop ids. Lengths explode when the engine does not stop where the teacher stops."""
    ours = student.stop_token_ids
    theirs = teacher.stop_token_ids
    if ours and ours == theirs:
        return Check("eos", "ok", f"student and {key} stop at {_named(ours, student.vocabulary)}")
    extra = sorted(set(ours) - set(theirs))
    if extra and set(theirs) < set(ours):
        detail = f"rollouts also stop at {_named(extra, student.vocabulary)}, no stop token of {key}"
        return Check("eos", "warn", detail)
    detail = (
        f"{key} ends responses with {_named(theirs, teacher.vocabulary)}, rollouts stop at "
        f"{_named(ours, student.vocabulary)}: the student is not taught to stop where the engine stops, and "
        "responses grow to the length limit"
    )
    ids = theirs or "the id that ends a response"
    hint = f"set eos_token_id in the student's generation_config.json to {ids}"
    return Check("eos", "warn", detail, f"take the instruction-tuned student, or {hint}")


def _named(ids: Sequence[int], vocabulary: Mapping[str, int]) -> str:
    """`'<|im_end|>' 151645, '<|endoftext|>' 151643`, or `nothing`."""
    tokens = {i: token for token, i in vocabulary.items()}
    return ", ".join(f"{tokens[i]!r} {i}" if i in tokens else str(i) for i in ids) or "nothing"


def _template_check(student: ModelDir, teacher: ModelDir, key: str) -> Check:
    name = "chat template"
    assert student.chat_template is not None  # `_student_checks` has required it
    if teacher.chat_template is None:
        detail = f"{key} has none: it scores the student's format, on which it was perhaps never trained"
        return Check(name, "warn", detail, "take an instruction-tuned teacher")
    if student.chat_template.split() == teacher.chat_template.split():
        return Check(name, "ok", f"student and {key} have the same")
    detail = (
        f"student and {key} have different ones: prompts are rendered with the student's, so the teacher "
        "sees a format (system prompt, markers) on which it was perhaps never trained"
    )
    return Check(name, "warn", detail, f"compare the two, or give the student the template of {key}")


def _student_checks(config: Config, student: ModelDir) -> list[Check]:
    """Check the LM head, and report defaults of generation_config.json and the chat template."""
    _require_plain_head(student, "student.model")
    template = student.require_chat_template(f"student.model={config.student.model}")
    checks = []
    given = {key: student.generation_config.get(key) for key in _SAMPLING_KEYS}
    ignored = [f"{key}={value}" for key, value in given.items() if value is not None]
    if ignored:
        detail = (
            f"student's {', '.join(ignored)} are not applied: rollouts use rollout.temperature="
            f"{config.rollout.temperature:g} and rollout.top_p={config.rollout.top_p:g}"
        )
        checks.append(Check("generation_config", "ok", detail))
    if "enable_thinking" in template:
        detail = (
            "student's chat template has enable_thinking, left at its default: a response may begin with a "
            f"think block, which counts towards data.max_response_length={config.data.max_response_length}"
        )
        hint = "raise data.max_response_length, or change the default in the student's chat_template.jinja"
        checks.append(Check("thinking", "warn", detail, hint))
    return checks
