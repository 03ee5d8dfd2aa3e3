"""A run with everything resolved before anything starts: devices, precisions, models, servers. No torch."""

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
from distillctl.files.reading import read_json
from distillctl.host.gpus import MIG, counted, cuda_environment, visible_gpus
from distillctl.host.hardware import cpu_runtime, cpus, num_gpus
from distillctl.models.architecture import model_shape
from distillctl.models.locate import model_path
from distillctl.models.rope import switch_length
from distillctl.rollout.start import engine_settings, kv_cache_bytes
from distillctl.rollout.worker import EngineSettings
from distillctl.teacher.logins import found_logins
from distillctl.teacher.server import MAX_NUM_SEQS, server_arguments
from distillctl.train.job import TeacherJob


@dataclass(frozen=True, slots=True)
class Plan:
    """A run with everything resolved: devices, dtypes, model directories."""

    config: Config
    student: Path
    teachers: dict[str, TeacherJob]
    """Named as in `Config.all_teachers`. One that the run serves itself gets its endpoint when it starts."""
    device: str
    world_size: int
    student_dtype: str
    max_model_len: int
    gpus: tuple[str, ...] = ()
    """Identifiers of the visible GPUs, which the configuration counts; empty on a CPU. The first `world_size`
    are the ranks'."""

    def rank_command(self, job: str = "JOB.json") -> list[str]:
        """Command line of a trainer rank."""
        return [sys.executable, "-m", "distillctl.train.worker", job]

    def rank_environment(self, rank: int) -> dict[str, str]:
        """What a rank's environment adds to ours: its place, its share of the cores."""
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
        """Settings of the rollout worker."""
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
    def used_gpus(self) -> dict[str, str]:
        """The run's GPUs: number among the visible ones, as in names of metrics, to identifier."""
        if self.device == "cpu":
            return {}
        numbers = {*range(self.world_size), *(self.config.rollout.gpus or [0])}
        for name in self.served:
            numbers |= set(self.config.all_teachers[name].gpus or [])
        return {str(number): self.gpus[number] for number in sorted(numbers)}

    @property
    def num_rollout_topk(self) -> int:
        """The student's most likely tokens that the engine reports: those that a server is asked about."""
        asked = self.config.loss.needs == "chosen tokens" and any(
            teacher.is_served for teacher in self.config.all_teachers.values()
        )
        return self.config.loss.topk if asked else 0

    @property
    def served(self) -> list[str]:
        """Teachers that the run starts a server for, by name."""
        return [name for name, teacher in self.config.all_teachers.items() if teacher.serve]

    def server_arguments(self, name: str, socket: Path) -> list[str]:
        """Arguments of vLLM's server for one of `served`."""
        teacher, job, loss = self.config.all_teachers[name], self.teachers[name], self.config.loss
        on_gpu, length = self.device == "cuda", self.config.max_length + 1
        shape = None if on_gpu else model_shape(Path(job.model))
        return server_arguments(
            Path(job.model),
            dtype=job.dtype,
            socket=socket,
            max_model_len=length,
            max_logprobs=loss.topk + 1,  # of student_topk also the sampled token
            ask_ids=loss.needs == "chosen tokens",
            kv_cache_bytes=kv_cache_bytes(shape, length, MAX_NUM_SEQS) if shape else None,
            num_gpus=len(teacher.gpus or []) if on_gpu else 0,
            gpu_memory_utilization=teacher.gpu_memory_utilization,
        )


def file_name(name: str) -> str:
    """A teacher's name as part of a file name; other names give other ones."""
    return quote(name, safe=" ")


def resolve(config: Config, *, download: bool = True) -> Plan:
    """Decide devices and dtypes and find the models. With `download=False` hub weights are not fetched.

    Raises ConfigError for settings that contradict the machine or the models, EnvironmentUnfit for models
    that cannot be had.
    """
    gpus = num_gpus() if config.train.device != "cpu" else 0
    ids = visible_gpus().ids if gpus else ()
    if config.train.device == "cuda" and not gpus:
        raise EnvironmentUnfit(
            f"train.device is cuda, but {counted(0)}",
            visible_gpus().note
            or "check nvidia-smi and that nvidia-ml-py is installed (pip install 'distillctl[gpu]')",
        )
    sliced = any(gpu.startswith(MIG) for gpu in ids)
    world_size = config.train.world_size or (1 if sliced else max(1, gpus))
    if gpus:
        check_gpus(config, world_size, gpus)
        _check_slices(config, world_size, ids)
    else:
        config = on_cpu(config)
    require_scores(config, on_gpu=bool(gpus))
    auto = "bfloat16" if gpus else "float32"
    student = model_path(config.student.model, "student.model", weights=download)
    shape = model_shape(student)
    _check_positions(config, "student.model", shape.max_positions)
    _check_switch(config, "student.model", shape.switch_length)
    if config.loss.num_listed > shape.vocab_size:
        raise ConfigError(
            f"loss.topk={config.loss.topk}, but student.model has {shape.vocab_size} tokens",
            "lower loss.topk",
        )
    return Plan(
        config=config,
        student=student,
        teachers={
            name: _teacher(config, name, teacher, auto, download)
            for name, teacher in config.all_teachers.items()
        },
        device="cuda" if gpus else "cpu",
        world_size=world_size,
        student_dtype=auto if config.student.dtype == "auto" else config.student.dtype,
        max_model_len=config.max_length,
        gpus=ids,
    )


