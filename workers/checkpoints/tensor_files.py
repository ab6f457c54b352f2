"""Files of tensors: safetensors, and checkpoints of torch. These are pickles; whatever could run code is refused."""

from __future__ import annotations

import io
import os
import pickle
import re
from pathlib import Path
from typing import IO, Any, Final

import torch
from safetensors.torch import load_file

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.regular_files import open_linked

# torch names what it refuses in several forms: `unsupported GLOBAL posix.system`, `GLOBAL numpy.dtype was not allowed`.
_REFUSED: Final = re.compile(r"GLOBAL ([\w.]+)")
_ARCHIVE: Final = b"PK\x03\x04"
_SHOWN_LETTERS: Final = 500


def load_tensors(file: Path | IO[bytes]) -> Any:
    """Return what a file holds, on the CPU: the tensors of a `.safetensors`, or what a checkpoint of torch holds.

    Raises:
        ConfigError: It is a pipe or a device.
        OSError: The file cannot be read.
        ValueError: It is no such file, or holds more than tensors and plain values; the message is for the user.
    """
    try:
        if isinstance(file, Path):
            with _BoundedFile(open_linked(file).detach()) as bounded:
                if file.suffix == ".safetensors":
                    return load_file(file)
                # An archive is read fastest by its path. Its members have bounds.
                plain = file if bounded.peek(4)[:4] == _ARCHIVE else bounded
                return torch.load(plain, map_location="cpu", weights_only=True)
        return torch.load(file, map_location="cpu", weights_only=True)
    except (MemoryError, OSError, ConfigError):
        raise
    except Exception as error:  # noqa: BLE001  # on hostile bytes the unpickler may raise any type
        # Not torch's text, nor the error as a cause: it advises to load the file in the way that runs its code.
        raise ValueError(_explained(error)) from None


class _BoundedFile(io.BufferedReader):
    """A file that reads at most its own size at once: a read takes its memory before it knows whether bytes exist."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self._size_bytes = os.fstat(raw.fileno()).st_size

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(size if size is None else min(size, self._size_bytes))


def _explained(error: Exception) -> str:
    if not isinstance(error, pickle.UnpicklingError):
        return f"{type(error).__name__}: {error}"[:_SHOWN_LETTERS]
    refused = _REFUSED.search(str(error))
    what = f" ({refused[1]})" if refused else ""
    return (
        f"it is a pickle that holds more than tensors and plain values{what}, and loading that can run any program. "
        "Get the weights as safetensors, or as a state dict"
    )
