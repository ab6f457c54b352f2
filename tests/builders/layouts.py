"""A file of each layout that is read, written without Pillow, and its samples as the file holds them.

Writers: `pypng`, `tifffile`, `imagecodecs`, and BMP by hand. Each file is noise, or ramps where the format is lossy.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from typing import Any

import imagecodecs
import numpy as np
import png
import tifffile
from PIL import Image

from pseudoris.images.layouts import APART, ENTRIES, KEYED, OPAQUE, PREMULTIPLIED, STRAIGHT, Layout
from tests.builders.images import encode, tiff

HEIGHT, WIDTH = 21, 37
CHANNELS = {"rgb": 3, "cmyk": 4, "ycbcr": 3, "colour": 3}
PALETTE = np.random.default_rng(7).integers(0, 256, (256, 3), dtype=np.uint8)
# Where the frame lies in a GIF's screen: rows and columns before it, and the screen's size.
GIF_FRAME = (5, 9, 40, 60)

Cell = tuple[bytes, np.ndarray]


def noise(bits: int, channels: int) -> np.ndarray:
    """Return (H, W, channels) samples of so many bits, (H, W) for one."""
    kind = np.uint8 if bits <= 8 else np.uint16
    found = np.random.default_rng(bits + channels).integers(0, 2**bits, (HEIGHT, WIDTH, channels), dtype=kind)
    return found[..., 0] if channels == 1 else found


def ramps(bits: int, channels: int) -> np.ndarray:
    """Return (H, W, channels) samples that lossy formats keep within a few levels."""
    rows, columns = np.mgrid[0:HEIGHT, 0:WIDTH] / max(HEIGHT, WIDTH)
    planes = [rows, columns, (rows + columns) / 2, (1 - rows) * 0.9][:channels]
    found = (np.stack(planes, axis=2) * (2**bits - 1)).astype(np.uint8 if bits <= 8 else np.uint16)
    return found[..., 0] if channels == 1 else found


def on_white(samples: np.ndarray, bits: int, alpha: np.ndarray | None = None) -> np.ndarray:
    """Return (H, W, 3) float64: grey (H, W) or RGB by the declared rule to 8 bits, composited on white.

    16-bit grey without alpha is rounded, other 16 bits are cut.
    """
    most = 2**bits - 1
    is_cut = bits > 8 and (samples.ndim == 3 or alpha is not None)
    levels = samples >> (bits - 8) if is_cut else np.round(samples.astype(np.float64) * 255 / most)
    shown = np.broadcast_to(levels[..., None] if samples.ndim == 2 else levels, (*samples.shape[:2], 3))
    if alpha is None:
        return shown.astype(np.float64)
    share = (alpha >> (bits - 8) if bits > 8 else alpha)[..., None] / 255
    return shown * share + 255 * (1 - share)


def composited(samples: np.ndarray, bits: int, *, has_alpha: bool) -> np.ndarray:
    """Return what samples show on white, the last channel of which may be alpha."""
    colour, alpha = (samples[..., :-1], samples[..., -1]) if has_alpha else (samples, None)
    return on_white(colour[..., 0] if has_alpha and colour.shape[2] == 1 else colour, bits, alpha)


def cells(layout: Layout, *, orientation: int = 1) -> Iterator[Cell]:
    """Yield files of a layout, a TIFF with an orientation, each with its (H, W, 3) float64 RGB as stored, on white."""
    yield from _tiff(layout, orientation) if layout.format == "TIFF" else _WRITERS[layout.format](layout)


def _png(layout: Layout) -> Iterator[Cell]:
    bits, is_palette = layout.bits, layout.samples == "palette"
    is_grey, has_alpha = layout.samples == "grey", layout.alpha == STRAIGHT
    samples = noise(bits, (1 if is_grey or is_palette else 3) + has_alpha)
    options: dict[str, Any] = {"bitdepth": bits}
    if is_palette:
        clear = np.full(2**bits, 255) if layout.alpha == OPAQUE else np.random.default_rng(3).integers(0, 256, 2**bits)
        colours = PALETTE[: 2**bits].tolist()
        options["palette"] = (
            [(*c, int(a)) for c, a in zip(colours, clear, strict=True)] if layout.alpha == ENTRIES else colours
        )
        shown = on_white(PALETTE[samples], 8, clear[samples])
    else:
        options |= {"greyscale": is_grey, "alpha": has_alpha}
        shown = composited(samples, bits, has_alpha=has_alpha)
        if layout.alpha == KEYED:
            key = samples[samples > 0][0] if is_grey else samples[3, 4]
            options["transparent"] = int(key) if is_grey else tuple(map(int, key))
            shown = np.where((samples == key).reshape(HEIGHT, WIDTH, -1).all(axis=2)[..., None], 255, shown)
    for is_interlaced in (False, True):
        file = io.BytesIO()
        writer = png.Writer(WIDTH, HEIGHT, interlace=is_interlaced, **options)
        writer.write(file, samples.reshape(HEIGHT, -1).tolist())
        yield file.getvalue(), shown


def _tiff(layout: Layout, orientation: int) -> Iterator[Cell]:
    bits, is_deep = layout.bits, layout.bits >= 8
    samples, shown, options = _tiff_samples(layout)
    options["extratags"] = [(274, "H", 1, orientation, True), *options.get("extratags", ())]
    photometrics = {"grey": "minisblack", "inverted grey": "miniswhite", "cmyk": "separated", "ycbcr": "rgb"}
    options["photometric"] = photometrics.get(layout.samples, layout.samples if is_deep else "minisblack")
    if layout.samples == "inverted grey":
        samples = (2**bits - 1 - samples).astype(samples.dtype)
    if bits < 8:
        options["bitspersample"] = bits
    if layout.order == APART:
        samples = np.ascontiguousarray(np.moveaxis(samples, 2, 0))
    ways: dict[str | None, Any] = {None: None, "zlib": None, "lzw": None} if is_deep else {None: None}
    for compression, level in ({"jpeg": {"level": 98}} if layout.samples == "ycbcr" else ways).items():
        for byteorder in "<" if layout.samples == "inverted grey" and bits == 16 else "<>":
            for tile in (None, (16, 32)) if is_deep else (None,):
                how = {"compression": compression, "compressionargs": level, "byteorder": byteorder, "tile": tile}
                data = tiff(samples.astype(bool) if bits == 1 else samples, **how, **options)
                if layout.samples == "palette" and not is_deep:
                    data = _as_palette(data, byteorder + "HHIH")
                # What JPEG loses depends on the tiles too.
                yield data, tifffile.imread(io.BytesIO(data)).astype(np.float64) if compression == "jpeg" else shown


def _as_palette(data: bytes, entry: str) -> bytes:
    """Return a grey TIFF with a colour map as a palette's, which tifffile writes only of 8 bits."""
    data = data.replace(struct.pack(entry, 262, 3, 1, 1), struct.pack(entry, 262, 3, 1, 3))
    if struct.pack(entry[:3], 258, 3) not in data:
        # Of one bit tifffile leaves the depth out, and libtiff needs it: in place of the tag "not compressed".
        data = data.replace(struct.pack(entry, 259, 3, 1, 1), struct.pack(entry, 258, 3, 1, 1))
    return data


