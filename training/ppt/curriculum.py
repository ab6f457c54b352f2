"""The multi-source curriculum: the data sets of each phase, its length, and when Select runs (section 3.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.training.dataset import Snapshot
from pseudoris.training.ppt.pairs import PairDataset, PairSpec, Which
from pseudoris.training.ppt.ppt_config import SOURCES, CurriculumConfig, PptConfig, Source
from pseudoris.training.ppt.pseudo_labels import LabelFrame


@dataclass(frozen=True, slots=True)
class Round:
    """One stretch of training on fixed data.

    Attributes:
        name: Name of its folder, in order: `03-ris_joint`, `04-refinement-1`.
        phase: Name of its phase.
        sources: The joined data sets.
        is_selecting: Whether Select comes first.
        is_last: Whether the phase ends with it, and is validated then.
        num_steps: Optimiser steps.
        steps_before: Steps of all earlier rounds.
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
    config: CurriculumConfig,
    num_pairs: dict[Source, int],
    pairs_per_batch: int,
    *,
    num_batches: Callable[[Sequence[Source]], int] | None = None,
) -> list[Round]:
    """Return the rounds of a curriculum; a phase without a source left is refused.

    Args:
        config: The phases.
        num_pairs: Pairs of each source; a missing or empty source is left out of every phase.
        pairs_per_batch: Pairs of all ranks together.
        num_batches: Batches that the feed makes in an epoch of sources; None if all batches are full.
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
        pairs = sum(num_pairs[source] for source in sources)
        batches = -(-pairs // pairs_per_batch) if num_batches is None else num_batches(sources)
        is_selecting = phase.is_selecting and "h_ref" in sources
        num_rounds = phase.num_rounds if is_selecting else 1
        own_epochs = phase.epochs * config.epochs_factor / num_rounds
        # A rounding error must not add a step.
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
    told: dict[str, tuple[str, int, int]] = {}
    for each in rounds:
        steps = told[each.phase][2] if each.phase in told else 0
        pairs = sum(num_pairs[source] for source in each.sources)
        told[each.phase] = (" ∪ ".join(each.sources), pairs, steps + each.num_steps)
    return [(name, *facts) for name, facts in told.items()]


# By option, the command of `pseudoris ppt` whose runs it takes.
_RECIPES: Final[Mapping[str, str]] = {"d_sem": "objects", "d_ref": "compose", "h": "pairs"}


@dataclass(frozen=True, slots=True)
class SourceRuns:
    """Runs, as folders or urls, any of them several.

    Attributes:
        d_sem: Written by `ppt objects`.
        d_ref: Written by `ppt compose`.
        h: Written by `ppt pairs`. Texts with a referent are H_sem. Texts with several pseudo-masks and no referent are
            H_ref.
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
    """Return the data sets of each source that is given; none at all, or a run without a pair of its kind, is refused.

    Args:
        runs: By source.
        config: How pairs are drawn.
        frame: Frame of the pseudo-masks.
        snapshots: Snapshots of `runs`.
    """
    if not any(getattr(runs, name) for name in runs.__slots__):
        raise ConfigError("There is nothing to train on. Give --d-sem, --d-ref, --h or --annotated.")
    data = config.data
    spec = PairSpec(
        num_points=config.generator.num_points,
        frame=frame,
        seed=config.training.seed,
        is_flipping=data.is_flipping,
        on_bad_image=data.on_bad_image,
        source=data.moved,
        max_memory_bytes=data.max_memory_bytes,
        # With more labels than queries, the matching leaves out the costliest labels. One of them may be the referent.
        max_pseudo_masks=min(data.max_candidates, config.generator.num_queries),
    )

    def opened(names: Sequence[str], which: Which, *, is_empty_allowed: bool = False) -> list[PairDataset]:
        own = replace(spec, which=which, is_empty_allowed=is_empty_allowed)
        return [PairDataset(run, own, snapshot=snapshots[run]) for run in names]

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
