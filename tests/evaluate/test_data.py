"""Which rows an evaluation asks, with which limits, and how long responses may be. No engine."""

import hashlib
import json
import shutil

import pytest

from distillctl.config.loading import load_preset, to_yaml
from distillctl.errors import ConfigError
from distillctl.evaluate.data import eval_data
from distillctl.evaluate.questions import Target, all_questions, row_of
from distillctl.models.model_dir import ModelDir
from distillctl.train.build import val_prompts

PRESET = "tiny-from-small-arith"


def write_rows(path, words):
    """A prompt of so many words for each entry."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"prompt": "word " * n, "reward_model": {}}) + "\n" for n in words))
    return str(path)


@pytest.fixture(autouse=True)
def _inside(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run_dir(path, *overrides, hashes=None):
    path.mkdir(parents=True)
    (path / "config.yaml").write_text(to_yaml(load_preset(PRESET, overrides)))
    (path / "provenance.json").write_text(json.dumps({"data_sha256": hashes or {}}))
    return path


def questions(data):
    return [row.question.count("word") for row in data.rows]


def test_all_files_of_a_run_are_read_with_its_limits(tmp_path):
    write_rows(tmp_path / "a.jsonl", [1, 2, 3])
    write_rows(tmp_path / "b.jsonl", [4, 5, 6])
    run = run_dir(tmp_path / "run", 'data.val_files=["a.jsonl","b.jsonl"]', "eval.limit=5",
                  "data.max_prompt_length=40", "data.max_response_length=9")  # fmt: skip
    data = eval_data(run, [], None)
    assert questions(data) == [1, 2, 3, 4, 5]
    assert data.files == ["a.jsonl", "b.jsonl"]
    assert data.file_of_row == ["a.jsonl"] * 3 + ["b.jsonl"] * 2
    assert data.prompt_ids == ["a/0", "a/1", "a/2", "b/0", "b/1"]
    assert (data.max_prompt_length, data.max_response_length) == (40, 9)
    assert questions(eval_data(run, [], 4)) == [1, 2, 3, 4]
    assert questions(eval_data(run, [], 99)) == [1, 2, 3, 4, 5, 6]


def test_files_that_are_named_come_without_the_runs_limits(tmp_path):
    write_rows(tmp_path / "a.jsonl", [1, 2, 3])
    other = write_rows(tmp_path / "b.jsonl", [4, 5, 6])
    run = run_dir(tmp_path / "run", "data.val_files=a.jsonl", "eval.limit=2", "data.max_response_length=9")
    data = eval_data(run, [other, "a.jsonl"], None)
    assert questions(data) == [4, 5, 6, 1, 2, 3]
    assert (data.max_prompt_length, data.max_response_length) == (None, 9)


def test_rows_of_the_same_id_get_names_of_their_own(tmp_path):
    """Before any is left out: else the second file's row would take the first one's name."""
    write_rows(tmp_path / "x/test.jsonl", [1, 2])
    write_rows(tmp_path / "y/test.jsonl", [3])
    assert eval_data(None, ["x", "y"], None).prompt_ids == ["test/0", "test/1", "test/0#1"]


def test_a_folder_is_its_held_back_split_and_a_pattern_all_that_it_finds(tmp_path):
    write_rows(tmp_path / "x/test.jsonl", [1])
    write_rows(tmp_path / "x/train.jsonl", [2])
    write_rows(tmp_path / "y/test.jsonl", [3])
    write_rows(tmp_path / "z[1].jsonl", [4])
    write_rows(tmp_path / "z1.jsonl", [5])
    data = eval_data(None, ["x"], None)
    assert (data.files, questions(data)) == (["x"], [1])
    data = eval_data(None, ["?/test.jsonl"], None)
    assert (data.files, questions(data)) == (["x/test.jsonl", "y/test.jsonl"], [1, 3])
    assert questions(eval_data(None, ["z[1].jsonl"], None)) == [4]
    assert questions(eval_data(None, ["[xy]"], None)) == [1, 3]


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (["*.none"], "no file matches *.none"),
        (["only"], "only has no held-back split, test.parquet"),
        (["gone.jsonl"], "gone.jsonl: no such file"),
        ([], "--data is needed"),
    ],
)
def test_data_that_is_not_there(tmp_path, given, words):
    write_rows(tmp_path / "only/train.jsonl", [1])
    with pytest.raises(ConfigError) as caught:
        eval_data(None, given, None)
    assert words in caught.value.message
    if given == ["only"]:
        assert caught.value.hint == "name a file in it: train.jsonl"


def test_a_file_under_two_names_counts_once(tmp_path, capsys):
    write_rows(tmp_path / "a.jsonl", [1, 2])
    (tmp_path / "b.jsonl").symlink_to("a.jsonl")
    (tmp_path / "c.jsonl").hardlink_to("a.jsonl")
    data = eval_data(None, ["a.jsonl", "./a.jsonl", "b.jsonl", "c.jsonl", "a.jsonl"], None)
    assert (questions(data), data.files) == ([1, 2], ["a.jsonl"])
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "note: ./a.jsonl is the same file as a.jsonl: its prompts count once",
        "note: b.jsonl is the same file as a.jsonl: its prompts count once",
        "note: c.jsonl is the same file as a.jsonl: its prompts count once",
        "note: a.jsonl is given twice: its prompts count once",
    ]


@pytest.mark.parametrize("second", ["a.jsonl", "./a.jsonl", "soft.jsonl", "hard.jsonl"])
def test_a_file_that_a_run_counted_twice_counts_twice(tmp_path, student, capsys, second):
    """Against what the run's own evaluations ask."""
    write_rows(tmp_path / "a.jsonl", [1, 2])
    write_rows(tmp_path / "b.jsonl", [3, 4, 5])
    (tmp_path / "soft.jsonl").symlink_to("a.jsonl")
    (tmp_path / "hard.jsonl").hardlink_to("a.jsonl")
    overrides = [f'data.val_files=["a.jsonl","{second}","b.jsonl"]', "eval.limit=6", "eval.every=1"]
    data = eval_data(run_dir(tmp_path / "run", *overrides), [], None)
    assert questions(data) == [1, 2, 1, 2, 3, 4]
    assert "names a file twice: its prompts count twice, as they did in the run" in capsys.readouterr().err
    (asked,) = all_questions([student], data, None)
    trained = val_prompts(load_preset(PRESET, overrides), asked.tokenizer, pytest.fail)
    assert [p.token_ids for p in asked.prompts] == [p.token_ids for p in trained]
    assert len({p.prompt_id for p in trained}) == len(set(data.prompt_ids)) == 6


