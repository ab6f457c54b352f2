"""The order of a stream: equal or whole shares of ranks and workers, and a buffer that mixes images."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.interchange.dataset.stream_order import (
    Stream,
    StreamOrder,
    equal_slices,
    interleaved,
    samples_per_rank,
    whole_shards,
)
from pseudoris.primitives.counter_rng import permutation

SIZES = st.tuples(st.integers(1, 5), st.integers(1, 4))
COUNTS = st.lists(st.integers(0, 9), max_size=12)


def streams(world_size, num_workers):
    return [
        [Stream(rank, world_size, worker, num_workers) for worker in range(num_workers)] for rank in range(world_size)
    ]


@given(SIZES, st.integers(0, 40), st.integers(0, 2**32))
def test_whole_shards_are_read_once_each_in_numbers_that_differ_by_one_a_rank(sizes, num_shards, key):
    order = permutation(key, num_shards)
    ranks = [[part.row for stream in of_rank for part in whole_shards(order, stream)] for of_rank in streams(*sizes)]
    assert sorted(row for rows in ranks for row in rows) == list(range(num_shards))
    assert max(map(len, ranks)) - min(map(len, ranks)) <= 1


def taken(order, counts, stream, uneven):
    """The samples of a stream, (row, place) each."""
    slices = equal_slices(order, counts, stream, uneven)
    assert all(0 <= part.start < part.stop <= counts[part.row] for part in slices)
    return [(part.row, at) for part in slices for at in range(part.start, part.stop)]


@pytest.mark.parametrize("uneven", ["pad", "drop"])
@given(sizes=SIZES, counts=COUNTS, key=st.integers(0, 2**32))
def test_even_ranks_have_as_many_and_repeat_or_drop_fewer_than_there_are_ranks(uneven, sizes, counts, key):
    order, counts = permutation(key, len(counts)), np.array(counts, np.int64)
    ranks = [[taken(order, counts, stream, uneven) for stream in of_rank] for of_rank in streams(*sizes)]
    found = Counter(sample for of_rank in ranks for stream in of_rank for sample in stream)
    due = Counter((row, at) for row, count in enumerate(counts) for at in range(count))
    repeated, dropped = found - due, due - found
    assert not (dropped if uneven == "pad" else repeated)
    assert repeated.total() + dropped.total() < max(sizes[0], 1)
    assert {sum(map(len, of_rank)) for of_rank in ranks} == {samples_per_rank(due.total(), sizes[0], uneven)}
    # Batches too: worker w of every rank has as many.
    assert all(len({len(of_rank[worker]) for of_rank in ranks}) == 1 for worker in range(sizes[1]))


@dataclass(frozen=True)
class Image:
    number: int
    num_masks: int
    size_bytes: int = 1


IMAGES = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 8)), max_size=30).map(
    lambda sizes: [Image(number, *size) for number, size in enumerate(sizes)]
)


def pairs(drawn):
    return [(each.item.number, each.mask) for each in drawn]


@given(IMAGES, st.integers(1, 6), st.integers(1, 20), st.integers(0, 2**32))
def test_every_mask_comes_once_from_no_more_images_than_the_buffer_holds(images, num_images, size_bytes, key):
    order = StreamOrder(buffer_images=num_images, buffer_bytes=size_bytes)
    entered: list[Image] = []
    left: set[int] = set()
    drawn = []
    for each in interleaved((entered.append(image) or image for image in images), order, key):
        drawn.append(each)
        # The newest may be one that is looked at ahead, to see whether it fits.
        held = [image for image in entered if image.number not in left]
        assert len(held) <= num_images + 1
        assert len(held) <= 2 or sum(image.size_bytes for image in held[:-1]) <= size_bytes
        if each.is_last:
            left.add(each.item.number)
    assert sorted(pairs(drawn)) == [(image.number, mask) for image in images for mask in range(image.num_masks)]
    assert pairs(interleaved(images, order, key)) == pairs(drawn)


def test_images_that_left_give_their_bytes_back():
    # Two fit at a time. Were no byte given back, each image after these would wait until the buffer is empty.
    images = [Image(number, num_masks=1) for number in range(50)]
    order = StreamOrder(buffer_images=50, buffer_bytes=2)
    drawn = [each.item.number for each in interleaved(images, order, 5)]
    assert sum(earlier > later for earlier, later in pairwise(drawn[4:])) > 10


def test_masks_of_one_image_are_spread_over_the_buffer():
    images = [Image(number, 20) for number in range(400)]
    order = [each.item.number for each in interleaved(images, StreamOrder(buffer_images=64, buffer_bytes=10**9), 3)]
    middle = order[2_000:6_000]
    batches = [middle[at : at + 32] for at in range(0, 4_000 - 31, 32)]
    repeats = [32 - len(set(batch)) for batch in batches]
    # 32 draws from 64 images repeat 6.8 of them on average, had every image as many masks left.
    assert 5 < sum(repeats) / len(repeats) < 12
