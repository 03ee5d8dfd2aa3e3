"""KL from a teacher, against both models run whole in float64."""

import numpy as np
import pytest
import torch

from distillctl.data_types import Prompt, Rollout
from distillctl.evaluate.teacher_kl import response_kl
from distillctl.models.locate import find_model


def test_the_sum_is_over_all_tokens_of_a_response(monkeypatch):
    from transformers import AutoModelForCausalLM

    from distillctl.evaluate import teacher_kl

    monkeypatch.setattr(teacher_kl, "BATCH_TOKENS", 60)
    rng = np.random.default_rng(0)
    rollouts = []
    for n in range(7):
        prompt = Prompt(f"test/{n}", rng.integers(5, 400, rng.integers(1, 20)).tolist(), "", None)
        ids = rng.integers(5, 400, rng.integers(1, 25)).astype(np.int32)
        rollouts.append(
            Rollout(
                prompt=prompt,
                group=0,
                sample=0,
                response_ids=ids,
                response_logprobs=np.zeros(len(ids), np.float32),
                finish_reason="stop",
                weight_version=0,
            )
        )
    found = [find_model(f"builtin:{name}", "test") for name in ("tiny-student", "tiny-teacher")]
    models = [AutoModelForCausalLM.from_pretrained(one.path).double() for one in found]
    size = models[0].config.vocab_size
    values = []
    for rollout in rollouts:
        ids = torch.tensor([[*rollout.prompt.token_ids, *rollout.response_ids.tolist()]])
        start = len(rollout.prompt.token_ids) - 1
        with torch.no_grad():
            q, p = (m(ids).logits[0, start:-1, :size].log_softmax(-1) for m in models)
        values.append(float((q.exp() * (q - p)).sum()))
    assert response_kl(*found, rollouts, size, "cpu") == pytest.approx(values, rel=1e-5)
    assert response_kl(found[0], found[0], rollouts, size, "cpu") == pytest.approx([0.0] * 7, abs=1e-5)