def _tiff_samples(layout: Layout) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    """Return samples (grey not inverted yet), what they show, and options of tifffile."""
    bits, num_colours = layout.bits, CHANNELS.get(layout.samples, 1)
    num_extra = 0 if layout.alpha == OPAQUE else int(layout.alpha[0]) if layout.alpha[0].isdigit() else 1
    samples = noise(bits, num_colours + num_extra)
    options: dict[str, Any] = {}
    if samples.ndim == 3:
        options["planarconfig"] = "separate" if layout.order == APART else "contig"
    if num_extra:
        options["extrasamples"] = [{STRAIGHT: 2, PREMULTIPLIED: 1}.get(layout.alpha, 0)] * num_extra
    if layout.samples == "palette":
        colours = PALETTE[: 2**bits].T.astype(np.uint16) * 257
        tag = (320, "H", colours.size, tuple(map(int, colours.ravel())), True)
        return samples, on_white(PALETTE[samples], 8), {"colormap": colours} if bits == 8 else {"extratags": [tag]}
    if layout.samples == "cmyk":
        inks = samples.astype(np.float64) if bits == 8 else (samples >> 8).astype(np.float64)
        return samples, (255 - inks[..., :3]) * (255 - inks[..., 3:]) / 255, options
    if layout.samples == "ycbcr":
        return ramps(8, 3), np.empty(0), options
    if layout.alpha == PREMULTIPLIED:
        samples[..., :3] = (samples[..., :3].astype(np.uint64) * samples[..., 3:] // (2**bits - 1)).astype(
            samples.dtype
        )
        return samples, (samples[..., :3] + (2**bits - 1.0 - samples[..., 3:])) * 255 / (2**bits - 1), options
    colour = samples[..., 0] if num_extra and num_colours == 1 else samples[..., :num_colours] if num_extra else samples
    return samples, on_white(colour, bits, samples[..., -1] if layout.alpha == STRAIGHT else None), options


