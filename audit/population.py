"""Reads a run for an audit: first all pairs as numbers, then the drawn rows and pictures.

Called by `draw`; `judged_pairs` uses its type `OnShard`. A pair is a text with its target masks; the same text twice on
one mask is one pair. Pairs and images stand in the order of the plan, so that a seed draws the same ones again.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from pseudoris.audit.draw_files import DRAWN, FOLLOW_UP, STORED_SCORES, draw_kind, pair_id
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS, Floats, Rated, features
from pseudoris.schemas.keep_rule import SCORE_COLUMNS, Flags, Ints
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.runs.receipts import RootDigest
from pseudoris.store.tables.image_bytes import PlannedImages
from pseudoris.store.tables.judged_expressions import judged, scores_of
from pseudoris.store.tables.open_run import CommittedShard, OpenRun

Row = dict[str, Any]
# The function gets the number of shards read so far, and the number of all shards.
OnShard = Callable[[int, int], None]
_COLUMNS: Final = ("image_id", "target_mask_ids", "text", "kind", "source", "kept", *SCORE_COLUMNS)
# Higher values of these features mean better expressions for every model (`NO_LABELS` of `confidence_fit.py`).
_LABEL_FREE: Final = ("log_uniqueness", "correctness", "vote")
_LABEL_FREE_HEARD: Final = (*_LABEL_FREE, "listener", "truth")
# After a drawn pair, at most this many other kept pairs of its mask are judged, the most likely ones first.
MAX_FOLLOW_UPS: Final = 5
_PAIR_COLUMNS: Final = ("image_id", "target_mask_ids", "text", "kind", "source", *STORED_SCORES)
_IMAGE_COLUMNS: Final = ("image_id", "key", "height", "width", "sha256", "bytes")
_MASK_COLUMNS: Final = ("mask_id", "segmentation", "area_px", "box_xyxy_px")
# A feature with a smaller standard deviation differs only by rounding, so it cannot order pairs.
_LEAST_SPREAD: Final = 1e-9


@dataclass(frozen=True, eq=False)
class RunPairs:
    """The P pairs and I images of a run, in plan order.

    Attributes:
        root_sha256: The run's root digest over these shards.
        score_kind: What `score` is of drawn pairs: the run's confidence, or computed from its other scores.
        shard: (P,) place of the pair's shard among the committed ones.
        row: (P,) row of the pair in its shard's table of expressions.
        image: (P,) number of its image.
        is_lone: (P,) bool, its mask is alone in its image, so that no filter compared it.
        score: (P,) float64, of composed pairs the composer's confidence; NaN if it has none, such as a human's.
        num_kept_of_mask: (P,) kept pairs of its mask alone; 0 for a group or an absence.
        image_shard: (I,) place of the image's shard.
        image_row: (I,) place of the image among those of its shard that are not quarantined.
        image_masks: (I,) masks of the image.
        num_masks_with_kept: Masks with a kept pair of their own.
    """

    root_sha256: str
    score_kind: Literal["confidence", "label_free"]
    shard: Ints
    row: Ints
    image: Ints
    kind: npt.NDArray[np.str_]
    is_kept: Flags
    is_lone: Flags
    score: Floats
    num_kept_of_mask: Ints
    image_shard: Ints
    image_row: Ints
    image_masks: Ints
    num_masks_with_kept: int


def read_pairs(run: OpenRun, on_shard: OnShard) -> RunPairs:
    """Return all pairs of the committed shards of a run; memory holds some 100 bytes per pair."""
    digest, shards, num_images = RootDigest(run.header), [], 0
    for place, shard in enumerate(run.shards()):
        digest.add(shard.receipt)
        shards.append(_read_shard(shard, place, first_image=num_images))
        num_images += len(shards[-1]["image_row"])
        on_shard(len(shards), run.header.num_shards)
    if not sum(len(shard["row"]) for shard in shards):
        raise ConfigError(f"{run.location.root} holds no committed image with an expression: there is nothing to judge")
    joined: dict[str, Any] = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    num_masks = int(joined.pop("num_masks_with_kept").sum())
    score_kind, score = _score(joined.pop("confidence"), joined.pop("heard"))
    return RunPairs(digest.hexdigest(), score_kind, score=score, num_masks_with_kept=num_masks, **joined)


def _read_shard(shard: CommittedShard, place: int, *, first_image: int) -> dict[str, Any]:
    """Return a shard's part of `RunPairs` as arrays, the totals as arrays of one."""
    tables = shard.joined((), (), _COLUMNS)
    table, num_images = tables.expressions, tables.images.num_rows
    image_of_row = first_image + np.repeat(np.arange(num_images), np.diff(tables.expression_starts))
    # `firsts` gets the first row of each pair, and `flags` whether any row of the pair is kept.
    place_of: dict[tuple[str, ...], int] = {}
    firsts, flags = list[int](), list[bool]()
    columns = (table[name].to_pylist() for name in ("image_id", "target_mask_ids", "text", "kept"))
    for row, (image, masks, text, is_kept) in enumerate(zip(*columns, strict=True)):
        at = place_of.setdefault((image, *sorted(masks), text), len(firsts))
        if at == len(firsts):
            firsts.append(row)
            flags.append(is_kept)
        else:
            flags[at] |= is_kept
    rows, kept = np.array(firsts, np.int64), np.array(flags, np.bool_)
    targets = [masks_of[0] if len(masks_of) == 1 else None for masks_of in _taken(table, "target_mask_ids", rows)]
    kept_of = Counter(target for target, is_kept in zip(targets, kept.tolist(), strict=True) if is_kept and target)
    is_judged = judged(table)[rows]
    scores = scores_of(table)
    # Only pairs that a model drew have features, so the rows of all others stay NaN.
    heard, chosen = np.full((len(rows), len(_LABEL_FREE_HEARD)), np.nan), rows[is_judged]
    groups = [masks[0] for masks in _taken(table, "target_mask_ids", chosen)]
    rated = Rated(groups, _taken(table, "text", chosen), {name: scores[name][chosen] for name in CONFIDENCE_COLUMNS})
    with np.errstate(invalid="ignore"):
        # Lone masks have no ratios, but any value will do, because their pairs have a stratum of their own.
        by_name = features(rated, 0.0)
    heard[is_judged] = np.stack([by_name[name] for name in _LABEL_FREE_HEARD], axis=1)
    return {
        "shard": np.full(len(rows), place),
        "row": rows,
        "image": image_of_row[rows],
        "kind": np.array([*map(draw_kind, _taken(table, "source", rows), _taken(table, "kind", rows))], np.str_),
        "is_kept": kept,
        "is_lone": is_judged & np.isnan(scores["distinctiveness"][rows]),
        "confidence": scores["confidence"][rows],
        "heard": heard,
        "num_kept_of_mask": np.array([kept_of[target] if target else 0 for target in targets], np.int64),
        "image_shard": np.full(num_images, place),
        "image_row": np.arange(num_images),
        "image_masks": np.diff(tables.mask_starts),
        "num_masks_with_kept": np.array([len(kept_of)]),
    }


