"""Lenient reading: what verl, pandas or a person wrote reads the same; the rest is refused."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distillctl.data.prep import prepare
from distillctl.data.read import PromptRow, answer_text, read_rows, records
from distillctl.data.sets import gsm8k
from distillctl.errors import ConfigError

CHAT = [{"role": "user", "content": "What is 1 + 1?"}]
ROW = {
    "data_source": "openai/gsm8k",
    "prompt": CHAT,
    "ability": "math",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "test", "index": 7, "answer": "#### 2", "question": "What is 1 + 1?"},
}
READ = PromptRow(
    index=0,
    messages=CHAT,
    question="What is 1 + 1?",
    ground_truth="2",
    data_source="openai/gsm8k",
    split="test",
    extra_info=ROW["extra_info"],
    reference="#### 2",
    route="openai/gsm8k",
)


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=1))
    else:
        path.write_text("\n".join(json.dumps(row) for row in rows))
    return path


@pytest.fixture(params=["parquet", "json", "jsonl"])
def path(tmp_path, request) -> Path:
    return tmp_path / f"train.{request.param}"


# --- what is accepted ----------------------------------------------------------------------------


def test_full_row_is_read(path):
    assert read_rows(write(path, [ROW])) == [READ]


def test_prompt_alone_is_enough(path):
    expected = PromptRow(
        index=0, messages=CHAT, question="What is 1 + 1?", ground_truth=None, data_source=None, split="train"
    )
    assert read_rows(write(path, [{"prompt": CHAT}])) == [expected]


def test_text_prompt_becomes_one_user_message(path):
    (row,) = read_rows(write(path, [{"prompt": "Why?"}]))
    assert row.messages == [{"role": "user", "content": "Why?"}]
    assert row.question == "Why?"


def test_question_is_the_last_user_message(path):
    chat = [
        {"role": "system", "content": ""},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "second"},
    ]
    (row,) = read_rows(write(path, [{"prompt": chat}]))
    assert row.messages == chat
    assert row.question == "second"


def test_null_ground_truth_is_none(path):
    row = ROW | {"reward_model": {"style": "none", "ground_truth": None}}
    assert read_rows(write(path, [row]))[0].ground_truth is None


# A chat that ends with the assistant.

SFT = [*CHAT, {"role": "assistant", "content": "1 + 1 = 2\n#### 2"}]


def test_an_answer_at_the_end_is_reference_and_truth_and_no_part_of_the_prompt(path):
    (row,) = read_rows(write(path, [{"prompt": SFT}]))
    assert row.messages == CHAT
    assert (row.reference, row.ground_truth) == ("1 + 1 = 2\n#### 2", "2")
    assert row.extra_info == {"answer": "1 + 1 = 2\n#### 2"}


def test_the_ground_truth_of_a_row_stays_beside_an_answer_at_the_end(path):
    row = ROW | {"prompt": SFT, "reward_model": {"style": "rule", "ground_truth": "7"}}
    assert read_rows(write(path, [row]))[0].ground_truth == "7"


def test_the_answer_at_the_end_counts_before_that_of_extra_info(path):
    (row,) = read_rows(write(path, [ROW | {"prompt": SFT, "extra_info": {"answer": "#### 3", "index": 4}}]))
    assert row.reference == "1 + 1 = 2\n#### 2"
    assert row.extra_info == {"answer": "1 + 1 = 2\n#### 2", "index": 4}


@pytest.mark.parametrize(
    ("turn", "style", "truth"),
    [
        ("Two, of course.", "rule", None),
        ("1,234", "rule", "1234"),
        ("-0.5", "rule", "-0.5"),
        ("Paris", "exact", "Paris"),
        ("B) Paris", "choice", "B"),
        ("Paris", "choice", None),
        ("Paris", "regex", None),
        (r"\frac{1}{2}", "latex", r"\frac{1}{2}"),
    ],
)
def test_the_truth_in_an_answer_at_the_end_is_of_the_rows_type(path, turn, style, truth):
    row = {"prompt": [*CHAT, {"role": "assistant", "content": turn}], "reward_model": {"style": style}}
    (read,) = read_rows(write(path, [row]))
    assert (read.ground_truth, read.reference) == (truth, turn)


# Columns that change what the text means.


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("images", [{"path": "a.png"}]),
        ("image", {"bytes": "x", "path": None}),
        ("Videos", ["a.mp4"]),
        ("audio", "a.wav"),
        ("image_path", "a.png"),
        ("image_paths", ["a.png"]),
        ("imageUrls", ["a.png"]),
        ("img_path", "a.png"),
        ("video_file", "a.mp4"),
        ("image_1", {"bytes": "x", "path": "x.png"}),
        ("decoded_image", {"bytes": "x", "path": None}),
        ("pixel_values_videos", [0.5]),
        ("available_tools", [{"name": "add"}]),
        ("tool_definitions", '[{"name": "add"}]'),
        ("tools", [{"name": "add"}]),
        ("tools", '[{"name": "add"}]'),
        ("functions", [{"name": "add"}]),
        ("tool_calls", [{"name": "add"}]),
    ],
)
def test_images_and_tools_are_refused_by_name(path, name, value):
    with pytest.raises(ConfigError, match=rf"(:2|row 1): `{name}` cannot be read"):
        read_rows(write(path, [ROW | {name: None}, ROW | {name: value}]))


@pytest.mark.parametrize("value", [None, [], "", " ", "[]", [None], [{"path": None}]])
def test_columns_of_images_with_nothing_in_them_do_no_harm(path, value):
    assert read_rows(write(path, [ROW | {"images": value}])) == [READ]


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("Add.", "input"), ("Add.", "Context"), ("Add.", "instruction"), ("Add.", "system"),
        (CHAT, "system"), (CHAT, "system_prompt"), ([{"from": "human", "value": "Add."}], "system"),
        (CHAT, "system_message"), ("Add.", "sys_prompt"), ("Add.", "systemPrompt"),
        (json.dumps(CHAT), "system"),
        ("Add.", "history"), (CHAT, "history"), (CHAT, "chat_history"),
    ],
)  # fmt: skip
def test_a_prompt_that_leaves_a_part_to_another_column_is_refused(path, prompt, name):
    rows = [{"prompt": prompt, name: None}, {"prompt": prompt, name: "2 and 3"}]
    with pytest.raises(
        ConfigError, match=rf"(:2|row 1): `prompt` is only a part.*`{name}` would be left out"
    ):
        read_rows(write(path, rows))


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        (CHAT, "input"),
        ([{"role": "system", "content": "Be brief."}, *CHAT], "system"),
        ("Add.", "output"),
        (json.dumps([{"role": "system", "content": "Be brief."}, *CHAT]), "system"),
        (json.dumps(CHAT), "context"),
        ("Add.", "image_caption"),
        ("Add.", "system_id"),
        ("Add.", "helper_functions"),
        ("Add.\n\n2 and 3", "input"),
    ],
)
def test_columns_beside_a_whole_prompt_do_no_harm(path, prompt, name):
    rows = [{"prompt": prompt}, {"prompt": prompt, name: "2 and 3"}]
    first, second = read_rows(write(path, rows))
    assert first.messages == second.messages


def test_the_column_that_chooses_the_teacher_is_no_part_of_the_prompt(path):
    (row,) = read_rows(write(path, [{"prompt": "Add.", "context": "school"}]), teacher_key="context")
    assert row.route == "school"


def test_keys_with_text_in_messages_that_are_not_read_are_kept_by_name(path):
    said = {"role": "assistant", "content": "2", "reasoning_content": "1 and 1.", "thinking": "", "weight": 1}
    (row,) = read_rows(write(path, [{"prompt": [*CHAT, said, *CHAT]}]))
    assert row.unused_keys == ("reasoning_content",)
    assert row.messages[1] == {"role": "assistant", "content": "2"}


@pytest.mark.parametrize("name", ["reward_model", "extra_info", "data_source", "ability"])
def test_null_column_is_as_a_missing_one(path, name):
    without = {key: value for key, value in ROW.items() if key != name}
    from_null = read_rows(write(path, [ROW | {name: None}]))
    assert from_null == read_rows(write(path, [without]))


def test_extra_info_is_read_whole_as_plain_values(path):
    extra = {"split": "a", "index": 7, "tags": ["x", "y"], "tools": {"python": True, "cost": 0.5}}
    (row,) = read_rows(write(path, [ROW | {"extra_info": extra}]))
    assert row.extra_info == extra
    assert type(row.extra_info["index"]) is int
    assert type(row.extra_info["tags"]) is list


@pytest.mark.parametrize("answer", [None, "", " \n", 2, ["#### 2"]])
def test_reference_is_text_or_none(path, answer):
    (row,) = read_rows(write(path, [ROW | {"extra_info": {"answer": answer}}]))
    assert row.reference is None


def test_real_gsm8k_answers_are_references_word_for_word(gsm8k_source, tmp_path):
    prepare("gsm8k", gsm8k.data_set(gsm8k_source), tmp_path, 20)
    lines = (gsm8k_source / "train.jsonl").read_text(encoding="utf-8").split("\n")[:20]
    rows = read_rows(tmp_path / "train.parquet")
    assert [row.reference for row in rows] == [json.loads(line)["answer"] for line in lines]


def test_route_is_the_column_that_is_asked_for(path):
    rows = [ROW | {"domain": "law"}, ROW | {"domain": None}]
    assert [row.route for row in read_rows(write(path, rows), "domain")] == ["law", None]


@pytest.mark.parametrize(
    ("value", "route"), [("", ""), (3, "3"), (3.0, "3"), (0.5, "0.5"), (float("nan"), None), (True, "True")]
)
def test_route_is_text(path, value, route):
    assert read_rows(write(path, [ROW | {"domain": value}]), "domain")[0].route == route


def test_route_column_need_not_be_there(path):
    assert read_rows(write(path, [ROW]), "domain")[0].route is None


def test_struct_fields_in_sorted_order_are_read_by_name(tmp_path):
    fields = [("content", pa.string()), ("role", pa.string())]
    prompt = pa.array([CHAT], pa.list_(pa.struct(fields)))
    pq.write_table(pa.table({"prompt": prompt}), tmp_path / "train.parquet")
    assert read_rows(tmp_path / "train.parquet")[0].messages == CHAT


def test_numpy_array_of_messages_from_pandas(tmp_path):
    frame = pd.DataFrame([ROW])
    frame["prompt"] = [np.array(CHAT, dtype=object)]
    frame.to_parquet(tmp_path / "train.parquet")
    assert read_rows(tmp_path / "train.parquet") == [READ]


def test_pandas_round_trip_of_our_own_file(tmp_path, write_lines):
    example = {"question": "a?", "answer": "#### 1"}
    for split in ("train", "test"):
        write_lines(tmp_path / "src" / f"{split}.jsonl", [example] * 3)
    prepare("gsm8k", gsm8k.data_set(tmp_path / "src"), tmp_path / "out")
    ours = tmp_path / "out" / "train.parquet"
    pd.read_parquet(ours).to_parquet(tmp_path / "again.parquet")
    assert read_rows(tmp_path / "again.parquet") == read_rows(ours)


def test_index_is_the_row_of_the_file(path):
    # extra_info.index repeats in files that were cut or joined; a prompt id must not.
    assert [row.index for row in read_rows(write(path, [ROW, ROW]))] == [0, 1]


def test_json_lines_under_the_name_json(tmp_path):
    (tmp_path / "train.json").write_text(f"{json.dumps(ROW)}\n{json.dumps(ROW)}\n")
    assert len(read_rows(tmp_path / "train.json")) == 2


def test_byte_order_mark_and_windows_newlines(tmp_path):
    text = f"\ufeff{json.dumps(ROW)}\r\n\r\n{json.dumps(ROW)}\r\n"
    (tmp_path / "train.jsonl").write_bytes(text.encode())
    assert len(read_rows(tmp_path / "train.jsonl")) == 2


def test_line_separator_inside_a_string_does_not_end_the_row(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"prompt": "a\u2028b\x85c"}\n', encoding="utf-8")
    assert read_rows(tmp_path / "train.jsonl")[0].question == "a\u2028b\x85c"


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("2", "2"),
        (2, "2"),
        (2.0, "2"),
        (2.5, "2.5"),
        (float("nan"), None),
        (None, None),
        ("", None),
        (["2", "3"], "2"),
        ([], None),
        ({"target": 2}, "2"),
        ({"value": ["2"]}, "2"),
        ({"ground_truth": {"target": "2"}}, "2"),
        ({"target": None, "value": "2"}, "2"),
        ({"tests": "x"}, None),
    ],
)
def test_ground_truth_in_any_shape(value, text):
    assert answer_text(value) == text


# --- properties ----------------------------------------------------------------------------------

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip)
message = st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": texts})
chats = st.lists(message, min_size=1, max_size=4).filter(lambda chat: chat[-1]["role"] == "user")
# How the same answer "12" may be stored.
answers = st.sampled_from(["12", 12, 12.0, ["12"], {"target": 12}, {"value": "12", "other": "1"}])


@st.composite
def variants(draw: st.DrawFn) -> tuple[list[list[dict]], list[dict]]:
    """Chats, and rows that hold them with a key order, extras and gaps of their own."""
    prompts = draw(st.lists(chats, min_size=1, max_size=4))
    order = draw(st.permutations(["role", "content", "name"]))
    columns = draw(st.permutations(["prompt", "reward_model", "extra_info", "mine"]))
    kept = [name for name in columns if name == "prompt" or draw(st.booleans())]
    answer = draw(answers)
    rows = []
    for chat in prompts:
        full = {
            "prompt": [{key: (m | {"name": "x"})[key] for key in order} for m in chat],
            "reward_model": {"ground_truth": answer, "style": "rule"},
            "extra_info": {"index": 3, "need_tools": False},
            "mine": [1, 2],
        }
        rows.append({name: full[name] for name in kept})
    return prompts, rows


@settings(deadline=None)
@given(variant=variants(), suffix=st.sampled_from(["parquet", "json", "jsonl"]))
def test_layout_does_not_change_what_is_read(tmp_path_factory, variant, suffix):
    prompts, rows = variant
    path = write(tmp_path_factory.mktemp("data") / f"train.{suffix}", rows)
    read = read_rows(path)
    assert [row.messages for row in read] == prompts
    assert [row.index for row in read] == list(range(len(prompts)))
    assert {row.ground_truth for row in read} == {"12" if "reward_model" in rows[0] else None}
    assert {row.split for row in read} == {"train"}


@settings(deadline=None)
@given(data=st.binary(max_size=60), suffix=st.sampled_from(["parquet", "json", "jsonl"]))
def test_garbage_is_a_config_error_that_names_the_file(tmp_path_factory, data, suffix):
    path = tmp_path_factory.mktemp("data") / f"train.{suffix}"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        read_rows(path)
    assert caught.value.message.startswith(str(path))


# --- what is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["gsm8k", "arith"])
def test_missing_file_names_the_command_that_writes_it(tmp_path, kind):
    path = tmp_path / kind / "train.parquet"
    with pytest.raises(ConfigError, match="no such file") as caught:
        read_rows(path)
    assert f"distillctl prep {kind} --out {path.parent}" in caught.value.hint


def test_missing_file_elsewhere_has_a_hint_too(tmp_path):
    with pytest.raises(ConfigError) as caught:
        read_rows(tmp_path / "mine.parquet")
    assert "data.train_files" in caught.value.hint


def test_other_suffix_is_refused(tmp_path):
    (tmp_path / "train.csv").touch()
    with pytest.raises(ConfigError, match=r"train\.csv") as caught:
        read_rows(tmp_path / "train.csv")
    assert ".parquet" in caught.value.hint


def test_directory_is_refused(tmp_path):
    (tmp_path / "train.jsonl").mkdir()
    with pytest.raises(ConfigError, match="cannot be read"):
        read_rows(tmp_path / "train.jsonl")


def test_missing_prompt_column_lists_the_others(path):
    rows = [{"question": "Why?", "answer": "x"}]
    with pytest.raises(ConfigError, match="no `prompt` column") as caught:
        read_rows(write(path, rows))
    assert "`question`, `answer`" in caught.value.message
    assert str(path) in caught.value.message


@pytest.mark.parametrize(
    ("prompt", "what"),
    [
        (7, "must be text or messages, got a number"),
        ("", "`prompt` is empty"),
        (None, "missing or null"),
        ([], "no message with the role `user`"),
        (["Why?"], r"`prompt\[0\]` must be a message, got text"),
        ([{"role": "user"}], r"`prompt\[0\].content` is missing"),
        ([{"content": "Why?"}], r"`prompt\[0\].role` is missing"),
        ([{"role": "user", "content": ""}], r"`prompt\[0\].content` is empty"),
        ([{"role": "user", "content": [{"text": "x"}]}], r"content\[0\]` is of type None"),
        ([{"role": "system", "content": "x"}], "no message with the role `user`"),
    ],
)
def test_prompt_of_wrong_type_names_file_and_row(tmp_path, prompt, what):
    lines = write(tmp_path / "train.jsonl", [ROW, {"prompt": prompt}])
    with pytest.raises(ConfigError, match=f":2: .*{what}"):
        read_rows(lines)
    table = write(tmp_path / "train.parquet", [{"prompt": prompt}])
    with pytest.raises(ConfigError, match=f"train.parquet: row 0: .*{what}"):
        read_rows(table)


@pytest.mark.parametrize("name", ["reward_model", "extra_info"])
def test_struct_column_of_wrong_type_is_refused(path, name):
    with pytest.raises(ConfigError, match=f"`{name}` must be an object, got text"):
        read_rows(write(path, [ROW | {name: "x"}]))


def test_file_without_rows_is_refused(tmp_path):
    write(tmp_path / "train.json", [])
    with pytest.raises(ConfigError, match="holds no rows"):
        read_rows(tmp_path / "train.json")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "train.parquet")
    with pytest.raises(ConfigError, match="holds no rows"):
        read_rows(tmp_path / "train.parquet")


def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(tmp_path):
    path = tmp_path / "x.jsonl"
    for row in ('{"prompt": "a", "extra_info": {"split": "\\ud800"}}', '{"prompt": "a", "b\\uDFFF": 1}'):
        path.write_text(row + "\n")
        with pytest.raises(ConfigError, match=r"x\.jsonl:1: holds half of a surrogate pair"):
            read_rows(path)
    path.write_text('{"prompt": "\\ud83d\\ude00"}\n')
    assert read_rows(path)[0].question == "\N{GRINNING FACE}"


def test_a_key_that_comes_twice_is_refused(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "b", "prompt": "c"}\n')
    with pytest.raises(ConfigError, match=r"x\.jsonl:2: `prompt` comes twice"):
        read_rows(path)


def test_a_column_that_comes_twice_is_refused(tmp_path):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(ConfigError, match="two columns `prompt`"):
        read_rows(tmp_path / "x.parquet")


@pytest.mark.parametrize("width", [pa.float16(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("nested", [pa.list_, lambda width: pa.struct([("target", width)])])
def test_a_nested_truth_of_any_width_is_the_number_that_was_written(tmp_path, width, nested):
    number = pa.array(np.array([0.1], width.to_pandas_dtype()), width)[0].as_py()
    truth = [number] if nested is pa.list_ else {"target": number}
    column = pa.struct([("ground_truth", nested(width))])
    rewards = pa.array([{"ground_truth": truth}, {"ground_truth": None}, None], column)
    pq.write_table(pa.table({"prompt": ["a", "b", "c"], "reward_model": rewards}), tmp_path / "x.parquet")
    assert [row.ground_truth for row in read_rows(tmp_path / "x.parquet")] == ["0.1", None, None]


@pytest.mark.parametrize("number", ["1e400", "-1e400", "Infinity"])
def test_an_infinite_truth_is_refused_with_its_row(tmp_path, number):
    path = tmp_path / "x.jsonl"
    path.write_text(f'{{"prompt": "a", "reward_model": {{"ground_truth": [{number}]}}}}\n')
    with pytest.raises(ConfigError, match=r"x\.jsonl:1: .*infinite, or too large for a float"):
        read_rows(path)


@pytest.mark.parametrize("width", [pa.float16(), pa.float32(), pa.float64()])
def test_an_answer_of_any_width_is_the_number_that_was_written(tmp_path, width):
    values = np.array([0.1, 12.0], width.to_pandas_dtype())
    pq.write_table(pa.table({"q": ["a", "b"], "answer": pa.array(values, width)}), tmp_path / "x.parquet")
    found = [answer_text(row["answer"]) for _, row in records(tmp_path / "x.parquet", ("q", "answer"))]
    assert found == ["0.1", "12"]
