"""The gallery: images with their masks, and the expressions that were kept and rejected, as one HTML page.

The page needs nothing beside itself: pictures, styles and script stand inside it, so it opens from a disk, an
e-mail or a bucket. Captions and keys come from models and from strangers' files. They are escaped, and a content
security policy allows the one script that the page was written with, should an escape ever fail.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import jinja2
from markupsafe import Markup

from schemas.tables import FAILURE_REASONS
from viewer.cards import image_card
from viewer.model import Gallery

_TEMPLATE: Final = "gallery.html.j2"
_STREAM_PIECES: Final = 64


def write_gallery(gallery: Gallery, path: Path) -> Path:
    """Write the page and return its absolute path; a page that stands there is replaced whole or not at all.

    Raises:
        OSError: The folder does not exist, or cannot be written.
    """
    path = path.absolute()
    with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=path.parent, prefix=".gallery-", delete=False) as file:
        try:
            file.writelines(iter_gallery(gallery))
        except BaseException:
            Path(file.name).unlink()
            raise
    # A temporary file is for its owner alone; a page is to be shown.
    Path(file.name).chmod(0o644)
    return Path(file.name).replace(path)


def iter_gallery(gallery: Gallery) -> Iterator[str]:
    """Yield the page's text piece by piece, an image at a time."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("viewer"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["thousands"] = lambda value: f"{value:,}"
    stream = environment.get_template(_TEMPLATE).stream(_content(gallery))
    stream.enable_buffering(_STREAM_PIECES)
    yield from stream


def _content(gallery: Gallery) -> dict[str, Any]:
    tau = gallery.summary.tau
    script = _resource("gallery.js")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii")
    return {
        "summary": gallery.summary,
        "num_images": gallery.num_images,
        "cards": (image_card(image, tau=tau) for image in gallery.images),
        "quarantined": list(gallery.quarantined),
        "reasons": FAILURE_REASONS,
        # Our own files, not data: they hold no character that HTML would read in a style or script element.
        "style": Markup(_resource("gallery.css")),
        "script": Markup(script),
        "script_sha256": digest,
    }


def _resource(name: str) -> str:
    return files("viewer").joinpath("templates", name).read_text(encoding="utf-8")