def _taken(table: pa.Table, column: str, rows: Ints) -> list[Any]:
    return list(table[column].take(pa.array(rows)).to_pylist())


def _score(confidence: Floats, heard: Floats) -> tuple[Literal["confidence", "label_free"], Floats]:
    """Return the score of every pair: the confidence if the run has one, else its features with equal weights.

    A composed pair, which no model drew, has its confidence.
    """
    is_drawn = ~np.isnan(heard[:, 1])
    if is_drawn.any() and (~np.isnan(confidence[is_drawn])).mean() > 0.5:
        return "confidence", confidence
    # The listener's scores count only if all drawn pairs have them, because sums of other features cannot be compared.
    names = len(_LABEL_FREE_HEARD) if not np.isnan(heard[is_drawn]).any() else len(_LABEL_FREE)
    table = heard[:, :names]
    spread = np.nanstd(table, axis=0) if is_drawn.any() else np.ones(names)
    # A feature that is equal for all pairs cannot order them, so it is divided by infinity and adds 0.
    label_free = (table / np.where(spread > _LEAST_SPREAD, spread, np.inf)).sum(axis=1)
    return "label_free", np.where(is_drawn, label_free, confidence)


@dataclass(slots=True)
class SampleRows:
    """Rows of both tables, not yet in order, by the number of the pair or the image in `RunPairs`.

    `unreadable` has the error of each picture that is missing, by image id.
    """

    drawn: dict[int, Row] = field(default_factory=dict)
    follow_ups: dict[int, Row] = field(default_factory=dict)
    images: dict[int, Row] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)


