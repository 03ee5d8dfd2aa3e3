"""`prep jsonl`: the user's own data, and nothing lost in silence."""

import json
import re
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distillctl.data.prep import prepare
from distillctl.data.read import read_rows, records
from distillctl.data.sets import jsonl
from distillctl.data.sets.gsm8k import INSTRUCTION
from distillctl.data.summary import lines, remarks
from distillctl.errors import ConfigError
from distillctl.grading.scorers import grade

GOOD = {"question": "What is 1 + 1?", "answer": "1 + 1 = <<1+1=2>>2\n#### 2"}


def read(path: Path) -> list[dict]:
    return pq.ParquetFile(path).read().to_pylist()


def own(tmp_path, source, prompt_field="question", answer_field=None, answer_type=None, *, force=False):
    made = jsonl.data_set(source, prompt_field, answer_field, answer_type)
    prepare("jsonl", made, tmp_path / "own", force=force)
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
    told, types = remarks(manifest)[1].split("--answer-type ")
    assert told == "train: 2 of 4 answers are not numbers and are compared as text; set their type with "
    assert {"choice", "exact", "latex", "regex"} <= set(types.replace(",", "").split())


@pytest.mark.parametrize(("kind", "answer"), [("exact", "yes"), ("choice", "B"), ("numeric", "7")])
def test_answers_of_their_type_are_no_reason_to_warn(tmp_path, write_lines, kind, answer):
    path = write_lines(tmp_path / "mine.jsonl", [{"question": "Why?", "answer": answer}])
    own(tmp_path, path, answer_type=kind)
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
    (row,), _ = prepared(
        tmp_path, write_lines, [{"q": talk, "reward_model": {"style": "choice"}}], answer_type=kind
    )
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
    with pytest.raises(ConfigError, match=r"mine.jsonl:2: `a`: .*infinite, or too large for a float"):
        prepared(tmp_path, write_lines, ['{"q": "a?", "a": 1}', '{"q": "b?", "a": 1e400}'], answer_field="a")


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
    with pytest.raises(ConfigError, match="--answer-field anwser: no row has such a field") as caught:
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
    manifest = prepare("jsonl", jsonl.data_set(path, "q"), tmp_path / "own")
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
    manifest = prepare("jsonl", jsonl.data_set(tmp_path / "src", "q"), tmp_path / "own")
    assert (manifest["duplicates"], manifest["shared_prompts"]) == (2, 1)
    assert remarks(manifest) == [
        "duplicates: 2 of 5 rows have the same prompt as an earlier row",
        "held-back rows whose prompt is in train too: 1",
    ]


@pytest.mark.parametrize("name", ["images", "tools"])
def test_own_rows_with_images_or_tools_are_refused(tmp_path, write_lines, name):
    with pytest.raises(ConfigError, match=f"mine.jsonl:2: `{name}` cannot be read"):
        prepared(tmp_path, write_lines, [{"q": "a?", name: []}, {"q": "b?", name: ["x"]}])


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
    prepare("jsonl", jsonl.data_set(source, "question", "answer", answer_type=kind), tmp_path / "out")
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
        prepare("jsonl", jsonl.data_set(source, "question", "answer", answer_type=kind), tmp_path / "out")
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
    assert caught.value.hint == "correct that value, or store the column as text"
