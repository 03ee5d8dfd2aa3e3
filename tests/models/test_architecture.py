"""The sizes of a model, from its config.json alone."""

import json
import math
import struct

import pytest

from distillctl.models.locate import find_model
from distillctl.models.model_dir import ModelDir

TINY = ["tiny-student", "tiny-teacher"]


def stored_parameters(folder):
    """Numbers in a directory's safetensors files, from their headers: an 8-byte length, then JSON."""
    count = 0
    for file in folder.glob("*.safetensors"):
        with file.open("rb") as stream:
            (size,) = struct.unpack("<Q", stream.read(8))
            header = json.loads(stream.read(size))
        count += sum(math.prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__")
    return count


@pytest.mark.parametrize("name", TINY)
def test_parameters_counted_from_the_dimensions_match_the_weights(name):
    path = find_model(f"builtin:{name}", "student.model").path
    assert ModelDir(path).shape.num_parameters == pytest.approx(stored_parameters(path), rel=0.01)


def test_the_teacher_is_larger_than_the_student():
    student, teacher = (ModelDir(find_model(f"builtin:{name}", "").path).shape for name in TINY)
    assert teacher.num_parameters > student.num_parameters


def test_kv_bytes_follow_from_layers_and_heads():
    shape = ModelDir(find_model("builtin:tiny-student", "student.model").path).shape
    one_layer = 2 * shape.num_kv_heads * shape.head_dim
    assert shape.kv_bytes_per_token(4) == 4 * shape.num_layers * one_layer
