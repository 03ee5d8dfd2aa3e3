"""The whole command line on the tiny pair, with real vLLM and real DeepSpeed: train, resume, eval, inspect.

The runs are made once per module: one rank, two ranks, one with a served teacher, one with everything that
can be mixed in, and one that is stopped and resumed.
"""

import json
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distillctl.host import shared_memory
from distillctl.run.events import read_events
from distillctl.run.metrics import METRICS
from distillctl.run.sample_files import sample_schema

pytestmark = pytest.mark.engine

PRESET = "tiny-from-small-arith"
STEPS = 3
SMALL = [
    "data.train_batch_size=12",
    "data.max_response_length=48",
    "rollout.n=2",
    "rollout.max_num_seqs=32",
    "train.micro_batch_tokens=700",
    f"train.steps={STEPS}",
    "optim.warmup_steps=2",
    "eval.limit=16",
]


# Metrics that only some objectives have.
NOT_ALWAYS = {"val/acc", "val/kl", "gpu/used_bytes", "gpu/utilization", "reward/mean", "actor/sft_loss",
              "actor/pg_clipfrac", "topk/student_mass", "topk/teacher_mass", "topk/overlap"}  # fmt: skip


# What makes rich and others draw and colour even in a pipe.
LOUD = {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "1", "TTY_COMPATIBLE": "1", "CLICOLOR_FORCE": "1"}


# What a folder may hold that somebody sent; whatever takes it in ends at once.
PLANTED = ["torch.py", "vllm.py", "deepspeed.py", "numpy.py", "sitecustomize.py", "distillctl/__init__.py"]
PLANTED_LIBRARIES = ["librt.so.1", "libiomp5.so", "libgomp.so.1"]


def plant(folder):
    for name in PLANTED:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("raise SystemExit('code of the working directory was run')")
    for name in PLANTED_LIBRARIES:
        (folder / name).write_text("no library")


def temporary(cwd):
    """Where commands that run in `cwd` keep temporary files."""
    return cwd.with_name("temporary")


LAUNCHERS = []
"""Pids of all commands of this module, each of which has ended. Others may run on this machine."""


def left_in_memory():
    return [path for pid in LAUNCHERS for path in shared_memory.ROOT.glob(f"*distillctl-{pid}-*")]


def distillctl(*arguments, cwd, check=True):
    """Run a command; nothing that any of them prints into a pipe may hold an escape code.

    As the script does it: `python -m` alone would look for modules in `cwd`.
    """
    command = [sys.executable, "-P", "-m", "distillctl", *map(str, arguments)]
    temporary(cwd).mkdir(exist_ok=True)
    with subprocess.Popen(
        command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**os.environ, **LOUD, "TMPDIR": str(temporary(cwd))},
    ) as process:  # fmt: skip
        LAUNCHERS.append(process.pid)
        try:
            out, err = process.communicate(timeout=400)
        except subprocess.TimeoutExpired:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, out, err)
    assert "\x1b" not in done.stdout + done.stderr
    if check:
        assert done.returncode == 0, done.stderr[-4000:]
    return done


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Every run of this module is started in a folder with planted code."""
    path = tmp_path_factory.mktemp("work") / "here"
    path.mkdir()
    plant(path)
    distillctl("prep", "arith", cwd=path)
    return path


def train(folder, name, *overrides, preset=PRESET):
    return distillctl("train", "--preset", preset, "--run-dir", name, *SMALL, *overrides, cwd=folder)


ONE = ["eval.every=3", "samples.every=2", 'data.val_files=["val_a.parquet","val_b.parquet"]']
NUM_VAL = 15
"""Prompts of its evaluations: the first 16 rows of both files, less one that is too long."""


@pytest.fixture(scope="module")
def one_rank(folder):
    """With two validation files, of which the first has a prompt of more tokens than the run takes."""
    table = pq.read_table(folder / "data/arith/test.parquet")
    rows = table.slice(0, 10).to_pylist()
    rows[3]["prompt"][0]["content"] *= 6
    pq.write_table(pa.Table.from_pylist(rows, table.schema), folder / "val_a.parquet")
    pq.write_table(table.slice(10, 10), folder / "val_b.parquet")
    done = train(folder, "one", *ONE)
    assert done.stdout.strip() == "one"
    return folder / "one"


@pytest.fixture(scope="module")
def two_ranks(folder):
    train(folder, "two", "train.world_size=2", "teacher.shard=true")
    return folder / "two"


REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **kwargs):
    assert data_source and extra_info["question"]
    return {"score": float(solution_str.strip().endswith(f"#### {ground_truth}"))}
"""