def _teacher(config: Config, name: str, teacher: TeacherConfig, auto: str, download: bool) -> TeacherJob:
    """Find one teacher and check that it takes the longest sequence."""
    key = f"{teacher_section(name)}.model"
    path = model_path(teacher.model, key, weights=download and teacher.url is None)
    # A served teacher may be of any architecture that vLLM has, and has to generate a token.
    served = teacher.is_served
    positions = _positions(path / "config.json") if served else model_shape(path).max_positions
    num_generated = 1 if served else 0
    _check_positions(config, key, positions, num_generated)
    if teacher.url is None:  # what a server that runs already takes is its own choice
        _check_switch(config, key, switch_length(read_json(path / "config.json")), num_generated)
    dtype = auto if teacher.dtype == "auto" else teacher.dtype
    found_logins(name, teacher)
    return TeacherJob(
        model=str(path.absolute()), dtype=dtype, endpoints=list(map(_located, teacher.url or []))
    )


def _located(endpoint: str) -> str:
    """An endpoint for processes that work elsewhere: the path of a unix socket made absolute."""
    scheme, colon, path = endpoint.partition("unix:")
    return endpoint if scheme or not colon else f"unix:{os.path.abspath(path)}"


def _positions(file: Path) -> int:
    """What a config.json of any architecture says about the longest sequence."""
    positions = read_json(file).get("max_position_embeddings") or 2**31
    if type(positions) is not int:
        raise ConfigError(f"{file}: max_position_embeddings is no integer", "correct or download it again")
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
    """Raise ConfigError where a model's frequencies would depend on the longest sequence beside another."""
    if switch is None or config.max_length + num_generated <= switch[1]:
        return
    besides = ", and a server generates one more" if num_generated else ""
    raise ConfigError(
        f"data.max_prompt_length + data.max_response_length = {config.max_length}{besides}, but {key} has "
        f"{switch[0]} position embeddings, whose frequencies change beyond {switch[1]} tokens "
        "(original_max_position_embeddings): a sequence would be scored by the longest one beside it",
        f"lower data.max_prompt_length or data.max_response_length to {switch[1] - num_generated} together",
    )


def check_gpus(config: Config, world_size: int, num_gpus: int) -> None:
    """Raise ConfigError unless there are the GPUs that are named, and every teacher served has its own."""
    if world_size > num_gpus:
        hint = f"set train.world_size to {num_gpus} at most"
        raise ConfigError(f"train.world_size={world_size}, but {counted(num_gpus)}", hint)
    taken = dict.fromkeys(config.rollout.gpus or [0], "rollout.gpus")
    if missing := [gpu for gpu in taken if not 0 <= gpu < num_gpus]:
        hint = "they are counted from 0 among the visible ones"
        raise ConfigError(f"rollout.gpus names GPU {missing[0]}, but {counted(num_gpus)}", hint)
    if len(config.rollout.gpus or []) > len(set(config.rollout.gpus or [])):
        raise ConfigError("rollout.gpus names a GPU twice", "name each once")
    taken |= dict.fromkeys(range(world_size), f"the ranks (train.world_size={world_size})")
    for name, teacher in config.all_teachers.items():
        if not teacher.serve:
            continue
        key = f"{teacher_section(name)}.gpus"
        hint = (
            f"give it some of the {num_gpus} visible GPUs, counted from 0, and set train.world_size to what "
            "is left"
        )
        if not teacher.gpus:
            raise ConfigError(f"{key} is missing: a teacher with serve=true needs GPUs of its own", hint)
        for gpu in teacher.gpus:
            if not 0 <= gpu < num_gpus:
                raise ConfigError(f"{key} names GPU {gpu}, but {counted(num_gpus)}", hint)
            if gpu in taken:
                raise ConfigError(f"{key} names GPU {gpu}, which {taken[gpu]} uses already", hint)
            taken[gpu] = key


def _check_slices(config: Config, world_size: int, ids: Sequence[str]) -> None:
    """Refuse to give a process several MIG slices: CUDA shows it one (NVIDIA's MIG user guide, "CUDA Device
    Enumeration")."""
    groups = {"train.world_size": list(range(world_size)), "rollout.gpus": config.rollout.gpus or [0]}
    for name, teacher in config.all_teachers.items():
        groups[f"{teacher_section(name)}.gpus"] = teacher.gpus if teacher.serve and teacher.gpus else []
    for key, places in groups.items():
        if len(places) > 1 and any(ids[place].startswith(MIG) for place in places):
            raise ConfigError(
                f"{key} takes {len(places)} devices, of which some are slices of a GPU (MIG): CUDA shows a "
                f"process one slice, and {counted(len(ids))}",
                f"set {key} to one of them",
            )
