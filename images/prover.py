"""Decodes images in a child process, so that an image that crashes its decoder costs that image alone.

Called by `pipeline` (for `store/sources`), `interchange`, `training`, `audit` and `viewer`. A first death of the child
decides nothing, and a kill from outside is never the image's fault. An answer counts only if it is sound and has the
number of its image: a hostile image may control the child.
"""

from __future__ import annotations

import json
import logging
import math
import os
import re
import select
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Literal, Self

from pseudoris.images.child_process import end_child, is_external_signal, start_child
from pseudoris.images.perceptual_hash import HASH_HEX_DIGITS
from pseudoris.images.pixels import NOTES
from pseudoris.images.prover_main import LENGTH, TILES
from pseudoris.images.tiles import TileForm
from pseudoris.primitives.errors import ConfigError, ImageError, TransientError
from pseudoris.primitives.run_lengths import Box
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.config import ImagesConfig
from pseudoris.schemas.shard import Proof

logger = logging.getLogger(__name__)

# A child may take this many seconds to import its modules. An idle machine needs 0.3 s (measured), a loaded one more.
_START_TIMEOUT_S: Final = 120.0
_END_TIMEOUT_S: Final = 10.0
_WRITE_BYTES: Final = 2**20
# An answer has at most this many bytes; a tile or a picture as many, and four for each of its pixels.
_MAX_ANSWER_BYTES: Final = 2**16
# A child is replaced after this many images, because image libraries leak memory.
_MAX_PROOFS: Final = 10_000
# A child is replaced if its memory grew by over 1/16 of the limit. An image that it rejected is tried again.
_CRAMPED: Final = 16
# The prover in this dictionary is used again for the next shard. There is at most one; the key is its settings.
_SHARED: Final[dict[str, Prover]] = {}
_HASH: Final = re.compile(rf"[0-9a-f]{{{HASH_HEX_DIGITS}}}")


@dataclass(frozen=True, slots=True)
class PictureForm:
    """How a picture of an image is encoded for a page: Pillow's format, longest side, quality from 0 to 100."""

    format: Literal["WEBP", "JPEG"]
    max_side_px: int
    quality: int

    def boxes(self, size: tuple[int, int]) -> list[Box]:
        """Return the one picture of an image of any size, in its own pixels, as `TileForm.boxes` its tiles."""
        return [(0, 0, self.max_side_px, self.max_side_px)]


class _ProverDiedError(Exception):
    """The child ended before it answered."""


class _TimedOutError(Exception):
    """The child did not answer in time."""


@contextmanager
def shared_prover(limits: ImagesConfig) -> Iterator[Prover]:
    """Provide this process's prover inside the block. Its child is kept for the next block with the same limits.

    Starting a child takes longer than proving a shard of small images. It is replaced after `_MAX_PROOFS` images, and
    if the block raises, so that damage by an image does not last. Blocks must not be nested. Raises like
    `Prover.__enter__`.
    """
    key = limits.model_dump_json()
    prover = _SHARED.pop(key, None)
    for stale in [_SHARED.pop(other) for other in list(_SHARED)]:
        stale.__exit__(None, None, None)
    prover = prover or Prover(limits)
    try:
        yield prover.__enter__()
    except BaseException:
        prover.__exit__(None, None, None)
        raise
    if prover.num_proofs >= _MAX_PROOFS:
        prover.__exit__(None, None, None)
    else:
        _SHARED[key] = prover


