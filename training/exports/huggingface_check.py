"""Reads a `datasets` folder back, a row group at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa

from schemas.errors import ImageError
from store.location import RunLocation
from store.parquet import open_parquet
from training.exports.fingerprints import Fingerprint
from training.exports.mask_checks import broken, check_texts
from training.exports.mask_png import counts_of_png
from training.exports.protocol import CHECKING, OnProgress
from workers.images.decoding import upright_size


def check_rows(destination: RunLocation, paths: Sequence[str], *, due: Fingerprint, on_progress: OnProgress) -> None:
    """Read every row: images by their headers, masks by their pixels.

    Raises:
        TransientError: Something is not as it was written; the message says which file and mask.
    """
    found = Fingerprint()
    for path in paths:
        image_ids = set[str]()
        for row in _rows(destination, path):
            if row["image_id"] in image_ids:
                raise broken(destination.uri(path), f"image {row['image_id']} has two rows")
            image_ids.add(row["image_id"])
            _add_row(found, row, destination.uri(path))
        on_progress(found.num_masks, due.num_masks, CHECKING)
    due.check_equals(found, destination.root)


def _rows(destination: RunLocation, path: str) -> Iterator[dict[str, Any]]:
    where = destination.uri(path)
    with destination.open_input(path) as stream:
        parquet = open_parquet(stream, where)
        for group in range(parquet.num_row_groups):
            try:
                table = parquet.read_row_group(group, use_threads=False)
            except (pa.ArrowException, OSError) as error:
                raise broken(where, str(error)) from error
            # A row at a time: as Python values a group's images are there once more.
            for batch in table.to_batches(max_chunksize=1):
                yield from batch.to_pylist()


def _add_row(found: Fingerprint, row: Mapping[str, Any], where: str) -> None:
    size = (row["height"], row["width"])
    try:
        image_size = upright_size(row["image"]["bytes"])
    except ImageError as error:
        raise broken(where, f"image {row['image_id']} does not read ({error})") from error
    if image_size != size:
        raise broken(where, f"image {row['image_id']} is {image_size}, its row says {size} (height, width)")
    for mask in row["masks"]:
        place = f"{where}, mask {mask['mask_id']}"
        mask_size, counts = counts_of_png(mask["mask"]["bytes"], place)
        if mask_size != size:
            raise broken(place, f"it is {mask_size}, its image {size} (height, width)")
        texts = check_texts(mask["expressions"], place)
        if not texts or len(texts) != len(mask["distinctiveness"]):
            raise broken(place, "it has no expression, or not a score for each")
        found.add(row["image_id"], size, counts, texts)
