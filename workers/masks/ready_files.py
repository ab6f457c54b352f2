"""SA-1B JSON, one file an image, as the proposals that a mask generator would have made.

    {"image": {"width": 640, "height": 480, …},
     "annotations": [{"segmentation": {"size": [480, 640], "counts": "…"},
                      "predicted_iou": 0.97, "stability_score": 0.98, …}]}

Other keys are not read: box and area follow from the mask. Whoever wrote the files is a stranger.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import fsspec
import numpy as np

from schemas.errors import ConfigError, ImageError, TransientError
from workers.masks import rle
from workers.masks.proposals import Proposals
from workers.segmentations import MaskSizeError, compressed_counts

_SCORES: Final = ("predicted_iou", "stability_score")
# Both lie in [0, 1], but for predictions that overshoot; beyond this, and for NaN, it is no score.
_MAX_SCORE: Final = 10.0


class ReadyMasks:
    """A folder of SA-1B JSON on a disk or in a bucket."""

    def __init__(self, folder: str, *, max_bytes: int, max_masks: int) -> None:
        """Look whether the folder is there; no file is opened.

        Args:
            folder: Absolute path or fsspec url.
            max_bytes: Of a file; a larger one is damaged.
            max_masks: Of an image; each is compared with each.

        Raises:
            ConfigError: There is no such folder, or it cannot be reached.
        """
        self._max_bytes = max_bytes
        self._max_masks = max_masks
        try:
            self._files, root = fsspec.url_to_fs(folder, use_listings_cache=False)
            is_there = self._files.isdir(root)
        except Exception as error:  # each file system has types of its own
            raise ConfigError(f"masks.options.folder={folder} cannot be reached: {error}") from error
        if not is_there:
            raise ConfigError(f"masks.options.folder={folder} is no folder: give the one that holds the masks' JSON")
        self._root = root.rstrip("/")

    def proposals(self, key: str, size: tuple[int, int]) -> Proposals:
        """Return the masks that stand ready for an image, in their file's order; those without a pixel are left out.

        Args:
            key: Of the image.
            size: (H, W) of the upright image.

        Raises:
            ImageError: `annotation_missing`, `annotation_mismatch` (another size), `annotation_damaged`, or
                `refused_uri` where the key leads out of the folder.
            TransientError: The storage failed.
        """
        path = json_name(key)
        # A name that is not UTF-8 cannot stand in a message.
        name = path.encode("utf-8", "backslashreplace").decode()
        rows = _rows(self._read(path, name), name, size)
        if len(rows) > self._max_masks:
            raise _damaged(f"{name} holds {len(rows):,} masks, masks.options.max_masks allows {self._max_masks:,}")
        counts = [_counts(row, size, f"{name}: mask {place}") for place, row in enumerate(rows)]
        scores = [[_score(row, field, f"{name}: mask {place}") for field in _SCORES] for place, row in enumerate(rows)]
        areas = rle.areas(counts, size)
        filled = np.flatnonzero(areas)
        kept = [counts[row] for row in filled]
        taken = np.asarray(scores, dtype=np.float64).reshape(-1, len(_SCORES))[filled]
        return Proposals(size, tuple(kept), tuple(rle.boxes(kept, size)), areas[filled], taken[:, 0], taken[:, 1])

    def _read(self, path: str, name: str) -> bytes:
        try:
            with self._files.open(f"{self._root}/{path}", "rb") as file:
                data: bytes = file.read(self._max_bytes + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            raise ImageError("annotation_missing", f"masks.options.folder holds no {name}") from None
        except MemoryError:
            raise
        except Exception as error:  # a fault of the storage, by whatever type: never the image's
            raise TransientError(f"cannot read {self._root}/{name}: {type(error).__name__}: {error}") from error
        if len(data) > self._max_bytes:
            raise _damaged(f"{name} is larger than masks.options.max_bytes = {self._max_bytes:,}")
        return data


def json_name(key: str) -> str:
    """Return where an image's masks stand below the folder: its path, or its name in its tar, with `.json`.

    Raises:
        ImageError: `annotation_missing` for a table's row, which has no name; `refused_uri` for a name that leads out.
    """
    if "#" in key:
        raise ImageError(
            "annotation_missing", "ready masks are found by an image's file name; rows of tables have none"
        )
    _, is_member, member = key.partition("!")
    path = PurePosixPath(unquote_to_bytes(member if is_member else key).decode("utf-8", "surrogateescape"))
    if path.is_absolute() or ".." in path.parts or not path.name or "\0" in path.name:
        raise ImageError("refused_uri", "the image's name leads out of masks.options.folder")
    return str(path.with_suffix(".json"))


def _rows(data: bytes, name: str, size: tuple[int, int]) -> list[Any]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(f"{name} does not read as JSON") from error
    rows = document.get("annotations") if isinstance(document, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise _damaged(f"{name} is no SA-1B JSON: an object with a list named annotations is needed")
    image = document.get("image")
    stated = [image.get(side) for side in ("height", "width")] if isinstance(image, dict) else [None, None]
    if stated != [None, None] and stated != list(size):
        raise ImageError(
            "annotation_mismatch",
            f"{name} is of an image of another size than the upright one, {size[0]} x {size[1]} (height x width)",
        )
    return rows


def _counts(row: Mapping[str, Any], size: tuple[int, int], where: str) -> str:
    try:
        counts = compressed_counts(row.get("segmentation"), size)
    except MaskSizeError as error:
        raise ImageError("annotation_mismatch", f"{where}: {error}") from error
    except ValueError as error:
        raise _damaged(f"{where}: {error}") from error
    if counts is None or not rle.is_valid(counts, size):
        raise _damaged(f"{where} is no RLE of {size[0]} x {size[1]} pixels")
    return counts


def _score(row: Mapping[str, Any], name: str, where: str) -> float:
    """Return a score, NaN where it is not stated."""
    value = row.get(name)
    if value is None:
        return math.nan
    if isinstance(value, bool) or not isinstance(value, int | float) or not -_MAX_SCORE <= value <= _MAX_SCORE:
        raise _damaged(f"{where} has a {name} that is no number of a score")
    return float(value)


def _damaged(message: str) -> ImageError:
    return ImageError("annotation_damaged", message)
