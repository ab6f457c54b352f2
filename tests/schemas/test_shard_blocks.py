"""A shard survives its journey as an Arrow block."""

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, MaskRecord, Shard, ShardImage
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block

NUMBERS = st.floats(allow_nan=False)
SAMPLES = st.builds(
    CaptionSample,
    st.text(),
    st.text(),
    st.none() | st.integers(1, 99),
    st.none() | NUMBERS,
    NUMBERS,
    other_masks=st.lists(st.integers(0, 99), max_size=2).map(tuple),
)
MASKS = st.builds(
    MaskRecord, st.text(), st.integers(0, 99), st.just((3, 4)), st.text(), st.just((0, 1, 2, 3)), st.integers(1, 12)
)
EXPRESSIONS = st.builds(
    ExpressionRecord,
    st.lists(st.text(), max_size=2).map(tuple),
    st.text(),
    st.lists(SAMPLES, min_size=1, max_size=2).map(tuple),
    uniqueness=st.none() | NUMBERS,
)
IMAGES = st.builds(
    ShardImage,
    st.just(0),
    st.text(),
    st.text(),
    st.binary(),
    failure=st.none() | st.builds(Failure, st.text(), st.text(), st.text()),
    masks=st.lists(MASKS, max_size=2).map(tuple),
    expressions=st.lists(EXPRESSIONS, max_size=2).map(tuple),
)


@given(IMAGES)
def test_a_block_gives_the_same_shard_back(image):
    shard = Shard(7, 1, (image,), {"read": 0.5}, ("node",))
    assert block_to_shard(shard_to_block(shard)) == shard


def test_images_come_back_in_plan_order_from_a_shuffled_block():
    shard = Shard(0, 0, tuple(ShardImage(position, f"{position}", "k") for position in range(4)))
    shuffled = shard_to_block(shard).take(pa.array([2, 0, 3, 1]))
    assert block_to_shard(shuffled) == shard


def test_a_block_of_two_shards_is_refused():
    blocks = [shard_to_block(Shard(number, 0, (ShardImage(0, "a", "k"),))) for number in (1, 2)]
    with pytest.raises(ValueError, match=r"a block must hold one generation of one shard, got \[\(1, 0\), \(2, 0\)\]"):
        block_to_shard(pa.concat_tables(blocks))


@pytest.mark.parametrize("images", [(), (ShardImage(0, "a", "k"), ShardImage(1, "b", "l"))])
@pytest.mark.parametrize("is_committed", [False, True])
def test_a_block_says_whether_its_shard_is_committed_and_which_images_are_planned(images, is_committed):
    shard = Shard(7, 1, images, is_committed=is_committed, planned_ids=("a", "b", "c"))
    assert block_to_shard(shard_to_block(shard)) == shard


def test_a_committed_shard_is_one_row_without_an_image():
    block = shard_to_block(Shard(7, 0, (), is_committed=True, planned_ids=("a", "b")))
    assert block.num_rows == 1
    assert block["image_id"].to_pylist() == [None]


def test_a_block_that_was_cut_or_merged_with_itself_is_refused():
    block = shard_to_block(Shard(5, 0, (ShardImage(0, "a", "k"), ShardImage(1, "b", "l")), planned_ids=("a", "b")))
    with pytest.raises(ValueError, match=r"block of shard 5 names the planned images 0 times"):
        block_to_shard(block.slice(1))
    with pytest.raises(ValueError, match=r"block of shard 5 names the planned images 2 times"):
        block_to_shard(pa.concat_tables([block, block]))


def test_a_quarantined_image_keeps_its_identity_and_drops_its_content():
    image = ShardImage(
        3, "id", "key", b"bytes", "digest", 4, 5, masks=(MaskRecord("m", 0, (4, 5), "x", (0, 0, 1, 1), 1),)
    )
    left = image.quarantined(Failure("read", "corrupt", "message"))
    assert (left.position, left.image_id, left.key, left.sha256) == (3, "id", "key", "digest")
    assert (left.data, left.masks, left.expressions) == (b"", (), ())


def test_seconds_of_a_stage_add_up():
    shard = Shard(0, 0, ()).with_seconds("read", 1.0).with_seconds("read", 2.0).with_seconds("filter", 0.5)
    assert shard.seconds == {"read": 3.0, "filter": 0.5}
