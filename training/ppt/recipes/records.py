"""Pseudo-labels as records of the tables: an expression's E candidates are E rows of one image and text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from schemas.ids import mask_id
from schemas.shard import SOURCE_RECIPE, ExpressionRecord, MaskRecord
from schemas.texts import clean_text
from workers.filtering.nouns import head_noun
from workers.masks import rle

STAGE_RECIPE: Final = "recipe"


@dataclass(frozen=True, slots=True)
class Candidate:
    """ŷ_e without its points: a mask (H, W) bool of at least one pixel, and SAM's estimate of its IoU, if any."""

    mask: NDArray[np.bool_]
    predicted_iou: float | None = None


def mask_records(image_id: str, candidates: Sequence[Candidate], recipe: str) -> tuple[MaskRecord, ...]:
    """Return the masks of an image, numbered as they stand; `prior` names the recipe."""
    if not candidates:
        return ()
    stacked = np.stack([each.mask for each in candidates])
    size = (int(stacked.shape[1]), int(stacked.shape[2]))
    counts = rle.encode(torch.from_numpy(stacked))
    boxes, areas = rle.boxes(counts, size), rle.areas(counts, size)
    return tuple(
        MaskRecord(
            mask_id=mask_id(image_id, index),
            index=index,
            rle_size=size,
            rle_counts=counts[index],
            box_xyxy_px=boxes[index],
            area_px=int(areas[index]),
            predicted_iou=candidates[index].predicted_iou,
            prior=f"{SOURCE_RECIPE}:{recipe}",
        )
        for index in range(len(candidates))
    )


def candidate_rows(
    text: str, mask_ids: Sequence[str], confidences: Sequence[bool], *, kind: str
) -> tuple[ExpressionRecord, ...]:
    """Return the rows of one expression, a row a candidate: `kept` is ĉ_e of equation 4."""
    written = clean_text(text)
    noun = head_noun(written)
    return tuple(
        ExpressionRecord(
            target_mask_ids=(mask,),
            text=written,
            samples=(),
            kind=kind,
            head_noun=noun,
            kept=bool(is_referent),
            source=SOURCE_RECIPE,
        )
        for mask, is_referent in zip(mask_ids, confidences, strict=True)
    )
