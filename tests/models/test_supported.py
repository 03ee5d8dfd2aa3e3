"""What is refused as no supported architecture; `test_bad_models` has more, at the command line."""

import pytest

from distillctl.errors import ConfigError
from distillctl.models.model_dir import ModelDir


def test_other_architectures_are_refused_by_what_they_lack(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "gpt2", "n_embd": 64, "vocab_size": 10}')
    with pytest.raises(ConfigError, match=r"has no hidden_size, num_hidden_layers") as caught:
        _ = ModelDir(tmp_path).shape
    assert "Llama and Qwen" in caught.value.hint
