"""The plan of a run, made before anything starts: devices, precisions, models, servers. Imports no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import quote

from distillctl.config.gpu_only import on_cpu
from distillctl.config.schema import Config, TeacherConfig, teacher_section
from distillctl.config.scores import require_scores
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.host.gpus import MIG, counted, cuda_environment, visible_gpus
from distillctl.host.hardware import cpu_runtime, cpus
from distillctl.launch.gpu_assignment import check_gpus, check_slices
from distillctl.models.architecture import UNLIMITED_POSITIONS
from distillctl.models.locate import fetch_weights, find_model
from distillctl.models.model_dir import ModelDir
from distillctl.models.rope import switch_length
from distillctl.rollout.start import engine_settings, kv_cache_bytes
from distillctl.rollout.worker import EngineSettings
from distillctl.teacher.logins import found_logins
from distillctl.teacher.server import MAX_NUM_SEQS, server_arguments


@dataclass(frozen=True, slots=True)
class PlannedTeacher:
    """A teacher of the run."""

    model: ModelDir
    """A teacher behind a URL may have no weights here."""
    dtype: str
    endpoints: list[str]
    """Addresses of its servers, as in `TeacherJob.endpoints`. Empty for a server that the run starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A run with everything resolved: devices, dtypes, models."""

    config: Config
    """The configuration that runs on this machine: on a CPU, settings for GPUs have their defaults."""
    student: ModelDir
    teachers: dict[str, PlannedTeacher]
    """Named as in `Config.all_teachers`."""
    device: str
    world_size: int
    student_dtype: str
    max_model_len: int
    gpus: tuple[str, ...] = ()
    """Identifiers of the visible GPUs, in the order in which the configuration counts them; empty on a CPU.
    The ranks have the first `world_size`."""

    def rank_command(self, job: str = "JOB.json") -> list[str]:
        """Command line of a trainer rank."""
        return [sys.executable, "-m", "distillctl.train.worker", job]

    def rank_environment(self, rank: int) -> dict[str, str]:
        """Variables that a rank's environment adds to this process's: its number, its share of the cores."""
        threads = max(1, len(cpus()) // self.world_size)
        ours = cpu_runtime() if self.device == "cpu" else cuda_environment(self.gpus[: self.world_size])
        return {
            **ours,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": str(self.world_size),
            "OMP_NUM_THREADS": str(threads),
            "DS_ACCELERATOR": self.device,
            "HF_HUB_OFFLINE": "1",
            "DO_NOT_TRACK": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }

    def engine(self, scratch: Path) -> EngineSettings:
        """Settings of the rollout engine."""
        rollout = self.config.rollout
        on_gpu = self.device == "cuda"
        settings = engine_settings(
            self.student,
            dtype=self.student_dtype,
            socket=scratch / "rollout.sock",
            max_model_len=self.max_model_len,
            max_num_seqs=rollout.max_num_seqs,
            num_gpus=len(rollout.gpus or [0]) if on_gpu else 0,
            gpu_memory_utilization=rollout.gpu_memory_utilization,
            enforce_eager=rollout.enforce_eager,
        )
        return replace(settings, max_logprobs=self.num_rollout_topk)

    @property
    def models(self) -> list[ModelDir]:
        """The student and all teachers."""
        return [self.student, *(teacher.model for teacher in self.teachers.values())]

    @property
    def used_gpus(self) -> dict[str, str]:
        """The run's GPUs: from the number among the visible ones, as in metric names, to the identifier."""
        if self.device == "cpu":
            return {}
        numbers = {*range(self.world_size), *(self.config.rollout.gpus or [0])}
        for name in self.served:
            numbers |= set(self.config.all_teachers[name].gpus or [])
        return {str(number): self.gpus[number] for number in sorted(numbers)}

    @property
    def num_rollout_topk(self) -> int:
        """How many of the student's most likely tokens the engine reports. A teacher server scores them."""
        asked = self.config.loss.needs == "chosen tokens" and any(
            teacher.is_served for teacher in self.config.all_teachers.values()
        )
        return self.config.loss.topk if asked else 0

    @property
    def served(self) -> list[str]:
        """Names of the teachers that the run starts a server for."""
        return [name for name, teacher in self.config.all_teachers.items() if teacher.serve]

    def server_arguments(self, name: str, socket: Path) -> list[str]:
        """Arguments of vLLM's server for one of `served`."""
        teacher = self.config.all_teachers[name]
        job = self.teachers[name]
        loss = self.config.loss
        on_gpu = self.device == "cuda"
        length = self.config.max_length + 1
        cache_bytes = None if on_gpu else kv_cache_bytes(job.model.shape, length, MAX_NUM_SEQS)
        return server_arguments(
            job.model.path,
            dtype=job.dtype,
            socket=socket,
            max_model_len=length,
            max_logprobs=loss.topk + 1,  # student_topk also asks for the sampled token
            ask_ids=loss.needs == "chosen tokens",
            kv_cache_bytes=cache_bytes,
            num_gpus=len(teacher.gpus or []) if on_gpu else 0,
            gpu_memory_utilization=teacher.gpu_memory_utilization,
        )


def file_name(name: str) -> str:
    """A teacher's name as part of a file name. Different names give different file names."""
    return quote(name, safe=" ")


