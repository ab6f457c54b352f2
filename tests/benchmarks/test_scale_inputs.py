"""Tiny inputs: they decode, no two are equal, and tables have the row groups that bound shards."""

import io
import tarfile

import numpy as np
import pyarrow.parquet as pq
from PIL import Image

from benchmarks import scale_inputs
from benchmarks.scale_inputs import tiny_png, write_tables, write_tars


def test_a_tiny_png_is_one_and_no_two_are_equal():
    pixels = [np.asarray(Image.open(io.BytesIO(tiny_png(number)))) for number in (0, 1, 2**40 + 7)]
    assert [each.shape for each in pixels] == [(4, 4)] * 3
    assert len({each.tobytes() for each in pixels}) == 3
    assert len(tiny_png(2**63)) < 100


def group_sizes(file):
    return [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]


def test_tables_hold_all_rows_in_row_groups_of_one_shard(tmp_path, monkeypatch):
    monkeypatch.setattr(scale_inputs, "_MAX_GROUPS", 3)
    files = sorted(write_tables(tmp_path / "in", rows=25, group_rows=4).iterdir())
    sizes = [group_sizes(pq.ParquetFile(file)) for file in files]
    assert sizes == [[4, 4, 4], [4, 4, 4], [1]]
    assert len({row for file in files for row in pq.read_table(file)["bytes"].to_pylist()}) == 25


def test_tars_hold_their_members(tmp_path):
    paths = sorted(write_tars(tmp_path / "in", tars=2, members=3).iterdir())
    names = []
    for path in paths:
        with tarfile.open(path) as tar:
            names.append(tar.getnames())
    assert names == [["00000000.png", "00000001.png", "00000002.png"]] * 2
