"""Decodes image files to upright RGB pixels, as viewers show them, or raises an `ImageError` with a reason code.

Called by every room that needs pixels. Only the formats of a fixed list, and of Pillow plug-ins, are opened. A plug-in
runs code, so `import_plugins` may get names only from the user's own configuration or command line. A run's header may
come from a stranger: its plug-ins are used only if the user has loaded them. Imports no torch, because the prover's
child imports this module.
"""

from __future__ import annotations

import importlib
import io
import logging
import struct
import sys
import zlib
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

import numpy as np
from PIL import GifImagePlugin, Image, TiffImagePlugin, UnidentifiedImageError

from pseudoris.images.integrity import (
    PNG_BEGIN,
    check_image_header,
    check_integrity,
    has_end_marker,
    png_chunk,
    png_chunks,
    possible_ends,
)
from pseudoris.images.layouts import KEYED, WINDOWED, Layout, check_layout
from pseudoris.images.levels import NOTE_CLIPPED, NOTE_DARK, DeepSamples, Levels
from pseudoris.primitives.errors import ConfigError, ImageError, too_many_bytes
from pseudoris.primitives.extras import install
from pseudoris.primitives.run_lengths import Box
from pseudoris.primitives.untrusted import HEIF_PLUGIN, IMAGE_FORMATS

if TYPE_CHECKING:
    from pseudoris.schemas.config import ImagesConfig

logger = logging.getLogger(__name__)

_EXIF_ORIENTATION: Final = 0x0112
# Pillow raises a bare OSError for a failed allocation inside a decoder, recognisable only by its text.
_PILLOW_OUT_OF_MEMORY: Final = "out of memory"
_EXIF_FAULTS: Final = (AttributeError, LookupError, OSError, SyntaxError, TypeError, ValueError, struct.error)
_HEADER_FAULTS: Final = (*_EXIF_FAULTS, ArithmeticError)
_JPEG_BEGIN: Final = b"\xff\xd8\xff"
_PNG_METADATA: Final = (b"eXIf", b"tEXt", b"zTXt", b"iTXt")

# The images table stores this note for a damaged file that could still be read.
NOTE_NO_END_MARKER: Final = "the JPEG lacks its end marker; all its pixels are there"
NOTES: Final = frozenset({NOTE_NO_END_MARKER, NOTE_DARK, NOTE_CLIPPED})
_CUT_SHORT: Final = "the JPEG is cut short: its decoder stopped before the end of the image"

# Pillow's own limit is off: `images.max_pixels`, which may be higher, is checked before any pixel is decoded.
Image.MAX_IMAGE_PIXELS = None
# Makes Pillow read TIFF files with libtiff. Pillow's own reader reads separate planes of 16 bits as 8-bit samples.
TiffImagePlugin.READ_LIBTIFF = True


