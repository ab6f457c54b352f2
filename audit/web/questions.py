"""What a page learns of an audit: pictures, texts and outlines. No score, stratum or role ever leaves for a browser."""

from __future__ import annotations

from typing import Any, Final

from pseudoris.audit.audit_folder import AuditFolder
from pseudoris.audit.sample_tables import FOLLOW_UP
from pseudoris.audit.verdict_lines import MAX_COMMENT, RATER_NAME, VERDICTS, VERDICTS_VERSION
from pseudoris.schemas.ids import sha256_hex
from pseudoris.viewer.image_cards import NUM_COLOURS
from pseudoris.viewer.outlines import frame_size, outline_of

# What may be read for a page. Not `role`: a rater who knows that a pair is planted need not look at it.
_COLUMNS: Final = ["pair_id", "role", "position", "follows", "image_id", "mask_ids", "text", "is_blind", "is_double"]


class Questions:
    """The questions of an audit.

    Attributes:
        blind: Ids of the pairs that are asked without a mask first.
        num_needed: By id of a drawn or planted pair, and of an image that is asked for missed objects: how many raters
            are to answer it. Follow-ups are not counted: each rater gets those of the own verdicts.
    """

    def __init__(self, audit: AuditFolder) -> None:
        """Read what the pages need."""
        self._draw = audit.draw.digest
        rows = audit.pairs.select(_COLUMNS).to_pylist()
        self._pairs = {row["pair_id"]: row for row in sorted(rows, key=lambda row: row["position"])}
        self._images = audit.images.select(["image_id", "height", "width", "is_asked_missed"]).to_pylist()
        self._masks = audit.masks()
        self.blind = {pair for pair, row in self._pairs.items() if row["is_blind"]}
        self.num_needed = {
            pair: 2 if row["is_double"] else 1 for pair, row in self._pairs.items() if row["role"] != FOLLOW_UP
        } | dict.fromkeys(self._missed(), 1)

    def plan(self) -> dict[str, Any]:
        """Return the questions in their order, as JSON for the page."""
        return {
            "draw": self._draw,
            "version": VERDICTS_VERSION,
            "rater": RATER_NAME.pattern,
            "maxComment": MAX_COMMENT,
            "colours": NUM_COLOURS,
            "verdicts": VERDICTS,
            "images": {row["image_id"]: self._image(row) for row in self._images},
            "missed": self._missed(),
            "pairs": [_pair(row) for row in self._pairs.values()],
        }

    def outlines(self, question: str) -> list[str] | None:
        """Return the outlines of a pair's masks, or of all masks of an image, as SVG paths; None if it is unknown."""
        row = self._pairs.get(question)
        if row is not None:
            return [self._outline(row["image_id"], mask) for mask in row["mask_ids"]]
        if question in self._masks:
            return [self._outline(question, mask) for mask in self._masks[question]]
        return None

    def num_pairs(self) -> int:
        """Return the number of pairs that are not follow-ups."""
        return sum(row["role"] != FOLLOW_UP for row in self._pairs.values())

    def num_images(self) -> int:
        """Return the number of images that are asked for missed objects."""
        return len(self._missed())

    def _missed(self) -> list[str]:
        asked = [row["image_id"] for row in self._images if row["is_asked_missed"]]
        # The table is ordered by shard. Any first part of this order is a fair sample.
        return sorted(asked, key=lambda image: sha256_hex((self._draw + image).encode()))

    def _image(self, row: dict[str, Any]) -> dict[str, float]:
        height, width = frame_size(row["height"], row["width"])
        return {"width": row["width"], "height": row["height"], "frameWidth": width, "frameHeight": height}

    def _outline(self, image: str, mask: str) -> str:
        record = self._masks[image][mask]
        try:
            return outline_of(record["counts"], (record["height"], record["width"])).path
        except ValueError:
            # A damaged mask has no outline: the page says so.
            return ""


def _pair(row: dict[str, Any]) -> dict[str, Any]:
    pair = {"id": row["pair_id"], "image": row["image_id"], "text": row["text"], "isBlind": row["is_blind"]}
    return pair if row["follows"] is None else {**pair, "follows": row["follows"]}
