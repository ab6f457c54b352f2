"""Long JSON arrays: any reader's JSON, ours an element at a time, no memory of the whole."""

from __future__ import annotations

import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.errors import TransientError
from pseudoris.training.exports.output_files import iter_json_arrays, json_arrays

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**64) + 1, 2**64 - 1) | st.text(max_size=10),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@pytest.mark.slow
@given(st.lists(st.tuples(st.sampled_from(["images", 'annot"s', "]}"]), VALUES), max_size=12))
def test_any_elements_read_back_here_and_anywhere(tmp_path_factory, elements):
    path = tmp_path_factory.mktemp("json") / "x.json"
    names = ["images", 'annot"s', "]}"]
    with json_arrays(path, names) as arrays:
        for name, element in elements:
            arrays[name].append(element)
    due = {name: [element for of, element in elements if of == name] for name in names}
    assert json.loads(path.read_text()) == due
    with path.open("rb") as file:
        assert list(iter_json_arrays(file, "x")) == [(name, each) for name in names for each in due[name]]
    assert [each.name for each in path.parent.iterdir()] == ["x.json"]


def test_trap_a_numpy_number_is_refused_and_leaves_no_file(tmp_path):
    with pytest.raises(TypeError, match="int64"), json_arrays(tmp_path / "x.json", ["a"]) as arrays:
        arrays["a"].append({"id": np.int64(1)})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b'{"a": [\n{"id":1}\n', "ends before its last bracket"),
        (b'{"a": [\n{"id":1', "is not readable JSON"),
        (b"", "ends before its last bracket"),
    ],
)
def test_a_file_cut_short_is_told(text, message):
    with pytest.raises(TransientError, match=f"x.json {message}"):
        list(iter_json_arrays(io.BytesIO(text), "x.json"))
