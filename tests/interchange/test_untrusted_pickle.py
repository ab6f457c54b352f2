"""Untrusted pickles: plain data of every protocol is read, and nothing is ever run."""

from __future__ import annotations

import os
import pickle
import subprocess
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.interchange.untrusted_pickle import load_plain, read_refs
from pseudoris.primitives.errors import ConfigError
from tests.builders.memory import traced_peak

WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | WHOLE | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=20,
)
REF = {"ref_id": 1, "ann_id": 2, "image_id": 3, "category_id": 4, "split": "val", "sentences": [{"sent": "é"}]}


class Runs:
    """Pickles to a call, as a hostile file does."""

    def __init__(self, function, *arguments):
        self._call = (function, arguments)

    def __reduce__(self):
        return self._call


@pytest.mark.slow
@given(value=PLAIN, protocol=st.integers(0, pickle.HIGHEST_PROTOCOL))
def test_plain_values_of_every_protocol_are_read(value, protocol):
    assert load_plain(pickle.dumps(value, protocol), "refs(unc).p") == value


@pytest.mark.parametrize(
    ("pickled", "texts"),
    [
        (b"(lp0\nS'a man'\np1\naV\\u732b\np2\na.", ["a man", "猫"]),
        (b"\x80\x02]U\x05caf\xc3\xa9a.", ["café"]),
        # Those of Latin-1 stand beside those of UTF-8.
        (b"(lp0\nS'caf\\xe9'\np1\naS'caf\\xc3\\xa9'\np2\na.", ["café", "café"]),
        (b"\x80\x02]q\x00(U\x04caf\xe9q\x01U\x05caf\xc3\xa9q\x02e.", ["café", "café"]),
    ],
)
def test_python_2s_strings_are_texts(pickled, texts):
    assert load_plain(pickled, "x") == texts


@pytest.mark.parametrize("text", [b"S'caf\\xe9'\n", b"U\x04caf\xe9"])
def test_beside_such_a_string_code_is_refused_as_well(text):
    with pytest.raises(ConfigError, match=r"GLOBAL builds or calls 'posix system'"):
        load_plain(b"(lp0\n" + text + b"acposix\nsystem\n(S'true'\ntRa.", "x")


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    "call", [(os.system, "touch {}"), (subprocess.run, "touch {}"), (Path.touch, "{}"), (eval, "1")]
)
def test_a_pickle_that_runs_code_is_refused_and_does_not_run(tmp_path, protocol, call):
    function, argument = call
    path = tmp_path / "proof"
    argument = argument.format(path)
    hostile = Runs(function, Path(argument) if function is Path.touch else argument)
    data = pickle.dumps([{"ref_id": hostile}], protocol)
    with pytest.raises(ConfigError, match=r"refs\(unc\)\.p is not plain data: its instruction .* builds or calls"):
        load_plain(data, "refs(unc).p")
    assert not path.exists()


NUMPYS = r"numpy numbers.*Write the pickle again with int\(…\)"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        *((each, NUMPYS) for each in (np.int64(3), np.float32(0.5), np.arange(3))),
        *((each, "is not plain data") for each in (b"bytes", {1, 2}, OrderedDict(a=1), 1j, range(3), len)),
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_whatever_is_not_plain_is_refused(value, message, protocol):
    with pytest.raises(ConfigError, match=message):
        load_plain(pickle.dumps([{"ref_id": value}], protocol), "refs(unc).p")


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"not a pickle", pickle.dumps(["a", 1], 4)[:-3], b"\x80\x02]", b"\x80\x02.", b"h\x05."),
        b"\x80\x04\x95\xff\xff\xff\xff\xff\xff\xff\xff]\x94.",
        *(b"\x80\x02\x8b\xff\xff\xff\x7f\x00.", b"I" + b"9" * 10_000 + b"\n.", pickle.dumps([2**64], 2)),
    ],
)
def test_a_damaged_pickle_and_whole_numbers_beyond_64_bits_are_refused(data):
    with pytest.raises(ConfigError, match=r"refs\(unc\)\.p cannot be read as a pickle"):
        load_plain(data, "refs(unc).p")


def test_a_number_under_which_no_file_of_its_size_stores_a_value_takes_no_memory():
    with traced_peak() as peak_bytes:
        assert load_plain(b"\x80\x02]r\xff\xff\xff\x7f.", "x") == []
        assert peak_bytes() < 2**20


@pytest.mark.parametrize("key", [2**61 - 1, -1, 1.5, (1, -2), None], ids=repr)
def test_keys_that_a_file_could_choose_to_be_alike_are_refused(key):
    # A dict of 60,000 such keys, of one hash, takes minutes.
    with pytest.raises(ConfigError, match=r"cannot be read as a pickle"):
        load_plain(pickle.dumps([{key: 1}], 2), "refs(unc).p")


@pytest.mark.slow
def test_deep_nesting_is_read_or_refused_and_never_crashes():
    deep = load_plain(b"\x80\x02" + b"]" * 100_000 + b"a" * 99_999 + b".", "x")
    assert isinstance(deep, list)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"ref_id": 1}), "has an object, not REFER's list of references"),
        (pickle.dumps([REF, {"ref_id": 1}]), "reference number 1 has no 'ann_id'"),
        (pickle.dumps([REF, 5]), "reference number 1 has no 'ref_id'"),
        (pickle.dumps([{**REF, "ref_id": np.int64(1)}]), "has numpy numbers"),
        *(
            (pickle.dumps([{**REF, key: [[]]}]), f"reference number 0 has a list as '{key}', not a number or text")
            for key in ("ref_id", "ann_id", "image_id", "split")
        ),
        (b"PK\x03\x04", r"refs\(unc\).p cannot be read as a pickle"),
        (None, r"There is no file .*refs"),
    ],
)
def test_what_is_no_refs_file_is_told(tmp_path, content, message):
    path = tmp_path / "refs(unc).p"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_refs(path)
