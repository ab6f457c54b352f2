"""The rows of a draw: reads the drawn pairs, their follow-ups and their images from the shards that hold them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.audit.population import RunPairs
from pseudoris.audit.sample_tables import DRAWN, FOLLOW_UP, STORED_SCORES, pair_id
from pseudoris.schemas.errors import ImageError
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.shard import SOURCE_MODEL
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.location import RunLocation
from pseudoris.store.sources.planned_images import as_annotated
from pseudoris.store.tables.committed_tables import read_table

Ints = npt.NDArray[np.int64]
# From a shard's number and an image's key to its encoded bytes.
LoadBytes = Callable[[int, str], bytes]
Row = dict[str, Any]

# Of one mask: a mask with more kept expressions is settled by the most likely ones, or stays open.
MAX_FOLLOW_UPS: Final = 5
_PAIR_COLUMNS: Final = ("image_id", "target_mask_ids", "text", "kind", "source", *STORED_SCORES)
_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "sha256", "bytes")


@dataclass(slots=True)
class SampleRows:
    """Rows of both tables, not yet in order.

    Attributes:
        drawn: By the pair's number in `RunPairs`.
        follow_ups: The same of follow-ups.
        images: By the image's number in `RunPairs`; masks included.
        unreadable: What was wrong with a picture that is missing, by image id.
    """

    drawn: dict[int, Row] = field(default_factory=dict)
    follow_ups: dict[int, Row] = field(default_factory=dict)
    images: dict[int, Row] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def read_rows(
    location: RunLocation, pairs: RunPairs, *, drawn: Ints, images: Ints, load_bytes: LoadBytes
) -> SampleRows:
    """Return the rows of drawn pairs and of images; only the shards that hold them are read.

    Args:
        location: The run.
        pairs: All of its pairs.
        drawn: Numbers of the drawn pairs.
        images: Numbers of all images whose pictures are needed.
        load_bytes: Reads an image that the run does not embed. What is an image's fault leaves it without bytes.

    Raises:
        ConfigError: A part is missing, or SOURCE no longer exists.
        TransientError: Storage failed.
    """
    rows = SampleRows()
    for place, receipt in enumerate(pairs.receipts):
        chosen = drawn[pairs.shard[drawn] == place]
        pictures = images[pairs.image_shard[images] == place]
        if not len(chosen) and not len(pictures):
            continue
        _read_pairs(rows, location, receipt, pairs, chosen)
        _read_images(rows, location, receipt, pairs, pictures, load_bytes)
    return rows


def _read_pairs(rows: SampleRows, location: RunLocation, receipt: Receipt, pairs: RunPairs, chosen: Ints) -> None:
    table = read_table(location, EXPRESSIONS, _PAIR_COLUMNS, [receipt])
    rows.drawn |= {number: {**row, "role": DRAWN} for number, row in _pair_rows(table, pairs, chosen)}
    follow = _follow_ups(pairs, chosen, table)
    found = dict(_pair_rows(table, pairs, np.array(list(follow), np.int64)))
    rows.follow_ups |= {
        number: {**row, "role": FOLLOW_UP, "follows": rows.drawn[follow[number]]["pair_id"]}
        for number, row in found.items()
    }


def _pair_rows(table: pa.Table, pairs: RunPairs, numbers: Ints) -> Iterator[tuple[int, Row]]:
    found = table.take(pa.array(pairs.row[numbers])).to_pylist()
    for number, row in zip(numbers.tolist(), found, strict=True):
        masks = row.pop("target_mask_ids")
        score = float(pairs.score[number])
        yield (
            number,
            {
                **row,
                "source": row["source"] or SOURCE_MODEL,
                "pair_id": pair_id(row["image_id"], masks, row["text"]),
                "mask_ids": masks,
                "is_kept": bool(pairs.is_kept[number]),
                "num_kept_of_mask": int(pairs.num_kept_of_mask[number]),
                "score": None if np.isnan(score) else score,
                **{name: None if row[name] is None else float(row[name]) for name in STORED_SCORES},
            },
        )


def _follow_ups(pairs: RunPairs, chosen: Ints, table: pa.Table) -> dict[int, int]:
    """Return which pairs follow which drawn one: the other kept expressions of its mask, the likeliest first."""
    if not len(chosen):
        return {}
    own = np.flatnonzero((pairs.shard == pairs.shard[chosen[0]]) & pairs.is_kept & (pairs.num_kept_of_mask > 0))
    targets = [masks[0] for masks in table["target_mask_ids"].take(pa.array(pairs.row[own])).to_pylist()]
    of_mask: defaultdict[str, list[int]] = defaultdict(list)
    target_of = dict(zip(own.tolist(), targets, strict=True))
    for number in own[np.argsort(-np.nan_to_num(pairs.score[own]), kind="stable")].tolist():
        of_mask[target_of[number]].append(number)
    drawn = frozenset(chosen.tolist())
    found: dict[int, int] = {}
    for number in chosen.tolist():
        others = [other for other in of_mask.get(target_of.get(number, ""), []) if other not in drawn]
        for other in others[:MAX_FOLLOW_UPS]:
            found.setdefault(other, number)
    return found


def _read_images(
    rows: SampleRows, location: RunLocation, receipt: Receipt, pairs: RunPairs, pictures: Ints, load_bytes: LoadBytes
) -> None:
    table = read_table(location, IMAGES, _IMAGE_COLUMNS, [receipt]).take(pa.array(pairs.image_row[pictures]))
    ids = table["image_id"].combine_chunks()
    masks = read_table(location, MASKS, ("image_id", "mask_id", "segmentation"), [receipt])
    of_image: defaultdict[str, list[Row]] = defaultdict(list)
    for mask in masks.filter(pc.is_in(masks["image_id"], value_set=ids)).to_pylist():
        of_image[mask["image_id"]].append(_mask(mask))
    for number, row in zip(pictures.tolist(), table.to_pylist(), strict=True):
        data = row.pop("bytes") or _loaded(rows, receipt.shard, row, load_bytes)
        rows.images[number] = {**row, "shard": receipt.shard, "bytes": data, "masks": of_image[row["image_id"]]}


def _mask(row: Mapping[str, Any]) -> Row:
    height, width = row["segmentation"]["size"]
    return {"mask_id": row["mask_id"], "height": height, "width": width, "counts": row["segmentation"]["counts"]}


def _loaded(rows: SampleRows, shard: int, row: Row, load_bytes: LoadBytes) -> bytes | None:
    try:
        data = as_annotated(load_bytes(shard, row["key"]), row["sha256"])
        if isinstance(data, bytes):
            return data
        raise data
    except (OSError, ImageError) as error:
        rows.unreadable[row["image_id"]] = f"{row['key']}: {error}"
        return None
