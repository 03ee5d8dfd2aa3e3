"""A real rollout worker on the tiny student, started once: determinism, weight pushes, permissions, death."""

import os
import stat
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from distillctl.data_types import Prompt
from distillctl.errors import EngineLost, RunFailed
from distillctl.host.shared_memory import scratch_directory
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir
from distillctl.rollout.client import RolloutClient, Sampling, request_names, sample_seed
from distillctl.rollout.start import engine_settings, start_engine
from distillctl.train.agreement import Scores, require_agreement

pytestmark = pytest.mark.engine

EOS = [2]
SAMPLING = Sampling(1.0, 1.0, 24, EOS)


@pytest.fixture(scope="module")
def student():
    return find_model("builtin:tiny-student", "test").path


@pytest.fixture(scope="module")
def worker(student):
    with scratch_directory() as scratch:
        settings = engine_settings(
            ModelDir(student),
            dtype="float32",
            socket=scratch / "rollout.sock",
            max_model_len=256,
            max_num_seqs=16,
        )
        settings = replace(settings, max_logprobs=8)
        process = start_engine(settings, scratch / "engine.json", scratch / "rollout.log")
        yield process, scratch
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def client(worker):
    connected = RolloutClient(worker[1] / "rollout.sock", 120)
    yield connected
    connected.close()


@pytest.fixture(scope="module")
def reference(student):
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(student, dtype=torch.float32)


@pytest.fixture(scope="module")
def prompts():
    rng = np.random.default_rng(0)
    return [
        Prompt(f"train/{i}", rng.integers(5, 400, rng.integers(3, 60)).tolist(), "", None) for i in range(24)
    ]


def logprobs(model, token_ids):
    with torch.no_grad():
        logits = model(torch.tensor([token_ids])).logits[0, :-1].double()
    return logits.log_softmax(-1).gather(-1, torch.tensor(token_ids)[1:, None]).squeeze(-1).numpy()


def push(client, tensors, folder, version):
    path = folder / "bucket_000.safetensors"
    save_file(tensors, path)
    client.push([path], version)


def test_the_socket_is_private(client, worker):
    assert stat.S_IMODE((worker[1] / "rollout.sock").stat().st_mode) == 0o600
    assert stat.S_IMODE(worker[1].stat().st_mode) == 0o700


def test_nothing_listens_beyond_loopback(client, worker, process_group, loopback):
    group = process_group(worker[0].pid)
    assert group.pids
    assert set(group.addresses()) <= loopback


def test_a_batch_is_bit_identical_whenever_it_is_repeated(client, prompts):
    first = client.generate(prompts, 2, SAMPLING, 7, 3)
    client.generate(prompts[:5], 1, SAMPLING, 8, 1)
    again = client.generate(prompts, 2, SAMPLING, 7, 3)
    assert [(one.group, one.sample) for one in first[:4]] == [(0, 0), (0, 1), (1, 0), (1, 1)]
    for one, two in zip(first, again, strict=True):
        assert one.response_ids.tolist() == two.response_ids.tolist()
        assert one.response_logprobs.tobytes() == two.response_logprobs.tobytes()


def test_samples_of_a_prompt_and_steps_differ(client, prompts):
    one = client.generate(prompts[:8], 2, SAMPLING, 7, 3)
    other_step = client.generate(prompts[:8], 2, SAMPLING, 7, 4)
    assert any(
        a.response_ids.tolist() != b.response_ids.tolist() for a, b in zip(one[::2], one[1::2], strict=True)
    )
    assert any(
        a.response_ids.tolist() != b.response_ids.tolist() for a, b in zip(one, other_step, strict=True)
    )


def test_finish_reasons_and_lengths(client, prompts):
    for rollout in client.generate(prompts, 1, SAMPLING, 1, 1):
        ended = rollout.response_ids[-1] in EOS
        assert rollout.finish_reason == ("stop" if ended else "length")
        assert ended or len(rollout.response_ids) == SAMPLING.max_tokens
        assert len(rollout.response_logprobs) == len(rollout.response_ids)


def test_logprobs_are_those_of_the_sampling_distribution(client, prompts, reference):
    for rollout in client.generate(prompts[:6], 1, SAMPLING, 1, 1):
        ids = rollout.prompt.token_ids + rollout.response_ids.tolist()
        expected = logprobs(reference, ids)[len(rollout.prompt.token_ids) - 1 :]
        np.testing.assert_allclose(rollout.response_logprobs, expected, atol=1e-4)


