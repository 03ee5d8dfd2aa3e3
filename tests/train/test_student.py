"""The student under DeepSpeed, every ZeRO stage and several micro-batch splits, against plain torch.

The reference knows none of our code but the rollouts: one unpadded sequence at a time through whole logits,
torch's own KL divergence, one AdamW step on the token mean.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

SCRIPT = Path(__file__).with_name("student_process.py")
SETTINGS = ["3:4000", "3:60", "3:1", "2:100", "1:100", "0:100"]


def script():
    spec = importlib.util.spec_from_file_location("student_process", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    out = tmp_path_factory.mktemp("student")
    env = {**os.environ, "RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "DS_ACCELERATOR": "cpu"}
    command = [sys.executable, SCRIPT, out, *SETTINGS]
    done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    losses = json.loads((out / "losses.json").read_text())
    return [(losses[i], load_file(out / f"{i}.safetensors")) for i in range(len(SETTINGS))]


@pytest.fixture(scope="module")
def reference():
    from transformers import AutoModelForCausalLM

    from distillctl.machine import model_path

    values = script()
    student, teacher = (
        AutoModelForCausalLM.from_pretrained(model_path(f"builtin:{name}", ""), dtype=torch.float32)
        for name in ("tiny-student", "tiny-teacher")
    )
    optimizer = torch.optim.AdamW(student.parameters(), lr=values.LR, betas=values.BETAS, weight_decay=0.0)
    losses = []
    for step in range(values.NUM_STEPS):
        terms = []
        for rollout in values.make_rollouts(step):
            start = len(rollout.prompt.token_ids) - 1
            ids = torch.tensor([rollout.prompt.token_ids + rollout.response_ids.tolist()])
            ours, theirs = (
                torch.distributions.Categorical(logits=m(ids).logits[0, start:-1, : values.VOCAB_SIZE])
                for m in (student, teacher)
            )
            kl = torch.distributions.kl_divergence(ours, theirs)
            terms.append(kl - values.ENTROPY * ours.entropy())
        loss = torch.cat(terms).mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(student.parameters(), values.CLIP)
        optimizer.step()
        losses.append(loss.item())
    return losses, dict(student.named_parameters())


@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=SETTINGS)
def test_losses_match_plain_torch(results, reference, index):
    assert results[index][0] == pytest.approx(reference[0], rel=1e-5)


@pytest.mark.parametrize("index", range(len(SETTINGS)), ids=SETTINGS)
def test_weights_after_two_steps_match_plain_torch(results, reference, index):
    weights = results[index][1]
    assert weights.keys() == reference[1].keys()
    for name, expected in reference[1].items():
        # Adam divides by the gradient's size: where a gradient is about 0, rounding decides its direction.
        close = (weights[name] - expected).abs() < 2e-5
        assert close.float().mean() > 0.999, name
        assert (weights[name] - expected).abs().max() < 4e-3, name
