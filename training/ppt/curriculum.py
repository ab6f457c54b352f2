"""The curriculum of PPT (curriculum point prompting, section 3.3): data sets and length of each phase, and Select.

Called by `cli`, `ppt_training` and experiments. In Select (equations 6 and 7) the model chooses the referent of an
H_ref pair, a text with several pseudo-masks. The paper says only "according to the model": IoU with the most confident
query's mask, and pairs undecided below `curriculum.min_iou`, are ours. All ranks plan and choose the same.
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

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset import Snapshot
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json, read_regular
from pseudoris.store.runs.header import require_header
from pseudoris.training.evaluation.held_out import of_all_ranks
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.training.ppt.pairs import LabelFrame, PairDataset, PairSpec, PromptedPairs, Which, collate
from pseudoris.training.ppt.ppt_config import SOURCES, CurriculumConfig, PptConfig, Source
from pseudoris.training.ppt.ppt_learner import PointLearner


@dataclass(frozen=True, slots=True)
class Round:
    """One stretch of training of a phase on fixed data; `name` is its folder's: `03-ris_joint`, `04-refinement-1`.

    With `is_selecting` Select comes first; `is_last` ends the phase, which is validated then. Draws of points and flips
    continue from `epochs_before`, the epochs begun in earlier rounds.
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
        # The small constant is subtracted, so that a rounding error adds no step.
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


# Maps an option to the command of `pseudoris ppt` that makes the option's runs.
_RECIPES: Final[Mapping[str, str]] = {"d_sem": "objects", "d_ref": "compose", "h": "pairs"}


@dataclass(frozen=True, slots=True)
class SourceRuns:
    """Runs, as folders or urls, any of them several, by the command that writes them.

    Texts of `h` with a referent are H_sem; those with pseudo-masks and no referent are H_ref. `annotated` is any other
    run: its kept texts join H_sem, with the masks that they were rejected for as contexts.
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
        for option, run in [(name, run) for name in self.__slots__ for run in getattr(self, name)]:
            location, recipe = RunLocation.open(run), _RECIPES.get(option)
            # This call raises an error for a mistyped path. Otherwise it would pass as a run without commits.
            header = require_header(location)
            made = header.identity.method.get("recipe")
            if recipe is not None and made != recipe:
                # A run of another command is refused: a human's masks, for example, would be read as pseudo-labels.
                raise ConfigError(
                    f"{location.root} was written by `pseudoris {f'ppt {made}' if made else header.origin}`, but a run "
                    f"of `pseudoris ppt {recipe}` is needed. Give such a run, or give this one as --annotated."
                )
            state = (saved or {}).get(location.root)
            found[run] = Snapshot.shared(location) if state is None else Snapshot.from_state(location, state)
        return found


def open_sources(
    runs: SourceRuns, config: PptConfig, frame: LabelFrame, snapshots: Mapping[str, Snapshot]
) -> dict[Source, list[PairDataset]]:
    """Return the data sets of each given source; none at all, or a run without a pair of its kind, is refused."""
    if not any(getattr(runs, name) for name in runs.__slots__):
        raise ConfigError("There is nothing to train on. Give --d-sem, --d-ref, --h or --annotated.")

    def opened(names: Sequence[str], which: Which, *, is_empty_allowed: bool = False) -> list[PairDataset]:
        spec = PairSpec(
            num_points=config.generator.num_points,
            frame=frame,
            which=which,
            seed=config.training.seed,
            # With more labels than queries, matching would drop the costliest label, which may be the referent.
            max_pseudo_masks=min(config.data.max_candidates, config.generator.num_queries),
            is_empty_allowed=is_empty_allowed,
            data=config.data,
        )
        return [PairDataset(run, spec, snapshot=snapshots[run]) for run in names]

    parts: dict[Source, list[PairDataset]] = {
        "d_sem": opened(runs.d_sem, "decided"),
        "d_ref": opened(runs.d_ref, "decided"),
        "h_sem": [*opened(runs.h, "decided", is_empty_allowed=True), *opened(runs.annotated, "decided")],
        "h_ref": opened(runs.h, "undecided", is_empty_allowed=True),
    }
    return {source: [part for part in parts[source] if len(part)] for source in SOURCES}


SELECTED_NAME: Final = "selected.json"
# Select answers this many pairs at once. It is no setting, because another number may round differently.
_PAIRS_A_PASS: Final = 32


def select(pseudo_masks: torch.Tensor, prediction: torch.Tensor, *, min_iou: float) -> torch.Tensor:
    """Return ĉ (E,) float32 of one pair's pseudo-masks: 1 for the pseudo-referent, 0 for the others, its contexts.

    The pseudo-referent has the highest IoU with the prediction (h, w) bool; the first of equal ones. If none reaches
    `min_iou`, all stay 0. Pseudo-masks are (E, h, w) shares in [0, 1], where 0.5 or more counts.
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
            drawn = pairs.drawn(own[first : first + _PAIRS_A_PASS])
            usable = [(at, each) for at, each in zip(own[first:], drawn, strict=False) if each is not None]
            if not usable:
                continue
            batch = collate([each for _, each in usable])
            features = learner.encoders.encode(batch.image_keys, batch.images, batch.texts)
            masks = learner.module.masks_of(features, learner.module.referent(features)).cpu()
            for (at, each), mask in zip(usable, masks, strict=True):
                referent = select(each.labels.masks, mask, min_iou=min_iou)
                chosen[at] = referent.argmax() if referent.any() else -1
    if fabric.world_size > 1:
        # Each pair was chosen on one rank, and has -1 on the others, so the maximum is the choice.
        chosen = of_all_ranks(chosen, fabric).amax(0).cpu()
    found: list[int] = chosen.tolist()
    return found


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