class Prover:
    """Decodes images in a child process with limits on memory and time. A child that dies is replaced.

    With `limits.phash` it also computes perceptual hashes, with `form` pictures for a page, or tiles. Use as a context
    manager: the child lives from entry to exit. Not thread-safe. `num_proofs` is the number of images that it was asked
    to prove.
    """

    def __init__(self, limits: ImagesConfig, *, form: PictureForm | TileForm | None = None) -> None:
        self._limits, self._form = limits, form
        self._num_due = 0  # tiles or pictures that the running child has not sent yet, or that were not taken
        self._child: subprocess.Popen[bytes] | None = None
        self._num_asked = 0  # of the running child
        self.num_proofs = 0

    def __enter__(self) -> Self:
        """Start the child; ConfigError if a plug-in cannot be imported, TransientError if the child does not start."""
        self._running_child()
        return self

    def __exit__(self, *_: object) -> None:
        self._end_child()

    def prove(self, data: bytes) -> Proof:
        """Decode an image to the end with `decode_upright`, and return what is known of it.

        Raises:
            ImageError: A reason of `decode_upright`; `decoder_killed` if decoding ended its process twice (a crash of
                the decoder, or its memory limit); `decoder_timeout` if it took too long twice.
            TransientError: The child was twice killed from outside, or does not start.
        """
        answer = self._prove(data)
        height, width = answer["size"]
        return Proof((height, width), answer["note"], answer.get("phash"), tuple(answer["levels"]))

    def cut(self, data: bytes) -> tuple[Proof, Iterator[tuple[Box, bytes]]]:
        """Return what `prove` does, and box and PNG of each of `TileForm.boxes`; the image is decoded once.

        Tiles must be taken before another image is asked for, or not at all. Both raise like `prove`.
        """
        proof = self.prove(data)
        return proof, self._pictures(data, proof.size)

    def picture(self, data: bytes) -> bytes:
        """Return an upright picture of an image in the `form` that was given. Raises like `prove`."""
        ((_, picture),) = self._pictures(data, self.prove(data).size)
        return picture

    def _pictures(self, data: bytes, size: tuple[int, int]) -> Iterator[tuple[Box, bytes]]:
        """Yield what the form asks for of an image that was just proven."""
        boxes, num_taken, deaths = self._boxes(size), 0, 0
        while num_taken < len(boxes):
            try:
                place, deadline = len(boxes) - self._num_due, time.monotonic() + self._limits.decoder_timeout_s
                x0, y0, x1, y1 = boxes[place]
                max_bytes = _MAX_ANSWER_BYTES + 4 * (x1 - x0) * (y1 - y0)
                encoded = _receive_frame(self._running_child(), deadline, max_bytes)
                self._num_due -= 1
            except (_ProverDiedError, _TimedOutError) as death:
                error, deaths = self._reap(death), deaths + 1
                if deaths == 2:
                    raise error from None
                self._prove(data)
                continue
            # After a death they come again from the first.
            if place == num_taken:
                num_taken += 1
                yield boxes[place], encoded

    def _boxes(self, size: tuple[int, int]) -> list[Box]:
        return [] if self._form is None else self._form.boxes(size)

    def _prove(self, data: bytes) -> dict[str, Any]:
        self.num_proofs += 1
        deaths: Counter[str] = Counter()
        while True:
            try:
                answer = self._ask(data)
            except (_ProverDiedError, _TimedOutError) as death:
                error = self._reap(death)
                kind = error.reason if isinstance(error, ImageError) else "killed from outside"
                deaths[kind] += 1
                if deaths[kind] == 2:
                    raise error from None
                continue
            is_cramped = answer["grown_bytes"] > self._limits.decoder_memory_bytes // _CRAMPED
            if is_cramped and not self._num_due:
                self._end_child()
            if "size" in answer:
                return answer
            if not is_cramped:
                raise ImageError(answer["reason"], answer["message"])

    def _ask(self, data: bytes) -> dict[str, Any]:
        if self._num_due:
            # Tiles of another image are in the pipe.
            self._end_child(is_hung=True)
        child = self._running_child()
        self._num_asked += 1
        deadline = time.monotonic() + self._limits.decoder_timeout_s
        # The length is sent together with the first bytes. Sent alone, it would wake the child before there is work.
        _send(child, LENGTH.pack(len(data)) + data[:_WRITE_BYTES], deadline)
        _send(child, memoryview(data)[_WRITE_BYTES:], deadline)
        answer = _receive(child, deadline)
        is_sound = isinstance(answer.get("grown_bytes"), int)
        if "size" in answer:
            is_sound &= "note" in answer and answer["note"] in (None, *NOTES) and _are_levels(answer.get("levels"))
            is_sound &= _is_size(answer["size"], self._limits.max_pixels)
            is_sound &= not self._limits.phash or _HASH.fullmatch(str(answer.get("phash"))) is not None
        else:
            is_sound &= {"reason", "message"} <= {*answer}
        if not is_sound or answer.get("number") != self._num_asked:
            raise _ProverDiedError
        self._num_due = len(self._boxes(tuple(answer["size"]))) if "size" in answer else 0
        return answer

    def _reap(self, death: Exception) -> ImageError | TransientError:
        """Reap the child; return what a second death of this kind means."""
        timed_out = isinstance(death, _TimedOutError)
        status = self._end_child(is_hung=timed_out)
        logger.warning("the proving process %s", "ran out of time" if timed_out else f"ended with status {status}")
        if timed_out:
            limit = f"images.decoder_timeout_s = {self._limits.decoder_timeout_s:g}"
            return ImageError("decoder_timeout", f"decoding took longer than {limit} twice")
        if is_external_signal(status):
            return TransientError(
                f"the proving process was killed from outside twice, at last by {signal.Signals(-status).name}: "
                "the machine may be short of memory; give reading more"
            )
        limit = f"images.decoder_memory_bytes = {self._limits.decoder_memory_bytes}"
        return ImageError("decoder_killed", f"decoding crashed its process twice, or exceeded {limit}")

    def _running_child(self) -> subprocess.Popen[bytes]:
        if self._child is None:
            self._child = _start(self._limits, self._form)
            self._num_asked = 0
            try:
                greeting = _receive(self._child, time.monotonic() + _START_TIMEOUT_S)
            except (_ProverDiedError, _TimedOutError) as error:
                status = self._end_child(is_hung=isinstance(error, _TimedOutError))
                raise TransientError(
                    f"the proving process did not start (status {status}); its log says why"
                ) from error
            if "config_error" in greeting:
                self._end_child()
                raise ConfigError(greeting["config_error"])
        return self._child

    def _end_child(self, *, is_hung: bool = False) -> int:
        child, self._child, self._num_due = self._child, None, 0
        return 0 if child is None else end_child(child, timeout_s=_END_TIMEOUT_S, is_hung=is_hung)


