"""Records that all formats write: an image with its masks and expressions. Used by most modules here.

Expressions stand beside the masks, because one may refer to several masks, or to none. Both are numbered over the whole
export. What a written record says once it is decoded must equal what it was made from (`Content`).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pseudoris.primitives.errors import TransientError
from pseudoris.primitives.polygons import corner_polygon
from pseudoris.primitives.rle import canonical_counts, compressed_counts
from pseudoris.primitives.run_lengths import decode_mask, decode_runs, summarise_rle
from pseudoris.schemas.shard import ExpressionRecord, MaskRecord

# This value takes the place of an image's size in the content of a record that does not hold the size.
NO_SIZE: Final = (0, 0)


@dataclass(frozen=True, slots=True)
class Content:
    """An image of (height, width) `size`, or one of its masks, as far as a format keeps it.

    Attributes:
        masks: In the format's form: canonical COCO encodings if it holds pixels (what pycocotools gives for them).
        texts: Each expression with the places of its targets in `masks`.
    """

    name: str
    size: tuple[int, int]
    masks: tuple[Any, ...]
    texts: tuple[tuple[str, tuple[int, ...]], ...]

    @classmethod
    def of_mask(cls, name: str, size: tuple[int, int], mask: Any, texts: Sequence[str]) -> Content:
        """Return the content of a format that has a record a mask."""
        return cls.of_masks(name, size, [(mask, texts)])

    @classmethod
    def of_masks(cls, name: str, size: tuple[int, int], masks: Sequence[tuple[Any, Sequence[str]]]) -> Content:
        """Return the content of a format whose masks have texts."""
        texts = tuple((text, (place,)) for place, (_, said) in enumerate(masks) for text in said)
        return cls(name, size, tuple(mask for mask, _ in masks), texts)

    @classmethod
    def of_expression(cls, name: str, size: tuple[int, int], targets: Sequence[Any], text: str) -> Content:
        """Return the content of a format that has a record an expression, with its targets in the format's form."""
        return cls(name, size, tuple(targets), ((text, tuple(range(len(targets)))),))


# Box [x, y, width, height] and area of masks by their encodings.
Measured = Mapping[str, tuple[list[int], int]]