def test_greedy_sampling_takes_the_most_likely_token(client, prompts, reference):
    (rollout,) = client.generate(prompts[:1], 1, Sampling(0.0, 1.0, 6, EOS), 1, 1)
    ids = list(rollout.prompt.token_ids)
    for token in rollout.response_ids.tolist():
        with torch.no_grad():
            assert int(reference(torch.tensor([ids])).logits[0, -1].argmax()) == token
        ids.append(token)


def test_the_most_likely_tokens_of_each_position_come_along(client, prompts, reference):
    for rollout in client.generate(prompts[:6], 2, SAMPLING, 1, 1, num_topk=8):
        ids = rollout.prompt.token_ids + rollout.response_ids.tolist()
        with torch.no_grad():
            logits = reference(torch.tensor([ids])).logits[0, len(rollout.prompt.token_ids) - 1 : -1]
        assert rollout.topk_ids.dtype == np.int32
        assert rollout.topk_ids.shape == (len(rollout.response_ids), 8)
        listed = logits.gather(-1, torch.from_numpy(rollout.topk_ids).long())
        torch.testing.assert_close(listed, logits.topk(8).values, atol=1e-3, rtol=0)
        assert all(len(set(row)) == 8 for row in rollout.topk_ids.tolist())


def test_asking_for_the_most_likely_tokens_changes_no_sample(client, prompts):
    plain = client.generate(prompts, 1, SAMPLING, 7, 3)
    asked = client.generate(prompts, 1, SAMPLING, 7, 3, num_topk=8)
    for one, two in zip(plain, asked, strict=True):
        assert one.topk_ids is None
        assert one.response_ids.tolist() == two.response_ids.tolist()
        assert one.response_logprobs.tobytes() == two.response_logprobs.tobytes()


def test_pushed_weights_are_used_including_the_tied_head(client, worker, prompts, student, reference):
    tensors = load_file(student / "model.safetensors")
    generator = torch.Generator().manual_seed(0)
    moved = {n: t + 0.02 * torch.randn(t.shape, generator=generator) for n, t in tensors.items()}
    ids = prompts[0].token_ids
    before = client.score(ids)
    push(client, moved, worker[1], 5)
    assert client.generate(prompts[:1], 1, SAMPLING, 1, 1)[0].weight_version == 5
    after = client.score(ids)
    assert np.abs(after - before).max() > 0.05
    reference.load_state_dict(moved, strict=False)
    np.testing.assert_allclose(after, logprobs(reference, ids), atol=1e-4)
    push(client, tensors, worker[1], 0)
    reference.load_state_dict(tensors, strict=False)
    np.testing.assert_allclose(client.score(ids), before, atol=1e-6)


def test_the_canary_finds_weights_that_the_engine_does_not_have(client, prompts, reference):
    ids = prompts[0].token_ids
    theirs = client.score(ids)
    agreed = Scores(ours(reference, ids), theirs)
    assert require_agreement(agreed, None, torch.float32, 6, pushed=True) < 1e-4
    with torch.no_grad():
        reference.lm_head.weight.mul_(1.05)
    with pytest.raises(RunFailed, match=r"step 6 were pushed, engine and trainer differ by") as refused:
        require_agreement(Scores(ours(reference, ids), theirs), agreed, torch.float32, 6, pushed=True)
    assert refused.value.hint.startswith("the engine did not take the weights;")
    with torch.no_grad():
        reference.lm_head.weight.div_(1.05)


def ours(model, ids):
    return torch.from_numpy(logprobs(model, ids)).float()


def test_an_answer_from_other_weights_is_refused(client, prompts):
    client.version = 3
    with pytest.raises(RunFailed, match="version 0, not 3"):
        client.score(prompts[0].token_ids)
    client.version = 0


def test_an_idle_engine_leaves_the_cores_alone(client, prompts, worker):
    client.generate(prompts, 1, SAMPLING, 1, 1)
    ticks = os.sysconf("SC_CLK_TCK")

    def cpu_s():
        group = subprocess.run(["pgrep", "-g", str(worker[0].pid)], capture_output=True, text=True).stdout
        fields = [Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split() for pid in group.split()]
        return sum(int(f[11]) + int(f[12]) for f in fields) / ticks

    start = cpu_s()
    time.sleep(2.0)
    assert cpu_s() - start < 0.5  # vLLM's own default spins for a whole second after each batch


def test_seeds_are_different_for_every_request():
    seeds = {
        sample_seed(run, step, f"train/{prompt}", sample)
        for run in range(3)
        for step in range(5)
        for prompt in range(20)
        for sample in range(3)
    }
    assert len(seeds) == 3 * 5 * 20 * 3
    assert all(0 <= seed < 2**63 for seed in seeds)


