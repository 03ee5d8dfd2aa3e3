"""Whether transformers loads a model whole: no tensor missing, none of another shape.

transformers gives tensors that it does not find random values and says so only in a log. `require_loadable`
asks it beforehand, in a process of its own, to load the models on torch's meta device, where tensors have
shapes and no memory: its own class for the configuration, its own renaming of tensors, its own ties, in
3 seconds (2.7 of them imports) for models of any size. `faults` and `require_whole` are what `load_model`
uses on the loaded model, so that nothing goes past the check.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from os import environ
from pathlib import Path
from typing import Any

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files import read_json
from distillctl.isolation import NOWHERE, child_environment
from distillctl.lifeline import die_with_parent
from distillctl.machine import is_shipped
from distillctl.memory_limit import limited
from distillctl.model_files import layer_of
from distillctl.safetensors_header import AGAIN

BUILD_TIMEOUT_S = 50
"""Longest time to build one model without memory."""
BUILD_BYTES = 2 << 30
"""Most memory to build one: buffers such as rotary frequencies are real."""
_MAX_SHOWN = 5
"""Tensors named in one line."""


@dataclass(frozen=True, slots=True)
class Faults:
    """What is wrong with a model's tensors; the names are transformers', sorted."""

    missing: list[str]
    """Needed, and in no file: they would have random values."""
    misshapen: list[str]
    """`NAME [file's shape] instead of [model's]`."""
    unused: list[str]
    """In the files, and not part of the model that config.json describes."""
    untied: list[str]
    """Tied by config.json, but with values of their own in the files."""
    renamed: list[str]
    """Tied by config.json, and in the files under this name only instead of that of what it is tied to."""


@dataclass(frozen=True, slots=True)
class Suspect:
    """A model directory to look at."""

    path: Path
    key: str
    """The setting that names it."""
    engine: bool
    """Whether vLLM runs it."""


def require_loadable(suspects: Sequence[Suspect]) -> list[str]:
    """Raise ConfigError unless transformers loads each model whole; returns what it would leave unused.

    Models that are not here with their weights, and quantised ones, are left to those who load them; those
    shipped with distillctl are whole.
    """
    wanted: dict[Path, Suspect] = {}
    for suspect in suspects:
        if _is_to_be_checked(suspect.path):
            wanted.setdefault(suspect.path, suspect)
    notes = []
    for path, found in _found(list(wanted), wanted).items():
        require_whole(found, str(path), wanted[path].key)
        if any(suspect.engine for suspect in suspects if suspect.path == path):
            _require_engine(found, path, wanted[path].key)
        notes += [f"{wanted[path].key}: {note}" for note in _notes(found)]
    return notes


def faults(model: Any, info: Mapping[str, Any]) -> Faults:
    """From a transformers model and the loading information that came with it."""
    misshapen = (
        f"{name} {list(file)} instead of {list(own)}" for name, file, own in info.get("mismatched_keys", ())
    )
    return Faults(
        missing=sorted(info["missing_keys"]),
        misshapen=sorted(misshapen),
        unused=sorted(info.get("unexpected_keys", ())),
        untied=[],
        renamed=[],
    )


def require_whole(found: Faults, path: str, key: str = "") -> None:
    """Raise ConfigError when tensors are missing or have another shape, with the first few names."""
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


def _require_engine(found: Faults, path: Path, key: str) -> None:
    """Raise ConfigError where vLLM would run another model than transformers, or none.

    It never reads what config.json ties, and does not start with layers beyond those of config.json, unless
    they are for predicting several tokens at once, which it knows.
    """
    where = f"{key}: config.json of {path}"
    if found.untied:
        raise ConfigError(
            f"{where} ties {found.untied[0]} (tie_word_embeddings), but the files hold other values for it, "
            "which transformers would use, the engine would not",
            "set tie_word_embeddings=false in its config.json, or remove the tensor from the files",
        )
    if found.renamed:
        raise ConfigError(
            f"{where} ties {found.renamed[0]} (tie_word_embeddings), under which name alone the files hold "
            "the embeddings: transformers would find them, the engine would not",
            "load the model with transformers and save it again with save_pretrained",
        )
    config = read_json(path / "config.json")
    layers = [name for name in found.unused if layer_of(name) is not None]
    if layers and not config.get("num_nextn_predict_layers"):
        raise ConfigError(
            f"{where} has num_hidden_layers={config.get('num_hidden_layers')}, but the files hold "
            f"{listed(layers)} beyond, with which the engine does not start",
            "correct num_hidden_layers, or load the model with transformers and save it again",
        )


def _notes(found: Faults) -> list[str]:
    notes = []
    if found.unused:
        notes.append(f"the files hold {listed(found.unused)}, which its config.json has no use for")
    if found.untied:
        notes.append(
            f"config.json ties {listed(found.untied)}, but the files hold other values, which are used"
        )
    return notes


def listed(names: Sequence[str]) -> str:
    """`3 tensors (a, b, c)`; the first few of many."""
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    count = f"{len(names)} tensor{'s' if len(names) > 1 else ''}"
    return f"{count} ({', '.join(name[:100] for name in names[:_MAX_SHOWN])}{more})"


def _is_to_be_checked(path: Path) -> bool:
    if is_shipped(path) or not list(path.glob("*.safetensors")):
        return False
    return not read_json(path / "config.json").get("quantization_config")


def _found(paths: list[Path], wanted: Mapping[Path, Suspect]) -> dict[Path, Faults]:
    """What the child finds in each model."""
    if not paths:
        return {}
    offline = {"HF_HUB_OFFLINE": "1", "CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", __name__, json.dumps([str(path.absolute()) for path in paths])],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False, cwd=NOWHERE,
        env=child_environment({**environ, **offline}, NOWHERE),
    )  # fmt: skip
    answers = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    if len(answers) < len(paths):
        culprit = wanted[paths[len(answers)]]
        raise _failure(culprit, done.returncode, done.stderr)
    return {path: Faults(**answer) for path, answer in zip(paths, answers, strict=True)}


def _failure(culprit: Suspect, code: int, log: str) -> ConfigError | EnvironmentUnfit:
    what = f"{culprit.key}: transformers does not load {culprit.path}"
    if code == -signal.SIGALRM:
        return ConfigError(
            f"{what}: to build it takes more than {BUILD_TIMEOUT_S} s", "check the sizes in its config.json"
        )
    if code < 0:
        return EnvironmentUnfit(f"{what}: the check was killed by signal {-code}", "is memory short?")
    lines = [line for line in log.strip().splitlines() if line.strip()]
    reason = lines[-1].strip()[:500] if lines else f"exit code {code}"
    return ConfigError(f"{what}: {reason}", f"check its config.json and generation_config.json, or {AGAIN}")


def main() -> None:
    """Entry point of the child: paths as a JSON list; prints the `Faults` of each, a line each.

    An error ends it; its last line is shown.
    """
    die_with_parent()
    from transformers.utils.logging import disable_progress_bar, set_verbosity_error

    disable_progress_bar()
    set_verbosity_error()  # what it would log is in the loading information
    for path in json.loads(sys.argv[1]):
        signal.alarm(BUILD_TIMEOUT_S)
        with limited(path, BUILD_BYTES):
            model, info = load_on_meta(Path(path))
        found, where = faults(model, info), _tensors(Path(path))
        ties = model.all_tied_weights_keys.items()
        found = replace(
            found,
            misshapen=found.misshapen + _no_floats(model, where),
            untied=_untied(ties, where),
            renamed=sorted(tied for tied, to in ties if tied in where and to not in where),
        )
        signal.alarm(0)
        print(json.dumps(asdict(found)), flush=True)


def load_on_meta(path: Path) -> tuple[Any, dict[str, Any]]:
    """A model whose tensors have shapes and no memory, and transformers' loading info, for `faults`."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        path,
        device_map="meta",
        use_safetensors=True,
        trust_remote_code=False,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # so that they are named by `faults`
    )
    return model, info


