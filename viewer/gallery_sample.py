"""A gallery out of a run: a sample of its images, spread evenly over the run, with everything written about them."""

from __future__ import annotations

import json
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.errors import ConfigError, ImageError, TransientError
from pseudoris.schemas.ids import mask_index, sha256_hex
from pseudoris.schemas.keep_rule import LISTENER_COLUMNS, KeepCondition, KeepRule, meets
from pseudoris.schemas.renames import in_first_words
from pseudoris.schemas.run_records import RunHeader
from pseudoris.schemas.shard import SOURCE_MODEL
from pseudoris.schemas.tables import EXPRESSIONS, FAILURES, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.reports.status import run_status
from pseudoris.store.runs.header import require_header
from pseudoris.store.sources.planned_images import as_annotated
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.store.tables.keep_rule import scores_of, stated_rule
from pseudoris.viewer.gallery_model import (
    Gallery,
    GalleryDraw,
    GalleryExpression,
    GalleryImage,
    GalleryMask,
    GallerySummary,
    QuarantinedImage,
)
from pseudoris.viewer.shard_choice import CommittedShards, choose_images, find_images

logger = logging.getLogger(__name__)

# From a shard's number and an image's key to its encoded bytes.
LoadBytes = Callable[[int, str], bytes]
# What a person reads; `pseudoris status` has the counts by reason.
MAX_QUARANTINED: Final = 200
# If SOURCE was moved, all pictures are missing: the first few are logged with the reason.
_MAX_WARNINGS: Final = 3
_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "status", "sha256", "bytes")
_COPIED: Final = (
    *("text", "head_noun", "count", "uniqueness", "correctness", "distinctiveness", "kept", "weight", "source"),
    *LISTENER_COLUMNS,
)
_EXPRESSION_COLUMNS: Final = ("image_id", "target_mask_ids", "rival_mask_id", "samples", "log_prob", *_COPIED)


def gallery_from_run(
    location: RunLocation,
    load_bytes: LoadBytes | None = None,
    *,
    sample: int = 200,
    besides: Collection[str] = (),
) -> Gallery:
    """Return a gallery of up to `sample` images of a run, which may still be going on, and of those of `besides`.

    Args:
        location: Where the run lives.
        load_bytes: Encoded bytes by shard and key, for runs without `shards.embed_images`. An `OSError`, an error of
            ours, or other bytes than were annotated leave that picture blank. None: only embedded images are shown.
        sample: The most images to show, evenly spaced over those that are not quarantined, in plan order.
        besides: Ids of images that are shown whether the sample has them or not. Those that the run does not have are
            counted in a warning.

    Raises:
        ConfigError: No run was started there, or its records cannot be used.
        TransientError: Storage failed.
        ValueError: `sample` is negative.
    """
    if sample < 0:
        raise ValueError(f"sample must be at least 0, got {sample}")
    summary = read_summary(location)
    shards = CommittedShards.of(location)
    chosen = _with_others(location, shards, choose_images(shards.shown, sample), frozenset(besides))
    return Gallery(
        summary=summary,
        images=_iter_images(location, shards, chosen, load_bytes=load_bytes, rule=summary.rule),
        num_images=sum(len(positions) for positions in chosen.values()),
        quarantined=_iter_quarantined(location, shards),
    )


def _with_others(
    location: RunLocation, shards: CommittedShards, chosen: Mapping[int, Sequence[int]], besides: frozenset[str]
) -> dict[int, list[int]]:
    positions = {place: set(some) for place, some in chosen.items()}
    found = find_images(location, shards, besides)
    for place, position in found:
        positions.setdefault(place, set()).add(position)
    if len(found) < len(besides):
        left, all_ = len(besides) - len(found), len(besides)
        logger.warning("%d of %d images asked for are not in the run, or are quarantined", left, all_)
    return {place: sorted(positions[place]) for place in sorted(positions)}


def read_summary(location: RunLocation) -> GallerySummary:
    """Return the run in numbers.

    Raises:
        ConfigError: No run was started there, or its records cannot be used.
        TransientError: Storage failed.
    """
    header = require_header(location)
    status = run_status(location)
    return GallerySummary(
        source=status.source,
        tau=header.config.filtering.tau,
        images=status.images,
        annotated=status.annotated,
        empty=status.empty,
        quarantined=status.quarantined,
        masks=status.masks,
        candidates=status.expressions,
        kept=status.kept,
        kept_lone=status.kept_lone,
        seconds=status.seconds,
        images_per_s=status.rates.overall,
        is_complete=status.is_complete,
        pairs_digest=_pairs_digest(header),
        preset=header.config.preset if header.origin in ("annotate", "refilter") else None,
        parent=header.parent.location if header.parent else None,
        warning=None if header.domain is None else header.domain.warning,
        rule=stated_rule(header),
    )


def _pairs_digest(header: RunHeader) -> str:
    """Return a digest of all that decides masks and texts; a refilter changes `filtering` alone."""
    method = {key: value for key, value in in_first_words(header.identity.method).items() if key != "filtering"}
    return sha256_hex(json.dumps([header.source, header.identity.weights, method], sort_keys=True).encode())[:16]


