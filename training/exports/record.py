"""What every format writes: an image with its masks and, beside them, its expressions, numbered over the whole export.

Expressions stand beside the masks, not inside them: one may refer to several masks, or to none.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pseudoris.schemas.run_lengths import decode_runs, summarise_rle
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord
from pseudoris.training.exports.polygons import corner_polygon
from pseudoris.training.exports.read_back import Content
from pseudoris.workers.masks.rle import decode


def canonical_counts(pixels: NDArray[np.bool_]) -> str:
    """Return the compressed encoding that pycocotools gives for a mask (height, width); an import may hold another."""
    return str(coco.encode(np.asfortranarray(pixels, np.uint8))["counts"], "ascii")


@dataclass(frozen=True, slots=True)
class ExportMask:
    """A mask.

    Attributes:
        number: From 1, rising over the export.
        record: As the tables hold it; its encoding is the truth, from which all other forms are made.
    """

    number: int
    record: MaskRecord

    @property
    def box_xywh(self) -> list[int]:
        """The tight box [x, y, width, height] in upright pixels, plain ints."""
        x0, y0, x1, y1 = self.box_xyxy
        return [x0, y0, x1 - x0, y1 - y0]

    @property
    def box_xyxy(self) -> list[int]:
        """The tight box [x0, y0, x1, y1] in upright pixels, x1 and y1 exclusive, plain ints."""
        return [int(edge) for edge in self.record.box_xyxy_px]

    @property
    def area(self) -> int:
        """Number of pixels, a plain int."""
        return int(self.record.area_px)

    @property
    def rle(self) -> dict[str, Any]:
        """The compressed encoding as JSON holds it, {"size": [height, width], "counts": str}."""
        return {"size": [int(side) for side in self.record.rle_size], "counts": self.record.rle_counts}

    @property
    def measures(self) -> dict[str, Any]:
        """`bbox`, `area` and the proposer's scores, null for a mask of a prior."""
        scores = {"predicted_iou": self.record.predicted_iou, "stability_score": self.record.stability_score}
        return {"bbox": self.box_xywh, "area": self.area, **scores}

    def pixels(self) -> NDArray[np.bool_]:
        """Return the mask, (height, width) bool; a ValueError where its encoding does not fill its size."""
        summarise_rle(*self.record.rle_size, self.record.rle_counts)  # pycocotools would read past its buffers
        return decode([self.record.rle_counts], self.record.rle_size).reshape(self.record.rle_size)

    def corner_polygon(self) -> tuple[list[int], str]:
        """Return one polygon [x0, y0, x1, y1, …] that pycocotools fills to the mask, and the pixels' own encoding."""
        pixels = self.pixels()
        return [edge for point in corner_polygon(pixels) for edge in point], canonical_counts(pixels)

    def point_within(self) -> list[float]:
        """Return a pixel [x, y] of the mask: the middle of its longest run, away from the edge where it can be.

        Raises:
            ValueError: The encoding does not read.
        """
        runs = decode_runs(self.record.rle_counts)
        ends = runs.cumsum()
        longest = 2 * int(runs[1::2].argmax()) + 1
        # Runs go down the columns. A run that reaches the end of a column continues at the top of the next.
        x, y = divmod(int(ends[longest] - (runs[longest] + 1) // 2), self.record.rle_size[0])
        return [float(x), float(y)]


@dataclass(frozen=True, slots=True)
class ExportExpression:
    """An expression.

    Attributes:
        number: From 1, rising over the export.
        record: As the tables hold it, its text in the form that the format takes.
        targets: Places of its masks among those of the image; () where it was verified that none fits.
    """

    number: int
    record: ExpressionRecord
    targets: tuple[int, ...]

    @property
    def text(self) -> str:
        """Its text."""
        return self.record.text


@dataclass(frozen=True, slots=True)
class ExportImage:
    """An image with what a format takes of it.

    Attributes:
        number: From 1, rising over the export.
        key: In SOURCE; untrusted.
        name: File name, unique in the export, of ASCII letters, digits and `._-`.
        data: The file's bytes; it is upright.
        size: (height, width), plain ints.
        masks: In the proposer's order.
        expressions: In the order of their first targets; those of no mask stand last.
    """

    number: int
    image_id: str
    key: str
    name: str
    data: bytes
    size: tuple[int, int]
    masks: tuple[ExportMask, ...]
    expressions: tuple[ExportExpression, ...]

    def masks_with_texts(self) -> list[tuple[ExportMask, list[ExportExpression]]]:
        """Return each mask with the expressions that refer to it alone."""
        found: list[tuple[ExportMask, list[ExportExpression]]] = [(mask, []) for mask in self.masks]
        for each in self.expressions:
            if len(each.targets) == 1:
                found[each.targets[0]][1].append(each)
        return found

    def by_targets(self) -> dict[tuple[int, ...], list[ExportExpression]]:
        """Return the expressions by the set of masks that they refer to, in the order of the first of each."""
        found: dict[tuple[int, ...], list[ExportExpression]] = {}
        for each in self.expressions:
            found.setdefault(each.targets, []).append(each)
        return found

    def united(self, said: ExportExpression) -> str:
        """Return the compressed encoding of all targets of an expression together; it has one at least."""
        if len(said.targets) == 1:
            return self.masks[said.targets[0]].record.rle_counts
        merged = coco.merge([self.masks[place].rle for place in said.targets])
        return str(merged["counts"], "ascii")

    def content(self, name: str, masks: Iterable[Any] | None = None) -> Content:
        """Return what a format keeps that has all expressions, and all masks in the tables' form or its own."""
        kept = (mask.record.rle_counts for mask in self.masks) if masks is None else masks
        return Content(name, self.size, tuple(kept), tuple((each.text, each.targets) for each in self.expressions))
