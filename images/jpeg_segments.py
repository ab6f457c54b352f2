"""The segments of a JPEG, and what is known of one that lacks its end marker. Does not import torch."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from pseudoris.schemas.errors import ImageError

END_OF_IMAGE: Final = b"\xff\xd9"
_END: Final = END_OF_IMAGE[1]
_START_OF_SCAN: Final = 0xDA
# All that start a frame; C4, C8 and CC are other markers. Source: ITU-T T.81, table B.1.
FRAME_STARTS: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
# Markers without a body: TEM and start of image.
_BARE: Final = (0x01, 0xD8)
# All up to a marker that is neither a stuffed byte nor a restart marker, which stand inside the entropy-coded data.
# Matched and not searched, and possessive: a long run of 0xff, which may stand before a marker, takes linear time.
_MARKER: Final = re.compile(rb"[^\xff]*+(?:\xff++[\x00\xd0-\xd7][^\xff]*+)*+\xff++([^\x00\xff\xd0-\xd7])")
_RESTART_INTERVAL: Final = 0xDD
_RESTART: Final = re.compile(rb"\xff[\xd0-\xd7]")
# Bits that may stand behind the data; each is longer than the largest unit of a scan (ten blocks of 64 coefficients of
# up to 32 bits), and none holds a marker. Source of the choice: of 186,000 small JPEGs cut by 0 to 39 bytes these
# four let none with a wrong pixel pass; the best three let 7 of 118,000 pass, two 50 of 88,000.
_TAILS: Final = tuple(bytes([value]) * 2560 for value in (0xAA, 0x55, 0xCC, 0x0F))
# Whole files have hundreds: a scan is at most four, an embedded picture or profile one for 65,533 bytes.
_MAX_SEGMENTS: Final = 20_000
# Pillow steps through what stands between the segments byte by byte.
_MAX_FILL_BYTES: Final = 2**20


def segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield the second byte of each marker, the body of its segment and where that ends, in the file's first image.

    Raises:
        ImageError: `corrupt`: there are more segments than a whole file has.
    """
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


def check_header(data: bytes) -> None:
    """Check that the segments before a JPEG's pixels are few, and the bytes between them: Pillow steps through each.

    Raises:
        ImageError: `corrupt`: there are more than a whole file has.
    """
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
    """Return a JPEG with each of several bits between its data and its end marker, which may be missing.

    If all decode to the same pixels, the decoder needs no bit behind the data: nothing is lost. The second list is of
    the data without their last two bytes: if those show the same pixels too, other bytes stand behind the data. Both
    lists are empty if whole scans are missing (those that are there do not hold every coefficient of every component to
    its last bit), or restart markers of the last scan.
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
                # First and last coefficient; the low half of the last byte counts the bits that later scans refine.
                left -= {(component, index) for component in scan[1:-3:2] for index in range(scan[-3], scan[-2] + 1)}
    if left or not scan or not frame:
        return [], []
    stop = data.find(END_OF_IMAGE, start)
    kept = data[:stop] if stop >= 0 else _without_filler(data)
    if interval and len(_RESTART.findall(kept, start)) != -(-_num_units(frame, scan) // interval) - 1:
        return [], []
    # One that no zero follows stands before a marker; zero behind it may fill the place of half an end marker.
    kept = kept.rstrip(b"\xff")
    less = kept.removesuffix(b"\xff\0")
    less = less[:-2].rstrip(b"\xff") if len(less) > start + 2 else b""
    whole, shorter = ([each + tail + END_OF_IMAGE for tail in _TAILS if each] for each in (kept, less))
    return whole, shorter


def _without_filler(data: bytes) -> bytes:
    """Return a JPEG without a newline, or zeros that fill the place of lost data, at its end. A single zero is data."""
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
    x, y = shares[scan[1]] if scan[0] == 1 else (1, 1)
    # A scan of one component has its own blocks as units; another has the blocks of all within the largest share.
    if scan[0] == 1:
        return -(-width * x // (most_x * 8)) * -(-height * y // (most_y * 8))
    return -(-width // (most_x * 8)) * -(-height // (most_y * 8))