@dataclass(frozen=True, slots=True)
class ExportMask:
    """A mask, numbered from 1 over the export; all forms of it are made from the encoding of its `record`."""

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
    def rle(self) -> dict[str, Any]:
        """The compressed encoding as JSON holds it, {"size": [height, width], "counts": str}."""
        return {"size": [int(side) for side in self.record.rle_size], "counts": self.record.rle_counts}

    @property
    def measures(self) -> dict[str, Any]:
        """`bbox`, `area` and the proposer's scores, null for a mask of a prior."""
        scores = {"predicted_iou": self.record.predicted_iou, "stability_score": self.record.stability_score}
        return {"bbox": self.box_xywh, "area": int(self.record.area_px), **scores}

    def pixels(self) -> NDArray[np.bool_]:
        """Return the mask, (height, width) bool; a ValueError if its encoding does not fill its size."""
        return decode_mask(self.record.rle_counts, *self.record.rle_size)

    @staticmethod
    def corner_polygon(pixels: NDArray[np.bool_]) -> tuple[list[int], str]:
        """Return a polygon [x0, y0, …] that pycocotools fills to a mask's `pixels`, and the encoding of these."""
        return [edge for point in corner_polygon(pixels) for edge in point], canonical_counts(pixels)

    def point_within(self) -> list[float]:
        """Return a pixel [x, y] of the mask: the middle of its longest run, so that it is far from the edge."""
        runs = decode_runs(self.record.rle_counts)
        ends = runs.cumsum()
        longest = 2 * int(runs[1::2].argmax()) + 1
        # Runs go down one column after the other, so dividing an index by the height gives the column x and the row y.
        x, y = divmod(int(ends[longest] - (runs[longest] + 1) // 2), self.record.rle_size[0])
        return [float(x), float(y)]


@dataclass(frozen=True, slots=True)
class ExportExpression:
    """An expression, numbered from 1 over the export; its record's text is in the form that the format takes.

    Attributes:
        targets: Places of its masks among those of the image; () if it was verified that none fits.
        origin: The key `rewording_of` with the text of the run that it rewords; empty if it is that text.
    """

    number: int
    record: ExpressionRecord
    targets: tuple[int, ...]
    origin: Mapping[str, str]

    @property
    def text(self) -> str:
        """Its text."""
        return self.record.text


@dataclass(frozen=True, slots=True)
class ExportImage:
    """An image with what a format takes of it, numbered from 1 over the export.

    Attributes:
        key: In SOURCE; untrusted.
        name: File name, unique in the export, of ASCII letters, digits and `._-`.
        data: The bytes of an upright image of `size`, (height, width).
        masks: In the proposer's order.
        expressions: In the order of their first targets; those of no mask come last.
        tile: Of a tile `picture`, `picture_size` [height, width] and `tile_xyxy_px` as in the tables; else empty.
        split: The split that it is written as.
    """

    number: int
    image_id: str
    key: str
    name: str
    data: bytes
    size: tuple[int, int]
    masks: tuple[ExportMask, ...]
    expressions: tuple[ExportExpression, ...]
    tile: Mapping[str, Any]
    split: str

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

    @property
    def measured(self) -> Measured:
        """Box and area of each mask by its encoding, as whoever reads a run's tables proves them."""
        return {mask.record.rle_counts: (mask.box_xywh, int(mask.record.area_px)) for mask in self.masks}

    def united(self, said: ExportExpression) -> str:
        """Return the compressed encoding of all targets of an expression together; there is at least one."""
        if len(said.targets) == 1:
            return self.masks[said.targets[0]].record.rle_counts
        merged = coco.merge([self.masks[place].rle for place in said.targets])
        return str(merged["counts"], "ascii")

    def content(self, name: str, masks: Iterable[Any] | None = None) -> Content:
        """Return the content of a format that has all expressions, and all masks in the tables' form or its own."""
        kept = (mask.record.rle_counts for mask in self.masks) if masks is None else masks
        return Content(name, self.size, tuple(kept), tuple((each.text, each.targets) for each in self.expressions))


class Fingerprint:
    """A digest that grows with every image; equal ones mean equal masks, texts and order."""

    def __init__(self) -> None:
        self._digest = sha256()
        self.num_masks = 0
        self.num_texts = 0

    def add(self, content: Content) -> None:
        """Add what is kept of an image, or of a part of it."""
        kept = [content.name, [int(side) for side in content.size], content.masks, content.texts]
        self._digest.update(json.dumps(kept).encode())
        self.num_masks += len(content.masks)
        self.num_texts += len(content.texts)

    def hexdigest(self) -> str:
        """Return the digest, 64 hex digits."""
        return self._digest.hexdigest()


def written_counts(annotation: Mapping[str, Any], size: tuple[int, int], measured: Measured) -> str:
    """Return the encoding of an annotation's mask, decoded: a polygon is filled, the runs fill (height, width) `size`.

    It is read off what was written, with `segmentation`, `bbox` [x, y, width, height] and `area`. A mask that does not
    decode, or not to its box and area, gives "", which is the encoding of no mask. One of `measured` is not decoded.
    """
    try:
        counts = str(compressed_counts(annotation["segmentation"], size))
        due = measured.get(counts) or _measures(counts, size)
    except ValueError:
        return ""
    return counts if (annotation["bbox"], annotation["area"]) == due else ""


def _measures(counts: str, size: tuple[int, int]) -> tuple[list[int], int]:
    found = summarise_rle(*size, counts)
    x0, y0, x1, y1 = found.box_xyxy_px
    return [x0, y0, x1 - x0, y1 - y0], found.area_px


def broken(where: str, what: str) -> TransientError:
    """Return the error of something that does not read back as it was written."""
    return TransientError(f"{where} reads back differently: {what}. Run the same command again.")
