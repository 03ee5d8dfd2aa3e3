"""Stage b0: random weights in the exact shapes of Qwen2.5-0.5B and 7B, made when a stage needs them.

The tokenizer is the tiny student's, filled up to as many ids as Qwen2.5's.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from measures import dtype, torch_device
from safetensors.torch import save_file
from settings import TINY, WORK
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM

from distillctl.config.loading import load_config, preset_path
from distillctl.config.schema import Config
from distillctl.models.locate import find_model

FLAGSHIP = "qwen-0.5b-from-7b-gsm8k"
SHAPES: dict[str, dict[str, Any]] = {
    "student": {
        "hidden_size": 896, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2,
        "intermediate_size": 4864, "vocab_size": 151_936, "tie_word_embeddings": True,
    },
    "teacher": {
        "hidden_size": 3584, "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4,
        "intermediate_size": 18944, "vocab_size": 152_064, "tie_word_embeddings": False,
    },
}  # fmt: skip
SHAPES["other"] = dict(SHAPES["student"])
"""A second model of the student's shape: a small teacher."""
NUM_TOKENS = 1_500 if TINY else 151_665
"""Ids that the tokenizers of Qwen2.5-0.5B and 7B share."""
SHARD_NUMEL = 2_000_000_000
if TINY:
    for shape in SHAPES.values():
        shape.update(hidden_size=96, num_hidden_layers=2, num_attention_heads=3, num_key_value_heads=1,
                     intermediate_size=96, vocab_size=shape["vocab_size"] // 100)  # fmt: skip


def folder() -> Path:
    """Where 17 GB of weights go: memory where there is room, else the disk."""
    memory = Path("/dev/shm")
    has_room = not TINY and memory.is_dir() and shutil.disk_usage(memory).free > 40 << 30
    return memory / "distillctl_gpu_check" if has_room else WORK / "models"


def stage_b0() -> dict[str, Any]:
    """Random weights of all shapes."""
    sizes = {name: _make(name, seed) for seed, name in enumerate(SHAPES)}
    return {"folder": str(folder()), "parameters": sizes}


def need_models() -> None:
    """Make the models unless they are there."""
    if not (folder() / "other/model.safetensors").exists():
        print(stage_b0(), file=sys.stderr)


def flagship_config(*overrides: str) -> Config:
    """The flagship preset on the random models."""
    need_models()
    models = [f"student.model={folder() / 'student'}", f"teacher.model={folder() / 'teacher'}"]
    return load_config(preset_path(FLAGSHIP), [*models, *overrides])


def _make(name: str, seed: int) -> int:
    """One model directory; returns its number of parameters."""
    target = folder() / name
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    _write_tokenizer_and_config(target, SHAPES[name])
    index: dict[str, str] = {}
    shards = list(_shards(target, seed))
    for number, shard in enumerate(shards):
        file = f"model-{number:05d}.safetensors" if len(shards) > 1 else "model.safetensors"
        save_file(shard, target / file, {"format": "pt"})
        index |= dict.fromkeys(shard, file)
    if len(shards) > 1:
        tree = {"metadata": {}, "weight_map": index}
        (target / "model.safetensors.index.json").write_text(json.dumps(tree))
    return sum(tensor.numel() for shard in shards for tensor in shard.values())


def _write_tokenizer_and_config(target: Path, shape: dict[str, Any]) -> None:
    tiny = find_model("builtin:tiny-student", "student.model").path
    for file in ("tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        text = (tiny / file).read_text()
        (target / file).write_text(text.replace('"model_max_length": 512', '"model_max_length": 32768'))
    tokenizer = json.loads((tiny / "tokenizer.json").read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab |= {f"filler{i}": i for i in range(max(vocab.values()) + 1, NUM_TOKENS)}
    (target / "tokenizer.json").write_text(json.dumps(tokenizer))
    own = {
        "dtype": str(dtype()).removeprefix("torch."),
        "max_position_embeddings": 32768,
        "layer_types": ["full_attention"] * shape["num_hidden_layers"],
        "max_window_layers": shape["num_hidden_layers"],
        "rope_parameters": {"rope_theta": 1e6, "rope_type": "default"},
    }
    config = json.loads((tiny / "config.json").read_text()) | shape | own
    (target / "config.json").write_text(json.dumps(config))


def _shards(target: Path, seed: int) -> Iterator[dict[str, Tensor]]:
    """Weights of at most about 4 GB of bfloat16 each: normal with deviation 0.02, norms around 1."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(target))
    generator = torch.Generator(torch_device()).manual_seed(seed)
    shard: dict[str, Tensor] = {}
    for name, parameter in model.named_parameters():  # a tied head is named once
        value = torch.empty(parameter.shape, dtype=torch.float32, device=torch_device())
        value.normal_(0.0, 0.02, generator=generator)
        shard[name] = (value + 1 if "norm" in name else value).to(dtype()).cpu()
        if sum(tensor.numel() for tensor in shard.values()) > SHARD_NUMEL:
            yield shard
            shard = {}
    if shard:
        yield shard
