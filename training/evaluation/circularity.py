"""Finds what answers share with the truth that judges them: images, models. Called by `cli` and `training`.

`train` writes what a training learnt from beside its checkpoint, where `evaluate --model` reads it. What is not
recorded is called unknown, never clean, and all of it is said before any figure.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

from lightning_fabric import Fabric

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError, TransientError
from pseudoris.primitives.untrusted import parse_json, read_regular
from pseudoris.schemas.config import RunConfig
from pseudoris.store.runs.header import require_header
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.learning.checkpoint_folder import TrainingFolder
from pseudoris.workers.stages import STAGE_FILTER, STAGE_PROPOSE, clip_digest, sam_digest

TRAINED_ON_NAME: Final = "trained_on.json"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Origin:
    """What answers rest on: sha256 of the images that were learnt from, and of models; None where it is not known.

    What frozen models have seen elsewhere does not count.
    """

    images: frozenset[str] | None = None
    models: frozenset[str] | None = None

    @classmethod
    def read(cls, model: Path) -> Self:
        """Return that of a training's folder or checkpoint, or of a round of PPT; not known where no file tells it."""
        folder = model if model.is_dir() else model.parent
        for place in (folder, folder.parent):
            try:
                tree = parse_json(read_regular(place / TRAINED_ON_NAME))
                return cls(*(None if tree[name] is None else frozenset(tree[name]) for name in cls.__slots__))
            except (OSError, ValueError, LookupError, TypeError):
                continue
        return cls()


def begin_validation(
    images: Iterable[str],
    runs: Iterable[str],
    frozen: Iterable[str],
    held_out: HeldOutExpressions | None,
    folder: TrainingFolder,
    fabric: Fabric,
) -> list[str]:
    """Write what a training learns from into its folder, and return and log what it shares with its validation.

    `images` are the sha256 of what is learnt from, `frozen` those of the models in the training. The models that made
    the `runs` count too. Every rank calls this; the first alone writes and logs.
    """
    teachers = [models_of(RunLocation.open(run)) for run in runs]
    known = (each.values() for each in teachers if each is not None)
    origin = Origin(frozenset(images), None if None in teachers else frozenset(frozen).union(*known))
    shared = [] if held_out is None else circularity(origin, held_out)
    if fabric.is_global_zero:
        tree = {name: getattr(origin, name) for name in origin.__slots__}
        folder.write_json(TRAINED_ON_NAME, {name: each and sorted(each) for name, each in tree.items()})
        for note in shared:
            logger.warning("%s", note)
    return shared


def digests_of(run: RunConfig) -> frozenset[str]:
    """Return the sha256 of the SAM and the CLIP of a run's settings, as runs of the same models have them."""
    masks = run.masks.model_copy(update={"prior": type(run.masks.prior)()})
    return frozenset((sam_digest(masks), clip_digest(run.filtering.model_copy(update={"nouns": "rules"}))))


def models_of(location: RunLocation) -> dict[str, str] | None:
    """Return the sha256 of the models that made a run, by stage; {} of human annotation, None where it is not known.

    A recipe of PPT has those of its parent too. "" stands for a digest that is over more than the weights, with an
    instance prior or a parser of nouns.
    """
    try:
        header = require_header(location)
        if header.is_human:
            return {}
        above = header.parent if header.origin == "ppt" else None
        found = {} if above is None else models_of(RunLocation.open_to_read(above.location))
    except (ConfigError, TransientError):
        return None
    config = header.config
    is_more = {STAGE_PROPOSE: config.masks.prior.path is not None, STAGE_FILTER: config.filtering.nouns != "rules"}
    own = {stage: "" if is_more.get(stage) else digest for stage, digest in header.identity.weights.items()}
    return None if found is None else {**found, **own} or None


def circularity(origin: Origin, truth: HeldOutExpressions) -> list[str]:
    """Return what must be said before any figure of answers; empty where it is known that they share nothing."""
    asked, made_by = truth.image_digests(), models_of(RunLocation.open(truth.root))
    seen, ours = len(asked & (origin.images or frozenset())), origin.models
    shared = [stage for stage, digest in (made_by or {}).items() if digest and digest in (ours or ())]
    notes, unknown = [], ["images"] if origin.images is None else []
    if seen:
        counted = f"{seen:,} of the {len(asked):,} images of the truth were learnt from (equal sha256)"
        notes.append(f"Circular: {counted}. The figures say nothing of unseen images.")
    if shared:
        models = f"models that made the truth answer here, or made what was learnt from ({', '.join(shared)}; equal"
        notes.append(f"Circular: {models} sha256). The figures say how far they agree, not how right they are.")
    elif made_by is None or (made_by and (ours is None or "" in (*made_by.values(), *ours))):
        unknown.append("models")
    if unknown:
        rest = f"no record says which {' and '.join(unknown)} the answers rest on"
        notes.append(f"Not proven clean: {rest}. They may be those of the truth.")
    return notes
