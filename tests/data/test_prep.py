"""`prep`: verl's GSM8K row by row, the user's own data, refusals, and nothing half written."""

import hashlib
import json
import os
import re
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distillctl
from distillctl.data import arith
from distillctl.data.prep import prep_arith, prep_gsm8k, prep_jsonl
from distillctl.data.read import read_rows, records
from distillctl.data.schema import INSTRUCTION, gsm8k_ground_truth, schema
from distillctl.data.summary import lines, remarks
from distillctl.errors import ConfigError, EnvironmentUnfit
from distillctl.grading.scorers import grade

GOOD = {"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}


def verl_row(example: dict[str, str], split: str, index: int) -> dict[str, object]:
    """verl's mapping, written anew from the words of verl.md, section 2.1."""
    found = re.search("#{4} -?[0-9.,]+", example["answer"])
    assert found is not None
    instruction = 'Let\'s think step by step and output the final answer after "####".'
    return {
        "data_source": "openai/gsm8k",
        "prompt": [{"role": "user", "content": example["question"] + " " + instruction}],
        "ability": "math",
        "reward_model": {
            "style": "rule",
            "ground_truth": found[0].removeprefix("#### ").replace(",", ""),
        },
        "extra_info": {
            "split": split,
            "index": index,
            "answer": example["answer"],
            "question": example["question"],
        },
    }


def read(path: Path) -> list[dict]:
    return pq.ParquetFile(path).read().to_pylist()


@pytest.fixture
def source(tmp_path, write_lines) -> Path:
    """A small GSM8K: three training rows, two test rows."""
    for split, num_rows in (("train", 3), ("test", 2)):
        rows = [GOOD | {"question": f"{split} {i}?"} for i in range(num_rows)]
        write_lines(tmp_path / "src" / f"{split}.jsonl", rows)
    return tmp_path / "src"


# --- the real data -------------------------------------------------------------------------------


@pytest.mark.parametrize(("split", "num_rows"), [("train", 7473), ("test", 1319)])
def test_real_gsm8k_equals_verls_rule_row_by_row(tmp_path, gsm8k_source, split, num_rows):
    prep_gsm8k(tmp_path / "out", gsm8k_source, None, False)
    lines = (gsm8k_source / f"{split}.jsonl").read_bytes().decode().split("\n")
    examples = [json.loads(line) for line in lines if line]
    rows = read(tmp_path / "out" / f"{split}.parquet")
    assert len(rows) == num_rows
    assert rows == [verl_row(example, split, i) for i, example in enumerate(examples)]


def test_schema_is_the_one_datasets_writes_for_verls_mapping(tmp_path, source):
    row = verl_row(GOOD, "train", 0)
    datasets.Dataset.from_list([row]).to_parquet(tmp_path / "verl.parquet")
    prep_gsm8k(tmp_path / "out", source, None, False)
    ours = pq.read_schema(tmp_path / "out" / "train.parquet")
    theirs = pq.read_schema(tmp_path / "verl.parquet")
    assert ours.names == theirs.names
    assert ours.equals(theirs, check_metadata=False)


def test_schema_types_are_exact():
    types = {field.name: str(field.type) for field in schema()}
    assert types == {
        "data_source": "string",
        "prompt": "list<item: struct<role: string, content: string>>",
        "ability": "string",
        "reward_model": "struct<style: string, ground_truth: string>",
        "extra_info": "struct<split: string, index: int64, answer: string, question: string>",
    }


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("#### 1,072", "1072"),
        ("#### -3.50", "-3.50"),
        ("#### 5 and #### 7", "5"),
        ("a\n#### 42.", "42."),
        ("#### 20%", "20"),
    ],
)
def test_ground_truth_follows_verl(answer, truth):
    assert gsm8k_ground_truth(answer) == truth


@pytest.mark.parametrize("answer", ["42", "####42", "####  42", "#### $42", "### 42", ""])
def test_ground_truth_without_match_is_a_value_error(answer):
    with pytest.raises(ValueError, match="####"):
        gsm8k_ground_truth(answer)


