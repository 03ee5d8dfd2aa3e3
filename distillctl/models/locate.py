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
"""Files to download from a hub repository: safetensors only, never pickled weights or code."""
_DESCRIPTION = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
]  # fmt: skip
"""Files to download for the checks that come before the download of the weights."""


def builtin_models() -> list[str]:
    """Names that `builtin:NAME` accepts."""
    return sorted(path.parent.name for path in _MODELS.glob("*/config.json"))


def is_shipped(path: Path) -> bool:
    """Whether a model directory is one that `builtin:NAME` names."""
    return path.parent == _MODELS


def find_model(spec: str, key: str, *, weights: bool = True) -> ModelDir:
    """Find a model: `builtin:NAME` for a shipped one, a directory, or a hub id of the Hugging Face Hub.

    `key` names the setting in errors. With `weights=False`, only the configuration and the tokenizer of a hub
    model are downloaded (without a network, the cache's copies are used), and a directory needs no weights.
    Raises ConfigError for an unusable directory, and EnvironmentUnfit for a model that cannot be downloaded.
    """
    model = _located(spec, key, weights=weights)
    if not is_shipped(model.path) and (weights or model.hub_id is None):
        _require_usable(model, key, weights=weights)
    return model


def fetch_weights(model: ModelDir, key: str) -> None:
    """Complete a model that was found with `weights=False`; raises what `find_model` raises.

    The weights of a hub model are downloaded at the same revision.
    """
    if model.hub_id is not None:
        _download(model.hub_id, key, _WEIGHTS, revision=model.path.name)
        _require_usable(model, key, weights=True)
    elif not model.weight_files and not is_shipped(model.path):  # else `find_model` checked them
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
    except (OSError, RuntimeError):  # the name is too long, or `~user` names no user
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
    """Raise ConfigError unless a directory has what is needed. If it has any weights, it must have all."""
    require_utf8(model.path, key)
    if not (model.path / "config.json").is_file():
        raise ConfigError(f"{key}: {model} has no config.json", "give a transformers model directory")
    if needs_code(model.config) or needs_code(model.tokenizer_config):
        raise code_refused(f"{key}: {model}")
    if weights or model.weight_files:
        check_weights(model, key)


def _download(hub_id: str, key: str, patterns: list[str], revision: str | None = None) -> Path:
    """Download the files of a hub model that match `patterns`; returns the snapshot in the local cache."""
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
