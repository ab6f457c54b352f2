"""A shard survives its journey as an Arrow block."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, Failure, MaskRecord, Shard, ShardImage
from pseudoris.schemas.shard_blocks import block_to_shard, from_array, shard_to_block, to_array

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


@given(st.lists(IMAGES, max_size=2).map(tuple), st.booleans())
def test_a_block_is_one_row_and_gives_the_same_shard_back(images, is_committed):
    shard = Shard(7, 1, images, {"read": 0.5}, ("node",), is_committed=is_committed, planned_ids=("a", "b"))
    block = shard_to_block(shard)
    assert block.num_rows == 1
    assert block_to_shard(block) == shard


def test_a_block_that_was_merged_or_lost_its_row_is_refused():
    blocks = [shard_to_block(Shard(number, 0, (ShardImage(0, "a", "k"),))) for number in (1, 2)]
    for block, num_rows in ((pa.concat_tables(blocks), 2), (blocks[0].slice(1), 0)):
        with pytest.raises(ValueError, match=f"a block must hold one shard, which is one row, got {num_rows} rows"):
            block_to_shard(block)


@dataclass(frozen=True)
class Leaf:
    name: str
    sizes: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    leaves: tuple[Leaf, ...]
    height: float | None = None


# Other orders than those of the dataclasses.
LEAF = pa.struct([("sizes", pa.list_(pa.int32())), ("name", pa.string())])
TREE = pa.struct([("height", pa.float64()), ("leaves", pa.large_list(LEAF))])
CLASSES = {"tree": Tree, "leaves": Leaf}
TREES = [Tree((Leaf("a", (1, 2)), Leaf("b"))), None, Tree((), 2.5), Tree((Leaf("c", (3,)),))]


@pytest.mark.parametrize("start", [0, 2])
def test_records_come_back_from_a_slice_whatever_the_order_of_the_struct_s_fields(start):
    assert from_array(to_array(TREES, TREE)[start:], "tree", CLASSES) == TREES[start:]


def test_an_array_of_records_equals_that_of_their_dictionaries():
    rows = [
        {"height": None, "leaves": [{"name": "a", "sizes": [1, 2]}, {"name": "b", "sizes": []}]},
        None,
        {"height": 2.5, "leaves": []},
        {"height": None, "leaves": [{"name": "c", "sizes": [3]}]},
    ]
    assert to_array(TREES, TREE).equals(pa.array(rows, TREE))
