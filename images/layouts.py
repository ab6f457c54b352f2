"""Lists the layouts of samples that Pillow reads rightly, and reads the layout of an image from its header.

Called by `pixels.py`. Pillow reads other layouts wrongly without an error, so those are quarantined. A layout is added
only with a test that writes it with another encoder and compares another decoder's pixels. Imports no torch.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from PIL import Image, TiffImagePlugin

from pseudoris.images.integrity import FRAME_STARTS, segments
from pseudoris.primitives.errors import ImageError

OPAQUE: Final = "no alpha"
STRAIGHT: Final = "straight alpha"
PREMULTIPLIED: Final = "premultiplied alpha"
KEYED: Final = "one clear colour"
ENTRIES: Final = "clear palette entries"
TOGETHER: Final = "interleaved"
APART: Final = "separate planes"


class Layout(NamedTuple):
    """How a file stores its samples: format, kind and bits of a sample, their order, and how transparency is stored.

    `format` is Pillow's name, JPEG also for MPO. `bits` are those of a sample, of a pixel in a BMP.
    """

    format: str
    samples: str
    bits: int
    order: str
    alpha: str

    def __str__(self) -> str:
        return f"{self.format}, {self.bits}-bit {self.samples}, {self.order}, {self.alpha}"


def _unnamed(count: int) -> str:
    return f"{count} unnamed extra samples"


LAYOUTS: Final = frozenset(
    Layout(name, samples, bits, order, alpha)
    for name, samples, depths, orders, alphas in (
        ("AVIF", "grey", (8,), (TOGETHER,), (OPAQUE,)),
        ("AVIF", "rgb", (8, 10, 12), (TOGETHER,), (OPAQUE, STRAIGHT)),
        ("BMP", "palette", (1, 4, 8), ("uncompressed",), (OPAQUE,)),
        ("BMP", "palette", (4, 8), ("run lengths",), (OPAQUE,)),
        ("BMP", "rgb", (16, 24, 32), ("uncompressed",), (OPAQUE,)),
        ("BMP", "rgb", (16,), ("bit masks",), (OPAQUE,)),
        ("BMP", "rgb", (32,), ("bit masks",), (OPAQUE, STRAIGHT)),
        ("GIF", "palette", (8,), ("the whole screen", "a part of the screen"), (OPAQUE, KEYED)),
        ("JPEG", "grey", (8,), ("sequential", "progressive"), (OPAQUE,)),
        ("JPEG", "colour", (8,), ("sequential", "progressive"), (OPAQUE,)),
        ("JPEG", "cmyk", (8,), ("sequential", "progressive"), (OPAQUE,)),
        ("JPEG2000", "grey", (8, 16), (TOGETHER,), (OPAQUE,)),
        ("JPEG2000", "grey", (8,), (TOGETHER,), (STRAIGHT,)),
        # JPEG2000 colour of 16 bits is missing here, because Pillow makes its brightest samples black.
        ("JPEG2000", "rgb", (8,), (TOGETHER,), (OPAQUE, STRAIGHT)),
        ("PNG", "grey", (1, 2, 4, 8, 16), (TOGETHER,), (OPAQUE, KEYED)),
        ("PNG", "grey", (8, 16), (TOGETHER,), (STRAIGHT,)),
        ("PNG", "palette", (1, 2, 4, 8), (TOGETHER,), (OPAQUE, ENTRIES)),
        ("PNG", "rgb", (8,), (TOGETHER,), (OPAQUE, KEYED, STRAIGHT)),
        ("PNG", "rgb", (16,), (TOGETHER,), (OPAQUE, STRAIGHT)),
        ("TIFF", "cmyk", (8, 16), (TOGETHER, APART), (OPAQUE,)),
        ("TIFF", "grey", (1, 2, 4, 8, 16), (TOGETHER,), (OPAQUE,)),
        ("TIFF", "inverted grey", (1, 2, 4, 8, 16), (TOGETHER,), (OPAQUE,)),
        ("TIFF", "grey", (8,), (TOGETHER,), (STRAIGHT, _unnamed(1))),
        ("TIFF", "palette", (1, 2, 4, 8), (TOGETHER,), (OPAQUE,)),
        ("TIFF", "rgb", (8, 16), (TOGETHER, APART), (OPAQUE, STRAIGHT, _unnamed(1))),
        ("TIFF", "rgb", (8, 16), (TOGETHER,), (PREMULTIPLIED,)),
        ("TIFF", "rgb", (8,), (TOGETHER,), (_unnamed(2), _unnamed(3))),
        ("TIFF", "ycbcr", (8,), (TOGETHER,), (OPAQUE,)),
        ("WEBP", "rgb", (8,), (TOGETHER,), (OPAQUE, STRAIGHT)),
    )
    for bits in depths
    for order in orders
    for alpha in alphas
)


# Samples whose range a file does not state. They are read where `images.window` states it.
WINDOWED: Final = {
    Layout("TIFF", samples, bits, TOGETHER, OPAQUE): kind
    for samples, bits, kind in (
        ("signed grey", 16, "i2"),
        ("signed grey", 32, "i4"),
        ("grey", 32, "u4"),
        ("floating-point grey", 32, "f4"),
    )
}


def check_layout(data: bytes, image: Image.Image | None, *, has_window: bool = False) -> Layout | None:
    """Return the layout of an image; None for a format outside the list, or if the header does not tell.

    `image` is None if Pillow refuses to open `data`. ImageError (`unsupported_pixels`) for a layout that is not one of
    `LAYOUTS`, or with a window of `WINDOWED`; any exception for a damaged header.
    """
    guessed = next((name for start, name in _STARTS if data.startswith(start)), None)
    name = guessed if image is None else image.format
    if name not in _READERS:
        return None
    layout = _READERS[name](data, image)
    if layout not in LAYOUTS and not (has_window and layout in WINDOWED):
        remedy = "Give images.window=[LOW, HIGH], or save" if layout in WINDOWED else "Save"
        raise ImageError("unsupported_pixels", f"this layout is not read: {layout}. {remedy} the image as 8-bit RGB")
    return layout


def _avif(data: bytes, image: Image.Image) -> Layout:
    # This byte of the AV1 configuration has flags: more than 8 bits (0x40), 12 bits (0x20), a single plane (0x10).
    flags = data[data.index(b"av1C") + 6]
    bits = 8 + 2 * bool(flags & 0x40) + 2 * bool(flags & 0x20)
    return Layout("AVIF", "grey" if flags & 0x10 else "rgb", bits, TOGETHER, _of_mode(image))


def _of_mode(image: Image.Image | None) -> str:
    return STRAIGHT if image is not None and image.mode == "RGBA" else OPAQUE


def _bmp(data: bytes, image: Image.Image | None) -> Layout:
    (size,) = struct.unpack_from("<I", data, 14)
    bits, compression = (
        (struct.unpack_from("<H", data, 24)[0], 0) if size == 12 else struct.unpack_from("<HI", data, 28)
    )
    orders = ("uncompressed", "run lengths", "run lengths", "bit masks" if size != 64 else "Huffman codes")
    order = orders[compression] if compression < len(orders) else f"compression {compression}"
    samples = "palette" if bits <= 8 else "rgb"
    if image is not None and ((image.mode == "1" and bits > 1) or (image.mode == "L" and bits == 4)):
        # Pillow opens a palette of few greys as an image of 1 or 8 bits, so this layout has a name of its own.
        samples = "palette of few greys"
    return Layout("BMP", samples, bits, order, _of_mode(image))


def _gif(data: bytes, image: Any) -> Layout:
    is_whole = image.tile[0].extents == (0, 0, *image.size)
    order = "the whole screen" if is_whole else "a part of the screen"
    return Layout("GIF", "palette", 8, order, KEYED if "transparency" in image.info else OPAQUE)


def _jpeg(data: bytes, image: Image.Image | None) -> Layout:
    has_adobe = False
    for code, body, _ in segments(data):
        has_adobe |= code == 0xEE and body.startswith(b"Adobe")
        if code in FRAME_STARTS:
            order = {0xC0: "sequential", 0xC1: "sequential", 0xC2: "progressive"}.get(code, f"process {code & 15}")
            inks = "cmyk" if has_adobe else "cmyk without Adobe's marker"
            samples = {1: "grey", 3: "colour", 4: inks}.get(body[5], f"samples of {body[5]} components")
            return Layout("JPEG", samples, body[0], order, OPAQUE)
    raise ValueError("no frame")


def _jpeg2000(data: bytes, image: Image.Image | None) -> Layout:
    start = data.index(b"\xff\x4f\xff\x51")
    boxes = data[:start]
    count = int.from_bytes(data[start + 40 : start + 42], "big")
    parts = [data[at : at + 3] for at in range(start + 42, start + 42 + 3 * count, 3)]
    samples = {1: "grey", 2: "grey", 3: "rgb", 4: "rgb"}.get(count, f"samples of {count} components")
    space = boxes.find(b"colr")
    number = int.from_bytes(boxes[space + 7 : space + 11])
    if space >= 0 and boxes[space + 4] == 1 and number not in (16, 17):
        samples = f"colour space {number}"
    if b"pclr" in boxes:
        samples = "palette"
    if len({part[0] for part in parts}) > 1 or parts[0][0] & 0x80:
        samples = f"signed or mixed {samples}"
    kinds = boxes.find(b"cdef")
    types = set(boxes[kinds + 9 : kinds + 6 + 6 * count : 6]) if kinds >= 0 else set[int]()
    extra = STRAIGHT if types == {0, 1} else "an extra component of another kind"
    is_halved = any(part[1:] != b"\1\1" for part in parts)
    order = "subsampled" if is_halved else TOGETHER
    return Layout("JPEG2000", samples, (parts[0][0] & 0x7F) + 1, order, extra if count in (2, 4) else OPAQUE)


def _png(data: bytes, image: Image.Image) -> Layout:
    bits, colour = data[24], data[25]
    samples = {0: "grey", 2: "rgb", 3: "palette", 4: "grey", 6: "rgb"}[colour]
    alpha = STRAIGHT if colour in (4, 6) else OPAQUE
    if alpha is OPAQUE and "transparency" in image.info:
        alpha = ENTRIES if samples == "palette" else KEYED
    return Layout("PNG", samples, bits, TOGETHER, alpha)


def _tiff(data: bytes, image: Image.Image | None) -> Layout:
    tags: Any = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])
    file, start = io.BytesIO(data), tags.next
    file.seek(start)
    tags.load(file)
    # Pillow raises no error for a directory that is cut short, so this checks that the width (tag 256) is there.
    if tags.next == start or 256 not in tags:
        raise ValueError("the directory is lost")
    colours = {0: "inverted grey", 1: "grey", 2: "rgb", 3: "palette", 5: "cmyk", 6: "ycbcr"}
    samples = colours.get(tags.get(262, -1), f"photometric {tags.get(262)}")
    count, extra = tags.get(277, 1), tuple(tags.get(338, ()))
    alpha = {(): OPAQUE, (1,): PREMULTIPLIED, (2,): STRAIGHT}.get(extra, f"extra samples {extra[:4]}")
    if extra and not any(extra):
        alpha = _unnamed(len(extra))
    if count - len(extra) != {"rgb": 3, "ycbcr": 3, "cmyk": 4}.get(samples, 1):
        alpha = f"{count} samples, {len(extra)} of them extra"
    kinds, depths = set(tags.get(339, (1,))), set(tags.get(258, (1,)))
    if kinds != {1}:
        name = {frozenset({2}): "signed", frozenset({3}): "floating-point"}.get(frozenset(kinds), "signed or mixed")
        samples = f"{name} {samples}"
    if len(depths) > 1:
        samples = f"mixed {samples}"
    order = APART if tags.get(284, 1) == 2 and count > 1 else TOGETHER
    bits = max(depths)
    for is_odd, what in (
        (tags.get(259, 1) not in _COMPRESSIONS, f"compression {tags.get(259)}"),
        (tags.get(266, 1) != 1 and (bits > 1 or tags.get(259, 1) != 1), "bits reversed"),
        (samples == "inverted grey" and bits == 16 and data[:1] == b"M", "big-endian"),
        (samples == "cmyk" and tags.get(332, 1) != 1, "other inks"),
        (samples == "palette" and 0 < max(tags.get(320, (0,))) < 256, "a colour map of 8 bits"),
    ):
        order += f", {what}" if is_odd else ""
    return Layout("TIFF", samples, bits, order, alpha)


# Compressions of TIFF that are read: none, LZW, JPEG, two of Deflate, PackBits, LZMA, Zstandard, WebP. Old-style JPEG
# (6) and fax (2 to 4) are left out: libtiff makes up the lost rows of a fax that is cut short.
_COMPRESSIONS: Final = (1, 5, 7, 8, 32773, 32946, 34925, 50000, 50001)


_READERS: Final[dict[str | None, Callable[[bytes, Any], Layout]]] = {
    "AVIF": _avif,
    "BMP": _bmp,
    "GIF": _gif,
    "JPEG": _jpeg,
    "JPEG2000": _jpeg2000,
    "MPO": _jpeg,
    "PNG": _png,
    "TIFF": _tiff,
    "WEBP": lambda data, image: Layout("WEBP", "rgb", 8, TOGETHER, _of_mode(image)),
}
# A file that begins with these bytes has a layout that can be read even if Pillow cannot open the file.
_STARTS: Final = (
    (b"BM", "BMP"),
    (b"\xff\xd8\xff", "JPEG"),
    ((b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  "), "JPEG2000"),
    ((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"), "TIFF"),
)
