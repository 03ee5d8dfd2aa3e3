"""Whether transformers loads a model completely: every tensor is there and has the right shape.

transformers gives random values to tensors that it does not find, and only logs that it did so.
`require_loadable` therefore loads the models beforehand on torch's meta device, in a separate process
(`tensor_faults`). This takes 3 seconds (2.7 of them imports) for models of any size. `load_model` checks the
loaded model again with `require_whole`.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import environ
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.host.isolation import NOWHERE, child_environment
from distillctl.models import tensor_faults
from distillctl.models.locate import is_shipped
from distillctl.models.model_dir import ModelDir
from distillctl.models.safetensors_header import AGAIN
from distillctl.models.tensor_faults import BUILD_TIMEOUT_S, Faults
from distillctl.models.weight_files import is_beyond, require_engine_files

_MAX_SHOWN = 5
"""Tensors named in one line."""
_PASSED_OVER = re.compile(r"rotary_(?:pos_)?emb\.inv_freq|rotary_emb\.(?:cos|sin)_cached")
"""Buffers of the rotary embedding that older versions of transformers saved. vLLM starts with them."""
_SAVE_AGAIN = "load the model with transformers and save it again with save_pretrained"


@dataclass(frozen=True, slots=True)
class Suspect:
    """A model to check."""

    model: ModelDir
    key: str
    """The setting that names it."""
    engine: bool
    """Whether vLLM runs it."""
    trained: bool = False
    """Whether it is the student."""


def require_loadable(suspects: Sequence[Suspect]) -> list[str]:
    """Raise ConfigError unless transformers loads each model completely; returns what it would leave unused.

    Models whose weights are not here are passed over, and so are those shipped with distillctl.
    `prequantized` says what is checked of a quantised model.
    """
    wanted: dict[Path, Suspect] = {}
    for suspect in suspects:
        if _is_to_be_checked(suspect.model):
            if suspect.trained:
                _require_plain(suspect.model, suspect.key)
            if suspect.engine:
                require_engine_files(suspect.model, suspect.key)
            wanted.setdefault(suspect.model.path, suspect)
    notes = []
    for first, found in zip(wanted.values(), _found(list(wanted.values())), strict=True):
        require_whole(found, str(first.model), first.key)
        if any(suspect.engine for suspect in suspects if suspect.model.path == first.model.path):
            _require_engine(found, first.model, first.key)
        notes += [f"{first.key}: {note}" for note in _notes(found)]
    return notes


def require_whole(found: Faults, path: str, key: str = "") -> None:
    """Raise ConfigError when tensors are missing, have another shape, or are stored twice.

    The message gives the first few names.
    """
    where = f"{key}: {path}" if key else path
    if found.missing:
        raise ConfigError(
            f"{where} lacks {listed(found.missing)}, which its config.json asks for",
            f"they would have random values: {AGAIN}, or correct config.json (tie_word_embeddings, sizes)",
        )
    if found.misshapen:
        raise ConfigError(
            f"{where} does not belong to its config.json: {listed(found.misshapen)}",
            f"{AGAIN}, its config.json and its weights together",
        )
    if found.doubled:
        raise ConfigError(
            f"{where} holds {listed(found.doubled)} and the same under another name; transformers would "
            "take either",
            "remove one of the two from the files",
        )


def _require_engine(found: Faults, model: ModelDir, key: str) -> None:
    """Raise ConfigError when vLLM would run another model than transformers, or would not start.

    vLLM chooses the class by `architectures`. It never reads a tensor that config.json ties, and it does not
    know the alternative names that transformers maps to the names of the model.
    """
    where = f"{key}: config.json of {model}"
    if found.classes:
        named, own = found.classes
        raise ConfigError(
            f"{where} names {named} in architectures, which the engine would run, but its model_type is that "
            f"of {own}, which trains and scores",
            "correct the key that does not describe the model",
        )
    if found.untied:
        raise ConfigError(
            f"{where} ties {found.untied[0]} (tie_word_embeddings), but the files hold other values for it; "
            "transformers would use these values, the engine would not",
            "set tie_word_embeddings=false in its config.json, or remove the tensor from the files",
        )
    if found.renamed:
        raise ConfigError(
            f"{where} ties {found.renamed[0]} (tie_word_embeddings), but the files hold the embeddings under "
            "this name only: transformers would find them, the engine would not",
            _SAVE_AGAIN,
        )
    if found.foreign:
        raise ConfigError(
            f"{key}: {model} holds {listed(found.foreign)} under names that transformers translates and the "
            "engine does not know",
            _SAVE_AGAIN,
        )
    _require_places(found, model.config, where)


def _require_places(found: Faults, config: Mapping[str, Any], where: str) -> None:
    """Raise ConfigError for tensors that the model has no place for: vLLM does not start with them.

    Its `AutoWeightsLoader` skips biases, buffers of the rotary embedding, and layers for multi-token
    prediction, so these are allowed.
    """
    num_layers = config.get("num_hidden_layers")
    unused = [name for name in found.unused if not _PASSED_OVER.search(name)]
    beyond = [name for name in unused if is_beyond(name, num_layers)]
    if beyond and not config.get("num_nextn_predict_layers"):
        raise ConfigError(
            f"{where} has num_hidden_layers={num_layers}, but the files hold {listed(beyond)} of later "
            "layers; the engine does not start with them",
            "correct num_hidden_layers, or load the model with transformers and save it again",
        )
    others = [name for name in unused if name not in beyond and not name.endswith(".bias")]
    if others:
        raise ConfigError(
            f"{where} describes a model without a place for {listed(others)} of the files; the engine does "
            "not start with them",
            "correct config.json (model_type, quantization_config), or remove what does not belong to it",
        )


def _notes(found: Faults) -> list[str]:
    notes = []
    if found.unused:
        notes.append(f"the files hold {listed(found.unused)}, which the model does not use")
    if found.untied:
        notes.append(
            f"config.json ties {listed(found.untied)}, but the files hold other values, which are used"
        )
    return notes


def listed(names: Sequence[str]) -> str:
    """`3 tensors (a, b, c)`; of many names, only the first few."""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    return f"{count} ({', '.join(name[:100] for name in names[:_MAX_SHOWN])}{more})"


def _is_to_be_checked(model: ModelDir) -> bool:
    return not is_shipped(model.path) and bool(model.weight_files)


def _require_plain(model: ModelDir, key: str) -> None:
    """Raise ConfigError for a quantised model."""
    if model.config.get("quantization_config") is not None:
        raise ConfigError(
            f"{key}: config.json of {model} has a quantization_config: quantised weights cannot be trained",
            "take the model that was quantised, in 16 or 32 bits",
        )


def _found(suspects: Sequence[Suspect]) -> list[Faults]:
    """The faults that the child process finds in each model."""
    if not suspects:
        return []
    paths = [str(suspect.model.path.absolute()) for suspect in suspects]
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", tensor_faults.__name__, json.dumps(paths)],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=NOWHERE,
        env=child_environment({**environ, **offline}, NOWHERE),
    )  # fmt: skip
    reports = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(reports) < len(paths):
        raise _failure(suspects[len(reports)], done.returncode, done.stderr)
    return [Faults(**report) for report in reports]


def _failure(culprit: Suspect, code: int, log: str) -> ConfigError | EnvironmentUnfit:
    what = f"{culprit.key}: transformers does not load {culprit.model}"
    if code == -signal.SIGALRM:
        return ConfigError(
            f"{what}: building it takes more than {BUILD_TIMEOUT_S} s", "check the sizes in its config.json"
        )
    if code < 0:
        return EnvironmentUnfit(f"{what}: the check was killed by signal {-code}", "is memory short?")
    lines = [line for line in log.strip().splitlines() if line.strip()]
    reason = lines[-1].strip()[:500] if lines else f"exit code {code}"
    return ConfigError(f"{what}: {reason}", f"check its config.json and generation_config.json, or {AGAIN}")
