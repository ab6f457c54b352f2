"""The gallery: a folder with a page of images, masks and expressions, their small pictures, and the quality page.

    DEST/index.html   DEST/quality.html   DEST/pictures/<image id>.webp

The pages load only the pictures next to them, so they open from a disk and from a static bucket.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from pseudoris.images.pillow_formats import loaded_plugins
from pseudoris.images.prover import PictureForm, Prover
from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.schemas.source_settings import ImagesConfig
from pseudoris.schemas.tables import FAILURE_REASONS
from pseudoris.store.location import RunLocation
from pseudoris.viewer.gallery_model import Gallery
from pseudoris.viewer.image_cards import NUM_COLOURS, ImageCard, embedded_json, image_card
from pseudoris.viewer.pages import GALLERY_SCRIPTS, GENERATOR, iter_page

logger = logging.getLogger(__name__)

# Twice the size on a card, for dense screens and for the larger view next to the grid. Captions name small things:
# below a quality of about 80, WebP's artefacts hide them; above 90 the folder doubles.
THUMBNAIL: Final = PictureForm("WEBP", max_side_px=800, quality=84)

INDEX_NAME: Final = "index.html"
QUALITY_NAME: Final = "quality.html"
PICTURES_FOLDER: Final = "pictures"
_PICTURE_NAME: Final = re.compile(r"^[0-9a-f]{16}\.webp$")
_MARK: Final = f'<meta name="generator" content="{GENERATOR}">'

# Formats that this machine lacks make every picture blank: the first few are named.
_MAX_WARNINGS: Final = 3

# Called with how many images are done.
OnImage = Callable[[int], None]


def thumbnail(data: bytes, prover: Prover) -> bytes | None:
    """Return a picture of the image as a page shows it; None if it cannot be read.

    The image was decoded when it was annotated, so a failure here means that a plug-in is missing, or that the run was
    changed: it may come from a stranger, so it is decoded in a child process.

    Args:
        data: The encoded image.
        prover: With a form.

    Raises:
        TransientError: The child does not start, or was killed from outside twice.
    """
    try:
        return prover.picture(data)
    except ImageError:
        return None


def page_prover(form: PictureForm, plugins: Sequence[str] = ()) -> Prover:
    """Return what decodes pictures for a page, with those of `plugins` that the user has imported.

    Its limits are the defaults: the settings of a run are a stranger's as well.
    """
    return Prover(ImagesConfig(decoder_plugins=loaded_plugins(plugins)), form=form)


def check_destination(destination: RunLocation) -> None:
    """Return if a gallery may be written here: it would overwrite no page but a gallery's.

    Raises:
        ConfigError: The folder has a page that is not a gallery's.
        TransientError: Storage failed.
    """
    for name in (INDEX_NAME, QUALITY_NAME):
        if destination.exists(name) and _MARK.encode() not in destination.read_bytes(name):
            raise ConfigError(f"{destination.uri(name)} is not a page of a gallery. Name another folder with --to.")


def write_gallery(
    gallery: Gallery,
    destination: RunLocation,
    on_image: OnImage = lambda done: None,
    *,
    plugins: Sequence[str] = (),
) -> str:
    """Write the pictures, then the page; return the page's address.

    The page appears whole or not at all; pictures of an earlier gallery that this one lacks are deleted at the end.

    Args:
        gallery: What to show.
        destination: The folder of the pages.
        on_image: Called after each image.
        plugins: Decoder plug-ins of the run; those that this process has imported are used.

    Raises:
        ConfigError: The place cannot be written.
        TransientError: Storage failed.
    """
    written: set[str] = set()
    with page_prover(THUMBNAIL, plugins) as prover:
        page = "".join(iter_gallery(gallery, destination, written, prover, on_image))
    destination.replace(INDEX_NAME, page.encode())
    for file in list(destination.list(PICTURES_FOLDER)):
        if _PICTURE_NAME.match(file.name) and file.name not in written:
            destination.delete(f"{PICTURES_FOLDER}/{file.name}")
    destination.delete_temporary("", PICTURES_FOLDER)
    return destination.uri(INDEX_NAME)


def _settings(gallery: Gallery) -> dict[str, Any]:
    summary, rule = gallery.summary, gallery.summary.rule
    return {
        "tau": summary.tau,
        "hasTau": rule is not None and rule.tau is not None,
        "conditions": [str(condition) for condition in rule.conditions] if rule else [],
        "colours": NUM_COLOURS,
        "pairs": summary.pairs_digest,
        **({"verdicts": {pair: dict(each) for pair, each in gallery.verdicts.items()}} if gallery.verdicts else {}),
    }


def iter_gallery(
    gallery: Gallery,
    destination: RunLocation,
    written: set[str],
    prover: Prover,
    on_image: OnImage = lambda done: None,
) -> Iterator[str]:
    """Yield the page's text an image at a time, and write each image's small picture; its name joins `written`."""

    def cards() -> Iterator[ImageCard]:
        num_unread = 0
        for number, image in enumerate(gallery.images, start=1):
            name = f"{image.image_id}.webp"
            small = thumbnail(image.data, prover) if image.data else None
            if image.data and small is None:
                num_unread += 1
                if num_unread <= _MAX_WARNINGS:
                    logger.warning("The gallery does not show image %s: no installed decoder can read it.", image.key)
            if small is not None:
                destination.replace(f"{PICTURES_FOLDER}/{name}", small)
                written.add(name)
            yield image_card(image, picture=f"{PICTURES_FOLDER}/{name}" if small is not None else None)
            on_image(number)
        if num_unread > _MAX_WARNINGS:
            logger.warning("%d images in total cannot be decoded here.", num_unread)

    content: dict[str, Any] = {
        "summary": gallery.summary,
        "num_images": gallery.num_images,
        "verdicts": sorted({each for raters in gallery.verdicts.values() for each in raters.values()}),
        "settings": embedded_json(_settings(gallery)),
        "cards": cards(),
        "quarantined": list(gallery.quarantined),
        "reasons": FAILURE_REASONS,
        "quality_name": QUALITY_NAME,
        "index_name": INDEX_NAME,
    }
    yield from iter_page("gallery.html.j2", content, styles=("base", "gallery"), scripts=GALLERY_SCRIPTS)
