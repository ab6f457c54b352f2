"""Instances from a table that the user made, with CutLER, another detector, or by hand.

Two formats, told apart by their first bytes:

**Parquet**, a row an instance, with these columns (others are ignored):

- `image_id` (string, 16 hex digits), or `key` or `file_name` (string): the image; the first that exists counts.
- `segmentation` (struct of `size`: list of int, [H, W], and `counts`: string or binary, COCO compressed RLE)
  and / or `box_xyxy_px` (list of 4 numbers, x1 and y1 exclusive). Where the segmentation is null the box counts.
- `score` (number, optional): rows below `prior.min_score` are passed over; null counts as 1.

A run's own masks table is such a file.

**COCO JSON**, an object with `images` (`id`, `file_name`, and `height`, `width` for polygons) and `annotations`
(`image_id`; `segmentation` as polygons, compressed or uncompressed RLE, bare or alone in a list as in a REFER
`instances.json`; else `bbox` as [x, y, w, h]; `score` optional). Crowd regions (`iscrowd`) are
passed over: they are no instances.

Rows count from 0 in the file's order. An image is found under its `image_id`, or its key (percent-encoded or
plain), else under a name of which one path ends in the other (`train/1.jpg` and `1.jpg`) where only one such
name stands in the table. Masks must be of the upright image's size. An image without rows has no instances.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Iterable
from pathlib import PurePosixPath
from urllib.parse import unquote

from schemas.errors import ConfigError
from workers.masks.instances import Instances

logger = logging.getLogger(__name__)

# Row and the image's (H, W) to an RLE string.
EncodeRow = Callable[[int, tuple[int, int]], str]


class InstanceTable:
    """The instances of a table, found by image."""

    def __init__(self, names: Iterable[tuple[int, str]], encode_row: EncodeRow, *, path: str) -> None:
        """Index rows by the image that they name.

        Args:
            names: Pairs of a row and its image's id, key or file name, by ascending row.
            encode_row: Gives a row's mask.
            path: Of the table, for messages.
        """
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, name in names:
            self._rows[name].append(row)
        self._names_by_stem: dict[str, list[str]] = defaultdict(list)
        for name in self._rows:
            self._names_by_stem[_parts(name)[-1]].append(name)
        self._encode_row = encode_row
        self._path = path
        self._has_warned = False

    def instances(self, image_id: str, key: str, size: tuple[int, int]) -> Instances:
        """Return the instances of an image (H, W), by ascending row.

        Raises:
            ConfigError: Several names of the table fit the image, or one of its rows is malformed.
            ImageError: The table's masks are of another size.
        """
        name = self._name_of(image_id, key)
        if name is None:
            self._warn_once(key)
            return Instances((), ())
        rows = tuple(self._rows[name])
        return Instances(tuple(self._encode_row(row, size) for row in rows), rows)

    def _name_of(self, image_id: str, key: str) -> str | None:
        for name in (image_id, key, unquote(key)):
            if name in self._rows:
                return name
        fitting = {name for form in (key, unquote(key)) for name in self._names_ending_alike(form)}
        if len(fitting) > 1:
            raise ConfigError(
                f"prior.path={self._path}: image {key} may be any of {', '.join(sorted(fitting))}: "
                "name images by their key or image_id, as the images table does"
            )
        return next(iter(fitting), None)

    def _names_ending_alike(self, key: str) -> list[str]:
        parts = _parts(key)
        same_stem = self._names_by_stem.get(parts[-1], ())
        return [
            name
            for name in same_stem
            if all(a == b for a, b in zip(reversed(_parts(name)), reversed(parts), strict=False))
        ]

    def _warn_once(self, key: str) -> None:
        if not self._has_warned:
            logger.warning("image %s has no row in prior.path=%s, so it gets no mask (said once)", key, self._path)
            self._has_warned = True


def _parts(name: str) -> tuple[str, ...]:
    # A tar's member is `tar!member`.
    return PurePosixPath(name.replace("!", "/")).parts or ("",)
