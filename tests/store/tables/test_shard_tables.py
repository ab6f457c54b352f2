from __future__ import annotations

import io
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pseudoris.files.parquet_files import parquet_bytes
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.run_records import ShardCounts
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, MaskRecord, Shard, ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, FAILURE_REASONS, SCHEMAS
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.store.tables.parts import RowFilter, read_selected
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes, table_counts
from tests.store.builders import commit, make_entries, make_shard, start_run

# A table is a small part of what an example costs: a few dozen of them cover the shapes there are.
some = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.floats(allow_nan=False)
whole = st.integers(0, 2**31 - 1)


def some_of(each: st.SearchStrategy, max_size: int, **options) -> st.SearchStrategy:
    return st.lists(each, max_size=max_size, **options).map(tuple)


samples = st.builds(
    CaptionSample, text, text, st.none() | whole, st.none() | number, number, st.sampled_from(["none", "all"]), whole
)
pair, box, score = st.tuples(whole, whole), st.tuples(whole, whole, whole, whole), st.none() | number
masks = st.builds(MaskRecord, text, whole, pair, text, box, st.integers(0, 2**40), score, score, text)
expressions = st.builds(
    ExpressionRecord,
    some_of(text, 3),
    text,
    some_of(samples, 3, min_size=1),
    head_noun=st.none() | text,
    uniqueness=score,
    rival_mask_id=st.none() | text,
    kept=st.booleans(),
)
good = st.builds(
    ShardImage,
    *(whole, text, text, st.binary(max_size=9)),
    sha256=st.none() | text,
    height=st.none() | whole,
    width=st.none() | whole,
    masks=some_of(masks, 2),
    expressions=some_of(expressions, 2),
)
failures = st.builds(Failure, text, st.sampled_from(sorted(FAILURE_REASONS)), text)
bad = st.builds(ShardImage.quarantined, good, failures)
shards = st.builds(Shard, whole, st.just(0), some_of(good | bad, 4))


def read(data: bytes) -> pa.Table:
    return pq.read_table(io.BytesIO(data))


@some
@given(shards)
def test_each_image_is_counted_once_and_the_counts_are_those_of_the_shard(shard):
    counts = ShardCounts(**table_counts(shard_tables(shard, embed_images=False)))
    said = [each for image in shard.images for each in image.expressions]
    assert (counts.images, counts.expressions) == (len(shard.images), len(said))
    assert counts.quarantined == sum(image.failure is not None for image in shard.images)
    assert counts.masks == sum(len(image.masks) for image in shard.images)
    assert counts.samples == sum(len(each.samples) for each in said)
    assert counts.kept == sum(each.kept for each in said)
    lone = [each for each in said if each.source == "model" and each.distinctiveness is None]
    assert counts.kept_lone == sum(each.kept and len(each.target_mask_ids) == 1 for each in lone)
    assert sum(counts.reasons.values()) == counts.quarantined


@pytest.mark.slow
@some
@given(shards, st.lists(st.integers(0, 4), max_size=3))
def test_equal_content_gives_equal_bytes_however_it_is_chunked(shard, cuts):
    for table in shard_tables(shard, embed_images=True).values():
        bounds = sorted({0, table.num_rows, *(min(cut, table.num_rows) for cut in cuts)})
        pieces = [table.slice(start, stop - start) for start, stop in pairwise(bounds)]
        rebuilt = [read(table_bytes(piece)) for piece in pieces]
        assert table_bytes(pa.concat_tables([*pieces, table.slice(0, 0)])) == table_bytes(table)
        assert table_bytes(pa.concat_tables([*rebuilt, table.slice(0, 0)])) == table_bytes(table)


def test_bytes_are_embedded_on_request_and_never_for_a_quarantined_image():
    shard = make_shard(make_entries(num_shards=1, per_shard=4))
    assert shard_tables(shard, embed_images=False)["images"]["bytes"].null_count == 4
    embedded = shard_tables(shard, embed_images=True)["images"]["bytes"].to_pylist()
    assert [data is None for data in embedded] == [False, False, False, True]


@pytest.fixture
def committed(location):
    commit(location, start_run(location), 0, 2)
    return location


@pytest.mark.parametrize("table", SCHEMAS)
def test_a_table_is_read_as_it_was_written_in_the_order_of_shards(committed, table):
    entries = make_entries()
    shards = [make_shard(entries[start : start + 4]) for start in (0, 8)]
    written = pa.concat_tables([shard_tables(shard, embed_images=True)[table] for shard in shards])
    read = OpenRun.at(committed).table(table)
    assert read.equals(written)
    assert read.schema.equals(SCHEMAS[table], check_metadata=True)


KEPT = RowFilter(pc.field("kept"), ("kept",))


@pytest.fixture
def part(location):
    (receipt,) = commit(location, start_run(location), 0)
    return location, receipt.parts[EXPRESSIONS].name


def test_rows_that_the_filter_keeps_come_with_the_columns_asked_for(part):
    location, name = part
    found = read_selected(location, EXPRESSIONS, name, ("text", "image_id"), KEPT)
    whole = OpenRun.at(location).table(EXPRESSIONS)
    assert found.equals(whole.filter(whole["kept"]).select(["text", "image_id"]))
    assert 0 < found.num_rows < whole.num_rows
    assert read_selected(location, EXPRESSIONS, name, SCHEMAS[EXPRESSIONS].names).equals(whole)


def test_a_missing_part_a_damaged_one_and_an_unknown_column_are_named(part):
    location, name = part
    with pytest.raises(ConfigError, match=r"nowhere.parquet is missing, although a receipt names it"):
        read_selected(location, EXPRESSIONS, "nowhere.parquet", ("text",))
    with pytest.raises(ValueError, match="table expressions has no column 'pixels'"):
        read_selected(location, EXPRESSIONS, name, ("pixels",))
    data = bytearray(location.read_bytes(f"{EXPRESSIONS}/{name}"))
    data[40:400] = bytes(360)
    location.replace(f"{EXPRESSIONS}/{name}", bytes(data))
    with pytest.raises(ConfigError, match=r"cannot be read as Parquet \(.* command of this run again with --repair"):
        read_selected(location, EXPRESSIONS, name, SCHEMAS[EXPRESSIONS].names, KEPT)


# The bytes belong to this version of pyarrow, whose name stands in every footer.
GOLDEN_PYARROW = "26.0.1"
GOLDEN_SHA256 = "41a2e01a19457f0acf78e7c89f49c2f552d2030d6fb3591c9edaca4eb9731bcf"

TABLE = pa.Table.from_pylist(
    [
        {"id": "a", "score": 0.5, "box": [1, 2]},
        {"id": "b", "score": None, "box": []},
        {"id": "b", "score": -1.0, "box": [3]},
    ],
    schema=pa.schema(
        [
            pa.field("id", pa.string(), nullable=False, metadata={"doc": "An id."}),
            pa.field("score", pa.float64()),
            pa.field("box", pa.list_(pa.field("element", pa.int32()))),
        ],
        metadata={"pseudoris.version": "1"},
    ),
)


@pytest.mark.skipif(pa.__version__ != GOLDEN_PYARROW, reason=f"the golden bytes are those of pyarrow {GOLDEN_PYARROW}")
def test_a_fixed_table_has_the_bytes_it_always_had():
    assert sha256_hex(parquet_bytes([TABLE], TABLE.schema)) == GOLDEN_SHA256
