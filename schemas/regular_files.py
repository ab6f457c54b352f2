"""Opens regular files alone, for any room: `open_regular` refuses links, `open_linked`, `read_regular` follow.

A planted link would lead a write to another file of the user's. A planted pipe would block a read for ever.
"""

from __future__ import annotations

import errno
import os
import stat
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, Literal, TextIO, overload

from pseudoris.schemas.errors import ConfigError

# Several times the largest known annotation file (LVIS, 1.1 GB); what is read whole must fit into memory.
MAX_BYTES: Final = 4 * 2**30


@overload
def open_regular(path: Path, mode: Literal["rb"] = "rb") -> BufferedReader: ...
@overload
def open_regular(path: Path, mode: Literal["wb", "ab"]) -> BinaryIO: ...
@overload
def open_regular(path: Path, mode: Literal["r", "w", "x"]) -> TextIO: ...
def open_regular(path: Path, mode: str = "rb") -> IO[Any]:
    """Return a file opened as the builtin `open` does; text is UTF-8.

    Raises:
        ConfigError: It is a link, or neither a file nor a folder, or it has a second name and would be written.
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


def open_linked(path: Path) -> BufferedReader:
    """Return a file of the user's own folder, opened for reading bytes. Links and errors as of `read_regular`."""
    return open(path, "rb", opener=_checked)


def read_regular(path: Path) -> bytes:
    """Return a file that the user's own folder holds: links are followed, a pipe or a device is refused.

    Raises:
        ConfigError: It is neither a file nor a folder, or larger than `MAX_BYTES`.
        OSError: As `open`.
    """
    with open_linked(path) as file:
        size_bytes = os.fstat(file.fileno()).st_size
        if size_bytes > MAX_BYTES:
            raise ConfigError(f"{path} has {size_bytes:,} bytes, at most {MAX_BYTES:,} are read. Split it, or check it")
        return file.read()


def _open(path: str, flags: int) -> int:
    # Emptied only once it is known to be a file with one name.
    descriptor = _checked(path, (flags & ~os.O_TRUNC) | os.O_NOFOLLOW)
    if flags & (os.O_WRONLY | os.O_RDWR) and os.fstat(descriptor).st_nlink > 1:
        os.close(descriptor)
        raise _refusal(Path(path), "a file with another name elsewhere (a hard link)")
    if flags & os.O_TRUNC:
        os.ftruncate(descriptor, 0)
    return descriptor


def _checked(path: str, flags: int) -> int:
    try:
        # Without O_NONBLOCK, a pipe is opened only once its other end is.
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        what = {errno.ELOOP: "a link", errno.ENXIO: "a pipe or a socket"}.get(error.errno or 0)
        if what is None:
            raise
        raise _refusal(Path(path), what) from None
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
