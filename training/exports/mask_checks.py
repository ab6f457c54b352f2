"""What an exported mask must hold when it is read back, whatever file it stood in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from schemas.errors import TransientError
from store.rle import summarise_rle


def check_mask(annotation: Mapping[str, Any], size: tuple[int, int], where: str) -> str:
    """Return the `counts` of a COCO-like annotation once its runs fill the image and agree with its box and area.

    Args:
        annotation: With `segmentation` (a bare compressed RLE), `bbox` [x, y, width, height] and `area`.
        size: (height, width) of its image.
        where: Names the annotation, for errors.

    Raises:
        TransientError: It is another form, empty, of another size than its image, or says another box or area.
    """
    segmentation = annotation["segmentation"]
    if not isinstance(segmentation, dict) or not isinstance(segmentation.get("counts"), str):
        raise broken(where, "its mask is no compressed run-length encoding")
    if tuple(segmentation["size"]) != size:
        raise broken(where, f"its mask is {segmentation['size']}, its image {list(size)} (height, width)")
    counts: str = segmentation["counts"]
    try:
        found = summarise_rle(*size, counts)
    except ValueError as error:
        raise broken(where, f"its mask does not decode ({error})") from error
    x0, y0, x1, y1 = found.box_xyxy_px
    if not found.area_px:
        raise broken(where, "its mask has no pixel")
    if list(annotation["bbox"]) != [x0, y0, x1 - x0, y1 - y0] or annotation["area"] != found.area_px:
        raise broken(where, "its box or its area is not that of its mask")
    return counts


def check_texts(texts: Sequence[Any], where: str) -> list[str]:
    """Return the expressions once each is a text that says something.

    Raises:
        TransientError: One is empty, or no text.
    """
    if not all(isinstance(text, str) and text.strip() for text in texts):
        raise broken(where, "an expression is empty, or no text")
    return list(texts)


class RisingIds:
    """Ids of which each is a whole number above the one before: so they are unique, and memory holds one of them."""

    def __init__(self, where: str) -> None:
        self._where = where
        self._last = 0

    def check(self, number: Any) -> int:
        """Return the id.

        Raises:
            TransientError: It is no int, or not above the last one.
        """
        if type(number) is not int or number <= self._last:
            raise broken(self._where, f"id {number!r} follows {self._last}: ids must be rising whole numbers")
        self._last = number
        return number


def broken(where: str, what: str) -> TransientError:
    """Return the error of something that does not read back as it was written."""
    return TransientError(f"{where} does not read back as it was written: {what}; run the same command again")
