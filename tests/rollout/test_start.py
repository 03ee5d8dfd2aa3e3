"""What an engine is told about a model's positions: no table that nobody needs."""

import json
import shutil
from pathlib import Path

import pytest

from distillctl.errors import ConfigError
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir
from distillctl.rollout.start import engine_settings


@pytest.fixture
def settings(tmp_path):
    """Settings of an engine for the tiny student with some keys of its config.json changed."""
    model = tmp_path / "model"
    shutil.copytree(find_model("builtin:tiny-student", "test").path, model)

    def make(**changes):
        tree = json.loads((model / "config.json").read_text())
        (model / "config.json").write_text(json.dumps(tree | changes))
        return engine_settings(
            ModelDir(model), dtype="float32", socket=Path("s"), max_model_len=200, max_num_seqs=256
        )

    return make


def test_rotary_tables_have_the_rows_that_occur(settings):
    made = settings(max_position_embeddings=4_000_000_000)
    assert (made.max_model_len, made.max_positions) == (200, 200)
    assert made.kv_cache_bytes == settings(max_position_embeddings=512).kv_cache_bytes
    assert settings(rope_parameters={"rope_type": "llama3", "factor": 8.0}).max_positions == 200
    assert settings(max_position_embeddings=64).max_positions == 64


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}},
        {"rope_parameters": None, "rope_scaling": {"type": "dynamic", "factor": 4.0}},
        {"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0}}},
        {"dual_chunk_attention_config": {"chunk_size": 8}},
    ],
)
def test_angles_that_depend_on_the_context_keep_the_models_own(settings, changes):
    assert settings(**changes).max_positions is None
    with pytest.raises(ConfigError, match="max_position_embeddings=4000000000 is above 16777216"):
        settings(**changes, max_position_embeddings=4_000_000_000)
