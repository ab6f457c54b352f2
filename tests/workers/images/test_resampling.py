"""The resizing that never makes the square, against the plain one that does."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from tests.builders.crops import padded_square
from tests.builders.images import random_pixels
from workers.images import resampling
from workers.images.resampling import resize_padded

FILL = (123, 117, 104)


def plain(region, size, *, mask=None, fill=FILL):
    """The definition: fill, pad, convert, resize as torchvision does."""
    tensor = torch.from_numpy(padded_square(region, fill=fill, mask=mask)).permute(2, 0, 1)
    return v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Resize((size, size), antialias=True)])(tensor)


@pytest.mark.parametrize("size", [1, 16, 224])
@pytest.mark.parametrize(
    "shape",
    [(1, 1), (37, 37), (16, 16), (1, 5), (5, 1), (7, 12), (64, 63), (300, 1), (1, 3000), (2000, 3), (500, 700)],
)
def test_it_equals_torchvisions_resize_of_the_padded_square(shape, size):
    region = random_pixels(*shape)
    torch.testing.assert_close(resize_padded(region, size, fill_rgb=FILL), plain(region, size), rtol=0, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(height=st.integers(1, 90), width=st.integers(1, 90), size=st.integers(1, 40), seed=st.integers(0, 9))
def test_any_region_mask_and_size_give_what_the_plain_definition_gives(height, width, size, seed):
    region = random_pixels(height, width, seed=seed)
    mask = np.random.default_rng(seed).random((height, width)) < 0.6
    found = resize_padded(region, size, fill_rgb=FILL, mask=mask)
    torch.testing.assert_close(found, plain(region, size, mask=mask), rtol=0, atol=1e-5)


@pytest.mark.parametrize(("fill", "shape"), [((0, 0, 0), (9, 4)), ((255, 0, 255), (4, 9))])
def test_hard_edges_to_the_padding_are_those_of_the_plain_definition(fill, shape):
    region = np.full((*shape, 3), 255, dtype=np.uint8)
    found = resize_padded(region, 6, fill_rgb=fill)
    torch.testing.assert_close(found, plain(region, 6, fill=fill), rtol=0, atol=1e-5)


def test_bands_decide_no_bit_of_the_result(monkeypatch):
    region, mask = random_pixels(50, 70), np.random.default_rng(0).random((50, 70)) < 0.5
    whole = [resize_padded(turned, 32, fill_rgb=FILL, mask=kept) for turned, kept in _both_ways(region, mask)]
    monkeypatch.setattr(resampling, "_BAND_PIXELS", 3 * 70)
    in_bands = [resize_padded(turned, 32, fill_rgb=FILL, mask=kept) for turned, kept in _both_ways(region, mask)]
    assert all(torch.equal(*pair) for pair in zip(whole, in_bands, strict=True))


def _both_ways(region, mask):
    return (region, mask), (region.transpose(1, 0, 2), mask.T)


def test_a_turned_region_gives_the_turned_result():
    region = random_pixels(20, 31)
    upright = resize_padded(region, 16, fill_rgb=FILL)
    turned = resize_padded(region.transpose(1, 0, 2), 16, fill_rgb=FILL)
    assert torch.equal(upright, turned.transpose(1, 2))


def test_memory_follows_the_region_and_not_its_square():
    # The squares would take up to 48 TB. A process of its own: its high-water mark starts low.
    code = """
import resource, numpy as np, torch
from workers.images.resampling import resize_padded
torch.set_num_threads(1)
peaks = []
for shape in (9, 9), (1, 60_000), (60_000, 1), (3, 2_000_000), (4000, 6000):
    resize_padded(np.full((*shape, 3), 200, np.uint8), 224, fill_rgb=(0, 0, 0))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(peaks[-1] - peaks[0])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert int(done.stdout) * 1024 < 256 * 2**20