@pytest.fixture(scope="module")
def served(folder):
    """The tiny teacher behind vLLM's own server, started and stopped by the run."""
    train(folder, "served", "teacher.serve=true", "loss.kind=topk", "loss.topk=8", "train.steps=2")
    return folder / "served"


LOSS = """
def reverse_kl(student_log_p, teacher_log_p):
    return (student_log_p.exp() * (student_log_p - teacher_log_p)).sum(-1)
"""


@pytest.fixture(scope="module")
def one_step_off(folder):
    """By a preset for GPUs, with stand-ins for its models, and the reverse KL in a file of the user's own."""
    (folder / "my_loss.py").write_text(LOSS)
    train(
        folder, "ahead", "student.model=builtin:tiny-student", "teacher.model=builtin:tiny-teacher",
        "data.train_files=data/arith/train.parquet", "data.val_files=data/arith/test.parquet",
        "data.max_prompt_length=160", "train.epochs=null", "optim.lr=1.5e-3", "zero.offload=optimizer",
        "train.async_depth=1", "eval.every=1", "data.train_batch_size=6", "rollout.n=4",
        "loss.path=my_loss.py",
        preset="qwen-0.5b-from-7b-gsm8k",
    )  # fmt: skip
    return folder / "ahead"


@pytest.fixture(scope="module")
def mixed(folder):
    """Policy gradient, task reward, reference answers, part of each response, two teachers, on two ranks."""
    (folder / "reward.py").write_text(REWARD)
    table = pq.read_table(folder / "data/arith/train.parquet")
    names = pa.array(["code" if i % 2 else "math" for i in range(table.num_rows)])
    pq.write_table(table.append_column("expert", names), folder / "routed.parquet")
    train(
        folder, "mixed", "loss.kind=sampled", "loss.update=policy_gradient", "loss.sft_coef=0.1",
        "loss.token_fraction=0.5", "loss.aggregate=seq-mean-token-mean", "reward.path=reward.py",
        "rollout.n=4", "rollout.temperature=1.2", "data.train_files=routed.parquet",
        "data.teacher_key=expert", "teachers.coder.model=builtin:tiny-student", "teachers.coder.key=code",
        "train.world_size=2", "train.steps=2",
    )  # fmt: skip
    return folder / "mixed"


def workers(folder):
    """Pids of rollout workers and trainer ranks of the runs in a folder."""
    pattern = f"distillctl[.](rollout|train)[.]worker {folder}/"
    found = subprocess.run(["pgrep", "-f", pattern], capture_output=True, text=True, check=False)
    return found.stdout.split()


def metrics(run):
    return {e["step"]: e["metrics"] for e in read_events(run / "events.jsonl") if e["kind"] == "step"}


def weights(run, step=STEPS):
    from safetensors.torch import load_file

    return load_file(run / f"checkpoints/step_{step:06d}/hf/model.safetensors")


def test_every_step_reports_every_metric_of_the_table(one_rank):
    steps = metrics(one_rank)
    assert sorted(steps) == [1, 2, 3]
    for values in steps.values():
        assert set(values) == set(METRICS) - NOT_ALWAYS
        assert values["rollout/staleness"] == 0
        assert all(np.isfinite(value) for value in values.values())
        assert values["actor/pg_loss"] == 0
        assert values["actor/distillation_mode"] == 1
        assert values["kl/reverse"] > 0
        assert values["actor/kl_loss"] == pytest.approx(values["kl/reverse"], rel=1e-5)


def test_engine_and_trainer_agree_on_the_sampled_tokens(one_rank):
    for values in metrics(one_rank).values():
        assert abs(values["rollout/mismatch_kl"]) < 1e-6


def test_one_step_off_rollouts_are_of_the_weights_before_the_newest(one_step_off):
    steps = metrics(one_step_off)
    assert [steps[step]["rollout/staleness"] for step in (1, 2, 3)] == [0, 1, 1]
    assert "perf/rollout_tokens_per_s" not in steps[3]
    assert abs(steps[1]["rollout/mismatch_kl"]) < 1e-6
    # The trainer has moved on from the weights that wrote these.
    assert all(1e-6 < steps[step]["rollout/mismatch_kl"] < 0.1 for step in (2, 3))


