"""Decoding the next image while a GPU computes; the device is only named here, so that any machine can test it."""

import threading

import numpy as np
import pytest
import torch

from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import ShardImage
from pseudoris.workers.crops import crops as prefetch
from pseudoris.workers.crops.crops import prefetched_pixels
from tests.builders.images import encode

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def images(count):
    pixels = [np.full((4, 5, 3), 40 * number, dtype=np.uint8) for number in range(count)]
    listed = [encode(one, "PNG") for one in pixels]
    return [
        ShardImage(position=number, image_id=image_id(f"{number}.png"), key=f"{number}.png", data=data)
        for number, data in enumerate(listed)
    ]


@pytest.fixture
def decoded(monkeypatch):
    """What was decoded, and by which thread."""
    calls = []

    def decode(data):
        calls.append((data, threading.current_thread()))
        return decode_proven(data)

    monkeypatch.setattr(prefetch, "decode_proven", decode)
    return calls


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_each_image_gets_its_own_pixels_and_is_decoded_once(decoded, device):
    shard = images(4)
    with prefetched_pixels(shard, device) as decode:
        found = [decode(image) for image in shard]
    for image, pixels in zip(shard, found, strict=True):
        np.testing.assert_array_equal(pixels, decode_proven(image.data))
    assert [data for data, _ in decoded] == [image.data for image in shard]


def test_on_a_gpu_all_but_the_first_are_decoded_beside_the_work(decoded):
    shard = images(3)
    with prefetched_pixels(shard, CUDA) as decode:
        for image in shard:
            decode(image)
    main = threading.main_thread()
    assert [thread is main for _, thread in decoded] == [True, False, False]


def test_on_a_cpu_nothing_is_decoded_before_it_is_asked_for(decoded):
    shard = images(3)
    with prefetched_pixels(shard, CPU) as decode:
        decode(shard[0])
    assert len(decoded) == 1


def test_an_image_that_fails_raises_where_it_is_asked_for_and_again_when_asked_again(decoded):
    good, last = images(2)
    broken = ShardImage(position=5, image_id=image_id("b.png"), key="b.png", data=b"no image")
    shard = [good, broken, last]
    with prefetched_pixels(shard, CUDA) as decode:
        decode(good)
        for _ in range(2):
            with pytest.raises(ImageError, match="no decoder recognises the bytes"):
                decode(broken)
        assert decode(last).shape == (4, 5, 3)
