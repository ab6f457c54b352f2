"""The one place where an exception becomes a quarantined image instead of the end of the run."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence

import torch

from schemas.errors import ImageError, PseudorisError
from schemas.shard import Failure, Shard, ShardImage

logger = logging.getLogger(__name__)

# Never an image's fault: they end the attempt, and the shard runs again elsewhere or the run stops.
_NOT_THE_IMAGE: tuple[type[BaseException], ...] = (
    MemoryError,
    OSError,
    torch.OutOfMemoryError,
    torch.AcceleratorError,
    PseudorisError,
)
# Torch raises a bare RuntimeError for these; only its text tells.
_MEMORY_WORDS: tuple[str, ...] = (
    "CUDA out of memory",
    "DefaultCPUAllocator",
    "Cannot allocate memory",
    "std::bad_alloc",
)
_DEVICE_WORDS: tuple[str, ...] = ("CUDA", "cuDNN", "CUBLAS", "cublas")


# Where the exceptions of `compute.is_compiled` come from: a machine without a compiler, never an image.
_COMPILERS: tuple[str, ...] = ("torch._dynamo", "torch._inductor", "triton.")


def apply_to_images(shard: Shard, stage: str, work: Callable[[ShardImage], ShardImage]) -> Shard:
    """Return the shard with `work` applied to each image that is not quarantined, in order.

    An image on which `work` raises twice is quarantined; the rest of the shard goes on. Errors of memory,
    of the accelerator and of storage pass through: they are never an image's fault.

    Args:
        shard: Left as it is.
        stage: Name for the failure's row and for the shard's seconds.
        work: Pure: called again after a failure with the same argument.
    """
    started = time.perf_counter()
    images = tuple(image if image.failure else _guarded(image, stage, work) for image in shard.images)
    return shard.with_images(images).with_seconds(stage, time.perf_counter() - started)


def apply_to_groups(
    shard: Shard,
    stage: str,
    work: Callable[[Sequence[ShardImage]], Sequence[ShardImage]],
    *,
    fits: Callable[[Sequence[ShardImage]], bool],
) -> Shard:
    """Return the shard with `work` applied to groups of successive images that are not quarantined.

    Where `work` raises on a group, each of its images goes on alone, under the rules of `apply_to_images`.

    Args:
        shard: Left as it is.
        stage: Name for the failure's row and for the shard's seconds.
        work: Pure, and of images' number and order preserved.
        fits: Whether images may be a group; one alone always may.
    """
    started = time.perf_counter()
    done = {
        image.position: image
        for group in _groups([image for image in shard.images if not image.failure], fits)
        for image in _guarded_group(group, stage, work)
    }
    images = tuple(done.get(image.position, image) for image in shard.images)
    return shard.with_images(images).with_seconds(stage, time.perf_counter() - started)


def _groups(
    images: Sequence[ShardImage], fits: Callable[[Sequence[ShardImage]], bool]
) -> Iterator[Sequence[ShardImage]]:
    group: list[ShardImage] = []
    for image in images:
        if group and not fits([*group, image]):
            yield group
            group = []
        group.append(image)
    if group:
        yield group


def _guarded_group(
    group: Sequence[ShardImage], stage: str, work: Callable[[Sequence[ShardImage]], Sequence[ShardImage]]
) -> Sequence[ShardImage]:
    if len(group) > 1:
        try:
            return work(group)
        except ImageError:
            logger.info("stage %s goes through %d images one by one: one of them is at fault", stage, len(group))
        except _NOT_THE_IMAGE:
            raise
        except Exception as error:
            if _is_of_the_machine(error):
                raise
            logger.exception("stage %s raised on %d images together; they go on one by one", stage, len(group))
    return [_guarded(image, stage, lambda one: work([one])[0]) for image in group]


def _guarded(image: ShardImage, stage: str, work: Callable[[ShardImage], ShardImage]) -> ShardImage:
    for is_last in (False, True):
        try:
            return work(image)
        except ImageError as error:
            return image.quarantined(Failure(stage, error.reason, error.message))
        except _NOT_THE_IMAGE:
            raise
        except Exception as error:
            if _is_of_the_machine(error):
                raise
            logger.exception("stage %s raised on image %s (%s)", stage, image.image_id, image.key)
            if is_last:
                # Only the type: the text of a foreign exception may hold an address or a time.
                message = f"the {stage} stage raised {type(error).__name__} twice; the log holds the traceback"
                return image.quarantined(Failure(stage, "stage_error", message))
    raise AssertionError("unreachable: the second try returns or raises")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host or the accelerator had no memory left."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and _says(error, _MEMORY_WORDS)


def is_broken_device(error: BaseException) -> bool:
    """Return whether the accelerator failed otherwise: its process cannot be used any further."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, torch.AcceleratorError) or (
        isinstance(error, RuntimeError) and _says(error, _DEVICE_WORDS)
    )


def _is_of_the_machine(error: Exception) -> bool:
    is_compiling = type(error).__module__.startswith(_COMPILERS)
    return is_compiling or is_out_of_memory(error) or is_broken_device(error)


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)