def test_evaluations_between_one_step_off_batches_are_of_the_newest_weights(one_step_off):
    evals = [e for e in read_events(one_step_off / "events.jsonl") if e["kind"] == "eval"]
    assert [e["step"] for e in evals] == [0, 1, 2, 3]
    kl = [e["metrics"]["val/kl"] for e in evals]
    assert len(set(kl)) == 4


def test_two_ranks_give_the_losses_of_one(one_rank, two_ranks):
    one, two = metrics(one_rank), metrics(two_ranks)
    for step in one:
        for name in ("actor/loss", "kl/reverse", "kl/forward", "actor/entropy", "actor/grad_norm"):
            assert two[step][name] == pytest.approx(one[step][name], rel=1e-5, abs=1e-5), (step, name)


def test_two_ranks_give_the_weights_of_one(one_rank, two_ranks):
    ours, theirs = weights(one_rank), weights(two_ranks)
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], rtol=0, atol=1e-5, msg=name)


def test_a_loss_of_ones_own_gives_what_the_same_formula_of_the_package_gives(one_step_off):
    for values in metrics(one_step_off).values():
        assert values["actor/kl_loss"] == pytest.approx(values["kl/reverse"], rel=1e-5)


def checks(run):
    return {e["name"]: e for e in read_events(run / "events.jsonl") if e["kind"] == "check"}


def test_the_preflight_finds_the_tiny_pair_in_order(one_rank):
    found = checks(one_rank)
    assert set(found) >= {"tokenizers", "heads", "eos", "chat template", "objective", "self-test", "engine",
                         "teacher", "save"}  # fmt: skip
    assert {check["level"] for check in found.values()} == {"ok"}


def test_the_log_of_a_rank_is_not_filled_by_its_libraries(two_ranks):
    """What a rank says last is shown when it dies: not hundreds of the same warning, or progress bars."""
    for rank in (0, 1):
        text = (two_ranks / f"logs/attempt_1/rank_{rank}.log").read_text()
        assert "is deprecated" not in text
        assert "%|" not in text


def test_a_served_teacher_agrees_with_the_local_one(served, one_rank):
    """Step 1 has the same rollouts in both runs: the list covers nearly all of the distribution."""
    assert checks(served)["served teacher"]["level"] == "ok"
    served_step, local_step = metrics(served)[1], metrics(one_rank)[1]
    assert served_step["kl/k1"] == pytest.approx(local_step["kl/k1"], abs=2e-3)
    assert 0 < served_step["kl/reverse"] <= local_step["kl/reverse"] + 1e-6
    assert 0 < served_step["kl/forward"] <= local_step["kl/forward"] + 1e-6
    assert served_step["kl/forward"] == pytest.approx(local_step["kl/forward"], rel=0.05)
    assert served_step["actor/entropy"] == pytest.approx(local_step["actor/entropy"], rel=1e-5)
    assert 0.99 < served_step["topk/teacher_mass"] <= 1
    assert 0 < served_step["topk/overlap"] <= 1


def test_everything_mixed_in_reports_its_own_metrics(mixed):
    for values in metrics(mixed).values():
        assert values["actor/distillation_mode"] == 0
        assert 0 <= values["reward/mean"] <= 1
        assert values["actor/sft_loss"] > 0
        assert 0 <= values["actor/pg_clipfrac"] <= 1
        assert {"kl/reverse/default", "kl/reverse/coder"} <= set(values)
        assert abs(values["rollout/mismatch_kl"]) < 1e-6  # at the temperature of the rollouts


def test_a_student_that_is_its_own_teacher_has_no_kl_at_first(mixed):
    assert metrics(mixed)[1]["kl/reverse/coder"] == pytest.approx(0.0, abs=1e-6)
    assert metrics(mixed)[1]["kl/reverse/default"] > 0.01
    teachers = [
        e for e in read_events(mixed / "events.jsonl") if e["kind"] == "check" and e["name"] == "teacher"
    ]
    assert [check["level"] for check in teachers] == ["ok", "warn"]
    assert teachers[1]["detail"].startswith("teachers.coder is the student's own distribution")