# --- sources of gsm8k ----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["{}.parquet", "main/{}-00000-of-00001.parquet"])
def test_gsm8k_from_parquet_equals_jsonl(tmp_path, source, name):
    prep_gsm8k(tmp_path / "a", source, None, False)
    for split in ("train", "test"):
        rows = [json.loads(line) for line in (source / f"{split}.jsonl").read_text().splitlines()]
        path = tmp_path / "parquet" / name.format(split)
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.Table.from_pylist(rows), path)
    prep_gsm8k(tmp_path / "b", tmp_path / "parquet", None, False)
    for file in ("train.parquet", "test.parquet"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_gsm8k_without_source_comes_from_the_hub(tmp_path, monkeypatch):
    asked = []

    def load(*args):
        asked.append(args)
        return {"train": [GOOD, GOOD], "test": [GOOD]}

    monkeypatch.setattr(datasets, "load_dataset", load)
    manifest = prep_gsm8k(tmp_path / "out", None, None, False)
    assert asked == [("openai/gsm8k", "main")]
    assert manifest["source"] == "openai/gsm8k"
    assert read(tmp_path / "out" / "test.parquet") == [verl_row(GOOD, "test", 0)]


@pytest.mark.parametrize("error", [ConnectionError("no route"), datasets.exceptions.DatasetsError("gone")])
def test_unreachable_hub_is_environment_unfit_and_points_to_source(tmp_path, monkeypatch, error):
    def load(*args):
        raise error

    monkeypatch.setattr(datasets, "load_dataset", load)
    with pytest.raises(EnvironmentUnfit) as caught:
        prep_gsm8k(tmp_path / "out", None, None, False)
    assert "--source" in caught.value.hint
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("missing", ["train", "test"])
def test_gsm8k_needs_both_splits(tmp_path, source, missing):
    (source / f"{missing}.jsonl").unlink()
    with pytest.raises(ConfigError, match=f"{missing}.jsonl"):
        prep_gsm8k(tmp_path / "out", source, None, False)


def test_source_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(ConfigError, match="nowhere: does not exist"):
        prep_gsm8k(tmp_path / "out", tmp_path / "nowhere", None, False)


# --- manifest and limit --------------------------------------------------------------------------


def test_manifest_tells_what_went_in_and_came_out(tmp_path, source):
    out = tmp_path / "out"
    manifest = prep_gsm8k(out, source, None, False)

    def digests(folder, *names):
        return {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names}

    assert manifest == json.loads((out / "manifest.json").read_text())
    assert manifest == {
        "kind": "gsm8k",
        "source": "src",
        "distillctl": distillctl.__version__,
        "rows": {"train": 3, "test": 2},
        "rows_with_answer": {"train": 3, "test": 2},
        "rows_with_reference": {"train": 3, "test": 2},
        "duplicates": 0,
        "shared_prompts": 0,
        "rows_with_number": {"train": 3, "test": 2},
        "rows_with_text": {"train": 0, "test": 0},
        "fields": {"question": 5, "answer": 5},
        "unused_columns": [],
        "source_sha256": digests(source, "train.jsonl", "test.jsonl"),
        "sha256": digests(out, "train.parquet", "test.parquet"),
    }


def test_manifest_has_no_absolute_path(tmp_path, source):
    prep_gsm8k(tmp_path / "out", source, None, False)
    assert str(tmp_path) not in (tmp_path / "out" / "manifest.json").read_text()


def test_same_input_gives_the_same_bytes(tmp_path, source):
    for name in ("a", "b"):
        prep_gsm8k(tmp_path / name, source, None, False)
    for file in ("train.parquet", "test.parquet", "manifest.json"):
        assert (tmp_path / "a" / file).read_bytes() == (tmp_path / "b" / file).read_bytes()


def test_limit_keeps_the_first_rows_of_each_split(tmp_path, source):
    prep_gsm8k(tmp_path / "all", source, None, False)
    manifest = prep_gsm8k(tmp_path / "two", source, 2, False)
    assert manifest["rows"] == {"train": 2, "test": 2}
    for split in ("train", "test"):
        full = read(tmp_path / "all" / f"{split}.parquet")
        assert read(tmp_path / "two" / f"{split}.parquet") == full[:2]


def test_limit_below_one_is_refused(tmp_path, source):
    with pytest.raises(ConfigError, match="--limit is 0"):
        prep_gsm8k(tmp_path / "out", source, 0, False)


# --- arith ---------------------------------------------------------------------------------------


def test_arith_holds_its_problems_in_verls_layout(tmp_path):
    manifest = prep_arith(tmp_path, None, False)
    train, test = arith.splits(arith.NUM_TRAIN, arith.NUM_TEST, arith.SEED)
    assert manifest["rows"] == {"train": len(train), "test": len(test)}
    for split, problems in (("train", train), ("test", test)):
        expected = [
            verl_row({"question": p.question, "answer": p.answer}, split, i)
            | {"data_source": "distillctl/arith"}
            for i, p in enumerate(problems)
        ]
        assert read(tmp_path / f"{split}.parquet") == expected


def test_arith_limit_is_a_prefix(tmp_path):
    prep_arith(tmp_path / "all", None, False)
    prep_arith(tmp_path / "five", 5, False)
    for file in ("train.parquet", "test.parquet"):
        assert read(tmp_path / "five" / file) == read(tmp_path / "all" / file)[:5]


# --- the user's own data -------------------------------------------------------------------------


def own(tmp_path, source, prompt_field="question", answer_field=None, **kwargs) -> list[dict]:
    kwargs = {"limit": None, "force": False} | kwargs
    prep_jsonl(tmp_path / "own", source, prompt_field, answer_field, **kwargs)
    return read(tmp_path / "own" / "train.parquet")


def test_own_prompt_is_kept_without_instruction(tmp_path, write_lines):
    path = write_lines(tmp_path / "mine.jsonl", [{"q": "Why?", "a": " because "}])
    assert own(tmp_path, path, "q", "a") == [
        {
            "data_source": "distillctl/jsonl",
            "prompt": [{"role": "user", "content": "Why?"}],
            "ability": None,
            "reward_model": {"style": "rule", "ground_truth": "because"},
            "extra_info": {
                "split": "train",
                "index": 0,
                "answer": " because ",
                "question": "Why?",
            },
        }
    ]
    assert INSTRUCTION not in (tmp_path / "own" / "manifest.json").read_text()


@pytest.mark.parametrize("row", [{"question": "Why?"}, {"question": "Why?", "answer": None}])
def test_own_row_without_answer_can_be_distilled_not_scored(tmp_path, write_lines, row):
    (written,) = own(tmp_path, write_lines(tmp_path / "mine.jsonl", [row]))
    assert written["reward_model"] == {"style": "none", "ground_truth": None}
    assert written["extra_info"]["answer"] is None
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    assert manifest["rows_with_answer"] == {"train": 0}


@pytest.mark.parametrize(
    ("answer", "truth"),
    [("so\n#### 1,234", "1234"), ("#### none", "#### none"), (42, "42"), (2.0, "2"), (0.5, "0.5")],
)
def test_own_answer_becomes_ground_truth(tmp_path, write_lines, answer, truth):
    path = write_lines(tmp_path / "mine.jsonl", [{"question": "Why?", "answer": answer}])
    assert own(tmp_path, path)[0]["reward_model"]["ground_truth"] == truth


@pytest.mark.parametrize(
    ("answer", "truth"),
    [
        ("5+13=18\n#### $18", "18"),
        ("####18", "18"),
        ("The answer is 1,018.", "1018"),
        ("x = 18", "18"),
        ("A: 18.50", "18.50"),
        (r"so \boxed{\frac{3}{4}}", "3/4"),
        ("10^3", "1000"),
        ("15 and 20", "15 and 20"),
        ("Apollo", "Apollo"),
    ],
)
def test_own_numeric_answer_is_the_number_that_it_states(tmp_path, write_lines, answer, truth):
    (row,) = own(tmp_path, write_lines(tmp_path / "mine.jsonl", [{"question": "Why?", "answer": answer}]))
    assert row["reward_model"]["ground_truth"] == truth
    assert row["extra_info"]["answer"] == answer
    assert grade(f"#### {truth}", row["reward_model"]["ground_truth"]).normalised


def test_own_numeric_answers_are_counted(tmp_path, write_lines):
    answers = ["so\n#### 18", "yes", None, "no", 7]
    rows = [{"question": "Why?", "answer": answer} for answer in answers]
    own(tmp_path, write_lines(tmp_path / "mine.jsonl", rows))
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    assert manifest["rows_with_number"] == {"train": 2}
    assert manifest["rows_with_text"] == {"train": 2}
    assert remarks(manifest)[1] == (
        "train: 2 of 4 answers are no numbers and are compared as text; "
        "--answer-type exact, choice, regex or latex says what they are"
    )


@pytest.mark.parametrize(("kind", "answer"), [("exact", "yes"), ("choice", "B"), ("numeric", "7")])
def test_answers_of_their_type_are_no_reason_to_warn(tmp_path, write_lines, kind, answer):
    path = write_lines(tmp_path / "mine.jsonl", [{"question": "Why?", "answer": answer}])
    own(tmp_path, path, kind=kind)
    manifest = json.loads((tmp_path / "own" / "manifest.json").read_text())
    assert remarks(manifest) == []
    assert ("rows_with_number" in manifest) is (kind == "numeric")


def test_own_chat_is_kept_as_messages(tmp_path, write_lines):
    chat = [
        {"role": "system", "content": "Be brief."},
        {"content": "Why?", "role": "user", "name": "me"},
    ]
    (row,) = own(tmp_path, write_lines(tmp_path / "mine.jsonl", [{"question": chat}]))
    assert row["prompt"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Why?"},
    ]
    assert row["extra_info"]["question"] == "Why?"


def test_own_file_becomes_train_only(tmp_path, source):
    own(tmp_path, source / "test.jsonl")
    assert sorted(p.name for p in (tmp_path / "own").iterdir()) == [
        "manifest.json",
        "train.parquet",
    ]


def test_own_directory_keeps_its_splits(tmp_path, source):
    own(tmp_path, source)
    (row, *_) = read(tmp_path / "own" / "test.parquet")
    assert row["extra_info"]["split"] == "test"
    assert row["prompt"][0]["content"] == "test 0?"


def test_own_json_array_and_parquet_equal_jsonl(tmp_path, source):
    rows = [json.loads(line) for line in (source / "train.jsonl").read_text().splitlines()]
    expected = own(tmp_path, source / "train.jsonl")
    (tmp_path / "mine.json").write_text(json.dumps(rows, indent=1))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "mine.parquet")
    assert own(tmp_path, tmp_path / "mine.json", force=True) == expected
    assert own(tmp_path, tmp_path / "mine.parquet", force=True) == expected


