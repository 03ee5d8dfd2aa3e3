"""Models with random weights, for times that do not depend on what a model says.

    python tests/benchmarks/random_models.py OUT

writes OUT/student and OUT/teacher in the shapes of the SmolLM2 pair of docs/performance.md: 22 layers (106 M
parameters) and 30 layers (135 M), 576 hidden units, 49,152 tokens. The tokenizer is that of the tiny student,
filled up with tokens that no text has; the last of them ends a response, which a random model hardly ever
writes. The benchmarks that take models run on this pair.
"""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, PretrainedConfig

from distillctl.models.locate import find_model

SMOLLM2 = {
    "vocab_size": 49_152, "hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9,
    "num_key_value_heads": 3, "max_position_embeddings": 8192, "rms_norm_eps": 1e-5,
    "rope_parameters": {"rope_theta": 1e5, "rope_type": "default"}, "tie_word_embeddings": True,
}  # fmt: skip
"""config.json of SmolLM2-135M-Instruct, but for its number of layers."""
NUM_LAYERS = {"student": 22, "teacher": 30}


def make_model(folder: Path, config: PretrainedConfig, seed: int) -> None:
    """A model directory of that shape, in float32."""
    source = find_model("builtin:tiny-student", "student.model").path
    shutil.copytree(source, folder, ignore=shutil.ignore_patterns("*.safetensors", "config.json"))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    num_taken = len(AutoTokenizer.from_pretrained(source))
    tokenizer["model"]["vocab"] |= {f"<<{i}>>": i for i in range(num_taken, config.vocab_size)}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    last = config.vocab_size - 1
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings |= {"eos_token": f"<<{last}>>", "model_max_length": config.max_position_embeddings}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    config.eos_token_id = last
    torch.manual_seed(seed)
    AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": last}))


def make_pair(folder: Path) -> dict[str, Path]:
    """Student and teacher in the shapes of the SmolLM2 pair."""
    for seed, (name, num_layers) in enumerate(NUM_LAYERS.items()):
        make_model(folder / name, LlamaConfig(**SMOLLM2, num_hidden_layers=num_layers), seed)
    return {name: folder / name for name in NUM_LAYERS}


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit(__doc__)
    for made in make_pair(Path(sys.argv[1])).values():
        print(made)
