"""Select (equations 6 and 7): chooses the referent among the pseudo-masks of an H_ref pair, by the model's prediction.

The paper says that Select chooses pseudo-referents "according to the model". IoU with the most confident query's mask,
the threshold `curriculum.min_iou`, and pairs that stay undecided below it are ours.
`select` decides one pair; `select_referents` asks the model about every pair of a data set, on all ranks.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import torch
from lightning_fabric import Fabric

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.json_text import parse_json
from pseudoris.schemas.regular_files import read_regular
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.training.ppt.pairs import PairDataset
from pseudoris.training.ppt.ppt_learner import PointLearner
from pseudoris.training.ppt.prompted_pairs import PromptedPairs, collate

SELECTED_NAME: Final = "selected.json"
# Used by Select alone. It affects rounding, so it is a constant.
_PAIRS_A_PASS: Final = 32


def select(pseudo_masks: torch.Tensor, prediction: torch.Tensor, *, min_iou: float) -> torch.Tensor:
    """Return ĉ (E,) float32 of one pair's pseudo-masks: 1 for the pseudo-referent, 0 for every other one.

    The pseudo-referent has the highest IoU with the prediction; the first of equal ones. The others are kept as
    contexts, from which the referent must differ. Ours: if none reaches `min_iou`, all stay 0, and the pair is
    undecided until another round. With `min_iou` 0 every pair is decided.

    Args:
        pseudo_masks: (E, h, w), ŝ_e as bool, or as shares in [0, 1], where 0.5 or more counts.
        prediction: (h, w) bool, the mask of the most confident query.
        min_iou: Inclusive.
    """
    chosen = torch.zeros(len(pseudo_masks))
    if not len(pseudo_masks):
        return chosen
    masks = (pseudo_masks if pseudo_masks.dtype == torch.bool else pseudo_masks >= 0.5).flatten(1)
    predicted = prediction.bool().flatten()
    union = (masks | predicted).sum(-1)
    ious = (masks & predicted).sum(-1) / union.clamp(min=1)
    best = int(ious.argmax())
    if float(ious[best]) >= min_iou:
        chosen[best] = 1.0
    return chosen


@torch.no_grad()
def select_referents(
    learner: PointLearner, parts: Sequence[PairDataset], *, min_iou: float, fabric: Fabric
) -> list[int]:
    """Return the index of each pair's referent among its pseudo-masks, -1 for none; the same on every rank.

    With `on_bad_image="skip"`, a pair whose image cannot be used has none.

    The learner sees each pair of `parts` (H_ref of each run) unmirrored; the ranks of `fabric` share the pairs.
    """
    learner.module.eval()
    pairs = PromptedPairs([part.unflipped() for part in parts], is_held=learner.encoders.holds)
    own = range(fabric.global_rank, len(pairs), fabric.world_size)
    chosen = torch.full((len(pairs),), -1, dtype=torch.int64)
    with fabric.autocast():
        for first in range(0, len(own), _PAIRS_A_PASS):
            places = list(own[first : first + _PAIRS_A_PASS])
            chosen[places] = _decided(learner, pairs, places, min_iou)
    if fabric.world_size > 1:
        gathered = fabric.all_gather(chosen.to(fabric.device))
        if not isinstance(gathered, torch.Tensor):
            raise TypeError(f"a tensor was gathered as {type(gathered).__name__}")
        # Each pair belongs to one rank; the others have -1 for it.
        chosen = gathered.amax(0).cpu()
    return [int(each) for each in chosen.tolist()]


def _decided(learner: PointLearner, pairs: PromptedPairs, places: Sequence[int], min_iou: float) -> torch.Tensor:
    """The index of each referent among the pseudo-masks of its pair, -1 for none, of a pass of pairs."""
    drawn = pairs.drawn(places)
    usable = [each for each in drawn if each is not None]
    if not usable:
        return torch.full((len(places),), -1)
    batch = collate(usable)
    features = learner.encoders.encode(batch.image_keys, batch.images, batch.texts)
    masks = iter(learner.module.masks_of(features, learner.module.referent(features)).cpu())
    decided = [None if each is None else select(each.pair.labels.masks, next(masks), min_iou=min_iou) for each in drawn]
    return torch.tensor([int(each.argmax()) if each is not None and bool(each.any()) else -1 for each in decided])


def with_referents(parts: Sequence[PairDataset], chosen: Sequence[int]) -> list[PairDataset]:
    """Return H_ref with c = 1 for what Select chose and 0 for everything else."""
    if len(chosen) != sum(map(len, parts)):
        raise ConfigError(
            f"{len(chosen)} referents were selected before, but now there are {sum(map(len, parts))} pairs. The runs "
            "have changed. Train again in another --out."
        )
    left = iter(chosen)
    return [part.selected([next(left) for _ in range(len(part))]) for part in parts]


def read_selected(folder: Path) -> list[int] | None:
    """Return what `write_selected` wrote; None if nothing was written yet. A damaged file is a ConfigError."""
    path = folder / SELECTED_NAME
    if not path.exists():
        return None
    try:
        return [int(each) for each in parse_json(read_regular(path))["chosen"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}). Delete it, and the phase Select runs the model again."
        ) from error


def write_selected(folder: Path, chosen: Sequence[int], *, min_iou: float) -> None:
    """Write a choice, whole or not at all."""
    said = {"min_iou": min_iou, "decided": sum(each >= 0 for each in chosen), "pairs": len(chosen), "chosen": [*chosen]}
    TrainingFolder(folder).write_json(SELECTED_NAME, said)
