"""What a format keeps of each image, compared between what was written and what its reader gives back."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.run_lengths import summarise_rle
from pseudoris.schemas.shard import is_blank
from pseudoris.workers.masks.rle import MaskSizeError, compressed_counts


@dataclass(frozen=True, slots=True)
class Content:
    """An image, or one of its masks, as far as a format keeps it.

    Attributes:
        name: Of its file, or its id.
        size: (height, width).
        masks: In the format's form: canonical COCO encodings where it holds pixels (what pycocotools gives for them).
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
    def of_pairs(cls, name: str, size: tuple[int, int], masks: Sequence[Any], texts: Sequence[str]) -> Content:
        """Return the content of a format that has a mask for each expression."""
        return cls.of_masks(name, size, [(mask, [text]) for mask, text in zip(masks, texts, strict=True)])

    @classmethod
    def of_expression(cls, name: str, size: tuple[int, int], targets: Sequence[Any], text: str) -> Content:
        """Return the content of a format that has a record an expression, with its targets in the format's form."""
        return cls(name, size, tuple(targets), ((text, tuple(range(len(targets)))),))


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

    def check_equals(self, read: Fingerprint, where: str) -> None:
        """Raise a TransientError that names the place where something that was read back differs."""
        due, found = (self.num_masks, self.num_texts), (read.num_masks, read.num_texts)
        if due != found:
            raise TransientError(
                f"{where} reads back as {found[0]:,} masks with {found[1]:,} expressions, but {due[0]:,} with "
                f"{due[1]:,} were written. Run the same command again."
            )
        if self._digest.digest() != read._digest.digest():
            raise TransientError(f"{where} reads back differently. Run the same command again.")


def check_mask(annotation: Mapping[str, Any], size: tuple[int, int], where: str, *, is_polygon: bool = False) -> str:
    """Return the `counts` of a COCO-like annotation once its runs fill the image and agree with its box and area.

    It has `segmentation` (a bare compressed RLE, or one polygon in a list), `bbox` [x, y, width, height] and `area`;
    `size` is (height, width) of its image, and `where` names it in a TransientError.
    """
    segmentation = annotation["segmentation"]
    if isinstance(segmentation, list) != is_polygon or not (
        is_polygon or (isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), str))
    ):
        raise broken(where, f"its mask is not {'one polygon' if is_polygon else 'a compressed run-length encoding'}")
    try:
        counts = str(compressed_counts(segmentation, size))
        found = summarise_rle(*size, counts)
    except MaskSizeError as error:
        raise broken(where, f"its mask has the size of another image: {error}") from error
    except ValueError as error:
        raise broken(where, f"its mask does not decode ({error})") from error
    x0, y0, x1, y1 = found.box_xyxy_px
    if not found.area_px:
        raise broken(where, "its mask has no pixel")
    if list(annotation["bbox"]) != [x0, y0, x1 - x0, y1 - y0] or annotation["area"] != found.area_px:
        raise broken(where, "its box or area differs from its mask's")
    return counts


def check_texts(texts: Sequence[Any], where: str) -> list[str]:
    """Return the expressions after a check that each is a text and not empty."""
    if not all(isinstance(text, str) and not is_blank(text) for text in texts):
        raise broken(where, "an expression is empty or not a text")
    return list(texts)


class RisingIds:
    """Ids of which each is a whole number above the one before: so they are unique, and memory holds one of them."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._last = 0

    def check(self, number: Any) -> int:
        """Return the id, an int above the last one."""
        if type(number) is not int or number <= self._last:
            raise broken(self._where, f"id {number!r} follows {self._last}: ids must be rising whole numbers")
        self._last = number
        return number


def broken(where: str, what: str) -> TransientError:
    """Return the error of something that does not read back as it was written."""
    return TransientError(f"{where} reads back differently: {what}. Run the same command again.")