def read_sample_rows(run: OpenRun, pairs: RunPairs, *, drawn: Ints, images: Ints, planned: PlannedImages) -> SampleRows:
    """Return the rows of the pairs and images with these numbers; only the shards that hold them are read.

    `planned` reads the images that the run does not embed. An image that cannot be read has no bytes in its row.
    """
    rows = SampleRows()
    for place in np.union1d(pairs.shard[drawn], pairs.image_shard[images]).tolist():
        shard = run.shard(place)
        chosen = drawn[pairs.shard[drawn] == place]
        pictures = images[pairs.image_shard[images] == place]
        table = shard.table(EXPRESSIONS, _PAIR_COLUMNS)
        rows.drawn |= _pair_rows(table, pairs, chosen, role=DRAWN)
        follow = _follow_ups(pairs, chosen, place, table)
        rows.follow_ups |= _pair_rows(table, pairs, np.array(list(follow), np.int64), role=FOLLOW_UP)
        for number, drawn_before in follow.items():
            rows.follow_ups[number]["follows"] = rows.drawn[drawn_before]["pair_id"]
        joined = shard.joined(_IMAGE_COLUMNS, _MASK_COLUMNS).take(pairs.image_row[pictures])
        for number, (image, masks, _) in zip(pictures.tolist(), joined.rows(), strict=True):
            try:
                image["bytes"] = planned.annotated(shard.receipt.shard, image)
            except (OSError, ImageError) as error:
                image["bytes"], rows.unreadable[image["image_id"]] = None, f"{image['key']}: {error}"
            drawn_masks = []
            for mask in masks:
                height, width = mask["segmentation"]["size"]
                counts = mask["segmentation"]["counts"]
                drawn_masks.append({"mask_id": mask["mask_id"], "height": height, "width": width, "counts": counts})
            rows.images[number] = {**image, "shard": shard.receipt.shard, "masks": drawn_masks}
    return rows


def _pair_rows(table: pa.Table, pairs: RunPairs, numbers: Ints, *, role: str) -> dict[int, Row]:
    rows = dict(zip(numbers.tolist(), table.take(pa.array(pairs.row[numbers])).to_pylist(), strict=True))
    for number, row in rows.items():
        masks, score = row.pop("target_mask_ids"), float(pairs.score[number])
        row |= {
            "pair_id": pair_id(row["image_id"], masks, row["text"]),
            "role": role,
            "mask_ids": masks,
            "is_kept": bool(pairs.is_kept[number]),
            "num_kept_of_mask": int(pairs.num_kept_of_mask[number]),
            "score": None if np.isnan(score) else score,
            **{name: None if row[name] is None else float(row[name]) for name in STORED_SCORES},
        }
    return rows


def _follow_ups(pairs: RunPairs, chosen: Ints, shard: int, table: pa.Table) -> dict[int, int]:
    """Return which pairs follow which drawn one: the other kept expressions of its mask, the likeliest first."""
    own = np.flatnonzero((pairs.shard == shard) & pairs.is_kept & (pairs.num_kept_of_mask > 0))
    targets = [masks[0] for masks in _taken(table, "target_mask_ids", pairs.row[own])]
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
