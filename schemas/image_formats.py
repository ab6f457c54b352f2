"""The image formats that may be opened. Without pydantic, because the prover's child imports this module."""

from __future__ import annotations

from typing import Final

# By Pillow's names; MPO is opened as JPEG. The list is closed because a folder of images is untrusted input, and Pillow
# would pass a PostScript file to Ghostscript.
IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
