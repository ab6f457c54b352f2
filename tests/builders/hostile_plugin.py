"""A Pillow plugin for tests: a format whose decoder does to its process what the file's text says."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image, ImageFile

MAGIC = b"HOSTILE:"


def hostile(deed: str) -> bytes:
    """Return a file whose decoder does the deed: `abort`, `segfault`, `memory`, `hang`, `killed`, `print`,
    or `abort-once <path>`, which aborts unless the path exists, and creates it."""
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
    if deed == "abort":
        os.abort()
    elif deed == "segfault":
        ctypes.string_at(0)
    elif deed == "memory":
        bytearray(2**40)
    elif deed == "hang":
        time.sleep(600)
    elif deed == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif deed == "print":
        print("a decoder that talks", file=sys.stdout, flush=True)
        os.write(1, b"and one that talks from C")
    elif deed == "abort-once" and not Path(path).exists():
        Path(path).touch()
        os.abort()


Image.register_open("HOSTILE", HostileImageFile, lambda prefix: prefix.startswith(MAGIC))
