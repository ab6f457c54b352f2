"""The multi-source curriculum (section 3.3): the data sets and the length of each phase, and Select.

Select (equations 6 and 7) chooses the referent among the pseudo-masks of an H_ref pair. The paper says that it does so
"according to the model". IoU with the most confident query's mask, the threshold `curriculum.min_iou`, and pairs that
stay undecided below it are ours. Called by `cli/train.py` and `ppt_training.py`.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from lightning_fabric import Fabric

from pseudoris.interchange.dataset import Snapshot
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.untrusted import parse_json, read_regular
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.training.evaluation.held_out import of_all_ranks
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.training.ppt.pairs import LabelFrame, PairDataset, PairSpec, PromptedPairs, Which, collate
from pseudoris.training.ppt.ppt_config import SOURCES, CurriculumConfig, PptConfig, Source
from pseudoris.training.ppt.ppt_learner import PointLearner


@dataclass(frozen=True, slots=True)
class Round:
    """One stretch of training of a phase on fixed data.

    Attributes:
        name: Name of its folder, in order: `03-ris_joint`, `04-refinement-1`.
        is_selecting: Whether Select comes first.
        is_last: Whether the phase ends with it, and is validated then.
        epochs_before: Epochs begun in earlier rounds: draws of points and flips continue from there.
    """

    name: str
    phase: str
    sources: tuple[Source, ...]
    is_selecting: bool
    is_last: bool
    num_steps: int
    steps_before: int
    epochs_before: int


def plan_rounds(
    config: CurriculumConfig, num_pairs: dict[Source, int], num_batches: Callable[[Sequence[Source]], int]
) -> list[Round]:
    """Return the rounds of a curriculum; a phase without a source left is refused.

    A source without pairs is left out of every phase; `num_batches` says how many batches an epoch of sources has.
    """
    given = {source for source, count in num_pairs.items() if count}
    rounds: list[Round] = []
    steps = epochs = 0
    for at, phase in enumerate(config.phases, start=1):
        sources = tuple(source for source in phase.sources if source in given)
        if not sources:
            raise ConfigError(
                f"Phase {phase.name} trains on {', '.join(phase.sources)}, but none of them is given. There are "
                f"pairs of {', '.join(sorted(given)) or 'no source'} (h_sem has the decided pairs of --h, h_ref the "
                "undecided ones). Give the runs, or leave the phase out of curriculum.phases."
            )
        batches = num_batches(sources)
        is_selecting = phase.is_selecting and "h_ref" in sources
        num_rounds = phase.num_rounds if is_selecting else 1
        own_epochs = phase.epochs * config.epochs_factor / num_rounds
        # The small constant keeps a rounding error from adding a step.
        own_steps = max(1, math.ceil(own_epochs * batches - 1e-9))
        for number in range(1, num_rounds + 1):
            suffix = f"-{number}" if num_rounds > 1 else ""
            name = f"{at:02d}-{phase.name}{suffix}"
            is_last = number == num_rounds
            rounds.append(Round(name, phase.name, sources, is_selecting, is_last, own_steps, steps, epochs))
            steps += own_steps
            epochs += math.ceil(own_steps / batches)
    return rounds


def describe(rounds: Sequence[Round], num_pairs: dict[Source, int]) -> list[tuple[str, str, int, int]]:
    """Return for each phase its name, its data, the pairs of an epoch and its steps."""
    steps = Counter[str]()
    for each in rounds:
        steps[each.phase] += each.num_steps
    return [
        (each.phase, " ∪ ".join(each.sources), sum(num_pairs[source] for source in each.sources), steps[each.phase])
        for each in rounds
        if each.is_last
    ]


# For each option, the command of `pseudoris ppt` that makes the runs it takes.
_RECIPES: Final[Mapping[str, str]] = {"d_sem": "objects", "d_ref": "compose", "h": "pairs"}


@dataclass(frozen=True, slots=True)
class SourceRuns:
    """Runs, as folders or urls, any of them several, by the command that writes them.

    Attributes:
        h: Texts with a referent are H_sem. Texts with several pseudo-masks and no referent are H_ref.
        annotated: Any other run: of the pipeline, refiltered, imported. Its kept texts join H_sem, with the masks that
            texts were rejected for as contexts; texts without a kept row are not read.
    """

    d_sem: Sequence[str] = ()
    d_ref: Sequence[str] = ()
    h: Sequence[str] = ()
    annotated: Sequence[str] = ()

    def snapshots(self, saved: Mapping[str, Any] | None = None) -> dict[str, Snapshot]:
        """Return a snapshot of each run, by its given name: the same moment for all ranks and readers.

        `saved` has `Snapshot.state` of an earlier start by the run's root: a run that has grown since is read as it
        was. A run that is not of the command that its option asks for is refused.
        """
        found = {}
        for name in self.__slots__:
            for run in getattr(self, name):
                location = _location(run, _RECIPES.get(name))
                state = (saved or {}).get(location.root)
                found[run] = Snapshot.shared(location) if state is None else Snapshot.from_state(location, state)
        return found

    def roots(self) -> dict[str, list[str]]:
        """Return the roots of the runs, by source."""
        return {name: [RunLocation.open(run).root for run in getattr(self, name)] for name in self.__slots__}


def open_sources(
    runs: SourceRuns, config: PptConfig, frame: LabelFrame, snapshots: Mapping[str, Snapshot]
) -> dict[Source, list[PairDataset]]:
    """Return the data sets of each given source; none at all, or a run without a pair of its kind, is refused."""
    if not any(getattr(runs, name) for name in runs.__slots__):
        raise ConfigError("There is nothing to train on. Give --d-sem, --d-ref, --h or --annotated.")
    data = config.data

    def opened(names: Sequence[str], which: Which, *, is_empty_allowed: bool = False) -> list[PairDataset]:
        spec = PairSpec(
            num_points=config.generator.num_points,
            frame=frame,
            which=which,
            seed=config.training.seed,
            is_flipping=data.is_flipping,
            # With more labels than queries, matching would drop the costliest label, which may be the referent.
            max_pseudo_masks=min(data.max_candidates, config.generator.num_queries),
            is_empty_allowed=is_empty_allowed,
            on_bad_image=data.on_bad_image,
            source=data.moved,
            max_memory_bytes=data.max_memory_bytes,
        )
        return [PairDataset(run, spec, snapshot=snapshots[run]) for run in names]

    parts: dict[Source, list[PairDataset]] = {
        "d_sem": opened(runs.d_sem, "decided"),
        "d_ref": opened(runs.d_ref, "decided"),
        "h_sem": [*opened(runs.h, "decided", is_empty_allowed=True), *opened(runs.annotated, "decided")],
        "h_ref": opened(runs.h, "undecided", is_empty_allowed=True),
    }
    return {source: [part for part in parts[source] if len(part)] for source in SOURCES}


def _location(run: str, recipe: str | None) -> RunLocation:
    """Open a run. Labels mean what the recipe says that made it: of another, a human's masks would be pseudo-labels."""
    location = RunLocation.open(run)
    # A mistyped path must not pass as a run without commits.
    header = require_header(location)
    if recipe is not None and header.identity.method.get("recipe") != recipe:
        made = header.identity.method.get("recipe")
        raise ConfigError(
            f"{location.root} was written by `pseudoris {f'ppt {made}' if made else header.origin}`, but a run of "
            f"`pseudoris ppt {recipe}` is needed. Give such a run, or give this one as --annotated."
        )
    return location


