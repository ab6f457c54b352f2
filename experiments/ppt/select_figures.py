"""Measures how often Select is right: its choices in each round against the true masks of H."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from experiments.ppt.ablation_runs import AblationRuns
from experiments.ppt_data.pseudo_label_figures import HIT_IOU, iou, masks_of, targets_of
from pseudoris.store.location import RunLocation
from pseudoris.training.ppt.curriculum import SELECTED_NAME, SourceRuns, open_sources, read_selected
from pseudoris.training.ppt.pairs import LabelFrame, masks_in_frame
from pseudoris.training.ppt.ppt_config import load_ppt_config

# The size of the scenes: nothing is scaled.
_FRAME: Final = LabelFrame(192, 192)


def select_figures(folder: Path, made: AblationRuns) -> dict[str, Any]:
    """Return what Select chose in a training of the whole curriculum.

    Args:
        folder: Of the training.
        made: What it was trained on.

    Returns:
        pairs: Of H_ref, with one target. reachable: the share of them that have a pseudo-mask whose IoU with the target
        is at least `HIT_IOU`. rounds: of each round that selects, its name, the share of pairs that it decided, and
        the share of these that it decided rightly.
    """
    hits = _hits(made)
    judged = [each for each in hits if each]
    rounds = []
    for name in sorted(path.parent.name for path in folder.glob(f"*/{SELECTED_NAME}")):
        decided, right = _choice(read_selected(folder / name) or [], hits)
        rounds.append({"name": name, "decided": decided, "right": right})
    return {"pairs": len(judged), "reachable": float(np.mean([any(each) for each in judged])), "rounds": rounds}


def mean_select(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means of what `select_figures` returned of the seeds of one training."""
    rounds = []
    for same in zip(*(each["rounds"] for each in found), strict=True):
        means = {name: float(np.mean([each[name] for each in same])) for name in ("decided", "right")}
        rounds.append({"name": same[0]["name"], **means})
    return {"pairs": found[0]["pairs"], "reachable": found[0]["reachable"], "rounds": rounds}


def _hits(made: AblationRuns) -> list[list[bool]]:
    """Of each pair of H_ref which pseudo-masks are the target; nothing of a text with several targets or none."""
    human = RunLocation.open(made.truth)
    targets, truth = targets_of(human), masks_of(human)
    # As trainings read it: a choice is a place among the pseudo-masks that they were given.
    runs = SourceRuns(h=(made.h,))
    (drawn,) = open_sources(runs, load_ppt_config("tiny"), _FRAME, runs.snapshots())["h_ref"]
    pairs = drawn.unflipped()
    found: list[list[bool]] = []
    for pair in (pairs[at] for at in range(len(pairs))):
        wanted = targets.get((pair.image_id, pair.text), [])
        if len(wanted) != 1:
            found.append([])
            continue
        (target,) = masks_in_frame(torch.from_numpy(truth[wanted[0]])[None], _FRAME) >= 0.5
        pseudo_masks = (pair.labels.masks >= 0.5).numpy()
        found.append([iou(mask, target.numpy()) >= HIT_IOU for mask in pseudo_masks])
    return found


def _choice(chosen: Sequence[int], hits: Sequence[Sequence[bool]]) -> tuple[float, float]:
    """The share of pairs that have a referent, and of these the share that have the right one."""
    judged = [(at, each) for at, each in zip(chosen, hits, strict=True) if each]
    decided = [each[at] for at, each in judged if at >= 0]
    return len(decided) / len(judged), float(np.mean(decided)) if decided else 0.0