def test_own_data_needs_a_source(tmp_path):
    with pytest.raises(ConfigError, match="no source"):
        prep_jsonl(tmp_path / "out", None, "question", None, None, False)


def test_own_missing_prompt_field_names_line_and_fields(tmp_path, write_lines):
    path = write_lines(tmp_path / "mine.jsonl", [GOOD, {"text": "Why?"}])
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2: ")) as caught:
        own(tmp_path, path)
    assert "`question`" in caught.value.message
    assert "`text`" in caught.value.message


@pytest.mark.parametrize("answer", [True, ["a"], {"a": 1}])
def test_own_answer_of_wrong_type_is_refused(tmp_path, write_lines, answer):
    path = write_lines(tmp_path / "mine.jsonl", [{"question": "Why?", "answer": answer}])
    with pytest.raises(ConfigError, match=r"mine\.jsonl:1: `answer`"):
        own(tmp_path, path)


# --- nothing in silence ---------------------------------------------------------------------------

TALK = [{"role": "user", "content": "What is 2+3?"}, {"role": "assistant", "content": "2+3=5\n#### 5"}]


def prepared(tmp_path, write_lines, rows, prompt_field="q", answer_field=None, **more):
    """Rows as written, and what is counted of them."""
    path = write_lines(tmp_path / "mine.jsonl", rows)
    rows = own(tmp_path, path, prompt_field, answer_field, **more)
    return rows, json.loads((tmp_path / "own" / "manifest.json").read_text())


