"""An audit as a folder of static files, for a bucket or a share: answers stay in the rater's browser.

DEST/index.html   DEST/pictures/<image id>.jpg
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.web.page import GENERATOR, judging_page
from pseudoris.audit.web.questions import Questions
from pseudoris.images.prover import PictureForm
from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.viewer.gallery_page import page_prover, thumbnail

INDEX_NAME: Final = "index.html"
PICTURES_FOLDER: Final = "pictures"
# A rater zooms: more than a screen shows, less than a phone's camera takes.
PICTURE: Final = PictureForm("JPEG", max_side_px=2_000, quality=90)
_MARK: Final = f'<meta name="generator" content="{GENERATOR}">'


def write_static_page(
    audit: AuditFolder,
    destination: RunLocation,
    plugins: Sequence[str] = (),
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Write the pictures, then the page; return the keys of images that cannot be shown.

    Args:
        audit: The audit.
        destination: The folder of the page.
        plugins: Decoder plug-ins that the user has imported.
        on_image: Called with how many images are done, and how many there are.

    Raises:
        ConfigError: The folder has another page, or cannot be written.
        TransientError: Storage failed.
    """
    if destination.exists(INDEX_NAME) and _MARK.encode() not in destination.read_bytes(INDEX_NAME):
        raise ConfigError(f"{destination.uri(INDEX_NAME)} is not a page of an audit. Name another folder with --to.")
    missing = []
    rows = audit.images.select(["image_id", "key"]).to_pylist()
    encoded = audit.pictures()
    with page_prover(PICTURE, plugins) as prover:
        for number, row in enumerate(rows, start=1):
            data = encoded[row["image_id"]]
            picture = thumbnail(data, prover) if data else None
            if picture is None:
                missing.append(row["key"])
            else:
                destination.replace(f"{PICTURES_FOLDER}/{row['image_id']}.jpg", picture)
            on_image(number, len(rows))
    destination.replace(INDEX_NAME, judging_page(Questions(audit).plan()).encode())
    destination.delete_temporary("", PICTURES_FOLDER)
    return missing
