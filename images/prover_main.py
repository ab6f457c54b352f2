"""The prover's child process: decodes each image to the end and answers with its upright size. Started by `prover.py`.

`python -m pseudoris.images.prover_main <ImagesConfig as JSON> [FORMAT SIDE QUALITY | TILES SIDE OVERLAP]` speaks
frames over standard input and output:

    frame     = 8 bytes, big-endian length, then that many bytes
    request   = the encoded image
    answer    = JSON: {"ready": true} once at the start, then per image {"size": [height, width], "note": null or what
                is wrong with its file, "levels": what its deep samples were mapped by}, with its "phash" if that is
                set; or {"reason": …, "message": …}, each with its "number" from 1 on and "grown_bytes", what
                earlier images have left in this process; {"config_error": …} at the start where a plug-in or package
                is missing
    picture   = behind the answer for a sound image, if a format is named: upright RGB, its longer side at most SIDE
                pixels; or a PNG for each of its tiles, in the order of `TileForm.boxes`

The process must end when its standard input ends: at most one image's time limit after its parent. Imports no torch.
"""

from __future__ import annotations

import io
import json
import os
import signal
import struct
import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, BinaryIO, Final, cast

import numpy as np
from PIL import Image

from pseudoris.images.child_process import address_space_bytes, limit_memory, reserve_stdout
from pseudoris.images.perceptual_hash import load_transform, perceptual_hash
from pseudoris.images.pixels import Picture, decode_with_note, import_plugins
from pseudoris.images.tiles import TileForm, png_of
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.untrusted import parse_json

if TYPE_CHECKING:
    from pseudoris.schemas.config import ImagesConfig

LENGTH: Final = struct.Struct(">Q")
TILES: Final = "TILES"
EXIT_OUT_OF_MEMORY: Final = 86
# An alarm ends a child this many seconds after the time limit, if its parent has died and cannot end it.
_ORPHAN_GRACE_S: Final = 10.0


def main() -> None:
    """Answer requests until the standard input ends."""
    # pydantic is not used: it costs 10 MB and half of the start-up time, and the parent has validated the limits.
    limits = cast("ImagesConfig", SimpleNamespace(**parse_json(sys.argv[1])))
    form = sys.argv[2:]
    requests, answers = reserve_stdout()
    try:
        import_plugins(limits.decoder_plugins)
        if limits.phash:
            load_transform()
    except ConfigError as error:
        _write(answers, {"config_error": str(error)})
        return
    start_bytes = address_space_bytes()
    limit_memory(start_bytes, limits.decoder_memory_bytes)
    _write(answers, {"ready": True})
    number = 0
    while (data := _read(requests)) is not None:
        number += 1
        grown_bytes = address_space_bytes() - start_bytes
        signal.setitimer(signal.ITIMER_REAL, limits.decoder_timeout_s + _ORPHAN_GRACE_S)
        answer, picture = _prove(data, limits)
        signal.setitimer(signal.ITIMER_REAL, 0)
        _write(answers, {**answer, "number": number, "grown_bytes": grown_bytes})
        if picture is not None and form:
            _write_pictures(answers, picture, form)


def _prove(data: bytes, limits: ImagesConfig) -> tuple[dict[str, Any], Picture | None]:
    try:
        picture = decode_with_note(data, limits)
        answer: dict[str, Any] = {"size": picture.shape[:2], "note": picture.note, "levels": picture.levels}
        if limits.phash:
            answer["phash"] = perceptual_hash(picture)
        return answer, picture
    except ImageError as error:
        return {"reason": error.reason, "message": error.message}, None
    except MemoryError:
        # A failed allocation may have damaged a C library, so the second try gets a fresh process.
        os._exit(EXIT_OUT_OF_MEMORY)


def _write_pictures(answers: BinaryIO, picture: Picture, form: Sequence[str]) -> None:
    # No alarm runs: the parent may take long to store a tile. If it dies, the pipe breaks, and this process ends.
    kind, side, amount = form[0], int(form[1]), int(form[2])
    try:
        if kind == TILES:
            for x0, y0, x1, y1 in TileForm(side, amount).boxes(picture.shape[:2]):
                _write(answers, png_of(picture[y0:y1, x0:x1]))
        else:
            _write(answers, _encoded(picture[:, :], kind, side, amount))
    except MemoryError:
        os._exit(EXIT_OUT_OF_MEMORY)


def _encoded(pixels: np.ndarray, image_format: str, max_side_px: int, quality: int) -> bytes:
    picture = Image.fromarray(pixels)
    picture.thumbnail((max_side_px, max_side_px), Image.Resampling.LANCZOS)
    encoded = io.BytesIO()
    picture.save(encoded, image_format, quality=quality)
    return encoded.getvalue()


def _read(stream: BinaryIO) -> bytes | None:
    head = stream.read(LENGTH.size)
    if len(head) < LENGTH.size:
        return None
    (length,) = LENGTH.unpack(head)
    data = stream.read(length)
    return data if len(data) == length else None


def _write(stream: BinaryIO, answer: dict[str, Any] | bytes) -> None:
    body = answer if isinstance(answer, bytes) else json.dumps(answer).encode("utf-8")
    stream.write(LENGTH.pack(len(body)) + body)
    stream.flush()


if __name__ == "__main__":
    main()
