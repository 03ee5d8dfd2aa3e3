"""The student and its teachers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, ModelWrapValidatorHandler, PrivateAttr, model_validator

from distillctl.config.section import Dtype, Fraction, OneOrMore, Scores, Section
from distillctl.data_types import DEFAULT_TEACHER
from distillctl.errors.redact import split_login


def teacher_section(name: str) -> str:
    """The section of the configuration that describes a teacher: `teacher`, or `teachers.NAME`."""
    return "teacher" if name == DEFAULT_TEACHER else f"teachers.{name}"


class StudentConfig(Section):
    """The model that is trained."""

    model: str
    """A model directory, a hub id, or `builtin:NAME` for a model shipped with distillctl."""
    dtype: Dtype = "auto"
    """Compute precision; `auto` is float32 on a CPU and bfloat16 (with float32 master weights) on a GPU."""
    gradient_checkpointing: bool = False
    """Recompute activations in the backward pass: less memory, about a third more compute."""


class TeacherConfig(Section):
    """The frozen model whose distribution is matched."""

    model: str
    """A model directory, a hub id, or `builtin:NAME`. Its tokenizer must agree with the student's id by
    id."""
    dtype: Dtype = "auto"
    """Precision of the teacher's forward pass; `auto` as for the student."""
    shard: bool = False
    """Shard the teacher over the ranks with ZeRO-3 instead of a copy on each: less memory, more traffic."""
    offload: Literal["none", "cpu"] = "none"
    """`cpu` keeps the teacher in CPU memory except while it scores; its LM head stays on the GPU. Without
    effect on a CPU."""
    quantization: Literal["none", "int8", "int4"] = "none"
    """Quantise the teacher's linear layers. The run measures the KL that this costs before the first step."""
    url: Annotated[list[str] | None, OneOrMore] = None
    """Score with vLLM servers that are already running (`http://HOST:PORT`; requests take turns) instead.
    `teacher.model` names the model that they serve and is still needed for its tokenizer. Where they want an
    API key, set the environment variable DISTILLCTL_TEACHER_API_KEY. A user and password
    (`http://USER:PASSWORD@HOST:PORT`) are never stored; `***` is written in their place. To resume such a
    run, give the address again, or set the environment variable DISTILLCTL_TEACHER_LOGIN to
    `USER:PASSWORD`."""
    serve: bool = False
    """Start a vLLM server for the teacher and stop it with the run, instead of a copy in the ranks."""
    gpus: list[int] | None = None
    """GPUs of a teacher that `serve` starts, which is tensor-parallel over all of them. They are counted from
    0 among the visible ones. Without effect on a CPU."""
    gpu_memory_utilization: Fraction = 0.9
    """Share of the memory of those GPUs that the server may take. Without effect on a CPU."""
    timeout_s: float = Field(default=600.0, gt=0.0)
    """Longest wait, in seconds, for a server's reply to one request. A request is sent at most four times."""
    _logins: tuple[str | None, ...] = PrivateAttr(default=())

    @property
    def logins(self) -> tuple[str | None, ...]:
        """`user:password` of each `url`, or None. Logins are never written to disk."""
        return self._logins

    @model_validator(mode="wrap")
    @classmethod
    def _keep_logins_apart(
        cls, value: Any, handler: ModelWrapValidatorHandler[TeacherConfig]
    ) -> TeacherConfig:
        urls = value.get("url") if isinstance(value, dict) else None
        listed = urls if isinstance(urls, list) else [urls]
        # Numbers become text here too, as they would in the field, so that each of them is looked at.
        texts = [str(url) for url in listed if isinstance(url, str | int | float)]
        if not texts or len(texts) < len(listed):
            return handler(value)
        try:
            parts = [split_login(url) for url in texts]
        except ValueError as error:
            raise ValueError(f"url {error}") from None
        made = handler({**value, "url": [url for url, _ in parts]})
        made._logins = tuple(login for _, login in parts)
        return made

    @property
    def is_served(self) -> bool:
        """Whether a vLLM server scores. A server gives the probabilities of some tokens, not of all."""
        return self.serve or self.url is not None

    def gives(self, *, on_gpu: bool) -> tuple[Scores, ...]:
        """The scores that the teacher can give for each token. `LossConfig.needs` is the counterpart.

        `on_gpu` says whether the run is on GPUs. vLLM 0.32 scores chosen tokens of a prompt
        (`prompt_logprob_token_ids`) on GPUs only. The hardware of a server at a `url` is not known.
        """
        if not self.is_served:
            return ("whole distribution", "listed tokens", "chosen tokens", "sampled token")
        if self.serve and not on_gpu:
            return ("listed tokens", "sampled token")
        return ("listed tokens", "chosen tokens", "sampled token")

    @model_validator(mode="after")
    def _one_place(self) -> TeacherConfig:
        if self.serve and self.url is not None:
            raise ValueError("give url for a server that runs already or serve=true to start one, not both")
        local = {"shard": self.shard, "offload=cpu": self.offload != "none"}
        local["quantization"] = self.quantization != "none"
        used = [name for name, on in local.items() if on]
        if self.is_served and used:
            raise ValueError(f"{used[0]} is for a teacher in the ranks, not for a served one")
        if len(used) > 1 and self.shard:
            raise ValueError(f"shard does not go together with {used[1]}")
        return self


class RoutedTeacher(TeacherConfig):
    """One of several teachers, each for its own rows of the data."""

    key: str | None = None
    """This teacher scores the rows whose column `data.teacher_key` has this value; null means its name."""