@pytest.mark.parametrize(
    ("more", "answer_field", "truth"),
    [({}, None, "5"), ({"answer": "6"}, None, "6"), ({"a": 6}, "a", "6"), ({"a": None}, "a", "5")],
)
def test_own_chat_with_an_answer_at_the_end(tmp_path, write_lines, more, answer_field, truth):
    rows = [{"q": TALK} | more, {"q": "b?", "a": 1}]
    (row, _), counts = prepared(tmp_path, write_lines, rows, answer_field=answer_field)
    assert row["prompt"] == TALK[:1]
    assert row["extra_info"]["answer"] == "2+3=5\n#### 5"
    assert row["reward_model"] == {"style": "rule", "ground_truth": truth}
    (read_back, _) = read_rows(tmp_path / "own" / "train.parquet")
    assert (read_back.reference, read_back.ground_truth) == ("2+3=5\n#### 5", truth)
    assert counts["rows_with_reference"] == {"train": 1 + (answer_field is not None)}


@pytest.mark.parametrize(
    ("more", "answer_field", "truth", "unused"),
    [
        ({}, None, "6", []),
        ({"answer": "8"}, None, "6", []),
        ({"a": "7"}, "a", "7", ["reward_model"]),
        ({"a": None}, "a", "6", []),
    ],
)
def test_own_ground_truth_in_verls_layout_stays_the_truth(
    tmp_path, write_lines, more, answer_field, truth, unused
):
    verl = {"q": TALK, "reward_model": {"style": "rule", "ground_truth": "6"}}
    rows, counts = prepared(
        tmp_path, write_lines, [verl | more, {"q": "b?", "a": "1"}], answer_field=answer_field
    )
    assert rows[0]["reward_model"] == {"style": "rule", "ground_truth": truth}
    assert rows[0]["extra_info"]["answer"] == "2+3=5\n#### 5"
    assert [name for name in counts["unused_columns"] if name != "a"] == unused


@pytest.mark.parametrize(
    ("kind", "style", "truth"), [(None, "choice", "B"), ("exact", "exact", "It is (B).")]
)
def test_own_rows_have_the_style_of_verls_layout_unless_another_is_asked_for(
    tmp_path, write_lines, kind, style, truth
):
    talk = [TALK[0], {"role": "assistant", "content": "It is (B)."}]
    (row,), _ = prepared(tmp_path, write_lines, [{"q": talk, "reward_model": {"style": "choice"}}], kind=kind)
    assert row["reward_model"] == {"style": style, "ground_truth": truth}