def _jpeg(layout: Layout) -> Iterator[Cell]:
    stored = ramps(8, CHANNELS.get(layout.samples, 1))
    mode = {"grey": "L", "colour": "RGB", "cmyk": "CMYK"}[layout.samples]
    if layout.order == "progressive":
        # imagecodecs writes none.
        files = [encode(Image.fromarray(stored, mode), "JPEG", quality=98, progressive=True)]
    else:
        spaces = {"grey": ("GRAYSCALE",), "colour": ("YCBCR", "RGB"), "cmyk": ("CMYK", "YCCK")}[layout.samples]
        inside = {"grey": "GRAYSCALE", "colour": "RGB", "cmyk": "CMYK"}[layout.samples]
        files = [
            bytes(imagecodecs.jpeg8_encode(stored, 98, colorspace=inside, outcolorspace=space, subsampling=halved))
            for space in spaces
            for halved in (("444", "420") if space in ("YCBCR", "YCCK") else (None,))
        ]
    for data in files:
        decoded = imagecodecs.jpeg8_decode(data).astype(np.float64)
        # Adobe stores inks inverted.
        shown = decoded[..., :3] * decoded[..., 3:] / 255 if layout.samples == "cmyk" else on_white(decoded, 8)
        yield data, shown


def _lossless(layout: Layout) -> Iterator[Cell]:
    bits, has_alpha = layout.bits, layout.alpha == STRAIGHT
    num_colours = CHANNELS.get(layout.samples, 1)
    samples = noise(bits, num_colours + has_alpha)
    shown = composited(samples, bits, has_alpha=has_alpha)
    if layout.format == "WEBP":
        files = [imagecodecs.webp_encode(samples, lossless=True)]
    elif layout.format == "AVIF":
        yield bytes(imagecodecs.avif_encode(samples, imagecodecs.AVIF.QUALITY.LOSSLESS, bitspersample=bits)), shown
        smooth = ramps(bits, samples.shape[2] if samples.ndim == 3 else 1)
        shown = composited(smooth, bits, has_alpha=has_alpha)
        files = [imagecodecs.avif_encode(smooth, 95, bitspersample=bits)]
    else:
        files = [
            imagecodecs.jpeg2k_encode(samples, 0, codecformat=kind, reversible=True, bitspersample=bits, mct=mct)
            for kind in (("jp2",) if has_alpha else ("jp2", "j2k"))
            for mct in (True, False)
        ]
    for data in map(bytes, files):
        yield _with_opacity(data, num_colours) if layout.format == "JPEG2000" and has_alpha else data, shown


def _with_opacity(jp2: bytes, num_colours: int) -> bytes:
    """Return a JP2 that says that its last channel is opacity, by a box that imagecodecs does not write."""
    channels = [*((n, 0, n + 1) for n in range(num_colours)), (num_colours, 1, 0)]
    body = b"".join(struct.pack(">HHH", *each) for each in channels)
    box = struct.pack(">I4sH", 10 + len(body), b"cdef", len(channels)) + body
    start = jp2.index(b"jp2h") - 4
    (size,) = struct.unpack_from(">I", jp2, start)
    return jp2[:start] + struct.pack(">I", size + len(box)) + jp2[start + 4 : start + size] + box + jp2[start + size :]


