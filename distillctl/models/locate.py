"""Where a model is: shipped with distillctl, a directory, or on the Hugging Face Hub. Imports no torch."""

from __future__ import annotations

from pathlib import Path

from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.files.reading import read_json, require_utf8
from distillctl.models.weight_files import check_weights, code_refused, needs_code, weight_files

BUILTIN = "builtin:"
_MODELS = Path(__file__).parent.parent / "builtin"
_WEIGHTS = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
"""What is fetched of a hub repository: safetensors only, never pickled weights or code."""
_DESCRIPTION = [
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "chat_template.jinja",
]  # fmt: skip
"""What is fetched to look at a model before its weights are."""


def builtin_models() -> list[str]:
    """Names that `builtin:NAME` accepts."""
    return sorted(path.parent.name for path in _MODELS.glob("*/config.json"))


def is_shipped(path: Path) -> bool:
    """Whether a model directory is one of those that `builtin:NAME` names."""
    return path.parent == _MODELS


def model_path(spec: str, key: str, *, weights: bool = True) -> Path:
    """Local directory of a model: `builtin:NAME`, a directory, or a hub id (downloaded if need be).

    `key` names the setting in errors. With `weights=False` only the configuration and the tokenizer of a hub
    model are fetched (without network, what the cache has of them), and a directory need not have more.
    Raises ConfigError for an unusable directory and EnvironmentUnfit when it cannot be had.
    """
    if not spec:
        raise ConfigError(f"{key} is empty", "name a model directory or a hub id")
    if spec.startswith(BUILTIN):
        name = spec.removeprefix(BUILTIN)
        if name not in builtin_models():
            raise ConfigError(
                f"{key}: no model {name!r} is shipped with distillctl",
                f"shipped: {', '.join(BUILTIN + n for n in builtin_models())}",
            )
        return _MODELS / name
    try:
        path = Path(spec).expanduser()
        is_directory = path.is_dir()
    except (OSError, RuntimeError):  # a name too long, the home of nobody
        raise _no_model(spec, key) from None
    if is_directory:
        return _checked(path.resolve(), key, weights=weights)
    if spec.startswith((".", "/", "~")) or spec.count("/") != 1:
        raise _no_model(spec, key)
    return _from_hub(spec, key, weights=weights)


def _no_model(spec: str, key: str) -> ConfigError:
    return ConfigError(
        f"{key}: {spec} is neither a model directory nor a hub id like org/name",
        f"check the path, or name a shipped model: {', '.join(BUILTIN + n for n in builtin_models())}",
    )


def _checked(path: Path, key: str, *, weights: bool = True) -> Path:
    require_utf8(path, key)
    if not (path / "config.json").is_file():
        raise ConfigError(f"{key}: {path} has no config.json", "give a transformers model directory")
    described = (path / name for name in ("config.json", "tokenizer_config.json"))
    if any(needs_code(read_json(file)) for file in described if file.is_file()):
        raise code_refused(f"{key}: {path}")
    if weights or weight_files(path):
        check_weights(path, key)
    return path


def _from_hub(spec: str, key: str, *, weights: bool) -> Path:
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        patterns = _WEIGHTS if weights else _DESCRIPTION
        path = Path(huggingface_hub.snapshot_download(spec, allow_patterns=patterns))
    except HFValidationError:
        raise _no_model(spec, key) from None
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise EnvironmentUnfit(
            f"{key}: {spec} is not in the local cache and the hub did not give it: "
            f"{str(error).splitlines()[0]}",
            f"give a local directory: {key}=PATH",
        ) from None
    return _checked(path, key) if weights else path