@pytest.mark.parametrize("empty", [None, "", " \n"])
def test_an_answer_field_that_is_empty_in_all_rows_is_refused(tmp_path, write_lines, empty):
    rows = [{"q": TALK, "solution": empty}, {"q": "b?", "note": "x"}]
    with pytest.raises(
        ConfigError, match="--answer-field solution: that field is empty in all rows"
    ) as caught:
        prepared(tmp_path, write_lines, rows, answer_field="solution")
    assert "`q`, `note`" in caught.value.hint


def test_own_infinite_answer_is_refused_with_its_row(tmp_path, write_lines):
    with pytest.raises(ConfigError, match=r"mine.jsonl:2: `a`: .*no finite number"):
        prepared(tmp_path, write_lines, ['{"q": "a?", "a": 1}', '{"q": "b?", "a": 1e400}'], answer_field="a")


@pytest.mark.parametrize("chat", [TALK, json.dumps(TALK)])
def test_a_chat_is_no_question_of_gsm8k(tmp_path, source, write_lines, chat):
    write_lines(source / "train.jsonl", [GOOD | {"question": chat}])
    with pytest.raises(ConfigError, match=r"train\.jsonl:1: `question` must be text, got a list"):
        prep_gsm8k(tmp_path / "out", source, None, False)


def test_keys_of_messages_in_json_text_that_are_not_used_are_named(tmp_path, write_lines):
    talk = json.dumps([TALK[0], TALK[1] | {"thinking": "Hm."}])
    _, counts = prepared(tmp_path, write_lines, [{"q": talk}])
    assert counts["unused_columns"] == ["q[].thinking"]


def test_own_chat_whose_answer_is_no_number_has_a_reference_and_no_truth(tmp_path, write_lines):
    talk = [TALK[0], {"role": "assistant", "content": "Well, that depends."}]
    (row,), counts = prepared(tmp_path, write_lines, [{"q": talk}])
    assert row["reward_model"] == {"style": "none", "ground_truth": None}
    assert row["extra_info"]["answer"] == "Well, that depends."
    assert (counts["rows_with_answer"], counts["rows_with_reference"]) == ({"train": 0}, {"train": 1})


def test_an_answer_field_that_no_row_has_is_refused_with_those_that_there_are(tmp_path, write_lines):
    with pytest.raises(
        ConfigError, match="--answer-field anwser: no row that was read has such a field"
    ) as caught:
        prepared(
            tmp_path, write_lines, [{"q": "a?", "answer": "1"}, {"q": "b?", "id": 3}], answer_field="anwser"
        )
    assert "`q`, `answer`, `id`" in caught.value.hint
    assert not (tmp_path / "own").exists()


@pytest.mark.parametrize("answer_field", [None, "answer"])
def test_an_answer_field_that_some_rows_have_is_counted(tmp_path, write_lines, answer_field):
    rows = [{"q": "a?"}, {"q": "b?", "answer": "1"}, {"q": "c?", "answer": None}]
    _, counts = prepared(tmp_path, write_lines, rows, answer_field=answer_field)
    assert counts["fields"] == {"q": 3, "answer": 1}
    assert counts["rows_with_answer"] == {"train": 1}
    assert remarks(counts) == ["field `answer`: in 1 of 3 rows"]


def test_the_default_answer_field_may_be_missing_and_that_is_said(tmp_path, write_lines):
    _, counts = prepared(tmp_path, write_lines, [{"q": "a?"}, {"q": "b?"}])
    assert remarks(counts) == ["field `answer`: in 0 of 2 rows"]
    assert lines(counts) == ["train: 2 rows, 0 with a ground truth, 0 with a reference answer"]


@pytest.mark.parametrize("field", ["input", "context"])
def test_a_prompt_of_two_fields_is_refused(tmp_path, write_lines, field):
    rows = [{"instruction": "Add.", field: ""}, {"instruction": "Add.", field: "2 and 3"}]
    with pytest.raises(
        ConfigError, match=rf"mine.jsonl:2: `instruction` is only a part.*`{field}`"
    ) as caught:
        prepared(tmp_path, write_lines, rows, "instruction")
    assert "into one field" in caught.value.hint


def test_the_other_half_of_a_prompt_is_found_from_either_side(tmp_path, write_lines):
    with pytest.raises(ConfigError, match="`input` is only a part of the prompt: `instruction`"):
        prepared(tmp_path, write_lines, [{"instruction": "Add.", "input": "2 and 3"}], "input")


