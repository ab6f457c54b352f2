"""Checks that a JPEG, PNG or TIFF file stores all of its pixels: Pillow would fill in lost ones without an error.

Called by `pixels.py` before it decodes; `layouts.py` reads `segments`. A damaged file is an `ImageError` (`corrupt`),
never half an image, and a whole file must pass. Imports no torch.
"""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image, TiffImagePlugin

from pseudoris.primitives.errors import ImageError

END_OF_IMAGE: Final = b"\xff\xd9"
_END: Final = END_OF_IMAGE[1]
_START_OF_SCAN: Final = 0xDA
# These JPEG markers start a frame. C4, C8 and CC mean something else. Source: ITU-T T.81, table B.1.
FRAME_STARTS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# These JPEG markers have no body: TEM and start of image.
_BARE: Final = (0x01, 0xD8)
# Matches all up to the next marker. Stuffed bytes and restart markers are part of the entropy-coded data. The pattern
# is matched, not searched, and possessive, so that a long run of 0xff before a marker takes linear time.
_MARKER: Final = re.compile(rb"[^\xff]*+(?:\xff++[\x00\xd0-\xd7][^\xff]*+)*+\xff++([^\x00\xff\xd0-\xd7])")
_RESTART_INTERVAL: Final = 0xDD
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
# Bits that are tried behind the data. Each is longer than the largest unit of a scan (ten blocks of 64 coefficients of
# up to 32 bits), and none holds a marker. Source of the choice: with these four, no wrong pixel passed in 186,000 small
# JPEGs cut by 0 to 39 bytes. With the best three, 7 files of 118,000 passed.
_TAILS: Final = tuple(bytes([value]) * 2560 for value in (0xAA, 0x55, 0xCC, 0x0F))
# A JPEG with more segments than this is refused. Real files have hundreds: four per scan, one per 64 KiB of metadata.
_MAX_SEGMENTS: Final = 20_000
# A JPEG with more filler than this between segments is refused: Pillow skips it byte by byte, which is slow.
_MAX_FILL_BYTES: Final = 2**20


def segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield each marker's second byte, its segment's body and end, in the first image; ImageError if too many."""
    at = num_found = 0
    while found := _MARKER.match(data, at):
        code, at, num_found = found[1][0], found.end(), num_found + 1
        if num_found > _MAX_SEGMENTS:
            raise ImageError("corrupt", f"the JPEG has more than {_MAX_SEGMENTS:,} segments")
        if code in _BARE:
            continue
        if code == _END:
            yield code, b"", at
            return
        end = at + int.from_bytes(data[at : at + 2], "big")
        yield code, data[at + 2 : end], end
        at = end


def check_image_header(data: bytes) -> None:
    """Raise ImageError for too many segments, or bytes between them, before a JPEG's pixels: Pillow walks over them."""
    at = num_fill = 0
    for code, body, end in segments(data):
        num_fill += end - len(body) - at
        at = end
        if code == _START_OF_SCAN:
            break
    else:
        num_fill += len(data) - at
    if num_fill > _MAX_FILL_BYTES:
        raise ImageError("corrupt", f"the JPEG has more than {_MAX_FILL_BYTES:,} bytes between its segments")


def has_end_marker(data: bytes) -> bool:
    """Return whether the first image of a JPEG file ends with an end marker."""
    return data.endswith(END_OF_IMAGE) or any(code == _END for code, _, _ in segments(data))


