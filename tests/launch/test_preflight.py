"""What the files of two models and a configuration tell before anything is started."""

import json
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from distillctl.config.loading import load_preset
from distillctl.config.schema import Config
from distillctl.errors import ConfigError, DistillError
from distillctl.launch import preflight
from distillctl.launch.model_checks import pair_checks
from distillctl.launch.plan import Plan, PlannedTeacher
from distillctl.launch.preflight import objective_checks, schedule_checks
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir
from distillctl.run.checks import Check, lines

END, START, STOP = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
"""Special tokens of the shipped models: ids 0, 1, 2; they stop at the last."""
SIZE = 465
"""Ids of their tokenizer, and rows of the student's head."""


def edit(file, change):
    """Apply `change` to the tree of a JSON file."""
    tree = json.loads(file.read_text())
    change(tree)
    file.write_text(json.dumps(tree))


def add_tokens(folder, *tokens):
    """Give a tokenizer more special tokens after all that it has."""

    def change(tree):
        like = tree["added_tokens"][-1]
        tree["added_tokens"] += [{**like, "id": SIZE + i, "content": t} for i, t in enumerate(tokens)]

    edit(folder / "tokenizer.json", change)


def swap_ids(folder, one, other):
    def change(tree):
        vocab = tree["model"]["vocab"]
        vocab[one], vocab[other] = vocab[other], vocab[one]

    edit(folder / "tokenizer.json", change)


def base_model(folder):
    """Make it end with END like a base model, whatever its chat template says."""
    edit(folder / "generation_config.json", lambda tree: tree.update(eos_token_id=0))
    edit(folder / "tokenizer_config.json", lambda tree: tree.update(eos_token=END))


@dataclass
class Pair:
    student: Path
    teacher: Path

    def checks(self, **sections):
        """All checks with the given sections of the configuration; further `teachers` are the same model."""
        config = {
            "student": {"model": "org/student"},
            "teacher": {"model": "org/teacher"},
            "data": {"train_files": ["train.parquet"]},
            "train": {"steps": 100},
        }
        config = Config.model_validate({**config, **sections})
        teacher = PlannedTeacher(ModelDir(self.teacher), "float32", [])
        plan = Plan(
            config=config, student=ModelDir(self.student), device="cpu", world_size=1,
            teachers=dict.fromkeys(config.all_teachers, teacher), student_dtype="float32", max_model_len=1024,
        )  # fmt: skip
        return [*pair_checks(plan), *objective_checks(config)]

    def check(self, name, **sections):
        """The only check of that name."""
        (found,) = [check for check in self.checks(**sections) if check.name == name]
        return found


@pytest.fixture
def pair(tmp_path):
    """The shipped models without their weights."""
    for name in ("student", "teacher"):
        source = find_model(f"builtin:tiny-{name}", "").path
        shutil.copytree(source, tmp_path / name, ignore=shutil.ignore_patterns("*.safetensors"))
    return Pair(tmp_path / "student", tmp_path / "teacher")


# Tokenizers and heads


def test_the_shipped_pair_has_nothing_to_warn_of(pair):
    assert {check.level for check in pair.checks()} == {"ok"}


def test_equal_tokenizers_are_reported_with_their_size(pair):
    assert pair.check("tokenizers") == Check("tokenizers", "ok", "student and teacher: 465 ids agree")


def test_two_swapped_ids_are_refused_by_name(pair):
    swap_ids(pair.teacher, "!", "#")
    ids = json.loads((pair.student / "tokenizer.json").read_text())["model"]["vocab"]
    with pytest.raises(ConfigError, match="2 tokens differ") as caught:
        pair.checks()
    assert f"'!': {ids['!']} / {ids['#']}, '#': {ids['#']} / {ids['!']}" in caught.value.message


