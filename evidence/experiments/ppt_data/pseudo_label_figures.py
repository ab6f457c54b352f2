"""Pseudo-labels against the truth: masks of object-centric images, and pseudo-masks of simulated expressions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from evidence.recipes.object_centric import read_true_masks
from pseudoris.files.location import RunLocation
from pseudoris.primitives import rle
from pseudoris.schemas.tables import EXPRESSIONS, MASKS
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.ppt.recipes.grounding import Grounder
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig

HIT_IOU = 0.5


def iou(one: np.ndarray, other: np.ndarray) -> float:
    """Return the IoU of two masks (H, W) bool, one of them not empty."""
    return float((one & other).sum() / (one | other).sum())


def object_ious(folder: Path, config: RecipeConfig) -> list[float]:
    """Return the IoU of each object-centric image's pseudo-mask with the truth; 0 where there is none.

    Args:
        folder: Of `evidence.recipes.object_centric`.
        config: The models, and how they work together.
    """
    truth = read_true_masks(folder)
    names = sorted(truth)
    classes = sorted({name.partition("/")[0] for name in names})
    grounder = Grounder(config.grounding, config.run)
    found = []
    for name in names:
        pixels = np.asarray(Image.open(folder / "images" / name))
        masks = grounder(pixels, [name.partition("/")[0]], classes)
        found.append(iou(masks[0].mask, truth[name]) if masks else 0.0)
    return found


def pair_figures(human: RunLocation, paired: RunLocation) -> dict[str, float]:
    """Return how the pairs of H divide, and how often a pseudo-mask hits what the text means.

    Args:
        human: The import that H was made of: its masks are the truth, of texts with one target.
        paired: H.

    Returns:
        texts: Texts with one target. without: share of them that have no pseudo-mask. single: share with one (H_sem).
        single_hits: of these, how many hit. several: share with more (H_ref). several_hits: of these, how many have a
        pseudo-mask that hits, which bounds what Select can choose. pseudo_masks: mean number of H_ref's. best_iou: mean
        IoU of the best pseudo-mask of all texts.
    """
    targets = targets_of(human)
    truth, own = masks_of(human), masks_of(paired)
    pseudo_masks = targets_of(paired)
    bests: dict[str, list[float]] = defaultdict(list)
    counts: list[int] = []
    for pair, wanted in targets.items():
        if len(wanted) != 1:
            continue
        ious = [iou(own[mask], truth[wanted[0]]) for mask in pseudo_masks.get(pair, ())]
        kind = "without" if not ious else "single" if len(ious) == 1 else "several"
        bests[kind].append(max(ious, default=0.0))
        counts += [len(ious)] if len(ious) > 1 else []
    total = sum(len(each) for each in bests.values())
    return {
        "texts": total,
        "without": len(bests["without"]) / total,
        "single": len(bests["single"]) / total,
        "single_hits": share_of_hits(bests["single"]),
        "several": len(bests["several"]) / total,
        "several_hits": share_of_hits(bests["several"]),
        "pseudo_masks": float(np.mean(counts)) if counts else 0.0,
        "best_iou": float(np.mean([value for each in bests.values() for value in each])),
    }


def share_of_hits(ious: Sequence[float]) -> float:
    """Return how many IoUs count as a hit; 0 of none."""
    return float(np.mean([value >= HIT_IOU for value in ious])) if ious else 0.0


def targets_of(location: RunLocation) -> dict[tuple[str, str], list[str]]:
    """Return the masks of each text of an image, by image and text."""
    found: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
    for row in OpenRun.at(location).table(EXPRESSIONS, ["image_id", "text", "target_mask_ids"]).to_pylist():
        found[row["image_id"], row["text"]] += row["target_mask_ids"]
    return found


def masks_of(location: RunLocation) -> dict[str, np.ndarray]:
    """Return the masks (H, W) bool of a run, by their ids."""
    rows = OpenRun.at(location).table(MASKS, ["mask_id", "segmentation"]).to_pylist()
    return {
        row["mask_id"]: rle.decode([row["segmentation"]["counts"]], tuple(row["segmentation"]["size"]))[0]
        for row in rows
    }
