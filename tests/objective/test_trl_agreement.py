"""Losses and gradients of whole models against TRL's DistillationTrainer, on the same tokens in float32.

Needs the extra `trl`; skipped without it. TRL's beta: 0 is the forward KL, 1 the reverse KL.
"""

import pytest
import torch
from transformers import AutoModelForCausalLM

from distillctl.models.locate import find_model
from distillctl.objective.aggregate import token_weights
from distillctl.objective.chunked import chunked_loss
from distillctl.objective.inputs import Objective, Tokens
from distillctl.objective.teacher_scores import Dense

STUDENT, TEACHER = (str(find_model(f"builtin:tiny-{name}", name).path) for name in ("student", "teacher"))
PROMPT_LENGTHS = (9, 3, 12, 6)
RESPONSE_LENGTHS = (17, 5, 1, 11)
TOLERANCE = 1e-4

pytestmark = pytest.mark.filterwarnings(
    "ignore:TRL currently supports vLLM versions:UserWarning",
    "ignore:`torch.jit.script_method` is deprecated:DeprecationWarning",
)


@pytest.fixture
def trl(monkeypatch):
    """TRL, kept off the network: for code that is yet to be imported and for code that is there already."""
    for name in ("HF_HUB_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "TRL_EXPERIMENTAL_SILENCE"):
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")  # TRL sets it: this restores it after the test
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY", True)
    return pytest.importorskip("trl", reason="pip install 'distillctl[trl]'")


@pytest.fixture(scope="module")
def samples():
    """Prompts and responses of different lengths, token ids."""
    generator = torch.Generator().manual_seed(0)

    def ids(length):
        return torch.randint(5, 400, (length,), generator=generator)

    return [(ids(p), ids(r)) for p, r in zip(PROMPT_LENGTHS, RESPONSE_LENGTHS, strict=True)]


def load(path):
    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)


def gradients(model):
    return {name: parameter.grad for name, parameter in model.named_parameters()}


def padded(rows, side):
    """Token ids and mask [B, T]."""
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=0, padding_side=side)
    ones = [torch.ones_like(row) for row in rows]
    return ids, torch.nn.utils.rnn.pad_sequence(ones, batch_first=True, padding_value=0, padding_side=side)


def trl_loss(trl, samples, folder, beta, temperature):
    """Loss and gradients summed over two micro-batches, as gradient accumulation does; both are divided
    by the number of all response tokens."""
    config = trl.DistillationConfig(
        output_dir=str(folder), use_cpu=True, bf16=False, report_to="none", disable_tqdm=True, beta=beta,
        temperature=temperature, gradient_checkpointing=False, use_vllm=False,
    )  # fmt: skip
    student, teacher = load(STUDENT), load(TEACHER)
    teacher.resize_token_embeddings(
        student.config.vocab_size
    )  # TRL takes no padded rows that only one model has
    trainer = trl.DistillationTrainer(model=student, teacher_model=teacher, args=config)
    trainer.model.train()
    total = 0.0
    for part in (samples[:1], samples[1:]):
        prompt_ids, prompt_mask = padded([prompt for prompt, _ in part], "left")
        completion_ids, completion_mask = padded([response for _, response in part], "right")
        batch = {
            "prompt_ids": prompt_ids,
            "prompt_mask": prompt_mask,
            "completion_ids": completion_ids,
            "completion_mask": completion_mask,
            "num_items_in_batch": torch.tensor(float(sum(RESPONSE_LENGTHS))),
        }
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        total += loss.item()
    return total, gradients(trainer.model)


def our_loss(samples, **fields):
    """Loss and gradients through transformers' backbones, one sample at a time and without padding."""
    student, teacher = load(STUDENT), load(TEACHER)

    def hidden(model):
        states = []
        for prompt, response in samples:
            states_TH = model.model(torch.cat([prompt, response])[None]).last_hidden_state[0]
            states.append(states_TH[len(prompt) - 1 : -1])
        return torch.cat(states)

    lengths = [len(response) for _, response in samples]
    weights = torch.tensor(token_weights("token-mean", lengths, 1.0)).repeat_interleave(torch.tensor(lengths))
    targets = torch.cat([response for _, response in samples])
    with torch.no_grad():
        view = Dense(hidden(teacher), teacher.lm_head.weight)
    loss, _ = chunked_loss(
        hidden(student), student.lm_head.weight, view, Tokens(targets, weights, torch.zeros(len(targets))),
        Objective(vocab_size=student.config.vocab_size, chunk_size=8, **fields),
    )  # fmt: skip
    loss.backward()
    return loss.item(), gradients(student)


@pytest.mark.parametrize("temperature", [1.0, 1.7])
@pytest.mark.parametrize(
    ("beta", "fields"),
    [
        (1.0, {"kind": "reverse_kl"}),
        (0.0, {"kind": "forward_kl"}),
        (0.5, {"kind": "jsd", "beta": 0.5}),
        (0.2, {"kind": "jsd", "beta": 0.2}),
        (1.0, {"kind": "jsd", "beta": 1.0}),
        (0.0, {"kind": "jsd", "beta": 0.0}),
    ],
    ids=lambda value: "-".join(map(str, value.values())) if isinstance(value, dict) else None,
)
def test_loss_and_gradients_are_those_of_trl(trl, samples, tmp_path, beta, fields, temperature):
    wanted, wanted_gradients = trl_loss(trl, samples, tmp_path, beta, temperature)
    got, got_gradients = our_loss(samples, temperature=temperature, **fields)
    assert wanted > 0.05
    assert got == pytest.approx(wanted, rel=TOLERANCE)
    assert got_gradients.keys() == wanted_gradients.keys()
    for name, wanted_gradient in wanted_gradients.items():
        bound = TOLERANCE * wanted_gradient.abs().max().item()
        torch.testing.assert_close(got_gradients[name], wanted_gradient, rtol=0.0, atol=bound, msg=name)
