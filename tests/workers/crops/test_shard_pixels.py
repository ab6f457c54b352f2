"""Decoding once for all stages, ahead of a GPU; the device is only named here, so that any machine can test it."""

import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch

from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.crops import shard_pixels
from pseudoris.workers.crops.shard_pixels import held_pixels, prefetched_pixels
from pseudoris.workers.faults.freed_memory import free_memory
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages
from pseudoris.workers.stages import POOL_STAGES
from recipes.scene_shards import scene_image, scene_shard
from tests.builders.images import encode

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
IMAGE_BYTES = 4 * 5 * 3
BROKEN = ShardImage(position=50, image_id=image_id("b.png"), key="b.png", data=b"no image")


def images(count):
    pixels = [np.full((4, 5, 3), 20 * number, dtype=np.uint8) for number in range(count)]
    listed = [encode(one, "PNG") for one in pixels]
    return [
        ShardImage(number, image_id(f"{number}.png"), f"{number}.png", data, height=4, width=5)
        for number, data in enumerate(listed)
    ]


def use_in_stages(shard, device, *, num_stages=3):
    """What each stage gets of each image."""
    with held_pixels():
        for _ in range(num_stages):
            with prefetched_pixels(shard, device) as decode:
                for image in shard:
                    yield image, decode(image)


class Decoder:
    """What was decoded and by which thread, and the most bytes of pixels that were alive at once."""

    def __init__(self):
        self.calls, self.alive, self.peak, self._lock = [], 0, 0, threading.Lock()

    def __call__(self, data):
        with self._lock:
            self.calls.append((data, threading.current_thread()))
            self.alive += IMAGE_BYTES
            self.peak = max(self.peak, self.alive)
        pixels = decode_proven(data)
        weakref.finalize(pixels, self._freed)
        return pixels

    def _freed(self):
        self.alive -= IMAGE_BYTES

    def counts(self, shard):
        return [sum(data == image.data for data, _ in self.calls) for image in shard]


@pytest.fixture
def decoded(monkeypatch):
    decoder = Decoder()
    monkeypatch.setattr(shard_pixels, "decode_proven", decoder)
    return decoder


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_all_stages_get_an_images_own_pixels_from_one_decode(decoded, device):
    shard = images(9)
    for image, pixels in use_in_stages(shard, device):
        np.testing.assert_array_equal(pixels, decode_proven(image.data))
    assert decoded.counts(shard) == [1] * 9


def test_what_the_bounds_leave_out_is_decoded_again_and_memory_stays_within_them(decoded, monkeypatch):
    monkeypatch.setattr(shard_pixels, "HELD_BYTES", 5 * IMAGE_BYTES)
    monkeypatch.setattr(shard_pixels, "AHEAD_BYTES", 2 * IMAGE_BYTES)
    shard = images(12)
    for image, pixels in use_in_stages(shard, CUDA):
        np.testing.assert_array_equal(pixels, decode_proven(image.data))
    assert decoded.counts(shard) == [1] * 5 + [3] * 7
    # What is held and what is ahead; beside them the image that the caller has, and the one before it.
    assert decoded.peak <= (5 + 2 + 2) * IMAGE_BYTES
    del pixels
    assert decoded.alive == 0


def test_on_a_gpu_all_but_the_first_are_decoded_beside_the_work(decoded):
    shard = images(3)
    with prefetched_pixels(shard, CUDA) as decode:
        for image in shard:
            decode(image)
    main = threading.main_thread()
    assert {data for data, thread in decoded.calls if thread is main} == {shard[0].data}


def test_on_a_cpu_nothing_is_decoded_before_it_is_asked_for(decoded):
    shard = images(3)
    with prefetched_pixels(shard, CPU) as decode:
        decode(shard[0])
    assert len(decoded.calls) == 1


def test_an_image_that_fails_raises_where_it_is_asked_for_and_again_when_asked_again():
    good, last = images(2)
    shard = [good, BROKEN, last]
    with prefetched_pixels(shard, CUDA) as decode:
        decode(good)
        for _ in range(2):
            with pytest.raises(ImageError, match="no decoder recognises the bytes"):
                decode(BROKEN)
        assert decode(last).shape == (4, 5, 3)


def test_where_memory_runs_out_what_is_held_is_freed_and_decoded_again(decoded):
    shard = images(2)
    for at, _ in enumerate(use_in_stages(shard, CPU)):
        if at == 2:
            free_memory()
    assert decoded.counts(shard) == [2, 2]


@pytest.mark.slow
def test_a_process_with_three_stages_decodes_each_image_once_and_one_that_fails_costs_itself_alone(monkeypatch):
    decoder = Decoder()
    config = load_config("tiny", assignments=["captions.max_length=8"])
    scenes = scene_shard([scene_image(make_scene(Split.DEMO, position)) for position in range(2)])
    stages = FaultTolerantStages(POOL_STAGES["fused"], config)
    undisturbed = stages(scenes)
    monkeypatch.setattr(shard_pixels, "decode_proven", decoder)
    first, second = scenes.images
    done = stages(scenes.with_images((first, replace(BROKEN, position=1), replace(second, position=2))))
    assert decoder.counts(scenes.images) == [1, 1]
    assert done.images[1].failure.reason == "not_an_image"
    assert [image.masks for image in done.images[::2]] == [image.masks for image in undisturbed.images]
    assert all(image.expressions for image in done.images[::2])
