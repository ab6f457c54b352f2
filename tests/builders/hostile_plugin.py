"""A Pillow plugin for tests: a format whose decoder does to its process what the file's text says."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image, ImageFile

MAGIC = b"HOSTILE:"
_LEAKED: list[bytearray] = []


def hostile(deed: str) -> bytes:
    """Return a file whose decoder does the deed: `abort`, `segfault`, `memory`, `hang`, `killed`, `print`,
    `leak <megabytes>`, `forge <hex>`, which writes bytes among the answers, `abort-once <path>`, which aborts unless
    the path exists, and creates it, or `in-turn <path> <deeds>`, which does the first of the deeds, then at each
    further decoding the next one, and nothing once they are done."""
    return MAGIC + deed.encode()


class HostileImageFile(ImageFile.ImageFile):
    format = "HOSTILE"
    format_description = "does what it says"

    def _open(self) -> None:
        self._deed = self.fp.read()[len(MAGIC) :].decode()
        self._size, self._mode = (5, 3), "RGB"

    def load(self):
        _do(*self._deed.split(" ", 1))
        self.im = Image.core.new(self.mode, self.size)
        return super().load()


def _do(deed: str, path: str = "") -> None:
    if deed == "in-turn":
        _do(_next_deed(*path.split(" ", 1)))
    elif deed == "abort":
        os.abort()
    elif deed == "segfault":
        ctypes.string_at(0)
    elif deed == "hang":
        time.sleep(600)
    elif deed == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "print":
        print("a decoder that talks", file=sys.stdout, flush=True)
        os.write(1, b"and one that talks from C")
    elif deed in ("memory", "leak"):
        _LEAKED.append(bytearray(2**40 if deed == "memory" else int(path) * 2**20))
    elif deed == "forge":
        _forge(bytes.fromhex(path))
    elif deed == "abort-once" and not Path(path).exists():
        Path(path).touch()
        os.abort()


def _forge(answer: bytes) -> None:
    for descriptor in range(3, 32):
        with contextlib.suppress(OSError):
            os.write(descriptor, answer)


def _next_deed(path: str, deeds: str) -> str:
    todo = Path(path).read_text().split() if Path(path).exists() else deeds.split()
    Path(path).write_text(" ".join(todo[1:]))
    return todo[0] if todo else "nothing"


Image.register_open("HOSTILE", HostileImageFile, lambda prefix: prefix.startswith(MAGIC))
