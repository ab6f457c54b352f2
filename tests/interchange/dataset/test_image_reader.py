"""Encoded images of a shard are read by two threads, and decoded to the pixels of annotation."""

from __future__ import annotations

import sys
import time
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pseudoris.images.pixels import decode_upright
from pseudoris.interchange.dataset.image_reader import decode_plain_jpeg
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.store.sources import planned_images
from tests.builders import images as build
from tests.interchange.dataset.builders import build_run

LIMITS = ImagesConfig()


def give_way(frame, event, argument):
    """Let other threads come before every line of the reader: the interpreter promises none that they may not."""
    if frame.f_code.co_filename != planned_images.__file__:
        return None
    time.sleep(1e-4)
    return give_way


@pytest.mark.parametrize("is_random_access", [False, True])
def test_two_threads_that_read_two_shards_do_not_take_each_others_plans(tmp_path, monkeypatch, is_random_access):
    run, both = build_run(tmp_path, is_committed=False), Barrier(2)

    def plan(location, header, shard):
        both.wait(10)
        return [PlanEntry(shard, 0, "0" * 16, f"{shard}.png", 1, None, None)]

    monkeypatch.setattr(planned_images, "read_shard_plan", plan)
    encoded = planned_images.PlannedImages(run.location, run.header, is_random_access=is_random_access)

    def look(shards):
        sys.settrace(give_way)
        try:
            return [[key for key, _ in encoded.read(shard, [f"{shard}.png"])] for shard in shards]
        finally:
            sys.settrace(None)

    shards = range(0, 80, 2), range(1, 80, 2)
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(look, shards)) == [[[f"{shard}.png"] for shard in each] for each in shards]


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


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(build.png(), id="png"),
        pytest.param(build.oriented(build.smooth_pixels(), 6, "JPEG"), id="turned"),
        pytest.param(build.encode(Image.new("CMYK", (9, 7), (1, 2, 3, 4)), "JPEG"), id="cmyk"),
        pytest.param(build.jpeg()[:20], id="cut in its header"),
        # Half an image is none.
        pytest.param(build.jpeg(64, 64)[: len(build.jpeg(64, 64)) // 2], id="cut in its middle"),
        pytest.param(b"", id="empty"),
        pytest.param(b"no image", id="no image"),
    ],
)
def test_anything_else_is_left_to_the_other_decoder(data):
    assert decode_plain_jpeg(data, LIMITS) is None


def test_limits_hold():
    data = build.jpeg(30, 40)
    assert decode_plain_jpeg(data, ImagesConfig(max_pixels=30 * 40 - 1)) is None
    assert decode_plain_jpeg(data, ImagesConfig(max_bytes=len(data) - 1)) is None
    assert decode_plain_jpeg(data, ImagesConfig(max_pixels=30 * 40, max_bytes=len(data))) is not None
