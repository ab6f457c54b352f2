"""REFER's pickles, read as data: what they name is never called."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from schemas.errors import ConfigError
from store.plain_pickle import load_plain
from store.refer_pickle import read_refs

REF = {"ref_id": 1, "ann_id": 2, "image_id": 3, "category_id": 4, "split": "val", "sentences": [{"sent": "é"}]}
# What Python 2 wrote for [{'split': 'val'}] with protocol 2: texts are bytes there, opcode U.
PYTHON_2 = b"\x80\x02]q\x00}q\x01U\x05splitq\x02U\x03valq\x03sa."


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_references_read_as_they_were_written(tmp_path, protocol):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(pickle.dumps([REF, REF], protocol=protocol))
    assert read_refs(path) == [REF, REF]


def test_a_pickle_of_python_2_reads():
    assert load_plain(PYTHON_2, "x") == [{"split": "val"}]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (pickle.dumps({"ref_id": 1}), "holds a dict, not REFER's list of references"),
        (pickle.dumps([REF, {"ref_id": 1}]), "reference number 1 has no 'ann_id'"),
        (pickle.dumps([REF, 5]), "reference number 1 has no 'ref_id'"),
        (pickle.dumps([{**REF, "ref_id": np.int64(1)}]), "holds numbers of numpy"),
        (b"", "cannot be read as a pickle"),
        (b"\x80\x02]q\x00}q", "cannot be read as a pickle"),
        (b"PK\x03\x04", "refs\\(unc\\).p"),
    ],
)
def test_what_is_no_refs_file_is_told(tmp_path, content, message):
    path = tmp_path / "refs(unc).p"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=message):
        read_refs(path)


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(ConfigError, match=r"there is no file .*refs"):
        read_refs(tmp_path / "refs(unc).p")