@dataclass(frozen=True, slots=True)
class Picture:
    """A decoded image, like its upright RGB array (H, W, 3) uint8: slices of rows and columns are made when asked for.

    `part` makes the pixels (h, w, 3), or grey (h, w, 1), of a box in the file's frame, which is of (width, height)
    `size`. `note` says what is wrong with the file, `levels` what its deep samples were mapped by.
    """

    size: tuple[int, int]
    part: Callable[[Box], np.ndarray]
    orientation: int = 1
    note: str | None = None
    levels: Levels = ()

    @property
    def shape(self) -> tuple[int, int, int]:
        """Its upright (H, W, 3)."""
        return (*(self.size if self.orientation >= 5 else self.size[::-1]), 3)

    def __getitem__(self, part: tuple[slice, slice]) -> np.ndarray:
        (y0, y1, _), (x0, x1, _) = map(slice.indices, part, self.shape)
        height, width, _ = self.shape
        stored = pixels = np.empty((y1 - y0, x1 - x0, 3), np.uint8)
        if self.orientation in (3, 4, 7, 8):
            stored, y0, y1 = stored[::-1], height - y1, height - y0
        if self.orientation in (2, 3, 6, 7):
            stored, x0, x1 = stored[:, ::-1], width - x1, width - x0
        if self.orientation >= 5:
            stored, x0, y0, x1, y1 = stored.swapaxes(0, 1), y0, x0, y1, x1
        # Bands have about 2**16 pixels: conversion and export copy their input.
        step = max(1, 2**16 // (x1 - x0))
        for top in range(y0, y1, step):
            stored[top - y0 : top - y0 + step] = self.part((x0, top, x1, min(top + step, y1)))
        return pixels


def decode_upright(data: bytes, limits: ImagesConfig) -> np.ndarray:
    """Return all pixels of `decode_with_note`, which takes and raises the same."""
    return decode_with_note(data, limits)[:, :]


def decode_with_note(data: bytes, limits: ImagesConfig) -> Picture:
    """Return the first frame or page as (H, W, 3) uint8 RGB in [0, 255], turned upright by its EXIF orientation.

    Only the layouts of `layouts.LAYOUTS` are read. Transparency, and what the first frame of a GIF leaves out, is
    composited on white, as viewers do. 16-bit grey is scaled to 8 bits as `images.bits` says, and samples without a
    stated range as `images.window` does (`levels.DeepSamples`); of 16-bit colour the high byte is used. CMYK is
    converted by Pillow's plain formula (JPEG inks in Adobe's inverted convention). Colour profiles are ignored. A
    truncated image is an error, never half an image. The note says what is wrong with a file that is read nevertheless.

    Raises:
        ImageError: `empty_file`, `too_many_bytes`, `too_many_pixels` or `too_small` (from the header, before
            decoding), `not_an_image`, `corrupt`, or `unsupported_pixels` (a layout that is not listed).
        MemoryError: The machine ran out of memory, which is not the image's fault.
        ConfigError: No decoder recognises the bytes, and one of `decoder_plugins` is not imported.
    """
    if len(data) > limits.max_bytes:
        raise too_many_bytes(len(data), limits.max_bytes)
    with _open(data, limits.decoder_plugins) as image:
        width, height = image.size
        if width * height > limits.max_pixels:
            raise ImageError(
                "too_many_pixels",
                f"{width} x {height} pixels are {width * height:,}; images.max_pixels allows {limits.max_pixels:,}: "
                "raise it or make the image smaller",
            )
        if min(width, height) < limits.min_side:
            raise ImageError(
                "too_small", f"{width} x {height} pixels: images.min_side leaves out sides below {limits.min_side}"
            )
        return _decode(image, data, DeepSamples(limits.bits, limits.window))


def decode_proven(data: bytes, levels: Levels = ()) -> np.ndarray:
    """Return the pixels of an image that the prover has decoded, like `decode_upright`, but without its limits.

    `levels` are those that the prover chose. Formats of a plug-in need this process to have imported it. ImageError if
    the bytes do not decode this time; MemoryError if the machine ran out of memory.
    """
    with _open_as(data, registered_formats()) as image:
        return _decode(image, data, DeepSamples(levels=levels), is_proven=True)[:, :]


def exif_orientation(data: bytes, plugins: Sequence[str] = ()) -> int:
    """Return the EXIF orientation, 1 to 8 (Exif 2.32, tag 0x0112); 1 if there is none. Raises like `decode_upright`."""
    with _open(data, plugins) as image:
        return _header_orientation(image, data)


def header_size(data: bytes, plugins: Sequence[str] = ()) -> tuple[int, int]:
    """Return (height, width) as the file's header states them, before a turn. Raises like `decode_upright`."""
    with _open(data, plugins) as image:
        return image.height, image.width


def file_suffix(data: bytes, plugins: Sequence[str] = ()) -> str:
    """Return the usual end of the name of a file of this format, such as `.tiff`. Raises like `decode_upright`."""
    with _open(data, plugins) as image:
        name = str(image.format).lower()
        return {"jpeg": ".jpg", "mpo": ".jpg", "jpeg2000": ".jp2", "heif": ".heic"}.get(name, f".{name}")


def turn_upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation, 1 to 8 (Exif 2.32, 0x0112), of (H, W) or (H, W, C) pixels as the file stores them.

    The result, which may be `pixels` itself, is contiguous and owns its memory.
    """
    if orientation == 1 and pixels.flags.owndata and pixels.flags.c_contiguous:
        return pixels
    if orientation >= 5:
        pixels = pixels.swapaxes(0, 1)
    flips_rows, flips_columns = orientation in (3, 4, 7, 8), orientation in (2, 3, 6, 7)
    return np.array(pixels[:: -1 if flips_rows else 1, :: -1 if flips_columns else 1], order="C")


def common_suffix(data: bytes, plugins: Sequence[str] = ()) -> str | None:
    """Return `.jpg` or `.png` if every common reader sees the same image as `decode_upright`, else None.

    That is a JPEG of grey or RGB samples with its end marker, or a PNG of at most 8 bits a sample without transparency;
    neither with an EXIF orientation, which OpenCV applies and Pillow does not. Decodes no pixels. Raises like
    `decode_upright`.
    """
    with _open(data, plugins) as image:
        if _header_orientation(image, data) != 1 or image.has_transparency_data:
            return None
        if image.format in ("JPEG", "MPO") and image.mode in ("L", "RGB"):
            return ".jpg" if has_end_marker(data) else None
        is_still_png = image.format == "PNG" and not getattr(image, "is_animated", False)
        # Byte 24 of a PNG is the bit depth. The mode does not show it, because Pillow opens 16-bit colour as 8-bit RGB.
        is_deep = data[24:25] == b"\x10"
        return ".png" if is_still_png and image.mode in ("1", "L", "P", "RGB") and not is_deep else None


def is_plain_jpeg(data: bytes, limits: ImagesConfig) -> bool:
    """Return whether it is a whole, upright JPEG of grey or RGB within the limits. Raises like `decode_upright`."""
    with _open(data, limits.decoder_plugins) as image:
        is_within = len(data) <= limits.max_bytes and image.size[0] * image.size[1] <= limits.max_pixels
        is_plain = image.format == "JPEG" and image.mode in ("L", "RGB") and has_end_marker(data)
        return is_within and is_plain and _orientation(image) == 1


def _open(data: bytes, plugins: Sequence[str]) -> Image.Image:
    try:
        return _open_as(data, registered_formats() if loaded_plugins(plugins) else IMAGE_FORMATS)
    except ImageError as error:
        missing = explain_missing(plugins)
        if error.reason != "not_an_image" or missing is None:
            raise
        raise ConfigError(f"no decoder recognises an image: {missing}") from None


def _open_as(data: bytes, formats: Sequence[str]) -> Image.Image:
    if not data:
        raise ImageError("empty_file", "the file has no bytes")
    if data.startswith(_JPEG_BEGIN):
        check_image_header(data)
    if data.startswith(PNG_BEGIN):
        deque(png_chunks(data), maxlen=0)
    try:
        image = Image.open(io.BytesIO(data), formats=tuple(formats))
    except Exception as error:  # the image boundary: on hostile bytes plugins may raise any type
        is_unknown = isinstance(error, UnidentifiedImageError)
        accepts = [Image.OPEN[name][1] for name in formats if name in Image.OPEN]
        if any(accept is not None and accept(data[:16]) is True for accept in accepts):
            with suppress(*_HEADER_FAULTS):
                check_layout(data, None)
        elif is_unknown:
            # Pillow's own text is not used, because it contains the address of the buffer, which differs in each run.
            raise ImageError("not_an_image", f"no decoder recognises the bytes ({', '.join(formats)})") from None
        message = "the header is truncated or damaged" if is_unknown else "the header is damaged"
        raise _as_image_error(error, message) from error
    if min(image.size) < 1:
        raise ImageError("corrupt", f"the header says {image.size[0]} x {image.size[1]} pixels")
    return image


def _decode(image: Image.Image, data: bytes, deep: DeepSamples, *, is_proven: bool = False) -> Picture:
    note = None
    try:
        layout = check_layout(data, image, has_window=deep.has_window)
        if not is_proven:
            check_integrity(data, image)
        is_jpeg = layout is not None and layout.format == "JPEG"
        if is_jpeg and not has_end_marker(data):
            picture, note = _picture_without_end(data, layout, is_proven=is_proven), NOTE_NO_END_MARKER
        else:
            picture = _picture(image, layout, deep)
            last = picture[-1:, -1:]  # raises for what cannot become RGB, such as a hostile palette
            # Lost data is 128, 64 where Pillow converts CMYK. It may also be real, so a file that ends so is checked.
            grey = 64 if layout is not None and layout.samples == "cmyk" else 128
            is_suspect = is_jpeg and not is_proven and (last == grey).all()
            if is_suspect and not _all_show(picture, possible_ends(data)[0], layout):
                raise ImageError("corrupt", _CUT_SHORT)
    except ImageError:
        raise
    except Exception as error:  # the image boundary again
        raise _as_image_error(error, f"the {image.format} decoder stopped before the end of the image") from error
    return replace(picture, orientation=_orientation(image), note=note or deep.note, levels=deep.levels)


def _picture_without_end(data: bytes, layout: Layout | None, *, is_proven: bool) -> Picture:
    """Return a JPEG that lacks its end marker. Raises: ImageError: some of its pixels may be lost."""
    ends, shorter = possible_ends(data)
    if not ends:
        raise ImageError("corrupt", _CUT_SHORT)
    picture = _jpeg(ends[0], layout)
    if not is_proven:
        if not _all_show(picture, ends[1:], layout):
            raise ImageError("corrupt", _CUT_SHORT)
        if _all_show(picture, shorter, layout):
            raise ImageError("corrupt", "the JPEG lacks its end marker, and other bytes stand behind its data")
    return picture


def _all_show(picture: Picture, jpegs: Sequence[bytes], layout: Layout | None) -> bool:
    bands = [slice(top, top + 64) for top in range(0, picture.shape[0], 64)]
    others = (_jpeg(each, layout) for each in jpegs)
    return len(jpegs) > 0 and all(np.array_equal(picture[at, :], each[at, :]) for each in others for at in bands)


def _jpeg(data: bytes, layout: Layout | None) -> Picture:
    with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
        return _picture(image, layout, DeepSamples())


def _as_image_error(error: Exception, message: str) -> ImageError:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and _PILLOW_OUT_OF_MEMORY in str(error)):
        raise MemoryError(str(error)) from error
    logger.debug("%s: %r", message, error)
    return ImageError("corrupt", message)


def _picture(image: Image.Image, layout: Layout | None, deep: DeepSamples) -> Picture:
    """Return an image as the file stores it; decodes it."""
    tile = image.tile[0] if isinstance(image, GifImagePlugin.GifImageFile) else None
    image.load()
    if image.mode.startswith("I;16"):
        return Picture(image.size, deep.grey(image))
    if image.mode in ("I", "F") and deep.has_window:
        is_tiff = isinstance(image, TiffImagePlugin.TiffImageFile)
        return Picture(image.size, deep.windowed(image, WINDOWED[layout] if layout and is_tiff else None))
    if image.mode in ("I", "F"):
        raise ImageError(
            "unsupported_pixels",
            f"the {image.format} holds samples of Pillow's mode {image.mode} (32-bit or signed), whose range nobody "
            "states: give images.window=[LOW, HIGH], or convert it to 8 or 16 bits a channel",
        )
    if layout is not None and layout.bits == 16:
        deep.look_at_colour(image)
    if layout is not None and layout.format == "PNG" and layout.alpha == KEYED and image.mode == "L":
        # Pillow scales grey of 2 and 4 bits to 8 bits but not the transparent value, which is scaled here.
        most = 2**layout.bits - 1
        image.info["transparency"] = (image.info["transparency"] & most) * 255 // most
    if tile is not None and tile.extents is not None and not image.has_transparency_data:
        frame, image = image.crop(tile.extents), Image.new("RGB", image.size, (255, 255, 255))
        image.paste(frame, tile.extents[:2])
    return Picture(image.size, lambda box: _on_white(image.crop(box)))


def _on_white(part: Image.Image) -> np.ndarray:
    if part.has_transparency_data:
        layer = part.convert("RGBA")
        part = Image.new("RGB", part.size, (255, 255, 255))
        part.paste(layer, mask=layer.getchannel("A"))
    return np.asarray(part if part.mode == "RGB" else part.convert("RGB"))


def _header_orientation(image: Image.Image, data: bytes) -> int:
    if image.format != "PNG" or "exif" in image.info:
        return _orientation(image)
    # The text chunk may follow the pixels, and Pillow would decode them first: a kilobyte could unpack to gigabytes. So
    # Pillow gets a PNG of one pixel with the chunks in which it looks for EXIF before that pixel.
    found: list[bytes | memoryview] = [PNG_BEGIN, png_chunk(b"IHDR", b"\0\0\0\1\0\0\0\1\x08\0\0\0\0")]
    found += [chunk for kind, chunk in png_chunks(data) if kind in _PNG_METADATA]
    found += [png_chunk(b"IDAT", zlib.compress(b"\0\0")), png_chunk(b"IEND", b"")]
    try:
        with Image.open(io.BytesIO(b"".join(found)), formats=("PNG",)) as metadata:
            return _orientation(metadata)
    except _EXIF_FAULTS:
        return 1


def _orientation(image: Image.Image) -> int:
    try:
        value = image.getexif().get(_EXIF_ORIENTATION, 1)
    except _EXIF_FAULTS as error:
        # Viewers ignore a damaged EXIF block and show the image unrotated. So do we.
        logger.debug("EXIF cannot be read: %r", error)
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


# Importing a plug-in registers its format. Mpo is in the list, because the JPEG plug-in opens MPO files with it.
for _name in ("Avif", "Bmp", "Gif", "Jpeg2K", "Jpeg", "Mpo", "Png", "Tiff", "WebP"):
    importlib.import_module(f"PIL.{_name}ImagePlugin")


def import_plugins(plugins: Sequence[str]) -> None:
    """Import Pillow plug-ins, which register their formats; only the user may name them. ConfigError if one fails."""
    for name in plugins:
        try:
            importlib.import_module(name)
        # An empty name raises ValueError, a relative name TypeError.
        except (ImportError, ValueError, TypeError) as error:
            command = f" ({install('heif')})" if name == HEIF_PLUGIN else ""
            raise ConfigError(
                f"images.decoder_plugins names {name!r}, which cannot be imported ({error}): "
                f"install it on every node{command}, or remove it"
            ) from error


def loaded_plugins(plugins: Sequence[str]) -> tuple[str, ...]:
    """Return those of `plugins` that this process has imported."""
    return tuple(name for name in plugins if name in sys.modules)


def explain_missing(plugins: Sequence[str]) -> str | None:
    """Return why formats of `plugins` cannot be opened, and the remedy; None if all of them are imported."""
    missing = [name for name in plugins if name not in sys.modules]
    if not missing:
        return None
    options = " ".join(f"--plugin {name}" for name in missing)
    return (
        f"the run was made with the decoder plug-in(s) {', '.join(map(repr, missing))}, which are not loaded: a run is "
        f"data, and its header imports no module. If you trust them, give {options}, or import them first (Python)"
    )


def registered_formats() -> tuple[str, ...]:
    """Return the fixed list, and the formats of every plugin outside Pillow that this process has imported."""
    foreign = (name for name, (factory, _) in Image.OPEN.items() if not factory.__module__.startswith("PIL."))
    return (*IMAGE_FORMATS, *foreign)