def _iter_images(
    location: RunLocation,
    shards: CommittedShards,
    chosen: Mapping[int, Sequence[int]],
    *,
    load_bytes: LoadBytes | None,
    rule: KeepRule | None,
) -> Iterator[GalleryImage]:
    receipts = shards.receipts(location, chosen)
    pictures = _SourceImages(load_bytes)
    for receipt, positions in zip(receipts, chosen.values(), strict=True):
        images = read_table(location, IMAGES, _IMAGE_COLUMNS, [receipt])
        images = images.filter(pc.not_equal(images["status"], STATUS_QUARANTINED)).take(positions)
        ids = images["image_id"]
        masks = _by_image(read_table(location, MASKS, receipts=[receipt]), ids)
        candidates = read_table(location, EXPRESSIONS, _EXPRESSION_COLUMNS, [receipt])
        expressions = _by_image(_with_unmet(candidates, rule.conditions if rule else ()), ids)
        for row in images.to_pylist():
            image = row["image_id"]
            yield GalleryImage(
                image_id=image,
                key=row["key"],
                height=row["height"],
                width=row["width"],
                data=row["bytes"] or pictures.load(receipt.shard, row["key"], row["sha256"]),
                masks=tuple(_mask(mask) for mask in masks[image]),
                expressions=tuple(_expression(expression) for expression in expressions[image]),
            )
    pictures.finish()


def _by_image(table: pa.Table, image_ids: pa.ChunkedArray) -> defaultdict[str, list[dict[str, Any]]]:
    found: defaultdict[str, list[dict[str, Any]]] = defaultdict(list)
    for row in table.filter(pc.is_in(table["image_id"], value_set=image_ids.combine_chunks())).to_pylist():
        found[row["image_id"]].append(row)
    return found


def _with_unmet(table: pa.Table, conditions: Sequence[KeepCondition]) -> pa.Table:
    """Judged here, where `refilter` is judged: the page's script compares with tau alone."""
    unmet: list[list[int]] = [[] for _ in range(table.num_rows)]
    scores = scores_of(table)
    for place, condition in enumerate(conditions):
        for row in np.flatnonzero(~meets([condition], scores, table.num_rows)):
            unmet[row].append(place)
    return table.append_column("unmet", pa.array(unmet, pa.list_(pa.int16())))


def _mask(row: Mapping[str, Any]) -> GalleryMask:
    height, width = row["segmentation"]["size"]
    return GalleryMask(
        index=mask_index(row["mask_id"]),
        rle_size=(height, width),
        rle_counts=row["segmentation"]["counts"],
        area_px=row["area_px"],
        predicted_iou=row["predicted_iou"],
        stability_score=row["stability_score"],
        prior=row["prior"],
    )


def _expression(row: Mapping[str, Any]) -> GalleryExpression:
    copied = {name: row[name] for name in _COPIED}
    copied["source"] = copied["source"] or SOURCE_MODEL
    rival = row["rival_mask_id"]
    return GalleryExpression(
        **copied,
        targets=tuple(mask_index(mask_id) for mask_id in row["target_mask_ids"]),
        rival_index=None if rival is None else mask_index(rival),
        draws=tuple(_draw(sample) for sample in row["samples"] or ()),
        unmet=tuple(row["unmet"]),
    )


def _draw(sample: Mapping[str, Any]) -> GalleryDraw:
    return GalleryDraw(**{**sample, "other_masks": tuple(sample["other_masks"])})


class _SourceImages:
    """Loads images that are not embedded; logs why the first few are missing, and how many are in all."""

    def __init__(self, load_bytes: LoadBytes | None) -> None:
        self._load_bytes = load_bytes
        self._num_asked = self._num_blank = 0
        self._is_gone = False

    def load(self, shard: int, key: str, sha256: str) -> bytes | None:
        if self._load_bytes is None:
            return None
        self._num_asked += 1
        data = None if self._is_gone else self._loaded(self._load_bytes, shard, key, sha256)
        self._num_blank += data is None
        return data

    def finish(self) -> None:
        if self._num_blank > _MAX_WARNINGS or (self._is_gone and self._num_blank > 1):
            logger.warning("%d of %d images are not shown", self._num_blank, self._num_asked)

    def _loaded(self, load_bytes: LoadBytes, shard: int, key: str, sha256: str) -> bytes | None:
        try:
            data = as_annotated(load_bytes(shard, key), sha256)
            if isinstance(data, ImageError):
                raise data
        except (OSError, ImageError) as error:
            level = logging.WARNING if self._num_blank < _MAX_WARNINGS else logging.DEBUG
            logger.log(level, "The gallery does not show image %s: %s", key, error)
            return None
        except (ConfigError, TransientError) as error:
            # Not this picture's fault. A bucket that does not answer was retried already.
            self._is_gone = True
            logger.warning("SOURCE cannot be read. No image after %s is tried: %s", key, error)
            return None
        return data


def _iter_quarantined(location: RunLocation, shards: CommittedShards) -> Iterator[QuarantinedImage]:
    places = (place for place, count in enumerate(shards.quarantined) if count)
    num_left = MAX_QUARANTINED
    for place in places:
        if num_left <= 0:
            return
        (receipt,) = shards.receipts(location, [place])
        images = read_table(location, IMAGES, ("image_id", "key"), [receipt])
        key_of = dict(zip(images["image_id"].to_pylist(), images["key"].to_pylist(), strict=True))
        for row in read_table(location, FAILURES, receipts=[receipt]).slice(0, num_left).to_pylist():
            yield QuarantinedImage(key_of[row["image_id"]], row["stage"], row["reason"], row["message"])
            num_left -= 1
