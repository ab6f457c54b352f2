"""Opens files of folders that others can write: regular files only, and no link below the folder is followed.

A planted link would lead a write to another file of the user's. A planted pipe would block a read for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, Literal, TextIO, overload

from pseudoris.schemas.errors import ConfigError


@overload
def open_regular(path: Path, mode: Literal["rb"] = "rb") -> BufferedReader: ...
@overload
def open_regular(path: Path, mode: Literal["wb", "ab"]) -> BinaryIO: ...
@overload
def open_regular(path: Path, mode: Literal["r", "w", "x"]) -> TextIO: ...
def open_regular(path: Path, mode: str = "rb") -> IO[Any]:
    """Return a file opened as the builtin `open` does; text is UTF-8.

    Raises:
        ConfigError: It is a link, or neither a file nor a folder.
        OSError: As `open`.
    """
    return open(path, mode, encoding=None if "b" in mode else "utf-8", opener=_open)


def refuse_links(folder: Path, path: str) -> None:
    """Check that no part of `path` below `folder` is a link; what does not exist is none.

    Raises:
        ConfigError: One is.
    """
    for place in (folder / path, *(folder / path).parents):
        if place == folder:
            return
        if place.is_symlink():
            raise _refusal(place, "a link")


def _open(path: str, flags: int) -> int:
    try:
        # Without O_NONBLOCK, a pipe is opened only once its other end is.
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise _refusal(Path(path), "a link") from None
        if error.errno == errno.ENXIO:
            raise _refusal(Path(path), "a pipe or a socket") from None
        raise
    mode = os.fstat(descriptor).st_mode
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        os.close(descriptor)
        raise _refusal(Path(path), "a pipe or a device")
    return descriptor


def _refusal(path: Path, what: str) -> ConfigError:
    return ConfigError(
        f"{path} is {what}. Others may have put it there, so only regular files are read and written. Move it away, or "
        "put a copy of the file in its place"
    )
