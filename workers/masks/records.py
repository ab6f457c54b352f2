"""Chosen proposals as the records that later stages and the masks table have."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np

from schemas.ids import mask_id
from schemas.shard import MaskRecord
from workers.masks.proposals import Proposals
from workers.masks.reduction import Kept


def mask_records(image_id: str, proposals: Proposals, kept: Iterable[Kept]) -> tuple[MaskRecord, ...]:
    """Return the records of the proposals that stay; a mask's index is its row among all proposals of its image."""
    return tuple(_record(image_id, proposals, each) for each in kept)


def _record(image_id: str, proposals: Proposals, kept: Kept) -> MaskRecord:
    row = kept.row
    return MaskRecord(
        mask_id=mask_id(image_id, row),
        index=row,
        rle_size=proposals.size,
        rle_counts=proposals.counts[row],
        box_xyxy_px=proposals.boxes_px[row],
        area_px=int(proposals.areas_px[row]),
        predicted_iou=_known(proposals.predicted_iou[row]),
        stability_score=_known(proposals.stability[row]),
        prior=kept.prior,
    )


def _known(score: np.floating[Any]) -> float | None:
    return None if np.isnan(score) else float(score)
