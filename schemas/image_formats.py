"""The image formats that may be opened. Without pydantic, because the prover's child imports this module."""

from __future__ import annotations

from typing import Final

# The plug-in of Pillow that `pseudoris[heif]` installs, and the names of the files that it reads.
HEIF_PLUGIN: Final = "pillow_heif.HeifImagePlugin"
HEIF_EXTENSIONS: Final = (".heic", ".heif", ".hif")

# By Pillow's names; MPO is opened as JPEG. The list is closed because a folder of images is untrusted input, and Pillow
# would pass a PostScript file to Ghostscript.
IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
# The names under which files of these formats are listed by default.
EXTENSIONS: Final = (
    *(".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".gif"),
    *(".jpe", ".jfif", ".mpo", ".jp2", ".j2k", ".avif"),
)
