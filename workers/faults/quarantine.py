"""Turns an exception that a stage raises on one image into a quarantined image.

Stages and plug-in engines pass their work on an image to `apply_to_images`; other modules here ask what is to blame.
Errors of the machine (memory, accelerator, disk, compiler) must never be blamed on an image: they pass through.
"""

from __future__ import annotations

import dis
import logging
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any, Final

from pseudoris.primitives.errors import ImageError, PseudorisError
from pseudoris.schemas.shard import Failure, Shard, ShardImage
from pseudoris.workers.faults.freed_memory import free_memory

logger = logging.getLogger(__name__)

STAGE_ERROR: Final = "stage_error"
BAD_OUTPUT: Final = "bad_output"
# torch raises a plain RuntimeError if memory runs out or a GPU fails. Only these words in its text show which.
_MEMORY_WORDS: Final = ("out of memory", "_ALLOC_FAILED", "allocate memory", "allocate pinned memory", "std::bad_alloc")
_DEVICE_WORDS: Final = ("CUDA", "cuDNN", "CUBLAS", "cublas")
# Exceptions of these modules come from `compute.is_compiled`, if the machine lacks a compiler. No image is to blame.
_COMPILERS: Final = ("torch._dynamo", "torch._inductor", "triton.")


def may_blame_image(error: Exception) -> bool:
    """Return whether an error that a stage raised may be the fault of the image that it worked on.

    Errors of files, memory, the accelerator, its libraries or the compiler never are, nor errors that the project
    raises on purpose. Those end the attempt: the shard runs again elsewhere, or the run stops.
    """
    if isinstance(error, OSError | PseudorisError):
        return False
    return not is_out_of_memory(error) and not is_broken_device(error) and not is_of_libraries(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host or the accelerator ran out of memory."""
    if isinstance(error, (MemoryError, _torch_error("OutOfMemoryError"))):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _MEMORY_WORDS)


def is_broken_device(error: BaseException) -> bool:
    """Return whether the accelerator failed for another reason than memory: its process cannot be used any further.

    Where only the text says so, the device is asked: libraries also name it where they do not support a call.
    """
    if is_out_of_memory(error) or type(error).__module__.startswith(_COMPILERS):
        return False
    return isinstance(error, _torch_error("AcceleratorError")) or (_names_device(error) and not _device_answers())


def _names_device(error: BaseException) -> bool:
    return isinstance(error, RuntimeError) and any(word in str(error) for word in _DEVICE_WORDS)


def _device_answers() -> bool:
    """Return whether this process has begun to use a GPU and can still use it: a broken one fails all later calls."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return False
    return True


def is_of_libraries(error: BaseException) -> bool:
    """Return whether a compiler raised an error, or on a GPU torch, a library below it, or Triton.

    Cards, drivers and versions word their errors differently, so the place counts and not the text. A RuntimeError that
    no `raise` statement of Python raised comes out of C++. Of texts only one that names the device counts, wherever.
    """
    if type(error).__module__.startswith(_COMPILERS):
        return True
    torch, last = sys.modules.get("torch"), error.__traceback__
    if torch is None or last is None or not torch.cuda.is_initialized():
        return False
    if _names_device(error):
        return True
    packages = [str(frame.f_globals.get("__name__")).partition(".")[0] for frame, _ in traceback.walk_tb(last)]
    while last.tb_next is not None:
        last = last.tb_next
    is_of_python = last.tb_frame.f_code.co_code[last.tb_lasti] == dis.opmap["RAISE_VARARGS"]
    is_of_torch = packages[-1] == "torch" or (isinstance(error, RuntimeError) and not is_of_python)
    return is_of_torch or "triton" in packages


def _torch_error(name: str) -> type[BaseException] | tuple[()]:
    """Return torch's exception of that name; if torch is not loaded, (), of which no error is an instance."""
    found: type[BaseException] | tuple[()] = getattr(sys.modules.get("torch"), name, ())
    return found


def apply_to_images(shard: Shard, stage: str, work: Callable[[ShardImage], ShardImage]) -> Shard:
    """Return the shard with `work` applied to each image that is not quarantined, in order.

    If `work` raises on an image, that image is quarantined and the rest of the shard continues. A run then gives the
    image one more try, in a fresh process (`tolerant_stages`). Errors of memory, of the accelerator and of storage are
    raised again: they are never an image's fault.

    Args:
        shard: Not changed.
        stage: Name for the failure's row and for the shard's seconds.
        work: Pure: it may be called again with the same image, in this process or in another.
    """
    return apply_to_groups(shard, stage, lambda images: [work(image) for image in images], fits=lambda _: False)


def apply_to_groups(
    shard: Shard,
    stage: str,
    work: Callable[[Sequence[ShardImage]], Sequence[ShardImage]],
    *,
    fits: Callable[[Sequence[ShardImage]], bool],
) -> Shard:
    """Return the shard with `work` applied to groups of successive images that are not quarantined.

    If `work` raises on a group, each of its images is tried alone, under the rules of `apply_to_images`.

    Args:
        shard: Not changed.
        stage: Name for the failure's row and for the shard's seconds.
        work: Pure; it returns the same images in the same order.
        fits: Whether some images may form a group. A single image always may.
    """
    started = time.perf_counter()
    done: dict[int, ShardImage] = {}
    waiting = [image for image in shard.images if not image.failure]
    while waiting:
        size = 1
        # Asked group by group, because what fits may be less after memory has run out.
        while size < len(waiting) and fits(waiting[: size + 1]):
            size += 1
        group, waiting = waiting[:size], waiting[size:]
        done |= zip([image.position for image in group], guarded(group, stage, work), strict=True)
    images = tuple(done.get(image.position, image) for image in shard.images)
    return shard.with_images(images).with_seconds(stage, time.perf_counter() - started)


def together_or_fewer(
    images: Sequence[Any], work: Callable[[Sequence[Any]], list[Any]], *, remember: Callable[[int], object], lower: str
) -> list[Any]:
    """Return `work` of all images together; of fewer at a time where a GPU's memory runs out.

    For work whose results do not depend on what is together. `remember` is told each new number of images, and
    `lower` names for the log the setting to lower, with its value, and when.
    """
    done: list[Any] = []
    most = len(images)
    while len(done) < len(images):
        few = images[len(done) : len(done) + most]
        try:
            done += work(few)
            continue
        except Exception as error:
            if len(few) == 1 or not is_out_of_memory(error):
                raise
        # This runs after the except block, because inside it the error's frames keep memory in use.
        most = len(few) // 2
        free_memory()
        remember(most)
        message = "%d images do not fit into the GPU's memory together: continuing with %d, which changes no result"
        logger.warning(f"{message}; to make room, lower %s", len(few), most, lower)
    return done


def guarded(
    images: Sequence[ShardImage], stage: str, work: Callable[[Sequence[ShardImage]], Sequence[ShardImage]]
) -> Sequence[ShardImage]:
    """Return `work(images)`. If it raises what may be blamed on one image, each is tried alone, then quarantined."""
    try:
        return work(images)
    except ImageError as error:
        failure = Failure(stage, error.reason, error.message)
    except Exception as error:
        if not may_blame_image(error):
            raise
        shown = ", ".join(f"{image.image_id} ({image.key})" for image in images)
        logger.exception("stage %s raised on %s", stage, shown)
        # Only the type is stored, because the text of a foreign exception may hold an address or a time.
        message = f"the {stage} stage raised {type(error).__name__}; the log holds the traceback"
        failure = Failure(stage, STAGE_ERROR, message)
    if len(images) == 1:
        return [images[0].quarantined(failure)]
    logger.info("stage %s: one of %d images is at fault; trying them one by one", stage, len(images))
    return [done for image in images for done in guarded([image], stage, work)]
