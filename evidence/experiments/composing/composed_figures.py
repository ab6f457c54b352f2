"""Figures of composed expressions, image by image: their kinds and correctness, and what an image gains."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from evidence.experiments.oracle import candidates_of, judged
from evidence.experiments.quality.markdown_cells import as_json
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import Estimate, ImageBootstrap
from pseudoris.schemas.shard import SOURCE_COMPOSER, ExpressionRecord, ShardImage
from pseudoris.schemas.stage_settings import ComposedKind
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene
from pseudoris.training.evaluation.truth import count_image
from pseudoris.workers.composing.composer import Composer, composer_of

BEFORE, AFTER, COMPOSED = "before", "after", "composed"
# What was drawn of a mask and rejected, because a rival fits it better by so much: its accuracy is how often it does
# not mean its mask.
NEGATIVE, MAX_DISTINCTIVENESS = "negative", 0.8
KINDS: tuple[ComposedKind, ...] = ("attribute", "position", "relation", "group", "none")
COMPOSING: Final = composer_of(
    load_config("tiny", None, [f"composing={{kinds: [{', '.join(KINDS)}], max_per_mask: 4}}"])
)
# Of a probability, the last up to 1.
BINS: Final = (0.0, 0.5, 0.7, 0.8, 0.9, 0.93, 0.95, 0.97)
_FIGURES = ("accuracy", "coverage", "yield", "words")


@dataclass(frozen=True)
class Measured:
    """What composing does.

    Attributes:
        estimates: By name.
        counts: How many expressions of each kind there are.
        seconds_per_image: Of one core.
        reliability: By the lower ends of `BINS`, how many expressions are so likely right by their own word, and how
            many of them are; empty where they do not say it.
    """

    estimates: dict[str, Estimate]
    counts: dict[str, int]
    seconds_per_image: float
    reliability: dict[float, tuple[int, int]]


def as_tree(measured: Measured) -> dict[str, Any]:
    """Return the estimates and counts as JSON values; what it took has one record, that of the quality page."""
    return {
        "estimates": {name: as_json(estimate) for name, estimate in measured.estimates.items()},
        "counts": measured.counts,
        "reliability": [
            {"from": low, "number": number, "right": right} for low, (number, right) in measured.reliability.items()
        ],
    }


def measure(scenes: Sequence[Scene], images: Sequence[ShardImage], composer: Composer) -> Measured:
    """Return what a composer does to annotated scenes; scenes are resampled, differences paired."""
    started = time.process_time()
    composed = [composer(image) for image in images]
    seconds = time.process_time() - started
    bootstrap = ImageBootstrap(_sums(scene, image) for scene, image in zip(scenes, composed, strict=True))
    names = [f"{part}.{figure}" for part in (BEFORE, AFTER, COMPOSED) for figure in _FIGURES]
    kinds = [f"kind.{kind}" for kind in KINDS if f"kind.{kind}" in bootstrap.names]
    negatives = [f"{NEGATIVE}.{figure}" for figure in ("accuracy", "yield")]
    estimates = {name: bootstrap.ratio(name) for name in (*names, *kinds, *negatives)}
    for more, figure in ((AFTER, "coverage"), (AFTER, "accuracy"), (COMPOSED, "accuracy")):
        estimates[f"{more} - {BEFORE}.{figure}"] = bootstrap.difference(f"{more}.{figure}", f"{BEFORE}.{figure}")
    counts: dict[str, int] = {kind: round(bootstrap.total(f"kind.{kind}")[1]) for kind in KINDS}
    counts |= {part: round(bootstrap.total(f"{part}.accuracy")[1]) for part in (BEFORE, AFTER, COMPOSED)}
    counts |= {"objects": round(bootstrap.total(f"{BEFORE}.coverage")[1])}
    return Measured(estimates, counts, seconds / max(1, len(images)), _reliability(scenes, composed))


def _reliability(scenes: Sequence[Scene], images: Sequence[ShardImage]) -> dict[float, tuple[int, int]]:
    """How many composed expressions of one mask lie in each bin of their confidence, and how many of them are right."""
    numbers, right = np.zeros(len(BINS), np.int64), np.zeros(len(BINS), np.int64)
    for scene, image in zip(scenes, images, strict=True):
        said = [each for each in image.expressions if _is_composed(each) and _is_of_one(each)]
        verdicts = judged(SceneImageTruth(scene), image, said)[1].is_right.tolist()
        for each, is_right in zip(said, verdicts, strict=True):
            if each.confidence is not None:
                place = int(np.searchsorted(BINS, each.confidence, side="right")) - 1
                numbers[place] += 1
                right[place] += is_right
    found = zip(BINS, numbers.tolist(), right.tolist(), strict=True)
    return {low: (number, is_right) for low, number, is_right in found if number}


def _sums(scene: Scene, image: ShardImage) -> dict[str, tuple[float, float]]:
    """The figures of one image: of what the filter kept, of that and composed ones, and of composed ones alone.

    All of one mask each: groups and absences are no expressions of a mask, and count by their kind alone.
    """
    truth = SceneImageTruth(scene)
    found: dict[str, tuple[float, float]] = {}
    for part, keeps in (
        (BEFORE, lambda each: each.kept and not _is_composed(each)),
        (AFTER, lambda each: each.kept and _is_of_one(each)),
        (COMPOSED, lambda each: _is_composed(each) and _is_of_one(each)),
    ):
        sums = count_image(truth, candidates_of(image, keeps))
        found |= {f"{part}.{figure}": sums[f"kept.{figure}"] for figure in _FIGURES}
    of_kinds = count_image(truth, candidates_of(image, _is_composed))
    found |= {name: pair for name, pair in of_kinds.items() if name.startswith("kind.")}
    # How many rejected expressions a mask has that a rival fits better, and how often they mean something else.
    sums = count_image(truth, candidates_of(image, _is_negative))
    right, number = sums["kept.accuracy"]
    return {**found, f"{NEGATIVE}.accuracy": (number - right, number), f"{NEGATIVE}.yield": sums["kept.yield"]}


def _is_negative(expression: ExpressionRecord) -> bool:
    score = expression.distinctiveness
    return not expression.kept and score is not None and score < MAX_DISTINCTIVENESS


def _is_of_one(expression: ExpressionRecord) -> bool:
    return len(expression.target_mask_ids) == 1


def _is_composed(expression: ExpressionRecord) -> bool:
    return expression.source == SOURCE_COMPOSER
