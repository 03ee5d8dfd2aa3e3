"""Properties of the readers: whatever a file or an override holds, the result is valid or a DistillError."""

import json
import struct

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from distillctl.config import loading
from distillctl.config.schema import Config
from distillctl.data.read import PromptRow, read_rows
from distillctl.errors import DistillError
from distillctl.models.architecture import ModelShape
from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir
from distillctl.models.weight_files import check_weights

PRESET = "tiny-from-small-arith"
VALID_YAML = loading.to_yaml(loading.load_preset(PRESET)).encode()
KEYS = [*loading.all_keys(), "teachers.law.model", "teachers.law.key", "teachers.a.b.url"]
few = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

scalars = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
trees = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)
sections = st.dictionaries(
    st.sampled_from([*Config.model_fields, "x"]) | st.text(max_size=5),
    st.dictionaries(st.sampled_from(sorted({key.split(".")[-1] for key in KEYS})), trees, max_size=4) | trees,
    max_size=6,
)


@st.composite
def mutations(draw, data):
    """`data` with a few stretches replaced, inserted or cut out."""
    for _ in range(draw(st.integers(1, 3))):
        start = draw(st.integers(0, len(data)))
        end = draw(st.integers(start, min(len(data), start + 8)) | st.just(len(data)))
        data = data[:start] + draw(st.binary(max_size=8)) + data[end:]
    return data


def valid_or_refused(read, kind):
    """The result, which has to be of that kind, or None where it was refused with a message."""
    try:
        result = read()
    except DistillError as refusal:
        error = refusal
    else:
        assert isinstance(result, kind)
        return result
    assert error.exit_code in (2, 3)
    assert error.message
    return None


# Configurations


def check_yaml(path, content):
    path.write_bytes(content)
    config = valid_or_refused(lambda: loading.load_config(path), Config)
    if config is not None:
        path.write_text(loading.to_yaml(config))
        assert loading.load_config(path) == config


@few
@given(content=st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="ignore")))
def test_any_bytes_as_configuration(tmp_path, content):
    check_yaml(tmp_path / "any.yaml", content)


@few
@given(content=mutations(VALID_YAML))
def test_a_damaged_configuration(tmp_path, content):
    check_yaml(tmp_path / "any.yaml", content)


@few
@given(tree=sections | trees)
def test_any_tree_as_configuration(tmp_path, tree):
    check_yaml(tmp_path / "any.yaml", yaml.safe_dump(tree).encode())
    check_yaml(tmp_path / "any.yaml", json.dumps(tree).encode())


# Overrides

values = st.text(max_size=30) | trees.map(json.dumps) | st.integers(-3, 2000).map(str)
overrides = st.text(min_size=1, max_size=30) | st.builds(
    "{}={}".format, st.sampled_from(KEYS) | st.text(max_size=9), values
)


def check_overrides(path, given_overrides):
    config = valid_or_refused(lambda: loading.load_preset(PRESET, given_overrides), Config)
    if config is not None:
        path.write_text(loading.to_yaml(config))
        assert loading.load_config(path) == config


@few
@given(given_overrides=st.lists(overrides, min_size=1, max_size=3))
def test_any_overrides(tmp_path, given_overrides):
    check_overrides(tmp_path / "any.yaml", given_overrides)


@pytest.mark.parametrize(
    "value", ["1", "0", "-1", "0.5", "true", "null", "x", "[]", "{}", "[1]", '["x"]', "1e400"]
)
def test_every_key_takes_or_refuses_every_kind_of_value(tmp_path, value):
    for key in KEYS:
        check_overrides(tmp_path / "any.yaml", [f"{key}={value}"])


@few
@given(override=overrides)
def test_any_override_on_the_command_line(distillctl, override):
    """It ends with a message; nothing can start, because there is no data."""
    code, out, err = distillctl("train", "--preset", PRESET, "data.train_files=gone.jsonl", "--", override)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert "Traceback" not in err


# Data


def check_rows(path):
    rows = valid_or_refused(lambda: read_rows(path), list)
    for row in rows or []:
        assert isinstance(row, PromptRow)
        assert row.question.strip()


ROW = {
    "prompt": [{"role": "user", "content": "What is 1 + 1?"}],
    "data_source": "openai/gsm8k",
    "reward_model": {"style": "rule", "ground_truth": "2"},
    "extra_info": {"split": "test", "index": 7, "answer": "#### 2"},
}


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue().to_pybytes()


VALID = {
    "jsonl": (json.dumps(ROW).encode() + b"\n") * 3,
    "json": json.dumps([ROW] * 3).encode(),
    "parquet": as_parquet([ROW] * 3),
}


@pytest.mark.parametrize("suffix", VALID)
@few
@given(data=st.data())
def test_a_damaged_data_file(tmp_path, suffix, data):
    path = tmp_path / f"any.{suffix}"
    path.write_bytes(data.draw(mutations(VALID[suffix])))
    check_rows(path)


rows = st.dictionaries(st.sampled_from([*ROW, "x"]), trees, max_size=5).map(lambda row: ROW | row) | trees


@few
@given(tree=st.lists(rows, max_size=3) | trees)
def test_any_tree_as_data(tmp_path, tree):
    (tmp_path / "any.json").write_text(json.dumps(tree))
    check_rows(tmp_path / "any.json")
    lines = tree if isinstance(tree, list) else [tree]
    (tmp_path / "any.jsonl").write_text("\n".join(map(json.dumps, lines)))
    check_rows(tmp_path / "any.jsonl")


@few
@given(column=st.lists(trees, min_size=1, max_size=3), name=st.sampled_from([*ROW, "x"]))
def test_any_column_as_parquet(tmp_path, column, name):
    try:
        table = pa.table({"prompt": ["a"] * len(column)} | {name: column})
        pq.write_table(table, tmp_path / "any.parquet")
    except (pa.ArrowException, UnicodeEncodeError, OverflowError, TypeError):  # no column can hold it
        return
    check_rows(tmp_path / "any.parquet")


@pytest.mark.parametrize("depth", [100, 800, 5000])
def test_nesting_without_end(tmp_path, depth):
    deep = '{"target": ' * depth + "1" + "}" * depth
    (tmp_path / "any.jsonl").write_text(f'{{"prompt": "a", "reward_model": {{"ground_truth": {deep}}}}}\n')
    check_rows(tmp_path / "any.jsonl")


# Models


@few
@given(header=trees.map(json.dumps).map(str.encode) | st.binary(max_size=40), tail=st.binary(max_size=8))
def test_any_header_of_weights(tmp_path, header, tail):
    data = struct.pack("<Q", len(header)) + header + tail
    (tmp_path / "model.safetensors").write_bytes(data)
    valid_or_refused(lambda: check_weights(ModelDir(tmp_path), "student.model"), type(None))


@few
@given(content=st.data())
def test_a_damaged_description_of_a_model(tmp_path, content):
    valid = (find_model("builtin:tiny-student", "").path / "config.json").read_bytes()
    tree = content.draw(st.dictionaries(st.sampled_from(sorted(json.loads(valid))), trees, max_size=3))
    changed = json.dumps(json.loads(valid) | tree).encode()
    (tmp_path / "config.json").write_bytes(content.draw(st.just(changed) | mutations(valid)))
    valid_or_refused(lambda: ModelDir(tmp_path).shape, ModelShape)
