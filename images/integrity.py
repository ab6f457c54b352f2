"""Checks that a PNG or a TIFF stores every byte of its pixels, where Pillow would put others in place of lost ones.

Called once an image, before it is decoded to the end. Does not import torch.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any, Final

from PIL import Image, TiffImagePlugin

from pseudoris.images.jpeg_segments import has_end_marker
from pseudoris.schemas.errors import ImageError

PNG_BEGIN: Final = b"\x89PNG\r\n\x1a\n"
# Pillow needs some seconds for so many. The largest files have a tenth, of 8 KiB each.
_MAX_CHUNKS: Final = 400_000
_PIECE_BYTES: Final = 2**20
# A PNG chunk is critical unless this bit of its first letter is set. Source: PNG specification, 5.4.
_ANCILLARY: Final = 0x20


def check_integrity(data: bytes, image: Image.Image) -> None:
    """Check the checksums of a PNG's critical chunks and its end, or the size, checksum or end of a TIFF's strips.

    Raises:
        ImageError: `corrupt`: bytes are lost.
        Exception: Of many types, if the file is damaged otherwise.
    """
    if image.format == "PNG":
        _check_png(data)
    elif isinstance(image, TiffImagePlugin.TiffImageFile):
        _check_tiff(data, image.tag_v2)


def png_chunks(png: bytes) -> Iterator[tuple[bytes, memoryview]]:
    """Yield the kind of each chunk of a PNG, to its end chunk, and the whole chunk; the last one may be cut short.

    Raises:
        ImageError: `corrupt`: there are more chunks than a whole file has.
    """
    view, at, kind = memoryview(png), len(PNG_BEGIN), b""
    for _ in range(_MAX_CHUNKS):
        if kind == b"IEND" or at + 12 > len(png):
            return
        end = at + 12 + int.from_bytes(view[at : at + 4], "big")
        kind = bytes(view[at + 4 : at + 8])
        yield kind, view[at:end]
        at = end
    raise ImageError("corrupt", f"the PNG has more than {_MAX_CHUNKS:,} chunks")


def _check_png(data: bytes) -> None:
    kind = b""
    for kind, chunk in png_chunks(data):
        if not kind[0] & _ANCILLARY and zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ImageError("corrupt", "the PNG is cut short or damaged: a chunk does not match its checksum")
    if kind != b"IEND":
        raise ImageError("corrupt", "the PNG is cut short: it lacks its end chunk")


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
