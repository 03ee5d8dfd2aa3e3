"""`train --dry-run` on every preset, and what `train` refuses before it starts anything."""

import json
import sys

import pytest
import yaml

from distillctl.config.loading import load_preset, preset_names
from distillctl.config.schema import Config
from distillctl.launch import dry_run
from distillctl.launch.plan import resolve

# Every model of the presets is replaced by a shipped one, whose 512 positions bound the lengths.
SMALL = ["student.model=builtin:tiny-student", "teacher.model=builtin:tiny-teacher", "train.device=cpu",
         "data.max_prompt_length=128", "data.max_response_length=128", "data.train_batch_size=4",
         "optim.warmup_steps=0"]  # fmt: skip
NUM_PROMPTS = 10
TINY = "tiny-from-small-arith"
PHASES = ["rollout", "teacher", "update", "sync"]


@pytest.fixture(autouse=True)
def _offline(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True)
def _nothing_measured(monkeypatch):
    """What is measured on running engines is tested on real ones, once, in train/test_end_to_end.py."""
    monkeypatch.setattr(dry_run, "measured_checks", lambda plan: [])


@pytest.fixture
def folder(tmp_path, monkeypatch, distillctl):
    """The current directory, with the data of all presets."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "upstream"
    source.mkdir()
    rows = [{"question": f"What is {i} + 1?", "answer": f"#### {i + 1}"} for i in range(NUM_PROMPTS)]
    for split in ("train", "test"):
        (source / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert distillctl("prep", "gsm8k", "--source", "upstream")[0] == 0
    assert distillctl("prep", "arith", "--limit", NUM_PROMPTS)[0] == 0
    return tmp_path


@pytest.fixture
def dry(folder, distillctl):
    """A dry run of a preset with the stand-in models, which has to succeed silently: its stdout."""

    def run(preset, *arguments):
        code, out, err = distillctl("train", "--preset", preset, "--dry-run", *SMALL, *arguments)
        assert (code, err) == (0, "")
        return out

    return run


def listing(folder):
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*")}


@pytest.mark.parametrize("preset", preset_names())
def test_every_preset_passes_and_shows_its_plan(dry, preset):
    out = dry(preset)
    config = Config.model_validate(yaml.safe_load(out))  # all but the configuration is comments
    assert config.student.model == "builtin:tiny-student"
    assert config.data.train_batch_size == 4
    comments = [line for line in out.splitlines() if line.startswith("# ")]
    assert any(line.startswith(f"# $ {sys.executable} -m distillctl.rollout.worker") for line in comments)
    assert any("RANK=0" in line and "-m distillctl.train.worker" in line for line in comments)
    memory = [line.split(":")[0] for line in comments if line.startswith("# memory")]
    assert memory == [f"# memory, {phase}" for phase in PHASES]
    assert any(line.endswith("1 rank(s) on cpu") and " steps of 4 prompts" in line for line in comments)


@pytest.mark.parametrize("preset", preset_names())
def test_with_json_it_is_one_document_with_the_same_plan(dry, preset):
    plan = json.loads(dry(preset, "--json"))
    config = Config.model_validate(plan["config"])
    expected = config.train.steps or -(-config.train.epochs * NUM_PROMPTS // 4)
    assert plan["steps"] == expected
    assert plan["num_prompts"] == NUM_PROMPTS
    assert (plan["device"], plan["world_size"]) == ("cpu", 1)
    assert plan["student"].endswith("tiny-student")
    assert plan["teachers"]["default"].endswith("tiny-teacher")
    assert {check["name"] for check in plan["checks"]} >= {"tokenizers", "eos", "chat template", "objective"}
    assert len(plan["commands"]) == 2
    assert [entry["phase"] for entry in plan["memory"]] == PHASES
    assert all(entry["bytes"] > 0 for entry in plan["memory"])


def test_the_preflight_is_shown_line_by_line(dry):
    out = dry(TINY, "loss.kind=sampled", "loss.kl_loss_type=k3")
    assert (
        "# ok   heads: student and teacher: heads of 465 and 576 rows are both cut to the shared 465" in out
    )
    assert "# warn objective: k3 as a loss has the expected gradient of the FORWARD KL" in out


def test_a_served_teacher_has_a_command_and_memory_of_its_own(dry):
    served = ["teacher.serve=true", "loss.kind=topk"]
    plan = json.loads(dry(TINY, "--json", *served))
    assert "vllm.entrypoints.openai.api_server" in plan["commands"][1]
    assert "teacher server" in {entry["phase"] for entry in plan["memory"]}


GPU_SETTINGS = ["rollout.enforce_eager=false", "rollout.gpus=[1,2]", "rollout.gpu_memory_utilization=0.5",
                "zero.offload=all", "teacher.offload=cpu", "teacher.gpus=[3]"]  # fmt: skip


def test_what_only_a_gpu_has_is_without_effect_and_said_once(dry):
    plan = json.loads(dry(TINY, "--json", *GPU_SETTINGS))
    (check,) = [check for check in plan["checks"] if check["name"] == "GPU settings"]
    assert check["level"] == "ok"
    assert check["detail"] == (
        "without effect on a CPU: rollout.gpus=[1, 2], rollout.gpu_memory_utilization=0.5, "
        "rollout.enforce_eager=false, zero.offload=all, teacher.gpus=[3], teacher.offload=cpu"
    )
    plain = json.loads(dry(TINY, "--json"))
    assert "GPU settings" not in {check["name"] for check in plain["checks"]}
    assert plan["memory"] == plain["memory"]


def test_the_engine_of_a_preset_for_gpus_is_not_compiled_on_a_cpu(tmp_path):
    preset = load_preset("qwen-0.5b-from-7b-gsm8k", SMALL)
    assert not preset.rollout.enforce_eager
    assert resolve(preset).engine(tmp_path).enforce_eager


def test_several_teachers_are_listed_and_checked(dry):
    plan = json.loads(dry(TINY, "--json", "teachers.code.model=builtin:tiny-student"))
    assert plan["teachers"]["code"].endswith("tiny-student")
    assert any("teachers.code" in check["detail"] for check in plan["checks"])


def test_there_is_a_command_for_every_rank(dry):
    commands = json.loads(dry(TINY, "--json", "train.world_size=3"))["commands"]
    assert len(commands) == 4
    for rank, command in enumerate(commands[1:]):
        assert f"RANK={rank} LOCAL_RANK={rank} WORLD_SIZE=3 " in command


def test_nothing_is_written(dry, folder):
    before = listing(folder)
    dry(TINY)
    dry(TINY, "--run-dir", "runs/mine")
    assert listing(folder) == before


def test_its_help_says_that_engines_are_started(distillctl):
    out = " ".join(distillctl("train", "--help")[1].split())
    assert "Starts the engines to measure, but takes no step and makes no run." in out


def bytes_of(out):
    return {entry["phase"]: entry["bytes"] for entry in json.loads(out)["memory"]}


@pytest.mark.parametrize(
    ("override", "grows"),
    [
        ("rollout.max_num_seqs=4096", {"rollout"}),
        ("train.micro_batch_tokens=1000000", {"teacher", "update"}),
        ("data.train_batch_size=10", {"teacher", "update"}),
        ("student.model=builtin:tiny-teacher", {"rollout", "teacher", "update", "sync"}),
    ],
)
def test_the_estimate_grows_where_the_memory_does(dry, override, grows):
    before, after = bytes_of(dry(TINY, "--json")), bytes_of(dry(TINY, "--json", override))
    assert {phase for phase in before if after[phase] > before[phase]} == grows
    assert {phase for phase in before if after[phase] < before[phase]} == set()


def test_ranks_share_what_zero_shards(dry):
    one, two = bytes_of(dry(TINY, "--json")), bytes_of(dry(TINY, "--json", "train.world_size=2"))
    assert two["update"] < one["update"]


def refused(distillctl, *arguments):
    """`train` and its dry run say the same: exit code and error."""
    errors = []
    for flags in ([], ["--dry-run"]):
        code, out, err = distillctl("train", "--preset", TINY, *SMALL, *arguments, *flags, "--json")
        assert err == ""
        errors.append((code, json.loads(out)["error"]))
    assert errors[0] == errors[1]
    return errors[0]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.max_response_length=385"], "= 513, but student.model takes 512 tokens"),
        (["data.max_prompt_length=600"], "data.max_prompt_length=600 leaves no room for a response"),
        (["loss.kind=topk", "loss.topk=500"], "loss.topk=500, but student.model has 465 tokens"),
        (["reward.path=gone.py", "rollout.n=2"], "reward.path: gone.py: no such file"),
        (["data.train_batch_size=11"], "data.train_batch_size=11, but the data has 10 prompts"),
        (["data.train_files=gone.parquet"], "gone.parquet: no such file"),
        (["eval.every=1", "data.val_files=gone.parquet"], "gone.parquet: no such file"),
    ],
)
def test_contradictions_are_refused_with_exit_code_2(folder, distillctl, overrides, message):
    before = listing(folder)
    code, error = refused(distillctl, *overrides)
    assert (code, error["kind"]) == (2, "config")
    assert message in error["message"]
    assert listing(folder) == before


def test_the_longest_sequence_that_fits_is_taken(dry):
    assert json.loads(dry(TINY, "--json", "data.max_response_length=384"))["steps"]


def test_a_hub_model_that_cannot_be_had_is_exit_code_3(folder, distillctl):
    code, error = refused(distillctl, "student.model=no-such-organisation/no-such-model")
    assert (code, error["kind"]) == (3, "environment")
    assert "student.model: no-such-organisation/no-such-model is not cached and could not" in error["message"]
    assert error["hint"] == "give a local directory: student.model=PATH"


def test_no_gpu_where_one_is_asked_for_is_exit_code_3(folder, distillctl):
    from distillctl.host.hardware import num_gpus

    if num_gpus():
        pytest.skip("this machine has a GPU")
    code, error = refused(distillctl, "train.device=cuda")
    assert (code, error["kind"]) == (3, "environment")


def test_a_run_that_cannot_fit_is_refused_before_anything_starts(folder, distillctl):
    """The dry run only reports it: it may be for another machine."""
    before = listing(folder)
    huge = "train.micro_batch_tokens=1000000000"
    code, out, err = distillctl("train", "--preset", TINY, *SMALL, huge)
    assert (code, out) == (3, "")
    assert "GiB of memory" in err
    assert "fix: lower train.micro_batch_tokens" in err
    assert listing(folder) == before
    assert distillctl("train", "--preset", TINY, "--dry-run", *SMALL, huge)[0] == 0
