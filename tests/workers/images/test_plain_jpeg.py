"""The trainers' decoder gives the pixels of annotation, or leaves an image to its decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from schemas.config import ImagesConfig
from tests.builders import images as build
from workers.images.decoding import decode_upright
from workers.images.plain_jpeg import decode_plain_jpeg

LIMITS = ImagesConfig()
PHOTOS = Path(__file__).parents[4] / "shared" / "assets" / "photos"


def upright(data: bytes) -> torch.Tensor:
    return torch.from_numpy(decode_upright(data, LIMITS).transpose(2, 0, 1).copy())


@given(
    height=st.integers(1, 70),
    width=st.integers(1, 70),
    seed=st.integers(0, 9),
    quality=st.sampled_from([10, 75, 90, 100]),
    subsampling=st.sampled_from(["4:4:4", "4:2:2", "4:2:0"]),
    options=st.sampled_from([{}, {"progressive": True}, {"restart_marker_blocks": 2}, {"optimize": True}]),
    is_grey=st.booleans(),
)
def test_pixels_equal_those_of_annotation(height, width, seed, quality, subsampling, options, is_grey):
    image = Image.fromarray(build.random_pixels(height, width, seed=seed)).convert("L" if is_grey else "RGB")
    chroma = {} if is_grey else {"subsampling": subsampling}
    data = build.encode(image, "JPEG", quality=quality, **chroma, **options)
    pixels = decode_plain_jpeg(data, LIMITS)
    assert pixels is not None
    assert pixels.is_contiguous()
    assert torch.equal(pixels, upright(data))


@pytest.mark.parametrize("name", ["jpeg", "jpeg large"])
def test_smooth_pixels_too(name):
    data = build.jpeg(481, 641) if name == "jpeg large" else build.jpeg()
    assert torch.equal(decode_plain_jpeg(data, LIMITS), upright(data))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(build.png(), id="png"),
        pytest.param(build.oriented(build.smooth_pixels(), 6, "JPEG"), id="turned"),
        pytest.param(build.encode(Image.new("CMYK", (9, 7), (1, 2, 3, 4)), "JPEG"), id="cmyk"),
        pytest.param(build.jpeg()[:20], id="cut in its header"),
        pytest.param(b"", id="empty"),
        pytest.param(b"no image", id="no image"),
    ],
)
def test_anything_else_is_left_to_the_other_decoder(data):
    assert decode_plain_jpeg(data, LIMITS) is None


def test_a_cut_image_is_never_half_an_image():
    data = build.encode(build.random_pixels(64, 64), "JPEG", quality=95)
    assert decode_plain_jpeg(data[: len(data) // 2], LIMITS) is None


def test_limits_hold():
    data = build.jpeg(30, 40)
    assert decode_plain_jpeg(data, ImagesConfig(max_pixels=30 * 40 - 1)) is None
    assert decode_plain_jpeg(data, ImagesConfig(max_bytes=len(data) - 1)) is None
    assert decode_plain_jpeg(data, ImagesConfig(max_pixels=30 * 40, max_bytes=len(data))) is not None


@pytest.mark.skipif(not PHOTOS.is_dir(), reason="the test photographs are absent: shared/assets beside the clone")
def test_photographs():
    paths = sorted(PHOTOS.glob("*.jpg"))
    assert paths
    for path in paths:
        data = path.read_bytes()
        pixels = decode_plain_jpeg(data, LIMITS)
        assert pixels is not None, path.name
        assert np.array_equal(pixels, upright(data)), path.name
