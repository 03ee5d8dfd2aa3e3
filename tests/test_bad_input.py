"""Wrong configurations, data and preparations: one message with the place and the remedy, nothing else."""

import json
import os

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.host.gpus import VisibleGpus
from distillctl.launch import supervisor

PRESET = "tiny-from-small-arith"
GOOD = {"prompt": [{"role": "user", "content": "What is 1 + 1?"}]}
LONG = {"prompt": "How many apples has Tom after he ate one of his nine apples? " * 4}
SECTIONS = "student: {model: x}\nteacher: {model: y}\ndata: {train_files: [t.jsonl]}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """The current directory, with good data; whatever would start fails the test."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(supervisor, "run", lambda *_: pytest.fail("something was started"))
    write(tmp_path / "good.jsonl", [GOOD] * 4)
    return tmp_path


def write(path, rows):
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


CONFIGS = {
    "empty": (b"", "bad.yaml: is empty"),
    "only comments": (b"# nothing\n", "bad.yaml: is empty"),
    "a list": (b"- student\n", "bad.yaml: is not a mapping"),
    "a text": (b"student", "bad.yaml: is not a mapping"),
    "not YAML": (b"student:\n  model: [a\n", "bad.yaml:3: not readable YAML"),
    "a tab": (b"student:\n\tmodel: a\n", "bad.yaml:2: not readable YAML"),
    "not UTF-8": (b"student:\n  model: \xff\n", "bad.yaml:2: not UTF-8"),
    "control characters": (b"student:\n  model: \x01\n", "bad.yaml:2: not readable YAML"),
    "an alias": (b"student: &a {model: x}\nteacher: *a\n", "bad.yaml:2: not readable YAML: aliases"),
    "an alias of itself": (b"student: &a\n  model: *a\n", "bad.yaml:2: not readable YAML: aliases"),
    "a Python object": (b"student: !!python/object/apply:os.mkdir [x]\n", "not readable YAML: tags"),
    "half of a surrogate pair": (b'student: "\\ud800"\n', "bad.yaml:1: not readable YAML: a text"),
    "a key twice": (b"train:\n  steps: 1\n  steps: 2\n", "bad.yaml:3: not readable YAML: the key 'steps'"),
    "no such date": (b"student: 2020-13-45\n", "bad.yaml: not readable YAML: month"),
    "deep": (b"[" * 2_000, "bad.yaml: not readable YAML"),
    "large": (b"#" * (2 << 20), "bad.yaml: is too large: 2.0 MiB"),
    "numbers as keys": (b"1: 2\n", "1 (bad.yaml): Keys should be strings"),
    "a missing section": (SECTIONS.encode(), "train (bad.yaml): is required"),
    "a section that is a text": (SECTIONS.encode() + b"train: x\n", "train (bad.yaml): Input should be"),
    "an unknown key": (SECTIONS.encode() + b"train: {step: 1}\n", "train.step (bad.yaml): is not a"),
    "neither steps nor epochs": (SECTIONS.encode() + b"train: {}\n", "exactly one of train.steps and"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONFIGS)
def test_bad_configuration_files(refused, folder, case):
    content, words = CONFIGS[case]
    (folder / "bad.yaml").write_bytes(content)
    assert words in refused("train", "--config", "bad.yaml")[0]


OVERRIDES = {
    "unknown key": ("optim.warmup_step=3", "'optim.warmup_step'"),
    "unknown section": ("teachers.law=3", "'teachers.law'"),
    "no value": ("optim.lr", "'optim.lr'"),
    "no key": ("=3", "'=3'"),
    "a flag for a number": ("optim.lr=true", "optim.lr (command line): is true, which is not a value"),
    "wrong type": ("train.steps=many", "train.steps (command line)"),
    "fraction of a step": ("train.steps=1.5", "train.steps (command line)"),
    "NaN": ("optim.lr=NaN", "optim.lr (command line): Input should be a finite number"),
    "infinity": ("optim.lr=1e999", "optim.lr (command line): Input should be a finite number"),
    "negative": ("optim.lr=-1", "optim.lr (command line): Input should be greater than 0"),
    "zero": ("train.steps=0", "train.steps (command line)"),
    "past 64 bits": (f"train.steps={2**63}", "train.steps (command line): does not fit into 64 bits"),
    "past Python's digits": (f"train.steps={'9' * 5000}", "train.steps (command line)"),
    "null": ("student.model=null", "student.model (command line)"),
    "a list of nothing": ("data.train_files=[]", "data.train_files (command line)"),
    "no text at all": (r'student.model="\ud800"', "student.model (command line)"),
    "steps and epochs": ("train.epochs=2 train.steps=2", "exactly one of train.steps and train.epochs"),
    "evaluations without data": ("eval.every=5 data.val_files=[]", "eval.every needs data.val_files"),
    "offload without shards": ("zero.stage=0 zero.offload=optimizer", "zero.offload needs"),
    "two kinds of teacher": ('teacher.serve=true teacher.url="http://x"', "not both"),
    "a temperature that vLLM raises": (
        "rollout.temperature=0.005",
        "rollout.temperature (command line): 0.005 would be sampled at 0.01, vLLM's lowest temperature",
    ),
    "whole distribution of a server": ("teacher.serve=true", "loss.kind=reverse_kl needs"),
    "your own loss of a server": ("teacher.serve=true loss.path=mine.py", "loss.path=mine.py needs"),
    "your own loss of no file": ("loss.path=mine.py", "loss.path: mine.py: no such file"),
    "a reward for a group of one": ("reward.path=r.py rollout.n=1", "reward.path needs rollout.n"),
    "a GPU too many": ("train.device=cuda", "train.device is cuda"),
    "nested": (f"student.model={'[' * 5000}", "student.model: ["),
    "home of nobody": ("student.model=~nobody-is-called-so/x", "student.model: ~nobody"),
    "NUL in a name": (r'data.train_files="a\u0000.jsonl"', "cannot be read"),
    "a name too long": (f"data.train_files={'x' * 5000}.jsonl", "cannot be read: File name too long"),
    "prompts longer than the model": ("data.max_prompt_length=9999", "leaves no room for a response"),
}  # fmt: skip
ENVIRONMENT = {"a GPU too many"}


@pytest.mark.parametrize("case", OVERRIDES)
def test_bad_overrides(refused, monkeypatch, case):
    overrides, words = OVERRIDES[case]
    monkeypatch.setattr("distillctl.launch.plan.visible_gpus", lambda: VisibleGpus(()))
    good = ["train.device=cpu", "eval.every=0", "data.train_files=good.jsonl", "data.train_batch_size=2"]
    code = 3 if case in ENVIRONMENT else 2
    assert words in refused("train", "--preset", PRESET, *good, *overrides.split(), code=code)[0]


@pytest.mark.parametrize("temperature", ["0.005", "inf"])
def test_eval_refuses_a_temperature_that_would_not_be_sampled_at(refused, temperature):
    options = ["--checkpoint", "builtin:tiny-student", "--data", "good.jsonl", "--temperature", temperature]
    message, fix = refused("eval", *options)
    assert message == f"--temperature {temperature} is not a temperature that vLLM samples at"
    assert "or at least 0.01" in fix


def test_an_override_below_what_is_no_section(refused, folder):
    (folder / "bad.yaml").write_text(SECTIONS + "train: none\n")
    message, _ = refused("train", "--config", "bad.yaml", "train.steps=1")
    assert message == 'train.steps (command line): train is "none" in the file'


def special_file(path, kind):
    """Something that is no regular file, at `path`."""
    if kind == "directory":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "endless":
        path.symlink_to("/dev/zero")
    elif kind == "loop":
        path.symlink_to(path)
    elif kind == "dangling":
        path.symlink_to("nowhere")


SPECIAL = {
    "directory": "cannot be read: it is a directory",
    "pipe": "cannot be read: it is a named pipe",
    "endless": "cannot be read: it is a device",
    "loop": "cannot be read: ",
    "dangling": "no such file",
    "nothing": "no such file",
}


@pytest.mark.parametrize("name", ["bad.yaml", "bad.jsonl", "bad.json", "bad.parquet"])
@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_no_regular_file_is_not_opened(refused, folder, name, kind):
    special_file(folder / name, kind)
    arguments = ["--config", name] if name == "bad.yaml" else train_on(name)
    assert refused("train", *arguments)[0] == f"{name}: {SPECIAL[kind]}" or kind == "loop"


def train_on(name):
    small = ["train.device=cpu", "eval.every=0", "data.train_batch_size=2"]
    return ["--preset", PRESET, *small, f"data.train_files={name}"]


def text(*lines):
    return "\n".join(lines).encode()


ROW = json.dumps(GOOD)
DATA = {
    "an empty file": ("bad.jsonl", b"", "bad.jsonl: holds no rows"),
    "an empty list": ("bad.json", b"[]", "bad.json: holds no rows"),
    "an empty parquet file": ("bad.parquet", b"", "bad.parquet: not a readable parquet file"),
    "text as parquet": ("bad.parquet", b"PAR1" * 9, "bad.parquet: "),
    "another suffix": ("bad.csv", b"a,b", "bad.csv: not a data file"),
    "a missing column": ("bad.jsonl", text(ROW, '{"question": "?"}'), "bad.jsonl:2: no `prompt` column"),
    "a number as prompt": ("bad.jsonl", text(ROW, '{"prompt": 3}'), "bad.jsonl:2: `prompt` must be text"),
    "no object": ("bad.jsonl", text(ROW, "3"), "bad.jsonl:2: expected an object"),
    "not JSON": ("bad.jsonl", text(ROW, '{"prompt": '), "bad.jsonl:2: not JSON"),
    "not UTF-8": ("bad.jsonl", text(ROW, ROW) + b'\n{"prompt": "\xff"}', "bad.jsonl:3: not UTF-8"),
    "too few rows": ("bad.jsonl", text(ROW), "data.train_batch_size=2, but the data has 1 prompts"),
}  # fmt: skip


@pytest.mark.parametrize("case", DATA)
def test_bad_data_files(refused, folder, case):
    name, content, words = DATA[case]
    (folder / name).write_bytes(content)
    assert words in refused("train", *train_on(name))[0]


@pytest.mark.parametrize("share", [0.5, 0.99])
def test_a_truncated_parquet_file(refused, folder, share):
    write(folder / "bad.parquet", [GOOD] * 50)
    data = (folder / "bad.parquet").read_bytes()
    (folder / "bad.parquet").write_bytes(data[: int(len(data) * share)])
    assert "bad.parquet: not a readable parquet file" in refused("train", *train_on("bad.parquet"))[0]


def test_a_line_of_100_mb_is_not_read_to_its_end(refused, folder):
    with (folder / "bad.jsonl").open("wb") as file:
        file.write(ROW.encode() + b'\n{"prompt": "')
        file.truncate(100 << 20)  # sparse: zeros that take no space
    assert refused("train", *train_on("bad.jsonl"))[0] == "bad.jsonl:2: the line is longer than 16 MiB"


def test_a_text_of_17_mb_in_parquet(refused, folder):
    write(folder / "bad.parquet", [{"prompt": "x" * (17 << 20)}] * 2)
    message, _ = refused("train", *train_on("bad.parquet"))
    assert message == "bad.parquet: row 0: `prompt` is longer than 16 MiB"


def test_no_prompt_that_fits(refused, folder):
    write(folder / "bad.jsonl", [LONG] * 3)
    message, fix = refused("train", *train_on("bad.jsonl"), "data.max_prompt_length=16")
    assert message == "data.train_files: all 3 prompts are longer than data.max_prompt_length=16"
    assert fix.startswith("raise data.max_prompt_length")


def test_fewer_prompts_that_fit_than_a_batch_has(refused, folder):
    write(folder / "bad.jsonl", [GOOD, *[LONG] * 3])
    message, _ = refused("train", *train_on("bad.jsonl"), "data.max_prompt_length=40")
    assert "at most 1 of 4 prompts" in message
    assert "data.train_batch_size=2" in message


def test_no_validation_prompt_that_fits(refused, folder):
    write(folder / "bad.jsonl", [LONG] * 3)
    more = ["eval.every=5", "data.val_files=bad.jsonl", "data.max_prompt_length=40"]
    assert "data.val_files: all 3" in refused("train", *train_on("good.jsonl"), *more)[0]


PREP = {
    "no source": (["jsonl", "--source", "gone"], "gone: does not exist", 2),
    "an empty source": (["jsonl", "--source", "empty.jsonl"], "empty.jsonl: holds no rows", 2),
    "a source that is a pipe": (["jsonl", "--source", "pipe.jsonl"], "pipe.jsonl: is not a directory", 2),
    "no splits": (["gsm8k", "--source", "taken"], "taken: no test.jsonl", 2),
    "out is a file": (["arith", "--limit", 3, "--out", "good.jsonl"], "good.jsonl: is not a directory", 2),
    "out below a file": (["arith", "--limit", 3, "--out", "good.jsonl/x"], "good.jsonl: is not", 2),
    "out with too long a name": (["arith", "--limit", 3, "--out", "x" * 300], "File name too long", 2),
    "out is taken": (["arith", "--limit", 3, "--out", "taken"], "taken: already has train.parquet", 2),
}  # fmt: skip


@pytest.mark.parametrize("case", PREP)
def test_bad_preparations(refused, folder, case):
    arguments, words, code = PREP[case]
    (folder / "empty.jsonl").touch()
    os.mkfifo(folder / "pipe.jsonl")
    (folder / "taken").mkdir()
    (folder / "taken" / "train.parquet").touch()
    assert words in refused("prep", *arguments, code=code)[0]