def test_tokens_beyond_the_trained_fraction_have_no_kl(mixed):
    rows = pq.read_table(mixed / "samples/step_000001.parquet").to_pylist()
    for row in rows:
        trained = -(-len(row["response_ids"]) // 2)
        assert len(row["kl"]) == len(row["response_ids"])
        assert all(value is not None for value in row["kl"][:trained])
        assert all(value is None for value in row["kl"][trained:])


def test_the_dry_run_measures_on_running_engines_and_keeps_nothing(folder):
    before = set(folder.rglob("*"))
    done = distillctl("train", "--preset", PRESET, "--dry-run", "--json", *SMALL, cwd=folder)
    names = {check["name"] for check in json.loads(done.stdout)["checks"]}
    assert {"tokenizers", "self-test", "teacher", "save", "engine"} <= names
    assert done.stderr == "starting the engines once to measure; no step runs\n"
    assert set(folder.rglob("*")) == before


def test_training_changes_the_weights(one_rank):
    from transformers import AutoModelForCausalLM

    from distillctl.models.locate import find_model

    trained = AutoModelForCausalLM.from_pretrained(one_rank / f"checkpoints/step_{STEPS:06d}/hf")
    before = AutoModelForCausalLM.from_pretrained(find_model("builtin:tiny-student", "student.model").path)
    old = before.state_dict()
    moved = [(tensor - old[name]).abs().max() for name, tensor in trained.state_dict().items()]
    assert min(moved) > 0


def test_samples_have_the_contract_schema_and_recomputable_kl(one_rank):
    """Step 1 is sampled from the shipped student: log-probabilities and KL follow from the two models."""
    from transformers import AutoModelForCausalLM

    from distillctl.models.locate import find_model

    table = pq.read_table(one_rank / "samples/step_000001.parquet")
    assert table.schema.equals(sample_schema())
    assert table.num_rows == 24
    row = table.to_pylist()[0]
    ids = torch.tensor([row["prompt_ids"] + row["response_ids"]])
    start, size = len(row["prompt_ids"]) - 1, None
    logp = []
    for name in ("tiny-student", "tiny-teacher"):
        model = AutoModelForCausalLM.from_pretrained(find_model(f"builtin:{name}", "test").path)
        size = size or model.config.vocab_size
        with torch.no_grad():
            logits = model(ids).logits[0, start:-1, :size].double()
        logp.append(logits.log_softmax(-1))
    student, teacher = logp
    kl = (student.exp() * (student - teacher)).sum(-1)
    np.testing.assert_allclose(row["kl"], kl.numpy(), rtol=1e-3, atol=1e-4)
    sampled = student.gather(-1, ids[0, start + 1 :, None]).squeeze(-1)
    np.testing.assert_allclose(row["response_logprobs"], sampled.numpy(), atol=1e-4)
    for who, logp_TV in (("student", student), ("teacher", teacher)):
        top = logp_TV.topk(5)
        np.testing.assert_allclose(row[f"{who}_top_logprobs"], top.values.numpy(), rtol=1e-4, atol=1e-4)
        chosen = logp_TV.gather(-1, torch.tensor(row[f"{who}_top_ids"]))
        np.testing.assert_allclose(chosen.numpy(), top.values.numpy(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("run", ["one_rank", "two_ranks", "served", "mixed"])
def test_every_trained_token_is_saved_with_alternatives_and_their_text(run, request):
    table = pq.read_table(request.getfixturevalue(run) / "samples/step_000001.parquet")
    texts = json.loads(table.schema.metadata[b"token_text"])
    for row in table.to_pylist():
        for who in ("student", "teacher"):
            expected = [0 if kl is None else 5 for kl in row["kl"]]
            assert expected[0] == 5
            assert [len(ids) for ids in row[f"{who}_top_ids"]] == expected
            assert all(logp == sorted(logp, reverse=True) for logp in row[f"{who}_top_logprobs"])
            assert {str(i) for ids in row[f"{who}_top_ids"] for i in ids} <= texts.keys()
        written = "".join(texts[str(i)] for i in row["response_ids"])
        assert written.removesuffix("<|im_end|>") == row["text"]


def test_answers_of_an_evaluation_are_saved_with_their_kl(one_rank):
    events = [e for e in read_events(one_rank / "events.jsonl") if e["kind"] == "eval"]
    for event, step in zip(events, (0, 3), strict=True):
        table = pq.read_table(one_rank / f"eval/step_{step:06d}.parquet")
        assert table.schema.equals(sample_schema())
        rows = table.to_pylist()
        first = [f"test/{i}" for i in range(10) if i != 3]
        second = ["test/0#1", "test/1#1", "test/2#1", "test/3", "test/4#1", "test/5#1"]
        assert [row["prompt_id"] for row in rows] == first + second
        assert np.mean([row["correct"] for row in rows]) == event["metrics"]["val/acc"]
        values = [kl for row in rows for kl in row["kl"]]
        assert event["metrics"]["val/kl"] == pytest.approx(np.mean(values), rel=1e-5)
        for row in rows:  # greedy: what was written is the student's likeliest token
            assert row["response_ids"] == [ids[0] for ids in row["student_top_ids"]]


def test_the_event_of_a_sample_shows_one_of_its_rows(one_rank):
    (event, *_) = [e for e in read_events(one_rank / "events.jsonl") if e["kind"] == "sample"]
    row = pq.read_table(one_rank / event["path"]).to_pylist()[0]
    assert "".join(event["pieces"]).removesuffix("<|im_end|>") == row["text"]
    np.testing.assert_allclose(event["kl"], row["kl"], rtol=1e-6)
    assert (event["correct"], event["num_tokens"]) == (row["correct"], len(row["response_ids"]))
    assert event["mean_kl"] == pytest.approx(np.mean(row["kl"]), rel=1e-5)


def test_samples_are_saved_at_the_first_the_due_and_the_last_step(one_rank):
    saved = sorted(path.name for path in (one_rank / "samples").iterdir())
    assert saved == ["step_000001.parquet", "step_000002.parquet", "step_000003.parquet"]


def test_evaluation_runs_before_the_first_and_after_the_last_step(one_rank):
    evals = [e for e in read_events(one_rank / "events.jsonl") if e["kind"] == "eval"]
    assert [e["step"] for e in evals] == [0, 3]
    assert all(e["num"] == NUM_VAL for e in evals)
    saved = json.loads((one_rank / "eval/step_000003.json").read_text())
    assert saved["acc"] == evals[-1]["metrics"]["val/acc"]


def test_run_directory_is_complete(one_rank):
    for name in ("config.yaml", "provenance.json", "events.jsonl", "status.json", ".lock", "logs/attempt_1"):
        assert (one_rank / name).exists(), name
    checkpoint = one_rank / f"checkpoints/step_{STEPS:06d}"
    listed = json.loads((checkpoint / "manifest.json").read_text())["files"]
    on_disk = {str(p.relative_to(checkpoint)) for p in checkpoint.rglob("*") if p.is_file()}
    assert set(listed) | {"manifest.json"} == on_disk
    assert json.loads((one_rank / "status.json").read_text())["state"] == "done"
    assert (one_rank / "checkpoints/latest.json").exists()


def test_nothing_is_left_behind(one_rank, two_ranks, served, mixed, folder):
    assert left_in_memory() == []
    assert workers(folder) == []
    assert not list(temporary(folder).glob("*vllm*"))


def test_a_preset_for_gpus_runs_on_a_cpu_and_says_what_has_no_effect(one_step_off):
    found = checks(one_step_off)["GPU settings"]
    assert found["level"] == "ok"
    assert found["detail"] == (
        "without effect on a CPU: rollout.gpu_memory_utilization=0.3, rollout.enforce_eager=false, "
        "zero.offload=optimizer"
    )


def test_a_finished_run_is_resumed_without_doing_anything(one_rank, folder):
    before = (one_rank / "events.jsonl").read_text()
    done = train(folder, "one", *ONE)
    assert done.stdout.strip() == "one"
    assert (one_rank / "events.jsonl").read_text() == before


@pytest.fixture(scope="module")
def evaluated(one_rank, folder):
    """The checkpoint against the student before, with a requirement that is met and one that is not: as the
    run's own evaluations asked, twice at once. The second command writes no files."""
    command = ["eval", "--checkpoint", "one", "--baseline", "builtin:tiny-student",
               "--teacher", "builtin:tiny-teacher", "--require", "acc>=0", "--require", "acc-baseline>=0.99",
               "--json"]  # fmt: skip
    files = ["--out", "made/out", "--junit", "made/junit/"]
    with ThreadPoolExecutor() as pool:
        calls = [pool.submit(distillctl, *command, *more, cwd=folder, check=False) for more in (files, [])]
    return command, [call.result() for call in calls]


def test_eval_prints_one_json_document_with_the_same_accuracy_as_training(evaluated, one_rank):
    report = json.loads(evaluated[1][0].stdout)
    result, before = report["results"]
    saved = json.loads((one_rank / "eval/step_000003.json").read_text())
    assert (result["acc"], result["response_length"]) == (saved["acc"], saved["response_length"])
    assert (result["num_prompts"], result["num_dropped"]) == (saved["num_prompts"], 1) == (NUM_VAL, 1)
    assert result["kl"] == pytest.approx(saved["kl"], rel=1e-4)
    assert result["verl_strict"] <= result["format_rate"]
    start = json.loads((one_rank / "eval/step_000000.json").read_text())
    assert before["acc"] == start["acc"]
    assert report["differences"][0]["difference"] == pytest.approx(saved["acc"] - start["acc"])


def test_each_file_of_the_run_has_its_own_numbers(evaluated, one_rank):
    (result, _) = json.loads(evaluated[1][0].stdout)["results"]
    files = result["files"]
    assert list(files) == ["val_a.parquet", "val_b.parquet"]
    assert [(file["num_prompts"], file["num_dropped"]) for file in files.values()] == [(9, 1), (6, 0)]
    rows = pq.read_table(one_rank / "eval/step_000003.parquet").to_pylist()
    for file, of_file in zip(files.values(), (rows[:9], rows[9:]), strict=True):
        assert file["acc"] == pytest.approx(np.mean([row["correct"] for row in of_file]))
        assert file["acc_low"] - 1e-9 <= file["acc"] <= file["acc_high"] + 1e-9


def test_of_two_evaluations_at_once_the_second_waits_and_reads(evaluated, folder):
    reports = [json.loads(done.stdout)["results"] for done in evaluated[1]]
    assert reports[0] == reports[1]  # the speed too: one of them was measured
    assert "note: waiting for process " in evaluated[1][0].stderr + evaluated[1][1].stderr
    assert not (folder / "runs").exists()


def test_a_requirement_that_is_not_met_is_exit_4_with_its_reason(evaluated, folder):
    _, (done, again) = evaluated
    assert (done.returncode, again.returncode) == (4, 4)
    report = json.loads(done.stdout)
    assert [outcome["met"] for outcome in report["requirements"]] == [True, False]
    assert report["error"]["kind"] == "check"
    assert "acc-baseline>=0.99 is not met: acc-baseline is" in done.stderr
    assert 'failures="1"' in (folder / "made/junit/junit.xml").read_text()


def test_every_answer_of_an_evaluation_is_a_row(evaluated, folder, one_rank):
    rows = pq.read_table(folder / "made/out/answers.parquet").to_pylist()
    mine = [row for row in rows if row["model"] == rows[0]["model"]]
    assert len(mine) == len(rows) / 2 == NUM_VAL
    trained = pq.read_table(one_rank / "eval/step_000003.parquet").to_pylist()
    assert [row["response"] for row in mine] == [row["text"] for row in trained]
    assert [row["correct"] for row in mine] == [row["correct"] for row in trained]


def test_a_second_evaluation_starts_no_engine(evaluated, folder):
    command, (first, _) = evaluated
    again = distillctl(*command, cwd=folder, check=False)
    assert json.loads(again.stdout)["results"] == json.loads(first.stdout)["results"]
    assert again.stderr.startswith("error: acc-baseline>=0.99 is not met")
    assert left_in_memory() == []


def test_inspect_reads_the_run(one_rank, folder):
    shown = json.loads(distillctl("inspect", "run", "one", "--json", cwd=folder).stdout)
    assert shown["state"] == "done"
    listed = json.loads(distillctl("inspect", "runs", ".", "--json", cwd=folder).stdout)
    assert listed
    samples = json.loads(distillctl("inspect", "samples", "one", "--json", cwd=folder).stdout)
    assert samples["file"] == "eval/step_000003.parquet"
    assert all(pair["before"]["prompt"] == pair["after"]["prompt"] for pair in samples["samples"])