def test_an_empty_second_field_does_no_harm(tmp_path, write_lines):
    rows, counts = prepared(
        tmp_path, write_lines, [{"instruction": "Add 2 and 3.", "input": ""}], "instruction"
    )
    assert rows[0]["prompt"] == [{"role": "user", "content": "Add 2 and 3."}]
    assert counts["unused_columns"] == []


@pytest.mark.parametrize("suffix", ["jsonl", "json", "parquet"])
def test_columns_with_text_that_are_not_used_are_named(tmp_path, suffix):
    path = tmp_path / f"mine.{suffix}"
    rows = [
        {"id": 1, "q": "a?", "answer": "1", "topic": "", "choices": ["x"], "note": None},
        {"id": 2, "q": "b?", "answer": "2", "topic": "sums", "choices": [], "note": None},
    ]
    if suffix == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    else:
        path.write_text(json.dumps(rows) if suffix == "json" else "\n".join(map(json.dumps, rows)))
    manifest = prep_jsonl(tmp_path / "own", path, "q", None, None, False)
    assert sorted(manifest["unused_columns"]) == ["choices", "topic"]
    assert "`topic`" in remarks(manifest)[0]


def test_keys_of_messages_that_are_not_used_are_named(tmp_path, write_lines):
    talk = [TALK[0], TALK[1] | {"reasoning_content": "Hm.", "weight": 1}]
    _, counts = prepared(tmp_path, write_lines, [{"q": talk}])
    assert counts["unused_columns"] == ["q[].reasoning_content"]


def test_a_field_that_is_named_is_an_answer_whatever_its_name(tmp_path, write_lines):
    (row,), _ = prepared(tmp_path, write_lines, [{"q": "a?", "functions": "f(x)"}], answer_field="functions")
    assert row["reward_model"]["ground_truth"] == "f(x)"


def test_equal_prompts_are_counted_over_all_splits(tmp_path, write_lines):
    for split, questions in (("train", "aab"), ("test", "bc")):
        write_lines(tmp_path / "src" / f"{split}.jsonl", [{"q": q, "answer": "1"} for q in questions])
    manifest = prep_jsonl(tmp_path / "own", tmp_path / "src", "q", None, None, False)
    assert (manifest["duplicates"], manifest["shared_prompts"]) == (2, 1)
    assert remarks(manifest) == [
        "duplicates: 2 of 5 rows have the prompt of an earlier row",
        "held-back rows whose prompt is in train too: 1",
    ]


def test_columns_of_gsm8k_that_are_not_used_are_named(tmp_path, source, write_lines):
    write_lines(source / "test.jsonl", [GOOD | {"hint": "add"}])
    assert prep_gsm8k(tmp_path / "out", source, None, False)["unused_columns"] == ["hint"]


@pytest.mark.parametrize("name", ["images", "tools"])
def test_own_rows_with_images_or_tools_are_refused(tmp_path, write_lines, name):
    with pytest.raises(ConfigError, match=f"mine.jsonl:2: `{name}` cannot be read"):
        prepared(tmp_path, write_lines, [{"q": "a?", name: []}, {"q": "b?", name: ["x"]}])


# --- bad rows ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ('{"question": "x"', "not JSON"),
        ('["x"]', "expected an object, got a list"),
        ('{"answer": "#### 1"}', "no `question`"),
        ('{"question": null, "answer": "#### 1"}', "`question` is missing or null"),
        ('{"question": "x"}', "`answer` is missing or null"),
        ('{"question": 7, "answer": "#### 1"}', "`question` must be text, got a number"),
        ('{"question": " ", "answer": "#### 1"}', "`question` is empty"),
        ('{"question": "x", "answer": "1"}', "no `#### NUMBER`"),
        ('{"question": "\\ud800", "answer": "#### 1"}', "not valid Unicode"),
        ("[" * 100_000, "not readable JSON"),
    ],
)
def test_bad_gsm8k_row_names_file_and_line(tmp_path, source, write_lines, line, what):
    # The blank line counts: editors number it.
    path = write_lines(source / "train.jsonl", [GOOD, "", line, GOOD])
    with pytest.raises(ConfigError) as caught:
        prep_gsm8k(tmp_path / "out", source, None, False)
    assert caught.value.message.startswith(f"{path}:3: ")
    assert what in caught.value.message
    assert not (tmp_path / "out").exists()


def test_line_that_is_not_utf8_is_named(tmp_path, source):
    path = source / "test.jsonl"
    path.write_bytes(json.dumps(GOOD).encode() + b'\n{"question": "caf\xe9"}\n')
    with pytest.raises(ConfigError, match=re.escape(f"{path}:2: not UTF-8")):
        prep_gsm8k(tmp_path / "out", source, None, False)


