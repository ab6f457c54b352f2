"""A gallery out of a run: a sample of its images, spread evenly over the run, with all that was written of them."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from schemas.errors import ImageError, PseudorisError
from schemas.ids import sha256_hex
from schemas.run import Receipt
from schemas.tables import EXPRESSIONS, FAILURES, IMAGES, MASKS, STATUS_QUARANTINED
from store.header import require_header
from store.location import RunLocation
from store.reading import read_table
from store.receipts import standing_receipts
from store.status import run_status
from viewer.model import Gallery, GalleryExpression, GalleryImage, GalleryMask, GallerySummary, QuarantinedImage

logger = logging.getLogger(__name__)

# From a shard's number and an image's key to its encoded bytes.
LoadBytes = Callable[[int, str], bytes]
# What a person reads; `pseudoris status` has the counts by reason.
MAX_QUARANTINED = 200
_IMAGE_COLUMNS = ("image_id", "key", "height", "width", "status", "sha256", "bytes")
_EXPRESSION_COLUMNS = (
    *("image_id", "target_mask_ids", "text", "head_noun", "count"),
    *("uniqueness", "correctness", "distinctiveness", "rival_mask_id", "kept"),
)


def gallery_from_run(location: RunLocation, load_bytes: LoadBytes | None = None, *, sample: int = 64) -> Gallery:
    """Return a gallery of up to `sample` images of a run, which may still be going on.

    Args:
        location: Where the run lives.
        load_bytes: Encoded bytes by shard and key, for runs without `shards.embed_images`. An `OSError`, an error of
            ours, or other bytes than were annotated leave that picture blank. None: only embedded images are shown.
        sample: At most so many, evenly spaced over the images that are not quarantined, in plan order.

    Raises:
        ConfigError: No run was started there, or its records cannot be used.
        TransientError: Storage failed.
        ValueError: `sample` is negative.
    """
    if sample < 0:
        raise ValueError(f"sample must be at least 0, got {sample}")
    header = require_header(location)
    receipts = list(standing_receipts(location))
    chosen = choose_evenly([r.counts.annotated + r.counts.empty for r in receipts], sample)
    return Gallery(
        summary=_summary(location, tau=header.config.filtering.tau),
        images=_iter_images(location, receipts, chosen, load_bytes=load_bytes),
        num_images=sum(len(positions) for positions in chosen.values()),
        quarantined=_iter_quarantined(location, receipts),
    )


def choose_evenly(counts: Sequence[int], sample: int) -> dict[int, list[int]]:
    """Return which of `counts[s]` items of each shard s are shown: at most `sample`, evenly spaced over all shards."""
    total = sum(counts)
    num_shown = min(sample, total)
    wanted = [i * total // num_shown for i in range(num_shown)]
    chosen: dict[int, list[int]] = defaultdict(list)
    shard, start = 0, 0
    for position in wanted:
        while position >= start + counts[shard]:
            start += counts[shard]
            shard += 1
        chosen[shard].append(position - start)
    return dict(chosen)


def _summary(location: RunLocation, *, tau: float) -> GallerySummary:
    status = run_status(location)
    return GallerySummary(
        source=status.source,
        tau=tau,
        images=status.num_images_done,
        annotated=status.annotated,
        empty=status.empty,
        quarantined=status.quarantined,
        masks=status.masks,
        candidates=status.expressions,
        kept=status.kept,
        seconds=status.seconds,
        is_complete=status.is_complete,
    )


def _iter_images(
    location: RunLocation,
    receipts: Sequence[Receipt],
    chosen: Mapping[int, Sequence[int]],
    *,
    load_bytes: LoadBytes | None,
) -> Iterator[GalleryImage]:
    for number, positions in chosen.items():
        receipt = [receipts[number]]
        images = read_table(location, IMAGES, _IMAGE_COLUMNS, receipt)
        images = images.filter(pc.not_equal(images["status"], STATUS_QUARANTINED)).take(positions)
        ids = images["image_id"]
        masks = _by_image(read_table(location, MASKS, receipts=receipt), ids)
        expressions = _by_image(read_table(location, EXPRESSIONS, _EXPRESSION_COLUMNS, receipt), ids)
        for row in images.to_pylist():
            data = row["bytes"] or _loaded(receipts[number].shard, row, load_bytes)
            yield _image(row, data, masks=masks[row["image_id"]], expressions=expressions[row["image_id"]])


def _by_image(table: pa.Table, image_ids: pa.ChunkedArray) -> defaultdict[str, list[dict[str, Any]]]:
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.filter(pc.is_in(table["image_id"], value_set=image_ids.combine_chunks())).to_pylist():
        found[row["image_id"]].append(row)
    return found


def _image(
    row: Mapping[str, Any],
    data: bytes | None,
    *,
    masks: Collection[Mapping[str, Any]],
    expressions: Collection[Mapping[str, Any]],
) -> GalleryImage:
    index_of = {mask["mask_id"]: int(mask["mask_id"].rpartition("-")[2]) for mask in masks}
    of_mask: defaultdict[str, list[GalleryExpression]] = defaultdict(list)
    for expression in expressions:
        for mask_id in expression["target_mask_ids"]:
            of_mask[mask_id].append(_expression(expression, index_of))
    return GalleryImage(
        key=row["key"],
        height=row["height"],
        width=row["width"],
        data=data,
        masks=tuple(
            GalleryMask(
                index=index_of[mask["mask_id"]],
                rle_size=(mask["segmentation"]["size"][0], mask["segmentation"]["size"][1]),
                rle_counts=mask["segmentation"]["counts"],
                area_px=mask["area_px"],
                predicted_iou=mask["predicted_iou"],
                expressions=tuple(of_mask[mask["mask_id"]]),
            )
            for mask in masks
        ),
    )


def _expression(row: Mapping[str, Any], index_of: Mapping[str, int]) -> GalleryExpression:
    plain = ("text", "head_noun", "count", "uniqueness", "correctness", "distinctiveness", "kept")
    return GalleryExpression(**{name: row[name] for name in plain}, rival_index=index_of.get(row["rival_mask_id"]))


def _loaded(shard: int, row: Mapping[str, Any], load_bytes: LoadBytes | None) -> bytes | None:
    if load_bytes is None:
        return None
    try:
        data = load_bytes(shard, row["key"])
        # Masks over a picture that was put in the annotated one's place would say what is not so.
        if sha256_hex(data) != row["sha256"]:
            raise ImageError("changed", "its bytes are not those that were annotated")
    except (OSError, PseudorisError) as error:
        logger.warning("the gallery shows no picture of %s: %s", row["key"], error)
        return None
    return data


def _iter_quarantined(location: RunLocation, receipts: Sequence[Receipt]) -> Iterator[QuarantinedImage]:
    num_left = MAX_QUARANTINED
    for receipt in receipts:
        if not receipt.counts.quarantined or num_left <= 0:
            continue
        images = read_table(location, IMAGES, ("image_id", "key"), [receipt])
        key_of = dict(zip(images["image_id"].to_pylist(), images["key"].to_pylist(), strict=True))
        for row in read_table(location, FAILURES, receipts=[receipt]).slice(0, num_left).to_pylist():
            yield QuarantinedImage(key_of[row["image_id"]], row["stage"], row["reason"], row["message"])
            num_left -= 1
