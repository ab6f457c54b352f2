"""Reads a Pseudo-RIS CSV and its masks back as the trainer does, but for evaluating only plain values."""

from __future__ import annotations

import ast
import csv
import io
import sys
from collections.abc import Callable, Iterator
from math import isfinite
from typing import Any, Final

from store.location import RunLocation
from training.exports.fingerprints import Fingerprint
from training.exports.mask_checks import broken, check_texts
from training.exports.mask_png import counts_of_png
from training.exports.protocol import CHECKING, OnProgress
from training.exports.reading_ahead import read_ahead

_TOLD_EVERY: Final = 100


def check_csv(
    destination: RunLocation,
    csv_path: str,
    masks_folder: Callable[[int], str],
    *,
    due: Fingerprint,
    on_progress: OnProgress,
) -> None:
    """Read every row and the mask that it names, and compare them with what was written.

    Raises:
        TransientError: Something is not as it was written; the message says which row.
    """
    where = destination.uri(csv_path)
    found = Fingerprint()
    with destination.open_input(csv_path) as again, destination.open_input(csv_path) as file:
        paths = (f"{masks_folder(int(row['img_id']) - 1)}/{row['seg_id']}.png" for row in _rows(again))
        last = (0, -1)
        for index, (row, (path, data)) in enumerate(zip(_rows(file), read_ahead(destination, paths), strict=True)):
            place = f"{where}, row {row['index']}"
            ids = int(row["img_id"]), int(row["seg_id"])
            if int(row["index"]) != index or ids <= last:
                raise broken(place, f"image {ids[0]}, segment {ids[1]} is out of order or stands there twice")
            last = ids
            size, counts = counts_of_png(data, destination.uri(path))
            found.add(f"{ids[0]}/{ids[1]}", size, counts, _captions(row, place))
            if found.num_masks % _TOLD_EVERY == 0 or found.num_masks == due.num_masks:
                on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, where)


def _rows(file: Any) -> Iterator[dict[str, str]]:
    # By default a field ends at 128 KiB; a mask may have thousands of captions.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    return csv.DictReader(io.TextIOWrapper(file, encoding="utf-8", newline=""))


def _captions(row: dict[str, str], where: str) -> list[str]:
    try:
        captions, doc = ast.literal_eval(row["pseudo_caption"]), ast.literal_eval(row["doc"])
        num_captions = int(row["num_sent"])
    except (ValueError, SyntaxError, KeyError, TypeError) as error:
        raise broken(where, f"it does not evaluate ({error})") from error
    is_scored = isinstance(doc, list) and all(type(score) is float and isfinite(score) for score in doc)
    if not is_scored or row["one_mask"] not in ("0", "1"):
        raise broken(where, "doc is no list of finite numbers, or one_mask neither 0 nor 1")
    if not isinstance(captions, list) or not len(captions) == len(doc) == num_captions > 0:
        raise broken(where, "num_sent, captions and doc are not as many")
    return check_texts(captions, where)
