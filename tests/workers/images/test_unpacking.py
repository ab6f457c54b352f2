"""Run lengths to pixels, against the masks that they were taken from."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.builders.crops import runs_of
from workers.images.unpacking import unpack_columns


@given(
    size=st.tuples(st.integers(1, 12), st.integers(1, 12)),
    shares=st.lists(st.sampled_from([0.0, 0.3, 0.7, 1.0]), max_size=5),
    seed=st.integers(0, 99),
)
def test_columns_are_those_of_the_masks_and_background_beyond_them(size, shares, seed):
    height, width = size
    generator = np.random.default_rng(seed)
    masks = [generator.random(size) < share for share in shares]
    columns = np.sort(generator.integers(0, width + 4, (len(masks), 2)), axis=1)
    got = unpack_columns([runs_of(mask) for mask in masks], columns, height=height, device=torch.device("cpu"))
    wider = [np.pad(mask, ((0, 0), (0, 4))) for mask in masks]
    parts = [mask[:, first:end] for mask, (first, end) in zip(wider, columns, strict=True)]
    assert got.dtype == torch.uint8
    assert got.is_contiguous()
    np.testing.assert_array_equal(got.numpy(), np.concatenate([np.zeros((height, 0)), *parts], axis=1))


def test_a_mask_of_more_runs_than_a_byte_counts_keeps_its_parity():
    mask = np.arange(1200).reshape(4, 300) % 2 == 0
    got = unpack_columns([runs_of(mask)] * 2, np.array([[0, 300], [7, 9]]), height=4, device=torch.device("cpu"))
    np.testing.assert_array_equal(got.numpy(), np.concatenate([mask, mask[:, 7:9]], axis=1))