def test_bad_parquet_row_names_file_and_row(tmp_path, source):
    path = source / "train.parquet"
    (source / "train.jsonl").unlink()
    pq.write_table(pa.Table.from_pylist([GOOD, GOOD | {"answer": "two"}]), path)
    with pytest.raises(ConfigError, match=re.escape(f"{path}: row 1: ")):
        prep_gsm8k(tmp_path / "out", source, None, False)


def test_empty_file_is_refused(tmp_path, source):
    (source / "test.jsonl").write_text("\n")
    with pytest.raises(ConfigError, match=r"test.jsonl: holds no rows"):
        prep_gsm8k(tmp_path / "out", source, None, False)


# --- the output directory ------------------------------------------------------------------------


def listing(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet", "manifest.json"])
def test_taken_output_is_refused_and_left_alone(tmp_path, source, name):
    out = tmp_path / "out"
    out.mkdir()
    (out / name).write_bytes(b"precious")
    with pytest.raises(ConfigError, match=name) as caught:
        prep_gsm8k(out, source, None, False)
    assert "--force" in caught.value.hint
    assert listing(out) == {name: b"precious"}


def test_other_files_in_the_output_are_no_obstacle(tmp_path, source):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    prep_gsm8k(tmp_path / "out", source, None, False)
    assert (tmp_path / "out" / "notes.txt").read_text() == "mine"


def test_force_replaces_and_removes_a_stale_split(tmp_path, source):
    prep_gsm8k(tmp_path / "own", source, None, False)
    own(tmp_path, source / "train.jsonl", force=True)
    assert sorted(listing(tmp_path / "own")) == ["manifest.json", "train.parquet"]


@pytest.mark.parametrize("change", ["another file", "lost manifest", "foreign manifest"])
def test_force_removes_nothing_that_the_manifest_does_not_list(tmp_path, source, capsys, change):
    out = tmp_path / "own"
    prep_gsm8k(out, source, None, False)
    if change == "another file":
        (out / "test.parquet").write_bytes(b"precious")
    else:
        (out / "manifest.json").write_text(
            "" if change == "lost manifest" else '{"sha256": ["test.parquet"]}'
        )
    before = (out / "test.parquet").read_bytes()
    own(tmp_path, source / "train.jsonl", force=True)
    assert sorted(listing(out)) == ["manifest.json", "test.parquet", "train.parquet"]
    assert (out / "test.parquet").read_bytes() == before
    assert "own/test.parquet is left as it is" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train.parquet", "test.parquet", "manifest.json"])
@pytest.mark.parametrize("force", [False, True])
def test_a_link_or_a_folder_in_place_of_a_file_is_refused(tmp_path, source, name, force):
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "target").write_text("precious")
    (out / name).symlink_to(tmp_path / "target")
    with pytest.raises(ConfigError, match="is a link" if force else "already has"):
        prep_gsm8k(out, source, None, force)
    (out / name).unlink()
    (out / name).mkdir()
    with pytest.raises(ConfigError, match="is a directory" if force else "already has"):
        prep_gsm8k(out, source, None, force)
    assert (tmp_path / "target").read_text() == "precious"
    assert os.listdir(out) == [name]


def test_a_folder_that_cannot_be_written_is_told_before_anything_is_fetched():
    with pytest.raises(EnvironmentUnfit, match="/proc/out cannot be written"):
        prep_gsm8k(Path("/proc/out"), None, None, False)


def test_output_that_is_a_file_is_refused(tmp_path, source):
    (tmp_path / "out").write_text("")
    with pytest.raises(ConfigError, match="not a directory"):
        prep_gsm8k(tmp_path / "out", source, None, True)


def test_source_is_never_overwritten(tmp_path):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.Table.from_pylist([GOOD]), path)
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="the source itself"):
        prep_jsonl(tmp_path, path, "question", "answer", None, True)
    assert path.read_bytes() == before


@pytest.mark.parametrize("exists", [False, True])
def test_failed_write_leaves_nothing_half_written(tmp_path, source, monkeypatch, exists):
    out = tmp_path / "deep" / "out"
    if exists:
        prep_gsm8k(out, source, 1, False)
    before = listing(out) if exists else None
    write_table, written = pq.write_table, []

    def full_disk(table, path):
        if written:
            raise OSError(28, "No space left on device")
        written.append(path)
        write_table(table, path)

    monkeypatch.setattr(pq, "write_table", full_disk)
    with pytest.raises(EnvironmentUnfit, match="No space left"):
        prep_gsm8k(out, source, None, True)
    assert written
    assert (listing(out) if out.exists() else None) == before
    assert [path.name for path in out.parent.iterdir()] == (["out"] if exists else [])


