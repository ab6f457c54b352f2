"""All pairs of a run as arrays of numbers: what a draw needs to know of each of them, shard by shard, without texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.schemas.confidence import CONFIDENCE_COLUMNS, Rated, features
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.keep_rule import SCORE_COLUMNS, Flags, Floats
from pseudoris.schemas.run_records import Receipt, RunHeader
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS, STATUS_QUARANTINED
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.runs.root_digest import RootDigest
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.store.tables.keep_rule import flags_of, judged, scores_of

Ints = npt.NDArray[np.int64]
# Shards read so far, shards in all.
OnShard = Callable[[int, int], None]
Score = Literal["confidence", "label_free"]
_COLUMNS: Final = ("image_id", "target_mask_ids", "text", "source", "kept", *SCORE_COLUMNS)
# More is better, for any models. Source: `calibrate` without a truth, training/calibration/confidence_fit.py.
_LABEL_FREE: Final = ("log_uniqueness", "correctness", "vote")
_LABEL_FREE_HEARD: Final = (*_LABEL_FREE, "listener", "truth")
# Below it, a spread is the rounding of equal values.
_LEAST_SPREAD: Final = 1e-9


@dataclass(frozen=True, eq=False)
class RunPairs:
    """The P pairs and I images of a run, in plan order.

    Attributes:
        receipts: The S committed shards.
        root_sha256: The run's root digest over these shards.
        score_kind: What `score` is: the run's confidence, or computed from its other scores.
        shard: (P,) place of the pair's shard among `receipts`.
        row: (P,) row of the pair in its shard's table of expressions.
        image: (P,) number of its image.
        is_kept: (P,) bool.
        is_lone: (P,) bool, its mask is alone in its image, so that no filter compared it.
        score: (P,) float64, NaN if it has none: composed and human expressions, groups.
        num_kept_of_mask: (P,) kept pairs of its mask alone; 0 for a group.
        image_shard: (I,) place of the image's shard.
        image_row: (I,) row of the image in its shard's table of images.
        image_masks: (I,) masks of the image.
        num_masks_with_kept: Masks with a kept pair of their own.
        num_without_target: Expressions that refer to no mask: no pairs.
    """

    receipts: tuple[Receipt, ...]
    root_sha256: str
    score_kind: Score
    shard: Ints
    row: Ints
    image: Ints
    is_kept: Flags
    is_lone: Flags
    score: Floats
    num_kept_of_mask: Ints
    image_shard: Ints
    image_row: Ints
    image_masks: Ints
    num_masks_with_kept: int
    num_without_target: int


class _ShardPairs(NamedTuple):
    """One shard's part of `RunPairs`; `image` counts from the shard's first."""

    row: Ints
    image: Ints
    is_kept: Flags
    is_lone: Flags
    confidence: Floats
    heard: Floats
    num_kept_of_mask: Ints
    image_row: Ints
    image_masks: Ints
    num_masks_with_kept: int
    num_without_target: int


def read_pairs(location: RunLocation, header: RunHeader, on_shard: OnShard = lambda done, total: None) -> RunPairs:
    """Return all pairs of the committed shards of a run; memory holds some 100 bytes a pair.

    Raises:
        ConfigError: Nothing is committed, or a part is missing.
        TransientError: Storage failed.
    """
    digest, receipts, shards = RootDigest(header), [], []
    for receipt in cached_receipts(location):
        digest.add(receipt)
        receipts.append(receipt)
        shards.append(_read_shard(location, receipt))
        on_shard(len(shards), header.num_shards)
    if not sum(len(shard.row) for shard in shards):
        raise ConfigError(f"{location.root} holds no committed image with an expression: there is nothing to judge")
    sizes = [len(shard.row) for shard in shards]
    num_images = [len(shard.image_row) for shard in shards]
    starts = np.cumsum([0, *num_images[:-1]])
    confidence, heard = (np.concatenate([getattr(s, name) for s in shards]) for name in ("confidence", "heard"))
    kind, score = _score(confidence, heard)
    joined = {
        name: np.concatenate([getattr(shard, name) for shard in shards])
        for name in ("row", "is_kept", "is_lone", "num_kept_of_mask", "image_row", "image_masks")
    }
    return RunPairs(
        receipts=tuple(receipts),
        root_sha256=digest.hexdigest(),
        score_kind=kind,
        shard=np.repeat(np.arange(len(shards)), sizes),
        image=np.concatenate([s.image + start for s, start in zip(shards, starts, strict=True)]),
        score=score,
        image_shard=np.repeat(np.arange(len(shards)), num_images),
        num_masks_with_kept=sum(shard.num_masks_with_kept for shard in shards),
        num_without_target=sum(shard.num_without_target for shard in shards),
        **joined,
    )


def _read_shard(location: RunLocation, receipt: Receipt) -> _ShardPairs:
    images = read_table(location, IMAGES, ("image_id", "status"), [receipt])
    masks = Counter(read_table(location, MASKS, ("image_id",), [receipt])["image_id"].to_pylist())
    table = read_table(location, EXPRESSIONS, _COLUMNS, [receipt])
    image_row = np.flatnonzero(~flags_of(pc.equal(images["status"], STATUS_QUARANTINED)))
    ids = images["image_id"].take(pa.array(image_row)).to_pylist()
    number = {image: place for place, image in enumerate(ids)}
    rows, kept = _distinct(table)
    targets = [masks_of[0] if len(masks_of) == 1 else None for masks_of in _taken(table, "target_mask_ids", rows)]
    kept_of = Counter(target for target, is_kept in zip(targets, kept.tolist(), strict=True) if is_kept and target)
    is_judged = judged(table)[rows]
    scores = scores_of(table)
    return _ShardPairs(
        row=rows,
        image=np.array([number[image] for image in _taken(table, "image_id", rows)], np.int64),
        is_kept=kept,
        is_lone=is_judged & np.isnan(scores["distinctiveness"][rows]),
        confidence=scores["confidence"][rows],
        heard=_features(table, rows, is_judged),
        num_kept_of_mask=np.array([kept_of[target] if target else 0 for target in targets], np.int64),
        image_row=image_row,
        image_masks=np.array([masks[image] for image in ids], np.int64),
        num_masks_with_kept=len(kept_of),
        num_without_target=int(pc.sum(pc.equal(pc.list_value_length(table["target_mask_ids"]), 0)).as_py() or 0),
    )


def _taken(table: pa.Table, column: str, rows: Ints) -> list[Any]:
    return list(table[column].take(pa.array(rows)).to_pylist())


def _distinct(table: pa.Table) -> tuple[Ints, Flags]:
    """Return the first row of each pair with a target, ascending, and whether any row of the pair is kept."""
    first: dict[tuple[str, ...], int] = {}
    rows: list[int] = []
    kept: list[bool] = []
    columns = (table[name].to_pylist() for name in ("target_mask_ids", "text", "kept"))
    for row, (targets, text, is_kept) in enumerate(zip(*columns, strict=True)):
        if not targets:
            continue
        place = first.setdefault((*sorted(targets), text), len(rows))
        if place == len(rows):
            rows.append(row)
            kept.append(is_kept)
        else:
            kept[place] |= is_kept
    return np.array(rows, np.int64), np.array(kept, np.bool_)


def _features(table: pa.Table, rows: Ints, is_judged: Flags) -> Floats:
    """Return (rows, features) float64 of `_LABEL_FREE_HEARD`; NaN for what no model drew."""
    found = np.full((len(rows), len(_LABEL_FREE_HEARD)), np.nan)
    chosen = rows[is_judged]
    groups = [masks[0] for masks in _taken(table, "target_mask_ids", chosen)]
    scores = scores_of(table)
    rated = Rated(groups, _taken(table, "text", chosen), {name: scores[name][chosen] for name in CONFIDENCE_COLUMNS})
    with np.errstate(invalid="ignore"):
        # A lone mask has a stratum of its own: what stands for its missing ratios orders nothing.
        by_name = features(rated, 0.0)
    found[is_judged] = np.stack([by_name[name] for name in _LABEL_FREE_HEARD], axis=1)
    return found


def _score(confidence: Floats, heard: Floats) -> tuple[Score, Floats]:
    """Return the score of every pair: the confidence where the run has one, else equal weights of its features."""
    is_drawn = ~np.isnan(heard[:, 1])
    if (~np.isnan(confidence[is_drawn])).mean() > 0.5 if is_drawn.any() else False:
        return "confidence", confidence
    # With a listener's scores only if all have them: a sum over fewer features is another score.
    names = len(_LABEL_FREE_HEARD) if not np.isnan(heard[is_drawn]).any() else len(_LABEL_FREE)
    table = heard[:, :names]
    spread = np.nanstd(table, axis=0) if is_drawn.any() else np.ones(names)
    # A feature that all pairs share orders nothing: it counts 0.
    return "label_free", np.asarray((table / np.where(spread > _LEAST_SPREAD, spread, np.inf)).sum(axis=1))
