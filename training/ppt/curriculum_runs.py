"""The four data sets of the curriculum, opened from runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from pseudoris.schemas.errors import ConfigError
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.training.dataset import Snapshot
from pseudoris.training.ppt.curriculum import SOURCES, Source
from pseudoris.training.ppt.pair_dataset import PairDataset
from pseudoris.training.ppt.pairs import PairSpec, Which
from pseudoris.training.ppt.ppt_config import PptConfig
from pseudoris.training.ppt.pseudo_labels import LabelFrame

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

        Args:
            saved: `Snapshot.state` of an earlier start by the run's root: a run that has grown since is read as it was.

        Raises:
            ConfigError: There is none, or it is not of the command that its option asks for.
            TransientError: Storage failed.
        """
        locations = {run: _location(run, _RECIPES.get(name)) for name in self.__slots__ for run in getattr(self, name)}
        return {run: _snapshot(location, (saved or {}).get(location.root)) for run, location in locations.items()}

    def roots(self) -> dict[str, list[str]]:
        """Return the roots of the runs, by source."""
        return {name: [RunLocation.open(run).root for run in getattr(self, name)] for name in self.__slots__}


def open_sources(
    runs: SourceRuns, config: PptConfig, frame: LabelFrame, snapshots: Mapping[str, Snapshot]
) -> dict[Source, list[PairDataset]]:
    """Return the data sets of each source that is given.

    Args:
        runs: By source.
        config: How pairs are drawn.
        frame: Frame of the pseudo-masks.
        snapshots: Snapshots of `runs`.

    Raises:
        ConfigError: No run at all, or one that is missing or has no pair of its kind.
        TransientError: Storage failed.
    """
    if not any(getattr(runs, name) for name in runs.__slots__):
        raise ConfigError("There is nothing to train on. Give --d-sem, --d-ref, --h or --annotated.")

    def opened(names: Sequence[str], which: Which, *, is_empty_allowed: bool = False) -> list[PairDataset]:
        spec = replace(_spec(config, frame), which=which, is_empty_allowed=is_empty_allowed)
        return [PairDataset(run, spec, snapshot=snapshots[run]) for run in names]

    parts: dict[Source, list[PairDataset]] = {
        "d_sem": opened(runs.d_sem, "decided"),
        "d_ref": opened(runs.d_ref, "decided"),
        "h_sem": [*opened(runs.h, "decided", is_empty_allowed=True), *opened(runs.annotated, "decided")],
        "h_ref": opened(runs.h, "undecided", is_empty_allowed=True),
    }
    return {source: [part for part in parts[source] if len(part)] for source in SOURCES}


def _spec(config: PptConfig, frame: LabelFrame) -> PairSpec:
    return PairSpec(
        num_points=config.generator.num_points,
        frame=frame,
        seed=config.training.seed,
        is_flipping=config.data.is_flipping,
        # With more labels than queries, the matching leaves out the costliest labels. One of them may be the referent.
        on_bad_image=config.data.on_bad_image,
        source=config.data.moved,
        max_memory_bytes=config.data.max_memory_bytes,
        max_pseudo_masks=min(config.data.max_candidates, config.generator.num_queries),
    )


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


def _snapshot(location: RunLocation, state: Mapping[str, Any] | None) -> Snapshot:
    return Snapshot.shared(location) if state is None else Snapshot.from_state(location, dict(state))
