"""What is an image's fault becomes a row; everything else passes through."""

import dataclasses
import re
import subprocess
import sys

import numpy as np
import pytest
import torch

from pseudoris.schemas.errors import ConfigError, ImageError, TransientError
from pseudoris.schemas.shard import Failure
from pseudoris.workers.faults.quarantine import apply_to_groups, apply_to_images, is_broken_device, is_out_of_memory
from tests.workers.faults.builders import shard_of

MEMORY = (
    MemoryError("host"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
)
DEVICE = (torch.AcceleratorError("illegal access"), RuntimeError("CUDA error: misaligned address"))


def raising(error, on="bad"):
    def work(image):
        if image.image_id == on:
            raise error
        return image

    return work


def test_an_image_on_which_a_stage_raises_is_quarantined_without_the_foreign_text():
    done = apply_to_images(shard_of("bad"), "caption", raising(ValueError("at 0x7f00deadbeef")))
    failure = done.images[0].failure
    assert failure.reason == "stage_error"
    assert failure.message == "the caption stage raised ValueError; the log holds the traceback"


COMPILER = type("InductorError", (RuntimeError,), {"__module__": "torch._inductor.exc"})("no gcc")
ELSEWHERE = (OSError("disk"), TransientError("bucket"), ConfigError("setting"), COMPILER)


@pytest.mark.parametrize("error", [*MEMORY, *DEVICE, *ELSEWHERE], ids=repr)
def test_memory_storage_and_accelerator_errors_are_never_an_images_fault(error):
    assert (is_out_of_memory(error), is_broken_device(error)) == (error in MEMORY, error in DEVICE)
    with pytest.raises(type(error), match=re.escape(str(error))):
        apply_to_images(shard_of("bad"), "propose", raising(error))
    with pytest.raises(type(error), match=re.escape(str(error))):
        apply_to_groups(shard_of("a", "bad"), "caption", remembering([], bad="bad", error=error), fits=at_most(2))


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
    assert [image.height for image in done.images] == [7, 9, 7, 7, 7]
    assert set(done.seconds) == {"caption"}


def test_an_image_that_never_fits_goes_alone():
    seen = []
    apply_to_groups(shard_of("a", "b"), "caption", remembering(seen), fits=lambda images: False)
    assert seen == [["a"], ["b"]]


@pytest.mark.parametrize(
    "error", [ValueError("odd"), RuntimeError("shapes differ"), ZeroDivisionError("no"), ImageError("corrupt", "torn")]
)
def test_of_a_group_only_the_image_at_fault_is_quarantined(error):
    seen = []
    done = apply_to_groups(
        shard_of("a", "bad", "c"), "caption", remembering(seen, bad="bad", error=error), fits=at_most(3)
    )
    assert seen[0] == ["a", "bad", "c"]
    assert [image.failure is None for image in done.images] == [True, False, True]


@pytest.mark.parametrize("allocate", [torch.empty, np.empty])
def test_memory_that_torch_or_numpy_cannot_get_is_known_as_such_and_never_an_images_fault(allocate):
    with pytest.raises((RuntimeError, MemoryError), match=r"(?i)allocate") as raised:
        apply_to_images(shard_of("a"), "propose", lambda image: allocate(10**15) is None)
    assert is_out_of_memory(raised.value)


def test_errors_are_told_apart_where_torch_is_not_loaded():
    code = (
        "import sys; from pseudoris.workers.faults.quarantine import is_broken_device, is_out_of_memory\n"
        "print(is_out_of_memory(MemoryError()), is_broken_device(ValueError('x')), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "False", "False"]