def _bmp(layout: Layout) -> Iterator[Cell]:
    bits, order = layout.bits, layout.order
    if bits <= 8:
        samples = noise(bits, 1)
        palette = np.pad(PALETTE[: 2**bits, ::-1], ((0, 0), (0, 1)))
        shown = on_white(PALETTE[samples], 8)
        if order == "run lengths":
            rows = [b"".join(_runs(row, bits)) + b"\0\0" for row in samples[::-1].tolist()]
            yield bmp(bits, 2 if bits == 4 else 1, b"".join(rows) + b"\0\1", palette.tobytes()), shown
            return
        packed = np.packbits(((samples[..., None] >> np.arange(bits - 1, -1, -1)) & 1).reshape(HEIGHT, -1), axis=1)
        yield bmp(bits, 0, _padded(packed), palette.tobytes()), shown
        return
    if bits == 16:
        for green in (5,) if order == "uncompressed" else (5, 6):
            samples = np.stack([noise(each, 1) for each in (5, green, 5)], axis=2).astype(np.uint16)
            words = samples[..., 0] << (5 + green) | samples[..., 1] << 5 | samples[..., 2]
            masks = struct.pack("<III", 31 << (5 + green), (2**green - 1) << 5, 31) if order == "bit masks" else b""
            shown = samples * 255 / [31, 2**green - 1, 31]
            yield bmp(bits, 3 if masks else 0, _padded(words.astype("<u2").view(np.uint8)), masks), shown
        return
    samples = noise(8, bits // 8)
    alpha = samples[..., 3] if layout.alpha == STRAIGHT else None
    masks = (
        struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0 if alpha is None else 0xFF000000)
        if order == "bit masks"
        else b""
    )
    yield (
        bmp(bits, 3 if masks else 0, _padded(samples.reshape(HEIGHT, -1)), masks),
        on_white(samples[..., 2::-1], 8, alpha),
    )


def _runs(row: list[int], bits: int) -> Iterator[bytes]:
    if bits == 8:
        yield from (bytes([1, index]) for index in row)
    else:
        yield from (bytes([2, a << 4 | b]) for a, b in zip(row[:-1:2], row[1::2], strict=True))
        yield bytes([1, row[-1] << 4])


def _padded(rows: np.ndarray) -> bytes:
    return np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4)))[::-1].tobytes()


def bmp(bits: int, compression: int, pixels: bytes, between: bytes, *, num_colours: int = 0) -> bytes:
    """Return a BMP; `between` is a palette, or masks, of which the fourth needs a longer header."""
    size = 56 if compression == 3 and len(between) == 16 else 40
    start = 14 + (size if size == 56 else size + len(between))
    head = struct.pack("<IiiHHIIiiII", size, WIDTH, HEIGHT, 1, bits, compression, len(pixels), 0, 0, num_colours, 0)
    return b"BM" + struct.pack("<IHHI", start + len(pixels), 0, 0, start) + head + between + pixels


def _gif(layout: Layout) -> Iterator[Cell]:
    samples = noise(8, 1)
    data = bytearray(imagecodecs.gif_encode(samples, colormap=PALETTE))
    at = data.index(b",", 13 + 768 * bool(data[10] & 0x80))
    shown = on_white(PALETTE[samples], 8)
    if layout.alpha == KEYED:
        shown[samples == samples[2, 3]] = 255
    if layout.order != "the whole screen":
        top, left, height, width = GIF_FRAME
        data[6:10] = struct.pack("<HH", width, height)
        data[at + 1 : at + 5] = struct.pack("<HH", left, top)
        shown = np.pad(shown, ((top, height - HEIGHT - top), (left, width - WIDTH - left), (0, 0)), constant_values=255)
    if layout.alpha == KEYED:
        data[at:at] = b"!\xf9\x04\x01\0\0" + bytes([samples[2, 3], 0])
    yield bytes(data), shown


_WRITERS: dict[str, Callable[[Layout], Iterator[Cell]]] = {
    "AVIF": _lossless,
    "BMP": _bmp,
    "GIF": _gif,
    "JPEG": _jpeg,
    "JPEG2000": _lossless,
    "PNG": _png,
    "WEBP": _lossless,
}
