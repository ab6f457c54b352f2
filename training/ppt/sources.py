"""The four data sets of the curriculum, out of runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from schemas.errors import ConfigError
from store.location import RunLocation
from training.dataset import Snapshot
from training.ppt.curriculum import SOURCES, Source
from training.ppt.label_drawing import LabelFrame
from training.ppt.pairs import PairDataset, PairSpec, Which
from training.ppt.settings import PptConfig


@dataclass(frozen=True, slots=True)
class SourceRuns:
    """Runs, as folders or urls, any of them several.

    Attributes:
        d_sem: Of `ppt objects`.
        d_ref: Of `ppt compose`.
        h: Of `ppt pairs`: what has a referent is H_sem, what has several candidates and none is H_ref.
        annotated: Any other run: of the pipeline, refiltered, imported. Its kept texts join H_sem, with the masks that
            texts were rejected for as contexts; what has no kept row is not read.
    """

    d_sem: Sequence[str] = ()
    d_ref: Sequence[str] = ()
    h: Sequence[str] = ()
    annotated: Sequence[str] = ()

    def digests(self) -> dict[str, list[list[str]]]:
        """Return where each run lies and a digest of what is committed there, by source.

        Raises:
            ConfigError: There is none.
            TransientError: Storage failed.
        """
        return {name: [_digest(run) for run in getattr(self, name)] for name in self.__slots__}


def open_sources(runs: SourceRuns, config: PptConfig, frame: LabelFrame) -> dict[Source, list[PairDataset]]:
    """Return the data sets of each source that is given.

    Raises:
        ConfigError: No run at all, or one that is missing or has no pair of its kind.
        TransientError: Storage failed.
    """
    if not any(getattr(runs, name) for name in runs.__slots__):
        raise ConfigError("there is nothing to train on: give --d-sem, --d-ref, --h or --annotated")
    opened: dict[Source, list[PairDataset]] = {
        "d_sem": _open(runs.d_sem, config, frame, "decided"),
        "d_ref": _open(runs.d_ref, config, frame, "decided"),
        "h_sem": [
            *_open(runs.h, config, frame, "decided", is_empty_allowed=True),
            *_open(runs.annotated, config, frame, "decided"),
        ],
        "h_ref": _open(runs.h, config, frame, "undecided", is_empty_allowed=True),
    }
    return {source: [part for part in opened[source] if len(part)] for source in SOURCES}


def _open(
    runs: Iterable[str], config: PptConfig, frame: LabelFrame, which: Which, *, is_empty_allowed: bool = False
) -> list[PairDataset]:
    spec = PairSpec(
        num_points=config.generator.num_points,
        frame=frame,
        which=which,
        seed=config.training.seed,
        is_flipping=config.data.is_flipping,
        # With more labels than queries the matching leaves the dearest without an answer, and that may be the referent.
        max_candidates=min(config.data.max_candidates, config.generator.num_queries),
        is_empty_allowed=is_empty_allowed,
    )
    return [PairDataset(run, spec) for run in runs]


def _digest(run: str) -> list[Any]:
    location = RunLocation.open(run)
    return [location.root, Snapshot.of_receipts(location).digest]
