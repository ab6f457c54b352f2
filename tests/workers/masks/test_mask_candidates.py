"""What is measured on candidate masks, held to segment_anything's own functions."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from segment_anything.utils import amg

from pseudoris.workers.masks import generator

_unpack_bits = generator.unpack_bits


@st.composite
def stacks(draw):
    size = draw(npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=20))
    return torch.from_numpy(draw(npst.arrays(np.bool_, (draw(st.integers(0, 4)), *size))))


@given(stacks())
def test_unpacking_undoes_packing(masks):
    bits = generator.pack_bits(masks)
    assert bits.shape == (len(masks), -(-masks.shape[1] * masks.shape[2] // 8))
    assert torch.equal(generator.unpack_bits(bits, tuple(masks.shape[1:])), masks)


@given(stacks())
def test_boxes_are_sams_inclusive_ones(masks):
    expected = amg.batched_mask_to_box(masks).long()
    assert torch.equal(generator.inclusive_boxes(masks), expected)


@pytest.mark.slow
@given(npst.arrays(np.float32, (3, 5, 6), elements=st.floats(-3, 3, width=16)), st.sampled_from([0.0, 0.5, 1.0]))
def test_stability_is_sams(logits, offset):
    ours = generator.stability_scores(torch.from_numpy(logits), offset)
    theirs = amg.calculate_stability_score(torch.from_numpy(logits), 0.0, offset)
    assert torch.equal(ours, theirs) or torch.equal(ours.isnan(), theirs.isnan())
    assert torch.equal(ours.nan_to_num(2), theirs.nan_to_num(2))


def found(*masks, iou=0.5):
    logits = torch.stack([torch.from_numpy(np.where(mask, 4.0, -4.0)).float() for mask in masks])
    return generator.measure(logits, torch.full((len(masks),), iou), stability_offset=1.0)


def square(size, y, x, side):
    mask = np.zeros(size, dtype=bool)
    mask[y : y + side, x : x + side] = True
    return mask


def test_a_crops_mask_is_placed_in_its_image_with_its_box():
    placed = found(square((6, 5), 1, 2, 3)).placed((10, 20, 15, 26), (40, 30))
    np.testing.assert_array_equal(placed.masks()[0].numpy(), square((40, 30), 21, 12, 3))
    assert placed.boxes_px.tolist() == [[12, 21, 14, 23]]


def test_masks_are_placed_few_at_a_time_and_all_the_same(monkeypatch):
    crop, size = (10, 20, 15, 26), (40, 30)
    seven = found(*(square((6, 5), at % 5, at % 4, 2) for at in range(7)))
    whole = seven.placed(crop, size)
    unpacked = []
    monkeypatch.setattr(generator, "_CHUNK_PIXELS", 2 * 40 * 30)
    monkeypatch.setattr(
        generator, "unpack_bits", lambda bits, size: unpacked.append(len(bits)) or _unpack_bits(bits, size)
    )
    in_chunks = seven.placed(crop, size)
    assert unpacked == [2, 2, 2, 1]
    assert torch.equal(in_chunks.bits, whole.bits)
    assert torch.equal(in_chunks.boxes_px, whole.boxes_px)
    assert len(seven.take(torch.arange(0)).placed(crop, size)) == 0


def test_candidates_are_taken_in_the_order_asked_for():
    three = found(*(square((9, 9), at, at, 2) for at in range(3)))
    assert three.take(torch.tensor([2, 0])).boxes_px.tolist() == [[2, 2, 3, 3], [0, 0, 1, 1]]
    assert len(three.take(three.boxes_px[:, 0] > 0)) == 2


def test_new_masks_bring_new_boxes_and_keep_the_scores():
    one = found(square((9, 9), 0, 0, 2), iou=0.75)
    other = one.with_masks(torch.from_numpy(square((9, 9), 4, 5, 3))[None])
    assert other.boxes_px.tolist() == [[5, 4, 7, 6]]
    assert other.predicted_iou.tolist() == [0.75]
    assert torch.equal(other.stability, one.stability)


def test_parts_are_concatenated_in_order():
    both = generator.concatenate([found(square((4, 4), 0, 0, 1)), found(square((4, 4), 2, 2, 1), iou=0.9)])
    assert both.boxes_px.tolist() == [[0, 0, 0, 0], [2, 2, 2, 2]]
    assert both.predicted_iou.tolist() == [0.5, np.float32(0.9)]
