"""The pictures of an audit as a browser gets them: upright, without metadata, at most `MAX_SIDE_PX` long."""

from __future__ import annotations

import io
from collections.abc import Sequence
from functools import lru_cache
from typing import Final

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.schemas.image_formats import IMAGE_FORMATS
from pseudoris.viewer.gallery_page import upright_picture

# A rater zooms: more than a screen shows, less than a phone's camera takes.
MAX_SIDE_PX: Final = 2_000
_QUALITY: Final = 90
_NUM_KEPT: Final = 16


class Pictures:
    """Pictures by image id."""

    def __init__(self, audit: AuditFolder, formats: Sequence[str] = IMAGE_FORMATS) -> None:
        """Hold the encoded images of the audit.

        Args:
            audit: The audit.
            formats: Formats that may be opened, by Pillow's names.
        """
        self._data = audit.pictures()
        self._formats = tuple(formats)
        self.jpeg = lru_cache(maxsize=_NUM_KEPT)(self._jpeg)

    def _jpeg(self, image: str) -> bytes | None:
        """Return a picture as JPEG; None if there is none, or no installed decoder reads it."""
        data = self._data.get(image)
        picture = upright_picture(data, self._formats, max_side_px=MAX_SIDE_PX) if data else None
        if picture is None:
            return None
        encoded = io.BytesIO()
        picture.save(encoded, "JPEG", quality=_QUALITY)
        return encoded.getvalue()
