import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis.extra import numpy as hnp
from PIL import Image, ImageDraw

from pseudoris.images.mask_rings import mask_rings
from pseudoris.viewer.outlines import FRAME, outline_of
from tests.viewer.builders import encode


def fill(loops, shape):
    """Fill loops of pixel corners by the rule `evenodd`: a pixel is in where a ray to the left crosses odd borders."""
    crossings = np.zeros((shape[0], shape[1] + 1), dtype=int)
    for loop in loops:
        for (x0, y0), (x1, y1) in zip(loop, np.roll(loop, -1, axis=0), strict=True):
            if x0 == x1:
                crossings[int(min(y0, y1)) : int(max(y0, y1)), int(x0)] += 1
    return np.cumsum(crossings, axis=1)[:, :-1] % 2 == 1


def loops_of(path):
    return [
        np.array([[float(v) for v in point.split()] for point in loop.split("L")])
        for loop in re.findall(r"M([^Z]+)Z", path)
    ]


@given(hnp.arrays(bool, hnp.array_shapes(min_dims=2, max_dims=2, max_side=9)))
def test_a_masks_rings_fill_exactly_its_pixels(mask):
    np.testing.assert_array_equal(fill(mask_rings(mask), mask.shape), mask)


def test_an_outline_stays_within_a_pixel_of_the_mask():
    image = Image.new("1", (300, 200))
    ImageDraw.Draw(image).ellipse((40, 30, 250, 170), fill=1)
    mask = np.asarray(image)
    scale = FRAME / 300
    drawn = Image.new("1", (300, 200))
    (loop,) = loops_of(outline_of(encode(mask), mask.shape).path)
    ImageDraw.Draw(drawn).polygon([(x / scale, y / scale) for x, y in loop.tolist()], fill=1)
    overlap = (np.asarray(drawn) & mask).sum() / (np.asarray(drawn) | mask).sum()

    assert overlap > 0.97


@pytest.mark.parametrize("counts", ["", "zzzz", "52", "Ω"])
def test_a_damaged_encoding_is_refused(counts):
    with pytest.raises(ValueError, match="run"):
        outline_of(counts, (60, 90))


@pytest.mark.parametrize("size", [(2**20, 2**20), (0, 5), (5, 0), (-3, -5)])
def test_a_mask_of_an_absurd_size_is_refused_before_memory_is_taken(size, monkeypatch):
    monkeypatch.setattr("pseudoris.viewer.outlines.decode_mask", lambda *args: pytest.fail("it was decoded"))
    with pytest.raises(ValueError, match="1 to 1,073,741,824 are allowed"):
        outline_of("0", size)
