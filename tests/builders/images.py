"""Encoded images for tests: sound ones with safe defaults, and one builder for each kind of hard input."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

import numpy as np
import tifffile
from PIL import Image

EXIF_ORIENTATION = 0x0112


def random_pixels(height: int = 24, width: int = 32, *, seed: int = 0) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB noise, fixed by `seed`."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def smooth_pixels(height: int = 24, width: int = 32) -> np.ndarray:
    """Return (H, W, 3) uint8 RGB ramps: lossy formats keep them within a few levels."""
    rows, columns = np.mgrid[0:height, 0:width]
    red = rows * 200 // max(height - 1, 1)
    green = columns * 200 // max(width - 1, 1)
    return np.stack([red, green, np.full_like(red, 90)], axis=2).astype(np.uint8)


def encode(image: Image.Image | np.ndarray, image_format: str = "PNG", **options: Any) -> bytes:
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def tiff(samples: np.ndarray, **options: Any) -> bytes:
    """Return samples written by tifffile."""
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, samples, **options)
    return buffer.getvalue()


def png(height: int = 24, width: int = 32, *, seed: int = 0) -> bytes:
    return encode(random_pixels(height, width, seed=seed))


def jpeg(height: int = 24, width: int = 32) -> bytes:
    return encode(smooth_pixels(height, width), "JPEG", quality=95)


def oriented(pixels: Image.Image | np.ndarray, orientation: int, image_format: str = "PNG", **options: Any) -> bytes:
    """Return `pixels` encoded as they lie, with an EXIF orientation tag of 1 to 8."""
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    return encode(pixels, image_format, exif=exif, **options)


def animation(image_format: str, frames: list[np.ndarray]) -> bytes:
    """Return an animated GIF, WebP or PNG whose frames are (H, W, 3) uint8 RGB."""
    first, *rest = [Image.fromarray(frame) for frame in frames]
    lossless = {"lossless": True} if image_format == "WEBP" else {}
    return encode(first, image_format, save_all=True, append_images=rest, duration=50, **lossless)


def png_of_header_only(width: int, height: int) -> bytes:
    """Return a PNG that announces its size and holds a few bytes: a pixel bomb when the size is large."""
    return _png((width, height), 8, 2, (b"IDAT", zlib.compress(b"\0" * 4096)))


def png_with(*chunks: tuple[bytes, bytes], data: bytes | None = None) -> bytes:
    """Return an 8 x 8 PNG with further chunks, kind and body, before its pixels; `data` in place of those."""
    data = zlib.compress((b"\0" + b"\x7f" * 24) * 8) if data is None else data
    return _png((8, 8), 8, 2, *chunks, (b"IDAT", data))


def png_16_bit(levels: np.ndarray) -> bytes:
    """Return a 16-bit PNG: (H, W) uint16 grey, or (H, W, 3) uint16 RGB, which Pillow cannot write."""
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in levels)
    return _png(levels.shape[1::-1], 16, 0 if levels.ndim == 2 else 2, (b"IDAT", zlib.compress(rows)))


def _png(size: tuple[int, ...], bits: int, colour_type: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """Return a PNG of chunks, kind and body, between its header and its end; `size` is width and height."""
    header = struct.pack(">IIBBBBB", *size, bits, colour_type, 0, 0, 0)
    every = ((b"IHDR", header), *chunks, (b"IEND", b""))
    packed = (
        struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body)) for kind, body in every
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(packed)
