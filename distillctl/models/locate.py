"""Where a model is: shipped with distillctl, a directory, or on the Hugging Face Hub. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.reading import require_utf8
from distillctl.models.model_dir import ModelDir
from distillctl.models.supported import code_refused, needs_code
from distillctl.models.weight_files import check_weights

BUILTIN = "builtin:"
_MODELS = Path(__file__).parent.parent / "builtin"
_WEIGHTS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""What is fetched from a hub repository: safetensors only, never pickled weights or code."""
_DESCRIPTION = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
]  # fmt: skip
"""What is fetched to check a model before its weights are."""


def builtin_models() -> list[str]:
    """Names that `builtin:NAME` accepts."""
    return sorted(path.parent.name for path in _MODELS.glob("*/config.json"))


def is_shipped(path: Path) -> bool:
    """Whether a model directory is one of those that `builtin:NAME` names."""
    return path.parent == _MODELS


def find_model(spec: str, key: str, *, weights: bool = True) -> ModelDir:
    """A model that is shipped (`builtin:NAME`), a directory, or on the Hugging Face Hub (a hub id).

    `key` names the setting in errors. With `weights=False` only the configuration and the tokenizer of a hub
    model are fetched (without network, what the cache has of them), and a directory need not have more.
    Raises ConfigError for an unusable directory and EnvironmentUnfit when it cannot be had.
    """
    model = _located(spec, key, weights=weights)
    if not is_shipped(model.path) and (weights or model.hub_id is None):
        _require_usable(model, key, weights=weights)
    return model


def fetch_weights(model: ModelDir, key: str) -> None:
    """Make a model that was found with `weights=False` one with all its weights; raises as `find_model`.

    Of a hub model the same revision is downloaded.
    """
    if model.hub_id is not None:
        _download(model.hub_id, key, _WEIGHTS, revision=model.path.name)
        _require_usable(model, key, weights=True)
    elif not model.weight_files and not is_shipped(model.path):  # else they were checked
        check_weights(model, key)


def _located(spec: str, key: str, *, weights: bool) -> ModelDir:
    if not spec:
        raise ConfigError(f"{key} is empty", "name a model directory or a hub id")
    if spec.startswith(BUILTIN):
        name = spec.removeprefix(BUILTIN)
        if name not in builtin_models():
            raise ConfigError(
                f"{key}: no model {name!r} is shipped with distillctl",
                f"shipped: {', '.join(BUILTIN + n for n in builtin_models())}",
            )
        return ModelDir(_MODELS / name)
    try:
        path = Path(spec).expanduser()
        is_directory = path.is_dir()
    except (OSError, RuntimeError):  # a name too long, the home of nobody
        raise _no_model(spec, key) from None
    if is_directory:
        return ModelDir(path.resolve())
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise _no_model(spec, key)
    return ModelDir(_download(spec, key, _WEIGHTS if weights else _DESCRIPTION), spec)


def _no_model(spec: str, key: str) -> ConfigError:
    return ConfigError(
        f"{key}: {spec} is neither a model directory nor a hub id like org/name",
        f"check the path, or name a shipped model: {', '.join(BUILTIN + n for n in builtin_models())}",
    )


def _require_usable(model: ModelDir, key: str, *, weights: bool) -> None:
    """Raise ConfigError unless a directory has what is needed, and all of the weights where it has some."""
    require_utf8(model.path, key)
    if not (model.path / "config.json").is_file():
        raise ConfigError(f"{key}: {model} has no config.json", "give a transformers model directory")
    if needs_code(model.config) or needs_code(model.tokenizer_config):
        raise code_refused(f"{key}: {model}")
    if weights or model.weight_files:
        check_weights(model, key)


def _download(hub_id: str, key: str, patterns: list[str], revision: str | None = None) -> Path:
    """The snapshot of a hub model in the local cache, with the files that `patterns` name."""
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(huggingface_hub.snapshot_download(hub_id, revision=revision, allow_patterns=patterns))
    except HFValidationError:
        raise _no_model(hub_id, key) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentUnfit(
            f"{key}: {hub_id} is not cached and could not be downloaded from the Hugging Face Hub: "
            f"{str(error).splitlines()[0]}",
            f"give a local directory: {key}=PATH",
        ) from None
