"""What is an image's fault becomes a row; everything else passes through."""

import numpy as np
import pytest
import torch

from schemas.errors import ImageError, TransientError
from schemas.shard import Failure, Shard, ShardImage
from workers.boundary import apply_to_images


def shard_of(*names):
    return Shard(0, 0, tuple(ShardImage(position, name, name, b"x") for position, name in enumerate(names)))


def raising(error, on="bad"):
    def work(image):
        if image.image_id == on:
            raise error
        return image

    return work


def test_an_image_error_quarantines_that_image_alone():
    done = apply_to_images(shard_of("good", "bad", "good2"), "propose", raising(ImageError("corrupt", "torn")))
    assert [image.failure for image in done.images] == [None, Failure("propose", "corrupt", "torn"), None]


def test_an_image_on_which_a_stage_raises_twice_is_quarantined_without_the_foreign_text():
    done = apply_to_images(shard_of("bad"), "caption", raising(ValueError("at 0x7f00deadbeef")))
    failure = done.images[0].failure
    assert failure.reason == "stage_error"
    assert "ValueError" in failure.message
    assert "0x7f" not in failure.message


def test_an_image_that_passes_at_the_second_try_is_not_quarantined():
    calls = []

    def work(image):
        calls.append(image)
        if len(calls) == 1:
            raise ValueError("once")
        return image

    assert apply_to_images(shard_of("a"), "filter", work).images[0].failure is None
    assert len(calls) == 2


@pytest.mark.parametrize(
    "error", [MemoryError("host"), OSError("disk"), TransientError("bucket"), RuntimeError("CUDA error: misaligned")]
)
def test_memory_storage_and_accelerator_errors_are_never_an_images_fault(error):
    with pytest.raises(type(error), match=str(error)):
        apply_to_images(shard_of("bad"), "propose", raising(error))


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_memory_that_torch_or_numpy_cannot_get_is_never_an_images_fault(allocate):
    with pytest.raises((RuntimeError, MemoryError), match=r"(?i)allocate"):
        apply_to_images(shard_of("a"), "propose", lambda image: allocate(10**15) is None)


def test_quarantined_images_are_not_worked_on_and_seconds_are_recorded():
    shard = shard_of("bad")
    shard = shard.with_images((shard.images[0].quarantined(Failure("read", "corrupt", "m")),))
    done = apply_to_images(shard, "propose", raising(AssertionError("called")))
    assert done.images == shard.images
    assert done.seconds["propose"] >= 0
