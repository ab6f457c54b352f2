from __future__ import annotations

import io
from itertools import pairwise

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pseudoris.schemas.run_records import ShardCounts
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, MaskRecord, Shard, ShardImage
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.store.tables.shard_tables import shard_tables, table_bytes, table_counts
from tests.store.builders import make_entries, make_shard

# A table is a small part of what an example costs: a few dozen of them cover the shapes there are.
settings.register_profile("tables", max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
some = settings(settings.get_profile("tables"))

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
number = st.floats(allow_nan=False)
whole = st.integers(0, 2**31 - 1)

samples = st.builds(
    CaptionSample, text, text, st.none() | whole, st.none() | number, number, st.sampled_from(["none", "all"]), whole
)
masks = st.builds(
    MaskRecord,
    mask_id=text,
    index=whole,
    rle_size=st.tuples(whole, whole),
    rle_counts=text,
    box_xyxy_px=st.tuples(whole, whole, whole, whole),
    area_px=st.integers(0, 2**40),
    predicted_iou=st.none() | number,
    stability_score=st.none() | number,
    prior=text,
)
expressions = st.builds(
    ExpressionRecord,
    target_mask_ids=st.lists(text, max_size=3).map(tuple),
    text=text,
    samples=st.lists(samples, min_size=1, max_size=3).map(tuple),
    head_noun=st.none() | text,
    uniqueness=st.none() | number,
    rival_mask_id=st.none() | text,
    kept=st.booleans(),
)
failures = st.builds(Failure, text, st.sampled_from(sorted(FAILURE_REASONS)), text)
sizes = st.none() | whole
good = st.builds(
    ShardImage,
    position=whole,
    image_id=text,
    key=text,
    data=st.binary(max_size=9),
    sha256=st.none() | text,
    height=sizes,
    width=sizes,
    masks=st.lists(masks, max_size=2).map(tuple),
    expressions=st.lists(expressions, max_size=2).map(tuple),
)
bad = st.builds(ShardImage.quarantined, good, failures)
shards = st.builds(Shard, whole, st.just(0), st.lists(good | bad, max_size=4).map(tuple))


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
