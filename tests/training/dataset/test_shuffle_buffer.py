"""The buffer: every mask once, few images at a time, each decoded once, well mixed."""

from __future__ import annotations

from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from pseudoris.training.dataset.stream_order import Buffer, in_order, interleaved


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
    entered: list[Image] = []
    left: set[int] = set()
    drawn = []
    for each in interleaved((entered.append(image) or image for image in images), Buffer(num_images, size_bytes), key):
        drawn.append(each)
        # The newest may be one that is looked at ahead, to see whether it fits.
        held = [image for image in entered if image.number not in left]
        assert len(held) <= num_images + 1
        assert len(held) <= 2 or sum(image.size_bytes for image in held[:-1]) <= size_bytes
        if each.is_last:
            left.add(each.item.number)
    assert sorted(pairs(drawn)) == [(image.number, mask) for image in images for mask in range(image.num_masks)]
    assert pairs(interleaved(images, Buffer(num_images, size_bytes), key)) == pairs(drawn)


@given(IMAGES)
def test_without_a_buffer_masks_keep_their_order(images):
    found = list(in_order(images))
    assert pairs(found) == [(image.number, mask) for image in images for mask in range(image.num_masks)]
    assert [each.is_last for each in found] == [mask + 1 == i.num_masks for i in images for mask in range(i.num_masks)]


def test_masks_of_one_image_are_spread_over_the_buffer():
    images = [Image(number, 20) for number in range(400)]
    order = [each.item.number for each in interleaved(images, Buffer(64, 10**9), 3)]
    middle = order[2_000:6_000]
    batches = [middle[at : at + 32] for at in range(0, 4_000 - 31, 32)]
    repeats = [32 - len(set(batch)) for batch in batches]
    # 32 draws from 64 images repeat 6.8 of them on average, had every image as many masks left.
    assert 5 < sum(repeats) / len(repeats) < 12