SELECTED_NAME: Final = "selected.json"
# Select answers this many pairs at once. It is a constant and no setting, because it affects rounding.
_PAIRS_A_PASS: Final = 32


def select(pseudo_masks: torch.Tensor, prediction: torch.Tensor, *, min_iou: float) -> torch.Tensor:
    """Return ĉ (E,) float32 of one pair's pseudo-masks: 1 for the pseudo-referent, 0 for every other one.

    The pseudo-referent has the highest IoU with the prediction; the first of equal ones. The others are kept as
    contexts, from which the referent must differ. Ours: if none reaches `min_iou`, all stay 0, and the pair is
    undecided until another round. Pseudo-masks are (E, h, w) shares in [0, 1], where 0.5 or more counts; the prediction
    is (h, w) bool.
    """
    chosen = torch.zeros(len(pseudo_masks))
    masks, predicted = (pseudo_masks >= 0.5).flatten(1), prediction.flatten()
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

    With `on_bad_image="skip"`, a pair whose image cannot be used has none. The learner sees each pair unmirrored.
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
        # Each pair belongs to one rank. The other ranks have -1 for it.
        chosen = of_all_ranks(chosen, fabric).amax(0).cpu()
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
    decided = [None if each is None else select(each.labels.masks, next(masks), min_iou=min_iou) for each in drawn]
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


def read_chosen(folder: Path) -> list[int] | None:
    """Return what `write_chosen` wrote; None if nothing was written yet. A damaged file is a ConfigError."""
    path = folder / SELECTED_NAME
    if not path.exists():
        return None
    try:
        return [int(each) for each in parse_json(read_regular(path))["chosen"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}). Delete it, and the phase Select runs the model again."
        ) from error


def write_chosen(folder: Path, chosen: Sequence[int], *, min_iou: float) -> None:
    """Write a choice, whole or not at all."""
    said = {"min_iou": min_iou, "decided": sum(each >= 0 for each in chosen), "pairs": len(chosen), "chosen": [*chosen]}
    TrainingFolder(folder).write_json(SELECTED_NAME, said)