def test_files_of_a_run_are_found_from_another_folder(tmp_path, monkeypatch, capsys):
    """By the hash that the run noted, where the current folder has another file of that name."""
    file = write_rows(tmp_path / "work/data/a.jsonl", [1, 2])
    noted = {"data/a.jsonl": hashlib.sha256((tmp_path / "work/data/a.jsonl").read_bytes()).hexdigest()}
    run = run_dir(tmp_path / "work/runs/tiny/0001", "data.val_files=data/a.jsonl", hashes=noted)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert questions(eval_data(run, [], None)) == [1, 2]
    write_rows(tmp_path / "elsewhere/data/a.jsonl", [7])
    assert questions(eval_data(run, [], None)) == [1, 2]
    assert capsys.readouterr().err == ""
    write_rows(tmp_path / "work/data/a.jsonl", [1, 2, 3])
    assert questions(eval_data(run, [], None)) == [7]
    assert "data/a.jsonl has changed since the run read it" in capsys.readouterr().err
    shutil.rmtree(tmp_path / "elsewhere/data")
    shutil.move(run, tmp_path / "elsewhere/moved")
    with pytest.raises(ConfigError) as caught:
        eval_data(tmp_path / "elsewhere/moved", [], None)
    assert "moved: data/a.jsonl: no such file, neither in " in caught.value.message
    assert "--data FILE" in caught.value.hint
    assert questions(eval_data(tmp_path / "elsewhere/moved", [file], None)) == [1, 2, 3]


# --- what fits -------------------------------------------------------------------------------------


@pytest.fixture
def short(tmp_path, student):
    """The tiny student with room for 64 tokens, prompt and response together."""
    shutil.copytree(student.model.path, tmp_path / "short")
    file = tmp_path / "short/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": 64}))
    return Target("short", ModelDir(tmp_path / "short"))


def asked_rows(target, text, max_tokens=None, data=None):
    (found,) = all_questions([target], data or eval_data(None, [text], None), max_tokens)
    return [row_of(prompt) for prompt in found.prompts], found.num_dropped, found.max_tokens


