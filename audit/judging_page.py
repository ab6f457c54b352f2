"""Writes the page on which a rater judges, as static files for a bucket or a share. Called by `cli/audit.py`.

DEST/index.html   DEST/pictures/<image id>.jpg

Answers stay in the rater's browser until they are downloaded. The page shows no score, because a score would influence
the rater.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from pseudoris.audit.audit_folder import (
    ABSENCE_VERDICTS,
    MAX_COMMENT,
    RATER_NAME,
    VERDICTS,
    VERDICTS_VERSION,
    AuditFolder,
)
from pseudoris.files.location import RunLocation
from pseudoris.images.prover import PictureForm
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import sha256_hex
from pseudoris.store.runs.lock import LOCK_FOLDER
from pseudoris.viewer.outlines import frame_size, outline_of
from pseudoris.viewer.pages import MASK_COLOURS, embedded_json, iter_page, run_pictures

INDEX_NAME: Final = "index.html"
PICTURES_FOLDER: Final = "pictures"
# The page's script consists of these files, joined in this order.
SCRIPTS: Final = ("storage", "stage", "questions")
# A picture's longer side has at most 2,000 px: more than a screen, for zooming, but fewer bytes than a photograph.
_PICTURE: Final = PictureForm("JPEG", max_side_px=2_000, quality=90)
_PICTURE_NAME: Final = re.compile(r"^[0-9a-f]{16}\.jpg$")
_REMEDY: Final = "Name a new or an empty folder with --to"
_GENERATOR: Final = "pseudoris audit"
_MARK: Final = f'<meta name="generator" content="{_GENERATOR}">'


def write_judging_page(
    audit: AuditFolder,
    destination: RunLocation,
    plugins: Sequence[str] = (),
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> list[str]:
    """Write the pictures, then the page; return the keys of images that cannot be shown.

    `plugins` are those that the user has imported; `on_image` gets how many images are done, and how many there are.
    """
    if not destination.exists(INDEX_NAME):
        destination.refuse_others({PICTURES_FOLDER, LOCK_FOLDER}.__contains__, _REMEDY)
        destination.refuse_others(_PICTURE_NAME.match, _REMEDY, PICTURES_FOLDER)
    elif _MARK.encode() not in destination.read_bytes(INDEX_NAME):
        raise ConfigError(f"{destination.uri(INDEX_NAME)} is not a page of an audit. Name another folder with --to.")
    missing = []
    rows = audit.images.select(["image_id", "key", "shard"]).to_pylist()
    encoded = audit.pictures()
    drawn = audit.draw.run
    with run_pictures(_PICTURE) as small:
        for number, row in enumerate(rows, start=1):
            data = encoded[row["image_id"]]
            picture = small(data, drawn.settings_of(row["shard"], plugins)) if data else None
            if picture is None:
                missing.append(row["key"])
            else:
                destination.replace(f"{PICTURES_FOLDER}/{row['image_id']}.jpg", picture)
            on_image(number, len(rows))
    content = {"plan": embedded_json(_plan(audit)), "mark": _GENERATOR}
    page = iter_page("judge.html.j2", content, styles=("base", "judge"), scripts=SCRIPTS, room=__package__ or "")
    destination.replace(INDEX_NAME, "".join(page).encode())
    destination.delete_temporary("", PICTURES_FOLDER)
    return missing


def _plan(audit: AuditFolder) -> dict[str, Any]:
    """Return the questions in their order, as JSON for the page; `outlines` are SVG paths by pair or image."""
    pairs = audit.pairs.select(["pair_id", "position", "follows", "image_id", "mask_ids", "text"]).to_pylist()
    images = audit.images.select(["image_id", "height", "width", "is_asked_missed"]).to_pylist()
    masks, draw = audit.masks(), audit.draw.digest

    def path(image: str, mask: str) -> str:
        row = masks[image][mask]
        try:
            return outline_of(row["counts"], (row["height"], row["width"])).path
        except ValueError:
            # A damaged mask has an empty outline, and the page tells the rater that it is damaged.
            return ""

    asked = [row["image_id"] for row in images if row["is_asked_missed"]]
    # Images are ordered by a hash, not by shard as in the table, so that the first ones are a fair sample.
    missed = sorted(asked, key=lambda image: sha256_hex((draw + image).encode()))
    outlined = {row["pair_id"]: (row["image_id"], row["mask_ids"]) for row in pairs}
    outlined |= {image: (image, list(masks[image])) for image in missed}
    sizes = {}
    for row in images:
        frame_height, frame_width = frame_size(row["height"], row["width"])
        size = {"width": row["width"], "height": row["height"]}
        sizes[row["image_id"]] = {**size, "frameWidth": frame_width, "frameHeight": frame_height}
    questions = []
    for row in sorted(pairs, key=lambda row: row["position"]):
        follows = {} if row["follows"] is None else {"follows": row["follows"]}
        # An absence (a text that refers to nothing, such as `the red star`) is asked as a question.
        thing = row["text"].removeprefix("the ")
        asked_of = f"Is there {'an' if thing[:1] in 'aeiou' else 'a'} {thing} in the picture?"
        absence = {} if row["mask_ids"] else {"absence": asked_of}
        questions.append({"id": row["pair_id"], "image": row["image_id"], "text": row["text"], **follows, **absence})
    return {
        "draw": draw,
        "version": VERDICTS_VERSION,
        "rater": RATER_NAME.pattern,
        "maxComment": MAX_COMMENT,
        "colours": len(MASK_COLOURS),
        "verdicts": VERDICTS,
        "absenceVerdicts": ABSENCE_VERDICTS,
        "images": sizes,
        "missed": missed,
        "pairs": questions,
        "outlines": {name: [path(image, each) for each in ids] for name, (image, ids) in outlined.items()},
    }
