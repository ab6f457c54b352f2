"""Compares an export that is read back with what was written.

`Fingerprint` is one digest of all masks and texts, in their order; the `check_…` functions test a single record.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from hashlib import sha256
from typing import Any

from pseudoris.schemas.errors import TransientError
from pseudoris.schemas.shard import is_blank
from pseudoris.store.tables.rle import summarise_rle


class Fingerprint:
    """A digest that grows with every mask; equal ones mean equal masks, texts and order.

    Attributes:
        num_masks: Added so far.
        num_texts: Texts of all of them together.
    """

    def __init__(self) -> None:
        self._digest = sha256()
        self.num_masks = 0
        self.num_texts = 0

    def add(self, name: str, size: Sequence[int], counts: str, texts: Sequence[str]) -> None:
        """Add a mask.

        Args:
            name: Name of its image's file.
            size: (height, width).
            counts: COCO compressed run-length encoding, canonical: what pycocotools gives for the pixels, where the
                format holds pixels.
            texts: Its expressions.
        """
        self._digest.update(json.dumps([name, *map(int, size), counts, list(texts)]).encode())
        self.num_masks += 1
        self.num_texts += len(texts)

    def check_equals(self, read: Fingerprint, where: str) -> None:
        """Compare with what was read back.

        Raises:
            TransientError: Something differs; `where` names the file or folder.
        """
        due, found = (self.num_masks, self.num_texts), (read.num_masks, read.num_texts)
        if due != found:
            raise TransientError(
                f"{where} reads back as {found[0]:,} masks with {found[1]:,} expressions, but {due[0]:,} with "
                f"{due[1]:,} were written. Run the same command again."
            )
        if self._digest.digest() != read._digest.digest():
            raise TransientError(f"{where} reads back differently. Run the same command again.")


def check_mask(annotation: Mapping[str, Any], size: tuple[int, int], where: str) -> str:
    """Return the `counts` of a COCO-like annotation once its runs fill the image and agree with its box and area.

    Args:
        annotation: With `segmentation` (a bare compressed RLE), `bbox` [x, y, width, height] and `area`.
        size: (height, width) of its image.
        where: Names the annotation, for errors.

    Raises:
        TransientError: It has another form, is empty, differs from its image in size, or states a wrong box or area.
    """
    segmentation = annotation["segmentation"]
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
        raise broken(where, "its mask is not a compressed run-length encoding")
    if tuple(segmentation["size"]) != size:
        raise broken(where, f"its mask has the size {segmentation['size']}, its image {list(size)} (height, width)")
    counts: str = segmentation["counts"]
    try:
        found = summarise_rle(*size, counts)
    except ValueError as error:
        raise broken(where, f"its mask does not decode ({error})") from error
    x0, y0, x1, y1 = found.box_xyxy_px
    if not found.area_px:
        raise broken(where, "its mask has no pixel")
    if list(annotation["bbox"]) != [x0, y0, x1 - x0, y1 - y0] or annotation["area"] != found.area_px:
        raise broken(where, "its box or area differs from its mask's")
    return counts


def check_texts(texts: Sequence[Any], where: str) -> list[str]:
    """Return the expressions after a check that each is a text and not empty.

    Raises:
        TransientError: One is empty, or no text.
    """
    if not all(isinstance(text, str) and not is_blank(text) for text in texts):
        raise broken(where, "an expression is empty or not a text")
    return list(texts)


class RisingIds:
    """Ids of which each is a whole number above the one before: so they are unique, and memory holds one of them."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._last = 0

    def check(self, number: Any) -> int:
        """Return the id.

        Raises:
            TransientError: It is not an int, or not above the last one.
        """
        if type(number) is not int or number <= self._last:
            raise broken(self._where, f"id {number!r} follows {self._last}: ids must be rising whole numbers")
        self._last = number
        return number


def broken(where: str, what: str) -> TransientError:
    """Return the error of something that does not read back as it was written."""
    return TransientError(f"{where} reads back differently: {what}. Run the same command again.")