def _is_size(found: Any, max_pixels: int) -> bool:
    is_pair = isinstance(found, list) and len(found) == 2 and all(isinstance(each, int) and each > 0 for each in found)
    return is_pair and found[0] * found[1] <= max_pixels


def _are_levels(found: Any) -> bool:
    if not isinstance(found, list) or not all(isinstance(each, float) and math.isfinite(each) for each in found):
        return False
    return not found or (len(found) == 2 and found[0] < found[1])


def _start(limits: ImagesConfig, form: PictureForm | TileForm | None) -> subprocess.Popen[bytes]:
    # The child gets one BLAS thread, because the stacks of more threads would count against the memory limit.
    environment = {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    # The child needs every field, also those that a header leaves out.
    arguments = [json.dumps(dict(limits))]
    if isinstance(form, TileForm):
        arguments += [TILES, str(form.side_px), str(form.overlap_px)]
    elif form is not None:
        arguments += [form.format, str(form.max_side_px), str(form.quality)]
    child = start_child("pseudoris.images.prover_main", *arguments, environment=environment, is_buffered=False)
    os.set_blocking(_fileno(child.stdin), False)
    return child


def _fileno(stream: Any) -> int:
    return int(stream.fileno())


def _send(child: subprocess.Popen[bytes], data: bytes | memoryview, deadline: float) -> None:
    descriptor, rest = _fileno(child.stdin), memoryview(data)
    while rest:
        try:
            rest = rest[os.write(descriptor, rest[:_WRITE_BYTES]) :]
        except BlockingIOError:
            _wait(descriptor, select.POLLOUT, deadline)
        except BrokenPipeError:
            raise _ProverDiedError from None


def _receive(child: subprocess.Popen[bytes], deadline: float) -> dict[str, Any]:
    """Return the child's answer. A malformed one means that an image has damaged the child."""
    try:
        answer = parse_json(_receive_frame(child, deadline, _MAX_ANSWER_BYTES))
    except ValueError:
        raise _ProverDiedError from None
    if not isinstance(answer, dict):
        raise _ProverDiedError
    return answer


def _receive_frame(child: subprocess.Popen[bytes], deadline: float, max_bytes: int) -> bytes:
    (length,) = LENGTH.unpack(_receive_bytes(child, LENGTH.size, deadline))
    if length > max_bytes:
        raise _ProverDiedError
    return _receive_bytes(child, length, deadline)


def _receive_bytes(child: subprocess.Popen[bytes], count: int, deadline: float) -> bytes:
    data = b""
    while len(data) < count:
        _wait(_fileno(child.stdout), select.POLLIN, deadline)
        piece = os.read(_fileno(child.stdout), count - len(data))
        if not piece:
            raise _ProverDiedError
        data += piece
    return data


def _wait(descriptor: int, event: int, deadline: float) -> None:
    poll = select.poll()
    poll.register(descriptor, event)
    if not poll.poll(max(deadline - time.monotonic(), 0.0) * 1000):
        raise _TimedOutError
