"""What a run's masks are in COCO's JSON: the run-length encoding, the box, the one category."""

from __future__ import annotations

from typing import Any, Final

from store.annotations import AnnotatedMask

# A run knows no classes, and readers want every annotation to have one that `categories` lists.
CATEGORY_ID: Final = 1
CATEGORY: Final[dict[str, Any]] = {"id": CATEGORY_ID, "name": "object", "supercategory": "object"}


def rle_of(mask: AnnotatedMask) -> dict[str, Any]:
    """Return the compressed encoding as JSON holds it, {"size": [height, width], "counts": str}."""
    return {"size": [int(side) for side in mask.rle_size], "counts": mask.rle_counts}


def box_xywh(mask: AnnotatedMask) -> list[int]:
    """Return the tight box [x, y, width, height] in upright pixels, plain ints."""
    x0, y0, x1, y1 = (int(edge) for edge in mask.box_xyxy_px)
    return [x0, y0, x1 - x0, y1 - y0]