def test_special_tokens_added_at_the_end_of_one_tokenizer_are_named_in_a_warning(pair):
    add_tokens(pair.teacher, "<think>", "</think>")
    check = pair.check("tokenizers")
    assert check.level == "warn"
    assert "share 465 ids" in check.detail
    assert "'<think>' 465 (teacher only), '</think>' 466 (teacher only);" in check.detail


def test_of_many_added_tokens_the_first_five_are_named(pair):
    add_tokens(pair.student, *(f"<tool_{i}>" for i in range(7)))
    detail = pair.check("tokenizers").detail
    assert "'<tool_4>' 469 (student only) and 2 more" in detail
    assert "<tool_5>" not in detail


def test_different_tokens_at_the_same_end_are_refused(pair):
    add_tokens(pair.student, "<x>")
    add_tokens(pair.teacher, "<y>")
    with pytest.raises(ConfigError, match="2 tokens differ"):
        pair.checks()


def test_padding_rows_of_the_heads_are_cut_off(pair):
    edit(pair.student / "config.json", lambda tree: tree.update(vocab_size=512))
    edit(pair.teacher / "config.json", lambda tree: tree.update(vocab_size=640))
    assert pair.check("heads").detail == (
        "student and teacher: heads of 512 and 640 rows are both cut to the shared 465"
    )


def test_heads_without_padding_are_said_to_be_equal(pair):
    edit(pair.teacher / "config.json", lambda tree: tree.update(vocab_size=SIZE))
    assert pair.check("heads").detail == "student and teacher have the shared 465 rows each"


@pytest.mark.parametrize("model", ["student", "teacher"])
def test_a_head_with_more_than_a_linear_map_is_refused(pair, model):
    edit(getattr(pair, model) / "config.json", lambda tree: tree.update(final_logit_softcapping=30.0))
    with pytest.raises(ConfigError, match=rf"{model}\.model: .*final_logit_softcapping"):
        pair.checks()


def test_the_head_of_a_served_teacher_does_not_matter(pair):
    edit(pair.teacher / "config.json", lambda tree: tree.update(final_logit_softcapping=30.0))
    served = {"model": "org/teacher", "url": ["http://127.0.0.1:8000"]}
    assert pair.checks(teacher=served, loss={"kind": "topk"})


# Several teachers


def test_every_teacher_is_checked_under_its_own_key(pair):
    checks = pair.checks(teachers={"math": {"model": "org/math"}})
    details = [check.detail for check in checks if check.name == "tokenizers"]
    assert details == ["student and teacher: 465 ids agree", "student and teachers.math: 465 ids agree"]


def test_an_error_names_the_teacher_that_does_not_fit(pair):
    edit(pair.teacher / "config.json", lambda tree: tree.update(logit_scale=0.0625))
    served = {"model": "org/teacher", "url": ["http://127.0.0.1:8000"]}
    with pytest.raises(ConfigError, match=r"^teachers\.math\.model: .*logit_scale"):
        pair.checks(teacher=served, teachers={"math": {"model": "org/math"}}, loss={"kind": "topk"})


# Partial downloads


def test_a_teacher_of_which_only_the_configuration_is_here_is_not_checked(pair):
    for file in pair.teacher.glob("*token*"):
        file.unlink()
    detail = "not checked: teacher.model=org/teacher has no tokenizer.json here"
    assert pair.check("tokenizers") == Check("tokenizers", "warn", detail)
    assert {check.name for check in pair.checks()} == {"tokenizers", "objective", "sampling"}


def test_a_student_of_which_only_the_configuration_is_here_is_not_checked(pair):
    for file in pair.student.glob("*token*"):
        file.unlink()
    detail = "not checked: student.model=org/student has no tokenizer.json here"
    assert pair.check("tokenizers") == Check("tokenizers", "warn", detail)
    assert {check.name for check in pair.checks()} == {"tokenizers", "objective", "sampling"}


