"""Presets, files and overrides."""

import json

import pytest

from distillctl.config import loading
from distillctl.config.schema import Config
from distillctl.errors import ConfigError

CONTRACT = {
    "tiny-from-small-arith",
    "qwen-0.5b-from-7b-gsm8k",
    "qwen-1.5b-from-7b-gsm8k",
    "qwen3-0.6b-from-8b-gsm8k",
    "smollm2-135m-from-360m-gsm8k",
    "qwen-0.5b-from-7b-gsm8k-verl",
}
TINY = "tiny-from-small-arith"


def test_the_contract_names_exist():
    assert set(loading.preset_names()) >= CONTRACT


@pytest.mark.parametrize("name", loading.preset_names())
def test_every_preset_parses_and_survives_yaml(name, tmp_path):
    config = loading.load_preset(name)
    path = tmp_path / "copy.yaml"
    path.write_text(loading.to_yaml(config))
    assert loading.load_config(path) == config


@pytest.mark.parametrize("name", loading.preset_names())
def test_every_preset_says_what_it_is_for(name):
    header = loading.preset_header(name)
    for word in ("Purpose:", "Hardware:", "Data:", "Time:", "Expect:"):
        assert word in header
    assert "TBD" not in header


def test_of_a_key_given_twice_the_last_value_counts():
    assert loading.load_preset(TINY, ["train.steps=3", "optim.lr=1", "train.steps=5"]).train.steps == 5


@pytest.mark.parametrize("name", sorted(CONTRACT - {"qwen-0.5b-from-7b-gsm8k-verl"}))
def test_presets_warm_up_within_a_tenth_of_the_run(name):
    config = loading.load_preset(name)
    steps = config.train.steps or config.train.epochs * 7473 // config.data.train_batch_size
    assert config.optim.warmup_steps <= steps / 10


@pytest.mark.parametrize(
    ("override", "key", "value"),
    [
        ("optim.lr=1e-5", ("optim", "lr"), 1e-5),
        ("student.model=a=b", ("student", "model"), "a=b"),
        ("student.model=123", ("student", "model"), "123"),
        ("train.steps=7", ("train", "steps"), 7),
        ("data.val_files=x.parquet", ("data", "val_files"), ["x.parquet"]),
        ('data.train_files=["a","b"]', ("data", "train_files"), ["a", "b"]),
        ("rollout.gpus=1", ("rollout", "gpus"), [1]),
        ("eval.limit=null", ("eval", "limit"), None),
    ],
)
def test_overrides_are_json_or_strings(override, key, value):
    config = loading.load_preset(TINY, [override])
    assert getattr(getattr(config, key[0]), key[1]) == value


@pytest.mark.parametrize(
    ("override", "message", "hint"),
    [
        ("optim.warmup_step=3", "'optim.warmup_step'", "optim.warmup_steps"),
        ("optim.lr", "'optim.lr' is not an override of the form KEY=VALUE", ""),
        ("=1", "'=1' is not an override of the form KEY=VALUE", "optim.lr=1e-5"),
        ("=", "'=' is not an override of the form KEY=VALUE", "optim.lr=1e-5"),
        ("optim.lr=-1", "optim.lr (command line)", ""),
        ("optim.lr=NaN", "optim.lr (command line)", ""),
        ("train.steps=null", "exactly one of train.steps and train.epochs", ""),
        ("train.epochs=2 train.steps=2", "exactly one of train.steps and train.epochs", ""),
        ("loss.kind=null", "exactly one of loss.kind and loss.path", ""),
        ("loss.kind=jsd loss.path=mine.py", "exactly one of loss.kind and loss.path", ""),
        ("loss.kind=reverse", "'reverse_kl'", ""),
        ("train.logger=[wandb]", "train.logger.0 (command line)", "train.logger: the value is not JSON"),
        (
            "train.logger={wandb",
            "train.logger.0 (command line)",
            """'train.logger=["tensorboard","wandb"]'""",
        ),
        ('train.logger=["wanda"]', "train.logger.0 (command line)", "docs/config.md"),
        ("loss.kind=k1", "loss.kind (command line)", ""),
        ("eval.every=5 data.val_files=[]", "eval.every needs data.val_files", ""),
        ("zero.stage=0 zero.offload=optimizer", "zero.offload needs", ""),
    ],
)
def test_wrong_overrides_say_which_key_and_why(override, message, hint):
    with pytest.raises(ConfigError) as caught:
        loading.load_preset(TINY, override.split())
    assert message in caught.value.message
    assert hint in caught.value.hint