def test_prompts_that_the_runs_own_evaluation_left_out_are_left_out(tmp_path, student):
    write_rows(tmp_path / "a.jsonl", [1, 100, 2])
    run = run_dir(tmp_path / "run", "data.val_files=a.jsonl", "data.max_prompt_length=60")
    assert asked_rows(student, "", data=eval_data(run, [], None)) == ([0, 2], 1, 96)
    assert asked_rows(student, "a.jsonl", 96) == ([0, 1, 2], 0, 96)
    run = run_dir(tmp_path / "none", "data.val_files=a.jsonl", "data.max_prompt_length=2")
    with pytest.raises(
        ConfigError, match=r"all 3 prompts are longer than data\.max_prompt_length=2, the limit"
    ):
        all_questions([student], eval_data(run, [], None), None)


def test_every_model_is_asked_what_fits_into_it(tmp_path, student, short):
    write_rows(tmp_path / "a.jsonl", [1, 40, 2])
    longer, shorter = all_questions([student, short], eval_data(None, ["a.jsonl"], None), 16)
    assert [row_of(prompt) for prompt in longer.prompts] == [0, 1, 2]
    assert [row_of(prompt) for prompt in shorter.prompts] == [0, 2]
    assert (longer.num_dropped, shorter.num_dropped) == (0, 1)


def test_all_prompts_too_long_for_one_of_two_models(tmp_path, student, short):
    write_rows(tmp_path / "a.jsonl", [100])
    with pytest.raises(ConfigError, match="all 1 prompts are longer than the 48 tokens that short"):
        all_questions([student, short], eval_data(None, ["a.jsonl"], None), 16)


def test_the_default_length_leaves_room_for_the_longest_prompt(tmp_path, student, short, capsys):
    write_rows(tmp_path / "a.jsonl", [1, 10])
    data = eval_data(None, ["a.jsonl"], None)
    (found,) = all_questions([short], data, None)
    longest = max(len(prompt.token_ids) for prompt in found.prompts)
    assert (len(found.prompts), found.max_tokens) == (2, 64 - longest)
    assert f"at most {64 - longest} tokens, not 512: short takes 64" in capsys.readouterr().err
    both = all_questions([student, short], data, None)
    assert [one.max_tokens for one in both] == [64 - longest] * 2


def test_a_response_limit_without_room_names_one_that_works(tmp_path, short):
    write_rows(tmp_path / "a.jsonl", [1, 10])
    data = eval_data(None, ["a.jsonl"], None)
    with pytest.raises(ConfigError, match="--max-tokens 64 leaves short no room for a prompt") as caught:
        all_questions([short], data, 64)
    limit = int(caught.value.hint.removeprefix("give --max-tokens ").removesuffix(" or less"))
    (found,) = all_questions([short], data, limit)
    assert found.num_dropped == 0


@pytest.mark.parametrize("value", [0, -1, "many", 4e9, 1.5])
def test_a_context_that_is_no_number_is_refused(tmp_path, short, value):
    file = tmp_path / "short/config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "max_position_embeddings": value}))
    write_rows(tmp_path / "a.jsonl", [1])
    with pytest.raises(ConfigError, match=r"max_position_embeddings is .*, not a positive integer"):
        all_questions([short], eval_data(None, ["a.jsonl"], None), None)


@pytest.mark.parametrize(
    ("name", "key", "value"),
    [("tokenizer_config.json", "eos_token", 3), ("config.json", "rms_norm_eps", "x")],
)
def test_files_that_transformers_does_not_load_are_named(tmp_path, short, name, key, value):
    file = tmp_path / "short" / name
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    write_rows(tmp_path / "a.jsonl", [1])
    with pytest.raises(ConfigError, match=r"short: transformers cannot load the tokenizer: .*rror"):
        all_questions([short], eval_data(None, ["a.jsonl"], None), None)


def test_what_does_not_fit_is_named_by_where_it_comes_from(tmp_path, short):
    """The run's files and limit, the default limit, and not options that nobody gave."""
    write_rows(tmp_path / "a.jsonl", [1])
    write_rows(tmp_path / "long.jsonl", [100])
    run = run_dir(tmp_path / "run", "data.val_files=a.jsonl", "data.max_response_length=64")
    with pytest.raises(ConfigError) as caught:
        all_questions([short], eval_data(run, [], None), None)
    words = "data.max_response_length=64 of the run of short leaves short no room for a prompt"
    assert caught.value.message == words
    assert caught.value.hint.startswith("give --max-tokens ")
    with pytest.raises(ConfigError) as caught:
        all_questions([short], eval_data(run, [], None), 62)
    assert caught.value.message.startswith(f"data.val_files of {run}: all 1 prompts are longer than the 2")
    with pytest.raises(ConfigError) as caught:
        all_questions([short], eval_data(None, ["long.jsonl"], None), None)
    assert caught.value.message == "the default limit of 512 tokens leaves short no room for a prompt"