def test_a_complete_model_without_tokenizer_json_is_refused(pair):
    (pair.teacher / "tokenizer.json").unlink()
    (pair.teacher / "model.safetensors").touch()
    with pytest.raises(ConfigError, match=r"no tokenizer\.json"):
        pair.checks()


# End of sequence


def test_equal_stop_tokens_are_named(pair):
    assert pair.check("eos") == Check("eos", "ok", "student and teacher stop at '<|im_end|>' 2")


def test_a_list_of_stop_ids_counts_as_a_whole(pair):
    for folder in (pair.student, pair.teacher):
        edit(folder / "generation_config.json", lambda tree: tree.update(eos_token_id=[2, 0]))
    assert pair.check("eos").detail == "student and teacher stop at '<|endoftext|>' 0, '<|im_end|>' 2"


def test_a_base_student_under_an_instruct_teacher_would_never_stop(pair):
    base_model(pair.student)
    check = pair.check("eos")
    assert check.level == "warn"
    assert "teacher ends responses with '<|im_end|>' 2, rollouts stop at '<|endoftext|>' 0" in check.detail
    assert "responses grow" in check.detail
    assert check.hint.startswith("take the instruction-tuned student")
    assert check.hint.endswith("set eos_token_id in the student's generation_config.json to [2]")


def test_the_stop_ids_of_the_hint_make_the_warning_of_a_base_student_a_smaller_one(pair):
    base_model(pair.student)
    edit(pair.student / "generation_config.json", lambda tree: tree.update(eos_token_id=[2]))
    assert pair.check("eos").detail == "rollouts also stop at '<|endoftext|>' 0, no stop token of teacher"


def test_a_teacher_that_knows_more_stop_tokens_than_the_student_is_warned_of(pair):
    edit(pair.teacher / "generation_config.json", lambda tree: tree.update(eos_token_id=[2, 0]))
    check = pair.check("eos")
    assert check.level == "warn"
    assert check.hint.endswith("to [0, 2]")


def test_the_tokenizers_end_of_sequence_may_be_an_object(pair):
    for folder in (pair.student, pair.teacher):
        (folder / "generation_config.json").unlink()
    edit(pair.student / "tokenizer_config.json", lambda tree: tree.update(eos_token={"content": STOP}))
    assert pair.check("eos").detail == "student and teacher stop at '<|im_end|>' 2"


def test_the_special_tokens_map_fills_in_for_the_tokenizers_configuration(pair):
    (pair.student / "generation_config.json").unlink()
    edit(pair.student / "tokenizer_config.json", lambda tree: tree.pop("eos_token"))
    (pair.student / "special_tokens_map.json").write_text(json.dumps({"eos_token": STOP}))
    assert pair.check("eos").level == "ok"


def test_models_without_any_stop_token_are_warned_of(pair):
    for folder in (pair.student, pair.teacher):
        (folder / "generation_config.json").unlink()
        edit(folder / "tokenizer_config.json", lambda tree: tree.pop("eos_token"))
    check = pair.check("eos")
    assert check.level == "warn"
    assert "rollouts stop at nothing" in check.detail


# Chat templates and generation settings


def test_equal_templates_are_fine_wherever_they_are_kept(pair):
    file = pair.student / "chat_template.jinja"
    template = file.read_text() + "\n"
    file.unlink()
    edit(pair.student / "tokenizer_config.json", lambda tree: tree.update(chat_template=template))
    assert pair.check("chat template").level == "ok"


def test_of_several_named_templates_the_default_counts(pair):
    file = pair.student / "chat_template.jinja"
    named = [{"name": "tool_use", "template": "x"}, {"name": "default", "template": file.read_text()}]
    file.unlink()
    edit(pair.student / "tokenizer_config.json", lambda tree: tree.update(chat_template=named))
    assert pair.check("chat template").level == "ok"


def test_different_templates_are_warned_of(pair):
    (pair.teacher / "chat_template.jinja").write_text("{{ messages[0].content }}")
    check = pair.check("chat template")
    assert check.level == "warn"
    assert "prompts are rendered with the student's" in check.detail