def tensor_names(path: Path) -> set[str]:
    """Names of all tensors in a model directory's files."""
    return set(_tensors(path))


def _tensors(path: Path) -> dict[str, Any]:
    """Slices of a model directory's tensors by name; nothing is read yet."""
    from safetensors import safe_open

    opened: list[Any] = [safe_open(file, framework="pt") for file in sorted(path.glob("*.safetensors"))]
    return {name: file.get_slice(name) for file in opened for name in file.offset_keys()}


def _no_floats(model: Any, where: Mapping[str, Any]) -> list[str]:
    """Weights that are integers in the files: of a quantised model whose config.json does not say so."""
    named = [(name, where[name].get_dtype()) for name, _ in model.named_parameters() if name in where]
    return [f"{name} of {dtype}" for name, dtype in named if dtype.startswith(("I", "U", "BOOL"))]


def _untied(ties: Iterable[tuple[str, str]], where: Mapping[str, Any]) -> list[str]:
    """Tensors that config.json ties to another one and that have values of their own in the files.

    Read here, because on the meta device transformers does not compare them.
    """
    import torch

    pairs = [(tied, to) for tied, to in ties if tied in where and to in where]
    return sorted(tied for tied, to in pairs if not torch.equal(where[tied][:], where[to][:]))


if __name__ == "__main__":
    main()
