"""A mask's tensor is what pycocotools decodes, whatever the runs; runs of another size are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from pycocotools import mask as coco

from pseudoris.interchange.dataset.sample_builder import decode_union

MASKS = npst.arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1))


@given(MASKS)
def test_a_mask_is_what_pycocotools_decodes(pixels):
    height, width = pixels.shape
    counts = coco.encode(np.asfortranarray(pixels))["counts"].decode()
    mask = decode_union([counts], height, width)
    assert mask.is_contiguous()
    np.testing.assert_array_equal(mask.numpy(), pixels.astype(bool))


def test_runs_of_another_size_are_refused():
    counts = coco.encode(np.asfortranarray(np.ones((4, 5), np.uint8)))["counts"].decode()
    with pytest.raises(ValueError, match="the runs cover 20 pixels, the image has 5 x 5"):
        decode_union([counts], 5, 5)