def test_a_teacher_without_a_template_is_warned_of(pair):
    (pair.teacher / "chat_template.jinja").unlink()
    check = pair.check("chat template")
    assert check.level == "warn"
    assert check.detail.startswith("teacher has none")


@pytest.mark.parametrize("template", [None, ""])
def test_a_student_without_a_template_is_refused(pair, template):
    """Nothing could render its prompts."""
    file = pair.student / "chat_template.jinja"
    file.unlink() if template is None else file.write_text(template)
    with pytest.raises(ConfigError, match=r"student\.model=org/student has no chat template"):
        pair.checks()


def test_sampling_settings_of_the_student_are_listed_as_not_applied(pair):
    given = {"do_sample": True, "temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05}
    edit(pair.student / "generation_config.json", lambda tree: tree.update(given))
    check = pair.check("generation_config")
    assert check.level == "ok"
    assert "temperature=0.7, top_p=0.8, top_k=20, repetition_penalty=1.05 are not applied" in check.detail


def test_a_template_with_a_thinking_mode_is_warned_of(pair):
    file = pair.student / "chat_template.jinja"
    file.write_text(file.read_text() + "{% if enable_thinking is false %}<think></think>{% endif %}")
    check = pair.check("thinking", data={"train_files": ["x"], "max_response_length": 300})
    assert check.level == "warn"
    assert "data.max_response_length=300" in check.detail


# The configuration against itself


@pytest.mark.parametrize("kind", ["sampled", "student_topk"])
@pytest.mark.parametrize("rollout", [{"temperature": 0.7}, {"top_p": 0.9}])
def test_estimators_from_samples_need_samples_of_what_is_trained(pair, kind, rollout):
    check = pair.check("sampling", loss={"kind": kind}, rollout=rollout)
    assert check.level == "warn"
    assert check.hint == "rollout.temperature=1 rollout.top_p=1"


def test_the_trained_distribution_has_the_temperature_of_the_loss(pair):
    sections = {"loss": {"kind": "sampled", "temperature": 0.7}, "rollout": {"temperature": 0.7}}
    assert pair.check("sampling", **sections).level == "ok"


def test_policy_gradients_make_up_for_other_samples_within_the_clip(pair):
    loss = {"kind": "sampled", "update": "policy_gradient", "clip_ratio": 0.3}
    check = pair.check("sampling", loss=loss, rollout={"temperature": 0.7})
    assert check.level == "warn"
    assert "the PPO clip range, loss.clip_ratio=0.3" in check.detail


@pytest.mark.parametrize("kind", ["reverse_kl", "forward_kl", "jsd", "topk"])
def test_computed_divergences_only_visit_other_prefixes(pair, kind):
    check = pair.check("sampling", loss={"kind": kind}, rollout={"temperature": 0.7})
    assert check.level == "ok"
    assert "this changes which prefixes are visited" in check.detail


def test_a_task_reward_is_that_of_the_temperature_that_sampled(pair):
    sections = {"reward": {"path": "r.py"}, "rollout": {"temperature": 0.7, "n": 2}}
    check = pair.check("sampling", **sections)
    assert check.level == "ok"
    assert "the task reward is that of responses at temperature 0.7" in check.detail


def test_a_task_reward_of_nucleus_samples_is_warned_of(pair):
    check = pair.check("sampling", reward={"path": "r.py"}, rollout={"top_p": 0.9, "n": 2})
    assert check.level == "warn"
    assert "the task reward's importance ratio" in check.detail
    assert check.hint == "rollout.top_p=1"


@pytest.mark.parametrize(
    ("estimator", "level", "gradient"),
    [
        ("k3", "warn", "FORWARD KL"),
        ("low_var_kl", "warn", "FORWARD KL"),
        ("abs", "warn", "any KL"),
        ("k2", "ok", "a biased value, and in expectation the gradient of the reverse KL"),
        ("mse", "ok", "a biased value, and in expectation the gradient of the reverse KL"),
        ("abs+", "ok", "a biased value, and in expectation the gradient of the reverse KL"),
        ("k1+", "ok", "k1+: in expectation the gradient of the reverse KL"),
        (None, "ok", "k3+: in expectation the gradient of the reverse KL"),
    ],
)
def test_estimators_are_named_by_the_gradient_they_have(pair, estimator, level, gradient):
    check = pair.check("objective", loss={"kind": "sampled", "kl_loss_type": estimator})
    assert check.level == level
    assert gradient in check.detail


@pytest.mark.parametrize("estimator", ["k3", "low_var_kl", "abs"])
def test_the_hint_of_an_estimator_is_one_without_a_warning(pair, estimator):
    hint = pair.check("objective", loss={"kind": "sampled", "kl_loss_type": estimator}).hint
    better = hint.split()[0].removeprefix("loss.kl_loss_type=")
    assert pair.check("objective", loss={"kind": "sampled", "kl_loss_type": better}).level == "ok"


@pytest.mark.parametrize(
    ("loss", "detail"),
    [
        ({"kind": "jsd"}, "jsd, exact"),
        ({"kind": "topk", "topk": 8, "topk_divergence": "reverse_kl"}, "reverse_kl over the teacher's 8"),
        ({"kind": "topk"}, "a lower bound"),
        ({"kind": "student_topk", "topk": 8}, "the student's 8 most likely"),
        ({"kind": "sampled", "update": "policy_gradient"}, "policy gradient"),
        ({"path": "mine.py:f"}, "your own loss, loss.path=mine.py:f"),
    ],
)
def test_other_objectives_are_described(pair, loss, detail):
    check = pair.check("objective", loss=loss)
    assert check.level == "ok"
    assert detail in check.detail


@pytest.mark.parametrize(
    ("loss", "level"),
    [
        ({"kind": "forward_kl"}, "ok"),
        ({"kind": "topk", "topk_divergence": "forward_kl"}, "ok"),
        ({"kind": "topk", "topk_divergence": "reverse_kl"}, "warn"),
        ({"kind": "reverse_kl"}, "warn"),
        ({"kind": "sampled"}, "warn"),
    ],
)
def test_only_the_forward_kl_goes_with_stale_rollouts_without_a_warning(pair, loss, level):
    train = {"steps": 100, "async_depth": 1}
    assert pair.check("staleness", loss=loss, train=train).level == level
    assert "staleness" not in [check.name for check in pair.checks(loss=loss)]


def schedule(train, warmup):
    config = {
        "student": {"model": "s"}, "teacher": {"model": "t"}, "train": train,
        "data": {"train_files": ["x"], "train_batch_size": 64}, "optim": {"warmup_steps": warmup},
    }  # fmt: skip
    return schedule_checks(Config.model_validate(config), num_prompts=100)


@pytest.mark.parametrize("train", [{"steps": 4}, {"epochs": 2}])  # 200 prompts in batches of 64
@pytest.mark.parametrize(("warmup", "reached"), [(4, "only in the last step"), (5, "never reaches")])
def test_a_warm_up_as_long_as_the_run_is_warned_of(train, warmup, reached):
    (check,) = schedule(train, warmup)
    assert check.level == "warn"
    assert reached in check.detail
    assert check.hint == "optim.warmup_steps below 4"


@pytest.mark.parametrize("train", [{"steps": 4}, {"epochs": 2}])
def test_a_shorter_warm_up_is_not(train):
    assert schedule(train, 3) == []


# The order of all checks


@pytest.fixture
def settings(pair, tmp_path):
    """The pair, copied without weights, as the configuration of a run."""
    (tmp_path / "data.jsonl").write_text('{"prompt": "What is 2+3?"}\n')

    def make(*overrides):
        files = [f"data.train_files={tmp_path}/data.jsonl", "data.train_batch_size=1", "eval.every=0"]
        models = [f"student.model={pair.student}", f"teacher.model={pair.teacher}"]
        return load_preset("tiny-from-small-arith", [*files, *models, "train.device=cpu", *overrides])

    return make


def bring(folder, pattern):
    """Copy files of the shipped models into the pair, as a download would."""
    for name in ("student", "teacher"):
        for file in find_model(f"builtin:tiny-{name}", "").path.glob(pattern):
            shutil.copy(file, folder / name)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("data.max_prompt_length=1", "all 1 prompts are longer than"),
        ("reward.path=gone.py", "gone.py: no such file"),
        ("train.micro_batch_tokens=1000000000", "GiB of memory"),
    ],
)
def test_what_needs_no_weights_is_refused_before_the_download(
    settings, tmp_path, monkeypatch, override, words
):
    monkeypatch.setattr(preflight, "fetch_models", lambda _: pytest.fail("it was downloaded"))
    with pytest.raises(DistillError, match=words):
        preflight.prepare(settings(override, "rollout.n=2"), tmp_path / "run")