def resolve(config: Config) -> Plan:
    """Decide devices and dtypes, and find the models. Weights on the hub are not downloaded.

    Raises ConfigError for settings that contradict the machine or the models, EnvironmentUnfit for models
    that cannot be downloaded.
    """
    ids = _gpus(config)
    world_size = _world_size(config, ids)
    if ids:
        check_gpus(config, world_size, len(ids))
        check_slices(config, world_size, ids)
    else:
        config = on_cpu(config)
    require_scores(config, on_gpu=bool(ids))
    auto = "bfloat16" if ids else "float32"
    found: dict[str, ModelDir] = {}
    student = _student(config, found)
    teachers = {name: _teacher(config, name, one, auto, found) for name, one in config.all_teachers.items()}
    return Plan(
        config=config,
        student=student,
        teachers=teachers,
        device="cuda" if ids else "cpu",
        world_size=world_size,
        student_dtype=auto if config.student.dtype == "auto" else config.student.dtype,
        max_model_len=config.max_length,
        gpus=ids,
    )


def fetch_models(plan: Plan) -> None:
    """Download the weights that the run loads itself and that are not here yet, and check all files.

    Raises ConfigError for files that cannot be used, EnvironmentUnfit for models that cannot be downloaded.
    """
    fetch_weights(plan.student, "student.model")
    for name, teacher in plan.teachers.items():
        if plan.config.all_teachers[name].url is None:
            fetch_weights(teacher.model, f"{teacher_section(name)}.model")


def _gpus(config: Config) -> tuple[str, ...]:
    """Identifiers of the GPUs that the run may use; none for a run on the CPU."""
    ids = tuple(visible_gpus().ids) if config.train.device != "cpu" else ()
    if config.train.device == "cuda" and not ids:
        raise EnvironmentUnfit(
            f"train.device is cuda, but {counted(0)}",
            visible_gpus().note
            or "check nvidia-smi and that nvidia-ml-py is installed (pip install 'distillctl[gpu]')",
        )
    return ids


def _world_size(config: Config, ids: Sequence[str]) -> int:
    """Number of ranks: the configured one, else one per GPU, or one on a CPU or on slices of a GPU."""
    sliced = any(gpu.startswith(MIG) for gpu in ids)
    return config.train.world_size or (1 if sliced else max(1, len(ids)))


def _found(found: dict[str, ModelDir], spec: str, key: str) -> ModelDir:
    """Find a model without downloading its weights. Equal specifications give the same model."""
    if spec not in found:
        found[spec] = find_model(spec, key, weights=False)
    return found[spec]


def _student(config: Config, found: dict[str, ModelDir]) -> ModelDir:
    """Find the student, and check that it takes the longest sequence and has enough tokens for the loss."""
    student = _found(found, config.student.model, "student.model")
    _check_positions(config, "student.model", student.shape.max_positions)
    _check_switch(config, "student.model", student.shape.switch_length)
    if config.loss.num_listed > student.shape.vocab_size:
        raise ConfigError(
            f"loss.topk={config.loss.topk}, but student.model has {student.shape.vocab_size} tokens",
            "lower loss.topk",
        )
    return student


def _teacher(
    config: Config, name: str, teacher: TeacherConfig, auto: str, found: dict[str, ModelDir]
) -> PlannedTeacher:
    """Find one teacher and check that it takes the longest sequence."""
    key = f"{teacher_section(name)}.model"
    model = _found(found, teacher.model, key)
    # A served teacher may have any architecture that vLLM has, and must generate one token.
    positions = _positions(model) if teacher.is_served else model.shape.max_positions
    num_generated = 1 if teacher.is_served else 0
    _check_positions(config, key, positions, num_generated)
    if teacher.url is None:  # a server that already runs has chosen its own longest sequence
        _check_switch(config, key, switch_length(model.config), num_generated)
    found_logins(name, teacher)
    return PlannedTeacher(
        model=model,
        dtype=auto if teacher.dtype == "auto" else teacher.dtype,
        endpoints=list(map(_located, teacher.url or [])),
    )


def _located(endpoint: str) -> str:
    """The endpoint with an absolute socket path, because the ranks work in another directory."""
    scheme, colon, path = endpoint.partition("unix:")
    return endpoint if scheme or not colon else f"unix:{os.path.abspath(path)}"


def _positions(model: ModelDir) -> int:
    """The longest sequence in tokens, for a model of any architecture."""
    positions = model.config.get("max_position_embeddings") or UNLIMITED_POSITIONS
    if type(positions) is not int:
        what = f"config.json of {model}: max_position_embeddings is not an integer"
        raise ConfigError(what, "correct or download it again")
    return positions


def _check_positions(config: Config, key: str, positions: int, num_generated: int = 0) -> None:
    prompt = max(1, min(config.data.max_prompt_length, positions // 2))
    response = positions - prompt - num_generated
    fits = f"e.g. data.max_prompt_length={prompt} data.max_response_length={response}"
    if config.data.max_prompt_length + 1 > positions:
        raise ConfigError(
            f"data.max_prompt_length={config.data.max_prompt_length} leaves no room for a response: "
            f"{key} takes {positions} tokens",
            f"lower data.max_prompt_length, {fits}",
        )
    if config.max_length + num_generated > positions:
        besides = ", and a server generates one more" if num_generated else ""
        raise ConfigError(
            f"data.max_prompt_length + data.max_response_length = {config.max_length}{besides}, but {key} "
            f"takes {positions} tokens",
            f"lower data.max_prompt_length or data.max_response_length, {fits}",
        )


def _check_switch(config: Config, key: str, switch: tuple[str, int] | None, num_generated: int = 0) -> None:
    """Raise ConfigError when the model's frequencies would depend on the longest sequence of the row."""
    if switch is None or config.max_length + num_generated <= switch[1]:
        return
    besides = ", and a server generates one more" if num_generated else ""
    raise ConfigError(
        f"data.max_prompt_length + data.max_response_length = {config.max_length}{besides}, but {key} has "
        f"{switch[0]} position embeddings, whose frequencies change beyond {switch[1]} tokens "
        "(original_max_position_embeddings): a sequence's score would depend on the longest one in its row",
        f"lower data.max_prompt_length or data.max_response_length to {switch[1] - num_generated} together",
    )
