"""Readers with a bug each, for the fuzzer to find."""

from __future__ import annotations

import os
import time

from tests.fuzz.fuzzer import Target

SOUND = b"()"


def _broken(data: bytes) -> None:
    if data == b"crash":
        os.abort()
    if data == b"hang":
        time.sleep(60)
    if data == b"memory":
        bytearray(600 * 2**20)
    if data == b"error":
        raise KeyError("not an error of the project")


def _with(data: bytes) -> Target:
    return Target(lambda: [SOUND], lambda folder: _broken, lambda draw, seeds: data)


TARGETS = {kind: _with(kind.encode()) for kind in ("crash", "hang", "memory", "error")}