def test_what_comes_with_the_weights_is_checked_after_the_download(settings, tmp_path, monkeypatch):
    """A directory stands for a hub model of which at first the configuration alone is here."""
    for file in tmp_path.glob("*/*token*"):
        file.unlink()
    monkeypatch.setattr(preflight, "fetch_models", lambda _: bring(tmp_path, "*"))
    _, checks = preflight.prepare(settings(), tmp_path / "run")
    assert [check.detail for check in checks if check.name == "tokenizers"] == [
        "student and teacher: 465 ids agree"
    ]


def test_weights_that_are_incomplete_are_refused_last(settings, tmp_path, monkeypatch):
    monkeypatch.setattr(preflight, "fetch_models", lambda _: bring(tmp_path, "*.safetensors"))
    edit(tmp_path / "teacher" / "config.json", lambda tree: tree.update(tie_word_embeddings=False))
    with pytest.raises(ConfigError, match=r"teacher\.model: .* lacks 1 tensor \(lm_head\.weight\)"):
        preflight.prepare(settings(), tmp_path / "run")


# How it is told, and what it costs


def test_a_check_is_one_line_with_its_fix():
    checks = [
        Check("tokenizers", "ok", "465 ids agree"),
        Check("eos", "warn", "they differ", "make them equal"),
    ]
    assert lines(checks) == [
        "ok   tokenizers: 465 ids agree",
        "warn eos: they differ (fix: make them equal)",
    ]


def test_no_line_breaks_within_a_check(pair):
    base_model(pair.student)
    (pair.teacher / "chat_template.jinja").unlink()
    add_tokens(pair.teacher, "<a\nb>")
    sections = {"loss": {"kind": "sampled", "kl_loss_type": "abs"}, "rollout": {"top_p": 0.5}}
    told = lines(pair.checks(**sections))
    assert not [line for line in told if "\n" in line]


LIGHT = """
import sys
from distillctl.config.schema import Config
from distillctl.launch.model_checks import pair_checks
from distillctl.launch.plan import resolve
from distillctl.launch.preflight import objective_checks
config = Config.model_validate({
    "student": {"model": "builtin:tiny-student"}, "teacher": {"model": "builtin:tiny-teacher"},
    "data": {"train_files": ["x"], "max_prompt_length": 64, "max_response_length": 64},
    "train": {"steps": 1, "device": "cpu"},
})
assert pair_checks(resolve(config)) and objective_checks(config)
print(*{name.split(".")[0] for name in sys.modules})
"""


def test_the_checks_load_no_engine():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert not set(done.stdout.split()) & {"accelerate", "deepspeed", "torch", "transformers", "vllm"}
