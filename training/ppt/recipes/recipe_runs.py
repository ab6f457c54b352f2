"""What PPT's three data recipes (objects, compose, pairs) share: their records, run identity and lock, and counts.

Called by `d_ref`, `grounded_runs` and `cli/ppt`. Pseudo-masks are the masks that may be meant by a text. Source: PPT
(curriculum point prompting), equation 4. The E pseudo-masks of an expression are E rows of one image and text. A run
continues only with an equal identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.files.location import RunLocation
from pseudoris.primitives import rle
from pseudoris.primitives.head_nouns import head_noun
from pseudoris.schemas.run_records import Identity
from pseudoris.schemas.shard import SOURCE_RECIPE, ExpressionRecord, MaskRecord, clean_text
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.runs.lock import RunLock
from pseudoris.store.runs.planned_run import package_versions
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.masks.proposals import Kept, Proposals, mask_records
from pseudoris.workers.stages import device_kind

ORIGIN: Final = "ppt"
STAGE_RECIPE: Final = "recipe"
# A run records the versions of these packages, because another version may give other bytes.
_PACKAGES: Final = ("pseudoris", "pyarrow", "pillow", "numpy", "pycocotools")
_MODEL_PACKAGES: Final = ("torch", "torchvision", "open_clip_torch", "segment-anything")


@dataclass(frozen=True, slots=True)
class Recipe:
    """One recipe, `objects`, `compose` or `pairs`, on its way into a run.

    `settings` holds what decides the tables' bytes. With `has_models` CLIP and SAM are read.
    """

    name: str
    config: RecipeConfig
    settings: Mapping[str, Any]
    has_models: bool

    def identity(self) -> Identity:
        """Return what must be equal for two calls to belong to one run."""
        run = self.config.run
        sections = ("images", "shards", "compute") if self.has_models else ("images", "shards")
        method: dict[str, Any] = {name: getattr(run, name).model_dump(mode="json") for name in sections}
        method |= {"recipe": self.name, self.name: dict(self.settings)}
        if not self.has_models:
            return Identity(method=method, weights={}, device_kind="none", versions=package_versions(_PACKAGES))
        method |= {
            "grounding": self.config.grounding.model_dump(mode="json"),
            "clip": run.filtering.architecture,
            "sam": run.masks.architecture,
        }
        weights = {"clip": weights_digest(run.filtering.weights), "sam": weights_digest(run.masks.weights)}
        versions = package_versions((*_PACKAGES, *_MODEL_PACKAGES))
        return Identity(method=method, weights=weights, device_kind=device_kind(run.compute), versions=versions)

    @contextmanager
    def held(self, location: RunLocation, on_wait: Callable[[str], None]) -> Iterator[tuple[Identity, RunLock]]:
        """Give the identity to plan with and the run's lock; `on_wait` is told of its holder, before a wait.

        `location` has a new run, or one that the same recipe began. Plan first: a refusal then costs no loading.
        """
        identity = self.identity()
        location.probe()
        with RunLock.held(location, on_wait=on_wait) as lock:
            yield identity, lock


def recipe_masks(
    image_id: str, masks: Sequence[NDArray[np.bool_]], recipe: str, predicted_ious: Sequence[float] = ()
) -> tuple[MaskRecord, ...]:
    """Return the masks (H, W) bool of an image, of at least one pixel each, numbered in their order.

    `prior` names the recipe; SAM's estimates of their IoUs stand beside those that SAM made.
    """
    if not masks:
        return ()
    height, width = masks[0].shape
    counts, unknown = rle.encode(torch.from_numpy(np.stack(masks))), np.full(len(masks), np.nan)
    proposals = Proposals.of_masks((height, width), counts, np.array(predicted_ious or unknown), unknown)
    kept = (Kept(row, f"{SOURCE_RECIPE}:{recipe}") for row in range(len(masks)))
    return mask_records(image_id, proposals, kept)


def pseudo_mask_rows(
    text: str, mask_ids: Sequence[str], confidences: Sequence[bool], *, kind: str
) -> tuple[ExpressionRecord, ...]:
    """Return the rows of one expression, one for each pseudo-mask: `kept` is ĉ_e of equation 4."""
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


@dataclass(frozen=True, slots=True)
class PairCounts:
    """Pairs of image and text of a run: with a referent (D_sem, D_ref, H_sem) or without one (H_ref before Select)."""

    decided: int
    undecided: int
    pseudo_masks: int


def count_pairs(location: RunLocation) -> PairCounts:
    """Return the counts of a run; memory is bounded by one shard, for a pair never leaves its image's."""
    decided = undecided = pseudo_masks = 0
    for shard in OpenRun.at(location).shards():
        table = shard.table(EXPRESSIONS, ["image_id", "text", "kept"])
        found = table.group_by(["image_id", "text"]).aggregate([("kept", "any")])
        num_decided = int(sum(found["kept_any"].to_pylist()))
        decided += num_decided
        undecided += found.num_rows - num_decided
        pseudo_masks += table.num_rows
    return PairCounts(decided, undecided, pseudo_masks)
