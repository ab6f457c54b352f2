"""The image formats that may be opened, by Pillow's names.

Closed, because Pillow would hand a PostScript file to Ghostscript, and a folder of images is untrusted input.
"""

from __future__ import annotations

from typing import Final

# MPO is opened by way of JPEG.
IMAGE_FORMATS: Final = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", "JPEG2000", "AVIF")