def possible_ends(data: bytes) -> tuple[list[bytes], list[bytes]]:
    """Return copies of a JPEG with different bits between its data and its end marker, which may be missing.

    If all copies show the same pixels, the decoder needs no bit behind the data: nothing is lost. The copies of the
    second list lack the last two bytes of data: if they show these pixels too, other bytes stand behind the data. Both
    lists are empty if the scans do not hold every bit of every coefficient, or if the last scan lacks restart markers.
    """
    frame, scan, interval, start = b"", b"", 0, 0
    left = set[tuple[int, int]]()
    for code, body, end in segments(data):
        if code in FRAME_STARTS:
            frame, left = body, {(component, index) for component in body[6::3] for index in range(64)}
        elif code == _RESTART_INTERVAL:
            interval = int.from_bytes(body[:2], "big")
        elif code == _START_OF_SCAN:
            scan, start = body, end
            if len(scan) >= 6 and not scan[-1] & 15:
                # `scan[-3]` and `scan[-2]` are the numbers of the first and the last coefficient in this scan.
                left -= {(component, index) for component in scan[1:-3:2] for index in range(scan[-3], scan[-2] + 1)}
    if left or not scan or not frame:
        return [], []
    stop = data.find(END_OF_IMAGE, start)
    kept = data[:stop] if stop >= 0 else _without_filler(data)
    if interval and len(_RESTART.findall(kept, start)) != -(-_num_units(frame, scan) // interval) - 1:
        return [], []
    # A 0xFF at the end began a marker that was cut. 0xFF00 may be data or a cut end marker, so both are tried.
    kept = kept.rstrip(b"\xff")
    less = kept.removesuffix(b"\xff\0")
    less = less[:-2].rstrip(b"\xff") if len(less) > start + 2 else b""
    whole, shorter = ([each + tail + END_OF_IMAGE for tail in _TAILS if each] for each in (kept, less))
    return whole, shorter


def _without_filler(data: bytes) -> bytes:
    """Return a JPEG without a newline, or the zeros in place of lost data, at its end. A single zero is data."""
    if data.endswith(b"\n"):
        return data[:-1].removesuffix(b"\r")
    kept = data.rstrip(b"\0")
    has_one_more = kept.endswith(b"\xff") or len(data) == len(kept) + 1
    return data[: len(kept) + has_one_more]


def _num_units(frame: bytes, scan: bytes) -> int:
    """Return the number of units (MCU) of a scan. Source: ITU-T T.81, A.2."""
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    shares = {frame[at]: (frame[at + 1] >> 4, frame[at + 1] & 15) for at in range(6, len(frame) - 2, 3)}
    most_x, most_y = (max(share[axis] for share in shares.values()) for axis in (0, 1))
    # In a scan of one component, a unit is one block. Otherwise a unit holds the blocks of all components.
    x, y = shares[scan[1]] if scan[0] == 1 else (1, 1)
    return -(-width * x // (most_x * 8)) * -(-height * y // (most_y * 8))


PNG_BEGIN: Final = b"\x89PNG\r\n\x1a\n"
# A PNG with more chunks is refused, because Pillow would take seconds. The largest known files have a tenth.
_MAX_CHUNKS: Final = 400_000
_PIECE_BYTES: Final = 2**20
# A PNG chunk is critical unless this bit of its first letter is set. Source: PNG specification, 5.4.
_ANCILLARY: Final = 0x20


def check_integrity(data: bytes, image: Image.Image) -> None:
    """Check the checksums of a PNG's critical chunks and its end, or the size, checksum or end of a TIFF's strips.

    ImageError (`corrupt`) if bytes are lost; any exception if the file is damaged otherwise.
    """
    if image.format == "PNG":
        kind = b""
        for kind, chunk in png_chunks(data):
            if not kind[0] & _ANCILLARY and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
                raise ImageError("corrupt", "the PNG is cut short or damaged: a chunk does not match its checksum")
        if kind != b"IEND":
            raise ImageError("corrupt", "the PNG is cut short: it lacks its end chunk")
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(data, image.tag_v2)


def png_chunk(kind: bytes, body: bytes) -> bytes:
    """Return a chunk of a PNG: length, kind, body and checksum."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_chunks(png: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield kind and bytes of each PNG chunk, to the end chunk; the last may be cut. ImageError if too many."""
    view, at, kind = memoryview(png), len(PNG_BEGIN), b""
    for _ in range(_MAX_CHUNKS):
        if kind == b"IEND" or at + 12 > len(png):
            return
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        yield kind, view[at:end]
        at = end
    raise ImageError("corrupt", f"the PNG has more than {_MAX_CHUNKS:,} chunks")


def _check_tiff(data: bytes, tags: Any) -> None:
    is_tiled = 322 in tags
    width, height = tags[256], tags[257]
    if is_tiled:
        width, most_rows = tags[322], tags[323]
        rows = [most_rows] * (-(-tags[256] // width) * -(-height // most_rows))
    else:
        most_rows = min(tags.get(278, height), height)
        rows = [min(most_rows, height - top) for top in range(0, height, most_rows)]
    rows *= tags.get(277, 1) if tags.get(284, 1) == 2 else 1
    offsets, sizes = (tags.get(number, ()) for number in ((324, 325) if is_tiled else (273, 279)))
    is_whole = len(offsets) >= len(rows) and len(sizes) >= len(rows)
    for offset, size, num_rows in zip(offsets, sizes, rows, strict=False):
        strip = data[offset : offset + size]
        match tags.get(259, 1):
            case 1:
                is_whole &= len(strip) >= _num_bytes(tags, width, num_rows)
            case 7:
                is_whole &= has_end_marker(strip.rstrip(b"\0"))
            case 8 | 32946:
                is_whole &= _is_whole_deflate(strip, _num_bytes(tags, width, most_rows))
    if not is_whole:
        raise ImageError("corrupt", "the TIFF is cut short or damaged: a strip or tile is not whole")


def _num_bytes(tags: Any, width: int, rows: int) -> int:
    """Return the number of bytes of a strip or tile that is not compressed."""
    if tags.get(262) == 6 and tags.get(284, 1) == 1:
        across, down = tags.get(530, (2, 2))
        return int(-(-width // across) * -(-rows // down) * (across * down + 2))
    num_samples = 1 if tags.get(284, 1) == 2 else tags.get(277, 1)
    return int(rows * -(-width * num_samples * max(tags.get(258, (1,))) // 8))


def _is_whole_deflate(strip: bytes, most_bytes: int) -> bool:
    """Return whether a stream ends with its checksum. libtiff stops at the last pixel, which it finds in zeros too."""
    stream = zlib.decompressobj()
    while not stream.eof and strip and most_bytes >= 0:
        most_bytes -= len(stream.decompress(strip, _PIECE_BYTES))
        strip = stream.unconsumed_tail
    return stream.eof