def test_files_are_as_readable_as_any_new_file(tmp_path, source):
    prep_gsm8k(tmp_path / "out", source, None, False)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / "file").touch()
    assert (tmp_path / "out").stat().st_mode == (tmp_path / "plain").stat().st_mode
    for path in (tmp_path / "out").iterdir():
        assert path.stat().st_mode == (tmp_path / "plain" / "file").stat().st_mode


@pytest.mark.parametrize(
    ("kind", "answer", "style"),
    [
        ("numeric", "so 3+4=7\n#### 7", "rule"),
        ("exact", "Paris", "exact"),
        ("choice", "B", "choice"),
        ("regex", r"^\d+$", "regex"),
        ("latex", r"\frac{1}{2}", "latex"),
    ],
)
def test_the_answer_type_is_the_style_of_the_row_and_is_read_back(tmp_path, kind, answer, style):
    source = tmp_path / "mine.jsonl"
    source.write_text(json.dumps({"question": "q", "answer": answer}) + "\n")
    prep_jsonl(tmp_path / "out", source, "question", "answer", None, False, kind)
    (row,) = pq.read_table(tmp_path / "out/train.parquet").to_pylist()
    assert row["reward_model"]["style"] == style
    (prompt,) = read_rows(tmp_path / "out/train.parquet")
    assert prompt.answer_type == kind
    assert prompt.ground_truth == ("7" if kind == "numeric" else answer)


@pytest.mark.parametrize(
    ("kind", "answer"), [("regex", "("), ("choice", "42"), ("choice", "I don't know"), ("choice", "A or B")]
)
def test_an_answer_that_is_nothing_of_its_type_is_refused_with_its_line(tmp_path, kind, answer):
    source = tmp_path / "mine.jsonl"
    rows = [{"question": "q", "answer": "A"}, {"question": "q", "answer": answer}]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ConfigError, match=r"mine.jsonl:2: `ground_truth`"):
        prep_jsonl(tmp_path / "out", source, "question", "answer", None, False, kind)
    assert not (tmp_path / "out").exists()


def test_several_files_of_one_split_are_refused(tmp_path, write_lines):
    write_lines(tmp_path / "src" / "train.jsonl", [GOOD])
    (tmp_path / "src" / "train.json").write_text(json.dumps([GOOD]))
    with pytest.raises(ConfigError, match=r"several files of train: train\.jsonl, train\.json"):
        own(tmp_path, tmp_path / "src")


def test_an_answer_that_is_a_date_is_refused(tmp_path):
    table = pa.table({"question": ["When?"], "answer": pa.array([1], pa.date32())})
    pq.write_table(table, tmp_path / "mine.parquet")
    with pytest.raises(ConfigError, match="`answer` must be text, a number or null"):
        own(tmp_path, tmp_path / "mine.parquet")


@pytest.mark.parametrize("other", ["train.parquet", "main/train-00000-of-00001.parquet"])
def test_several_files_of_a_split_of_gsm8k_are_refused(tmp_path, source, other):
    (source / "main").mkdir()
    pq.write_table(pa.Table.from_pylist([GOOD]), source / other)
    with pytest.raises(ConfigError) as caught:
        prep_gsm8k(tmp_path / "out", source, None, False)
    assert caught.value.message.endswith(f"has several files of train: train.jsonl, {other}")


FAR = 10**7
"""Days after 1970: the year 29349, for which Python has no date."""


def test_a_column_that_is_not_used_may_hold_what_python_has_no_value_for(tmp_path):
    made = pa.array([FAR, None, 1], pa.date32())
    table = pa.table(
        {
            "question": ["a?", "b?", "c?"],
            "answer": ["1", "2", "3"],
            "made": made,
            "meta": pa.StructArray.from_arrays([made, pa.array(["x", "y", "z"])], ["day", "note"]),
        }
    )
    pq.write_table(table, tmp_path / "mine.parquet")
    rows = own(tmp_path, tmp_path / "mine.parquet")
    assert [row["reward_model"]["ground_truth"] for row in rows] == ["1", "2", "3"]
    manifest = json.loads((tmp_path / "own/manifest.json").read_text())
    assert manifest["fields"] == {"question": 3, "answer": 3}
    assert manifest["unused_columns"] == ["meta"]


def test_a_column_that_is_used_and_holds_what_python_has_no_value_for_is_named(tmp_path):
    table = pa.table({"question": ["a?", "b?"], "answer": pa.array([1, FAR], pa.date32())})
    pq.write_table(table, tmp_path / "mine.parquet")
    with pytest.raises(
        ConfigError, match=r"mine\.parquet: row 1: `answer` cannot be read: .*range"
    ) as caught:
        list(records(tmp_path / "mine.parquet", ("question", "answer"), whole=True))
    assert caught.value.hint == "correct that value, or write the column as text"
