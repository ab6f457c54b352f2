"""What is an image's fault becomes a row; everything else passes through."""

import dataclasses

import numpy as np
import pytest
import torch

from pseudoris.schemas.errors import ImageError, TransientError
from pseudoris.schemas.shard import Failure, Shard, ShardImage
from pseudoris.workers.faults.quarantine import apply_to_groups, apply_to_images


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


def test_an_image_on_which_a_stage_raises_is_quarantined_without_the_foreign_text():
    done = apply_to_images(shard_of("bad"), "caption", raising(ValueError("at 0x7f00deadbeef")))
    failure = done.images[0].failure
    assert failure.reason == "stage_error"
    assert failure.message == "the caption stage raised ValueError; the log holds the traceback"


def test_an_image_has_one_try_in_the_stage():
    calls = []

    def work(image):
        calls.append(image)
        raise ValueError("once")

    assert apply_to_images(shard_of("a"), "filter", work).images[0].failure.reason == "stage_error"
    assert len(calls) == 1


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


def at_most(count):
    return lambda images: len(images) <= count


def remembering(seen, *, bad=None, error=None):
    def work(images):
        seen.append([image.image_id for image in images])
        if error is not None and any(image.image_id == bad for image in images):
            raise error
        return [dataclasses.replace(image, height=7) for image in images]

    return work


def test_successive_images_come_together_while_they_fit_and_quarantined_ones_stay_out():
    shard, seen = shard_of("a", "b", "c", "d", "e"), []
    lost = shard.images[1].quarantined(Failure("read", "missing", "gone"))
    shard = shard.with_images((shard.images[0], lost, *shard.images[2:]))
    done = apply_to_groups(shard, "caption", remembering(seen), fits=at_most(3))
    assert seen == [["a", "c", "d"], ["e"]]
    assert [image.image_id for image in done.images] == ["a", "b", "c", "d", "e"]
    assert [image.height for image in done.images] == [7, None, 7, 7, 7]
    assert set(done.seconds) == {"caption"}


def test_an_image_that_never_fits_goes_alone():
    seen = []
    apply_to_groups(shard_of("a", "b"), "caption", remembering(seen), fits=lambda images: False)
    assert seen == [["a"], ["b"]]


@pytest.mark.parametrize("error", [ValueError("odd"), ImageError("corrupt", "torn")])
def test_of_a_group_only_the_image_at_fault_is_quarantined(error):
    seen = []
    done = apply_to_groups(
        shard_of("a", "bad", "c"), "caption", remembering(seen, bad="bad", error=error), fits=at_most(3)
    )
    assert seen[0] == ["a", "bad", "c"]
    assert [image.failure is None for image in done.images] == [True, False, True]


@pytest.mark.parametrize("error", [MemoryError("host"), TransientError("bucket"), RuntimeError("CUDA error")])
def test_what_is_never_an_images_fault_passes_through_a_group(error):
    with pytest.raises(type(error)):
        apply_to_groups(shard_of("a", "bad"), "caption", remembering([], bad="bad", error=error), fits=at_most(2))
