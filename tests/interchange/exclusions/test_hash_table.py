"""Tables of hashes, Parquet and CSV; a bad one is told by file, row and value."""

from __future__ import annotations

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pseudoris.interchange.exclusions.exclude_option import read_hash_table
from pseudoris.schemas.errors import ConfigError

SHA, PHASH = "ab" * 32, "1234567812345678"


def write(folder, name, **columns):
    path = folder / name
    if name.endswith(".csv"):
        rows = zip(*columns.values(), strict=True)
        path.write_text("\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n")
    else:
        pq.write_table(pa.table(columns), path)
    return path


@pytest.mark.parametrize("name", ["bench.parquet", "bench.csv"])
def test_each_column_becomes_a_rule_and_hashes_of_digits_stay_text(tmp_path, name):
    found = read_hash_table(write(tmp_path, name, key=["a"], sha256=[SHA.upper()], phash=[PHASH]), 5)
    assert [(rule.kind, rule.settings) for rule in found] == [("sha256", {}), ("phash", {"max_distance": 5})]
    assert [rule.values for rule in found] == [{SHA}, {PHASH}]


def test_an_image_without_a_perceptual_hash_is_known_by_its_bytes(tmp_path):
    found = read_hash_table(write(tmp_path, "bench.csv", sha256=[SHA], phash=[""]), 5)
    assert [rule.kind for rule in found] == ["sha256"]


@pytest.mark.parametrize("name", ["bench.parquet", "bench.csv"])
@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"digest": [SHA]}, r"has no column sha256 or phash; its columns are 'digest'"),
        ({"sha256": [SHA, "xyz"]}, "row 2 has the sha256 'xyz'. 64 hex digits are needed"),
        ({"phash": ["12"]}, "row 1 has the phash '12'. 16 hex digits are needed.*imagehash.phash"),
        ({"sha256": [""]}, "has no row with a sha256"),
    ],
)
def test_a_table_that_is_none_of_hashes_is_told_by_row_and_value(tmp_path, name, columns, message):
    with pytest.raises(ConfigError, match=message):
        read_hash_table(write(tmp_path, name, **columns), 5)


@pytest.mark.parametrize("name", ["bench.parquet", "bench.csv"])
def test_a_file_of_another_kind_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(b"\x00\xff\n" * 3 if name.endswith(".parquet") else b"")
    with pytest.raises(ConfigError, match=f"{name} cannot be read as"):
        read_hash_table(path, 5)


@pytest.mark.parametrize("name", ["bench.parquet", "bench.csv"])
def test_a_column_that_is_there_twice_is_named(tmp_path, name):
    path = tmp_path / name
    if name.endswith(".csv"):
        path.write_text(f"sha256,sha256\n{SHA},{SHA}\n")
    else:
        pq.write_table(pa.table([[SHA], [SHA]], ["sha256", "sha256"]), path)
    with pytest.raises(ConfigError, match=f"{name} has the column sha256 2 times. Keep one of them"):
        read_hash_table(path, 5)


def test_a_header_that_is_not_utf_8_is_told_with_its_file(tmp_path):
    path = tmp_path / "bench.csv"
    path.write_bytes(b"sha256,caf\xe9\n" + SHA.encode() + b",a\n")
    with pytest.raises(
        ConfigError, match=r"bench.csv cannot be read as csv: 'utf-8' codec can't decode.*Write the file"
    ):
        read_hash_table(path, 5)
