"""Tells errors that an image may have caused from errors of the machine: memory, accelerator, disk, compiler."""

from __future__ import annotations

import sys
from typing import Final

from pseudoris.schemas.errors import PseudorisError

# Torch raises a bare RuntimeError for these, recognisable only by its text.
_MEMORY_WORDS: Final = ("CUDA out of memory", "DefaultCPUAllocator", "Cannot allocate memory", "std::bad_alloc")
_DEVICE_WORDS: Final = ("CUDA", "cuDNN", "CUBLAS", "cublas")
# Modules whose exceptions come from `compute.is_compiled`: a machine without a compiler, never an image.
_COMPILERS: Final = ("torch._dynamo", "torch._inductor", "triton.")


def may_blame_image(error: Exception) -> bool:
    """Return whether an error that a stage raised may be the fault of the image that it worked on.

    Errors of files, memory, the accelerator or the compiler never are, nor errors that the project raises on purpose.
    Those end the attempt: the shard runs again elsewhere, or the run stops.
    """
    if isinstance(error, OSError | PseudorisError) or type(error).__module__.startswith(_COMPILERS):
        return False
    return not is_out_of_memory(error) and not is_broken_device(error)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the host or the accelerator ran out of memory."""
    if isinstance(error, (MemoryError, _torch_error("OutOfMemoryError"))):
        return True
    return isinstance(error, RuntimeError) and _says(error, _MEMORY_WORDS)


def is_broken_device(error: BaseException) -> bool:
    """Return whether the accelerator failed for another reason than memory: its process cannot be used any further."""
    if is_out_of_memory(error):
        return False
    return isinstance(error, _torch_error("AcceleratorError")) or (
        isinstance(error, RuntimeError) and _says(error, _DEVICE_WORDS)
    )


def _torch_error(name: str) -> type[BaseException]:
    """Return torch's exception of that name; if torch is not loaded, an exception that nothing raises.

    Torch is not imported for this: it takes seconds, and without it no exception is torch's.
    """
    found: type[BaseException] = getattr(sys.modules.get("torch"), name, _NeverRaisedError)
    return found


class _NeverRaisedError(Exception):
    """Stands in for an exception of a library that is not loaded."""


def _says(error: BaseException, words: tuple[str, ...]) -> bool:
    return any(word in str(error) for word in words)
