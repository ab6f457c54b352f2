"""What the page gets of an audit: pictures, texts and outlines. It gets no score and no stratum."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.verdict_lines import MAX_COMMENT, RATER_NAME, VERDICTS, VERDICTS_VERSION
from pseudoris.schemas.ids import sha256_hex
from pseudoris.viewer.image_cards import NUM_COLOURS
from pseudoris.viewer.outlines import frame_size, outline_of

_COLUMNS: Final = ["pair_id", "position", "follows", "image_id", "mask_ids", "text"]


class Questions:
    """The questions of an audit."""

    def __init__(self, audit: AuditFolder) -> None:
        """Read what the pages need."""
        self._draw = audit.draw.digest
        rows = audit.pairs.select(_COLUMNS).to_pylist()
        self._pairs = {row["pair_id"]: row for row in sorted(rows, key=lambda row: row["position"])}
        self._images = audit.images.select(["image_id", "height", "width", "is_asked_missed"]).to_pylist()
        self._masks = audit.masks()

    def plan(self) -> dict[str, Any]:
        """Return the questions in their order, as JSON for the page; `outlines` are SVG paths by question."""
        missed = self._missed()
        outlines = {pair: self._outlines(row["image_id"], row["mask_ids"]) for pair, row in self._pairs.items()}
        return {
            "draw": self._draw,
            "version": VERDICTS_VERSION,
            "rater": RATER_NAME.pattern,
            "maxComment": MAX_COMMENT,
            "colours": NUM_COLOURS,
            "verdicts": VERDICTS,
            "images": {row["image_id"]: self._image(row) for row in self._images},
            "missed": missed,
            "pairs": [_pair(row) for row in self._pairs.values()],
            "outlines": {**outlines, **{image: self._outlines(image, self._masks[image]) for image in missed}},
        }

    def _missed(self) -> list[str]:
        asked = [row["image_id"] for row in self._images if row["is_asked_missed"]]
        # The table is ordered by shard. Any first part of this order is a fair sample.
        return sorted(asked, key=lambda image: sha256_hex((self._draw + image).encode()))

    def _image(self, row: dict[str, Any]) -> dict[str, float]:
        height, width = frame_size(row["height"], row["width"])
        return {"width": row["width"], "height": row["height"], "frameWidth": width, "frameHeight": height}

    def _outlines(self, image: str, masks: Iterable[str]) -> list[str]:
        records = [self._masks[image][mask] for mask in masks]
        return [_path(record) for record in records]


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    pair = {"id": row["pair_id"], "image": row["image_id"], "text": row["text"]}
    return pair if row["follows"] is None else {**pair, "follows": row["follows"]}


def _path(record: dict[str, Any]) -> str:
    try:
        return outline_of(record["counts"], (record["height"], record["width"])).path
    except ValueError:
        # A damaged mask has no outline: the page says so.
        return ""