def test_all_problems_of_a_file_are_reported_at_once(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("student: {modle: x}\nteacher: {model: y}\ndata: {train_files: []}\ntrain: {steps: 1}\n")
    with pytest.raises(ConfigError) as caught:
        loading.load_config(path)
    message = caught.value.message
    assert "student.modle" in message
    assert "did you mean student.model?" in message
    assert "student.model (" in message
    assert "data.train_files" in message
    assert str(path) in message


def test_one_text_for_a_list_is_a_list_of_one_in_a_file_too(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "student: {model: x}\nteacher: {model: y, url: 'http://h:1'}\nloss: {kind: topk}\n"
        "data: {train_files: a.parquet, val_files: b.parquet}\ntrain: {steps: 1}\n"
    )
    config = loading.load_config(path)
    assert config.teacher.url == ["http://h:1"]
    assert (config.data.train_files, config.data.val_files) == (["a.parquet"], ["b.parquet"])


@pytest.mark.parametrize("text", ["[1, 2]", "a: [", "\x00"])
def test_files_that_are_no_mapping_are_refused(tmp_path, text):
    path = tmp_path / "bad.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"bad\.yaml"):
        loading.load_config(path)


def test_unknown_presets_name_the_nearest():
    with pytest.raises(ConfigError) as caught:
        loading.load_preset("tiny-from-small-arit")
    assert TINY in caught.value.hint


def test_the_schema_is_json_and_describes_every_key():
    schema = json.loads(json.dumps(Config.model_json_schema()))
    for section in schema["$defs"].values():
        for name, field in section["properties"].items():
            assert field.get("description"), name


def test_overrides_reach_named_teachers():
    overrides = ["loss.kind=topk", "teachers.code.model=builtin:tiny-student", "teachers.a/b.c.model=x",
                 "teachers.a/b.c.url=http://h:1"]  # fmt: skip
    config = loading.load_preset("tiny-from-small-arith", overrides)
    assert config.teachers["code"].model == "builtin:tiny-student"
    assert config.teachers["a/b.c"].url == ["http://h:1"]  # one value for a list is a list of one
    assert list(config.all_teachers) == ["default", "code", "a/b.c"]


def test_an_unknown_key_of_a_named_teacher_names_the_nearest():
    with pytest.raises(ConfigError) as caught:
        loading.load_preset("tiny-from-small-arith", ["teachers.code.modle=x"])
    assert "did you mean teachers.code.model?" in caught.value.hint


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["loss.kind=sampled", "loss.kl_loss_type=k1"], "k1 as a loss trains nothing"),
        (["loss.kind=sampled", "loss.kl_loss_type=kl"], "kl as a loss trains nothing"),
        (["loss.kind=sampled", "loss.update=policy_gradient", "loss.kl_loss_type=k3"], "use kl_loss_type=k1"),
        (["loss.update=policy_gradient"], "needs kind=sampled"),
        (["loss.kl_loss_type=low_var_kl"], "kl_loss_type=low_var_kl needs kind=sampled"),
        (["loss.path=x.py", "loss.kl_loss_type=k2"], "needs kind=sampled, not loss.path=x.py"),
        (["loss.path=x.py", "loss.update=policy_gradient"], "needs kind=sampled"),
        (["teacher.serve=true", "teacher.url=http://h:1", "loss.kind=topk"], "not both"),
        (
            ["teacher.serve=true", "teacher.shard=true", "loss.kind=topk"],
            "shard is for a teacher in the ranks",
        ),
        (["teacher.quantization=int8", "teacher.shard=true"], "shard does not go together with quantization"),
        (["reward.path=reward.py"], "reward.path needs rollout.n of 2 or more"),
        (["teachers.default.model=x"], "that name stands for `teacher` itself"),
        (
            ["teachers.a.model=x", "teachers.b.model=y", "teachers.b.key=a"],
            "two teachers claim the same rows",
        ),
        (["loss.beta=1.1"], "loss.beta"),
        (["loss.token_fraction=0"], "loss.token_fraction"),
    ],
)
def test_objectives_and_teachers_that_contradict_themselves_are_refused(overrides, message):
    with pytest.raises(ConfigError) as caught:
        loading.load_preset("tiny-from-small-arith", overrides)
    assert message in caught.value.message


@pytest.mark.parametrize(
    ("overrides", "estimator"),
    [([], "k3+"), (["loss.update=policy_gradient"], "k1"), (["loss.kl_loss_type=low_var_kl"], "low_var_kl")],
)
def test_the_estimator_has_a_default_that_fits_the_update(overrides, estimator):
    assert (
        loading.load_preset("tiny-from-small-arith", ["loss.kind=sampled", *overrides]).loss.estimator
        == estimator
    )


def pair_of_keys(config):
    return (config.loss.kind, config.loss.path), (config.train.steps, config.train.epochs)


@pytest.mark.parametrize(
    ("overrides", "loss", "train"),
    [
        ([], ("jsd", None), (7, None)),
        (["loss.path=mine.py"], (None, "mine.py"), (7, None)),
        (["loss.path=mine.py:f", "train.epochs=2"], (None, "mine.py:f"), (None, 2)),
        (["loss.path=null", "train.epochs=null"], ("jsd", None), (7, None)),
        (["loss.kind=topk", "train.steps=3"], ("topk", None), (3, None)),
    ],
)
def test_an_override_takes_the_place_of_the_other_key_of_a_pair(tmp_path, overrides, loss, train):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "student: {model: x}\nteacher: {model: y}\nloss: {kind: jsd}\ndata: {train_files: a.parquet}\n"
        "train: {steps: 7}\n"
    )
    config = loading.load_config(path, overrides)
    assert pair_of_keys(config) == (loss, train)
    path.write_text(loading.to_yaml(config))
    assert loading.load_config(path) == config


def test_a_kind_takes_the_place_of_the_path_in_a_file(tmp_path):
    path = tmp_path / "mine.yaml"
    text = "student: {model: x}\nteacher: {model: y}\ndata: {train_files: a.parquet}\ntrain: {epochs: 1}\n"
    path.write_text(text + "loss: {path: mine.py}\n")
    assert pair_of_keys(loading.load_config(path)) == ((None, "mine.py"), (None, 1))
    assert pair_of_keys(loading.load_config(path, ["loss.kind=topk", "train.steps=4"])) == (
        ("topk", None),
        (4, None),
    )
    path.write_text(text + "loss: {path: mine.py, kind: topk}\n")
    with pytest.raises(ConfigError, match=r"loss \(.*\): .*exactly one of loss\.kind and loss\.path"):
        loading.load_config(path)