@pytest.fixture(scope="module")
def bfloat16_client(worker, student):
    """An engine in bfloat16."""
    folder = worker[1] / "bfloat16"
    folder.mkdir(mode=0o700)
    settings = engine_settings(
        ModelDir(student),
        dtype="bfloat16",
        socket=folder / "rollout.sock",
        max_model_len=256,
        max_num_seqs=16,
    )
    process = start_engine(settings, folder / "engine.json", folder / "rollout.log")
    connected = RolloutClient(folder / "rollout.sock", 120)
    yield connected
    connected.kill()
    process.wait()


def test_in_bfloat16_the_canary_lets_rounding_pass_and_finds_weights_that_did_not_arrive(
    bfloat16_client, worker, student, prompts
):
    """The head and a matrix stay behind after a large step, and everything after a very small one."""
    from transformers import AutoModelForCausalLM

    client, folder, bfloat16 = bfloat16_client, worker[1] / "bfloat16", torch.bfloat16
    model = AutoModelForCausalLM.from_pretrained(student, dtype=bfloat16)
    files = {name: tensor.to(bfloat16) for name, tensor in load_file(student / "model.safetensors").items()}
    ids = max(prompts, key=lambda prompt: len(prompt.token_ids)).token_ids

    def scores():
        return Scores(ours(model, ids), client.score(ids))

    def prove(found, before=None):
        return require_agreement(found, before, bfloat16, 1, pushed=True, first_nats=0.03)

    agreed = scores()
    assert 1e-4 < prove(agreed) < 0.1
    generator = torch.Generator().manual_seed(0)
    for size, stale in ((1e-5, None), (1e-5, ""), (0.3, "embed_tokens"), (0.3, "layers.2.mlp.down_proj")):
        noise = {n: t.float().std() * torch.randn(t.shape, generator=generator) for n, t in files.items()}
        moved = {name: (t.float() + size * noise[name]).to(bfloat16) for name, t in files.items()}
        model.load_state_dict(moved, strict=False)
        if stale is None:
            push(client, moved, folder, 1)
            prove(scores(), agreed)
            push(client, files, folder, 1)
            continue
        push(client, {n: files[n] if stale in n else t for n, t in moved.items()}, folder, 1)
        with pytest.raises(RunFailed, match="the weights of step 1 were pushed") as refused:
            prove(scores(), agreed)
        assert refused.value.hint.startswith("the engine did not take the weights;")


@pytest.fixture(scope="module")
def small_client(worker, student):
    """A second engine, with four blocks of 128 tokens for its KV cache, of which vLLM keeps one."""
    folder = worker[1] / "small"
    folder.mkdir(mode=0o700)
    settings = engine_settings(
        ModelDir(student), dtype="float32", socket=folder / "rollout.sock", max_model_len=256, max_num_seqs=16
    )
    block_bytes = ModelDir(student).shape.kv_bytes_per_token(4) * 128
    settings = replace(settings, kv_cache_bytes=4 * block_bytes)
    process = start_engine(settings, folder / "engine.json", folder / "rollout.log")
    connected = RolloutClient(folder / "rollout.sock", 120)
    yield connected
    connected.kill()
    process.wait()


def test_an_engine_short_of_kv_memory_gives_the_same_answers(client, small_client, prompts):
    """Three sequences begin, each comes to need a second block, and vLLM has to throw some out and compute
    them again."""
    long = Sampling(1.0, 1.0, 160, [])
    expected = client.generate(prompts, 1, long, 7, 3)
    found = small_client.generate(prompts, 1, long, 7, 3)
    for one, two in zip(expected, found, strict=True):
        assert one.response_ids.tolist() == two.response_ids.tolist()
        np.testing.assert_allclose(one.response_logprobs, two.response_logprobs, atol=1e-4)


def test_an_engine_that_fails_to_take_weights_counts_as_lost(small_client, worker):
    """Never half of them: it ends, and the run starts another."""
    bad = worker[1] / "small" / "bad.safetensors"
    bad.write_bytes(b"no weights")
    with pytest.raises(EngineLost, match="stopped responding during 'push'"):
        small_client.push([bad], 1)


def test_a_prompt_that_stands_twice_in_a_batch_has_other_samples_the_second_time():
    names = request_names([Prompt(name, [1], "", None) for name in ("train/1", "train/2", "train/1")])
    assert names[:2] == ["train/1", "train/2"]  # the seeds of all others do not change
    assert len(set(names)) == 3


def test_killing_the_worker_kills_the_whole_engine_and_is_reported(client, worker, prompts, process_group):
    """Last in the module: it ends the engine."""
    process, _ = worker
    group = process_group(process.pid)
    process.kill()
    process.wait()
    with pytest.raises(EngineLost, match="stopped responding"):
        client.score(prompts[0].token_ids)
    group.wait_until_dead(5)
