"""A run's candidates with their scores, judged by a truth: from the tables alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from schemas.confidence import CONFIDENCE_COLUMNS, Rated
from schemas.errors import ConfigError
from schemas.shard import SOURCE_MODEL
from store.header import require_header
from store.location import RunLocation
from store.manifest import cached_receipts
from training.calibration.fitting import (
    EVERYTHING,
    NO_LABELS,
    NO_LABELS_VOTE,
    VOTE,
    Calibration,
    calibrate,
    without_labels,
)
from training.calibration.judged import JudgedImage, Said
from training.evaluation.counting import Candidates, judge, match_image
from training.evaluation.reading import iter_images, read_shard
from training.evaluation.truth import ImageTruth, Truth

_COLUMNS: Final = ("target_mask_ids", "text", "samples", "kept", "kind", "source", *CONFIDENCE_COLUMNS)

Columns = Mapping[str, Sequence[Any]]


def calibrated_run(
    location: RunLocation,
    truth: Truth | None,
    *,
    coverage: float,
    least_yield: float,
    max_images: int | None = None,
) -> Calibration:
    """Return weights and bounds for the models of a run; with what a listener says, if it has listened.

    Args:
        location: Where the run lives, finished or not.
        truth: What its images show; without it no label is looked at, and what is reached is told of the yield alone.
        coverage: Of the truth's objects, at least.
        least_yield: Kept expressions a mask, at least; without a truth about so many.
        max_images: The first so many; None for all.

    Raises:
        ConfigError: As of `judged_images`; or of its candidates all are right, or none.
        TransientError: Storage failed.
    """
    images = judged_images(location, truth, max_images=max_images)
    has_listened = not any(np.isnan(image.rated.scores["truth"]).any() for image in images)
    if truth is None:
        return without_labels(images, NO_LABELS if has_listened else NO_LABELS_VOTE, wanted_yield=least_yield)
    try:
        return calibrate(images, EVERYTHING if has_listened else VOTE, coverage=coverage, least_yield=least_yield)
    except ValueError as error:
        raise ConfigError(f"{location.root} against the truth ({truth.title}): {error}; judge more images") from error


def judged_images(location: RunLocation, truth: Truth | None, *, max_images: int | None = None) -> list[JudgedImage]:
    """Return the committed images that a truth knows, in plan order, with all candidates judged; all of them without.

    Args:
        location: Where the run lives, finished or not.
        truth: What its images show; of objects that nobody annotated it says that they are none. Without it there is
            no object, and nothing is right.
        max_images: The first so many; None for all.

    Raises:
        ConfigError: No run was started there, run and truth share no image, one shows another picture in the other, or
            a part is missing or damaged.
        TransientError: Storage failed.
    """
    require_header(location)
    found = []
    for judged in _iter_judged(location, truth):
        found.append(judged)
        if len(found) == max_images:
            break
    if not any(len(image.is_right) for image in found):
        known = (
            "" if truth is None else f" that the truth ({truth.title}) knows; keys, relative to SOURCE, must be equal"
        )
        raise ConfigError(f"{location.root} holds no committed image with candidates{known}")
    return found


def judge_image(truth: ImageTruth, said: Candidates, columns: Columns) -> JudgedImage:
    """Return an image judged.

    Args:
        truth: Of the image.
        said: The image in columns.
        columns: `source` and `CONFIDENCE_COLUMNS` of the same rows, None where undefined.
    """
    matched = match_image(truth, said)
    verdicts = judge(truth, said, matched.object_of_mask)
    drawn = np.array([source in (None, SOURCE_MODEL) for source in columns["source"]], np.bool_)
    beside = ~drawn & verdicts.is_single & said.is_kept
    # None, where there is nothing to compare with, becomes NaN.
    scores = {name: np.array(columns[name], np.float64)[drawn] for name in CONFIDENCE_COLUMNS}
    chosen = np.flatnonzero(drawn).tolist()
    return JudgedImage(
        rated=Rated([said.targets[row][0] for row in chosen], [said.texts[row] for row in chosen], scores),
        is_right=verdicts.is_right[drawn],
        targets=verdicts.target[drawn],
        num_masks=len(said.mask_ids),
        num_visible=int(matched.is_visible.sum()),
        beside=Said(verdicts.is_right[beside], verdicts.target[beside]),
    )


@dataclass(frozen=True)
class _Nothing:
    """The truth of an image of which nobody knows anything."""

    size: tuple[int, int]
    masks: tuple[str, ...] = ()

    def referents(self, text: str) -> frozenset[int] | None:
        return None

    def attributes(self, text: str, number: int) -> tuple[int, int, int] | None:
        return None

    def num_alike(self, number: int) -> int:
        return 0

    def group(self, number: int) -> str | None:
        return None


def _iter_judged(location: RunLocation, truth: Truth | None) -> Iterator[JudgedImage]:
    for receipt in cached_receipts(location):
        tables = read_shard(location, receipt, *_COLUMNS)
        columns = {name: tables.expressions[name].to_pylist() for name in ("source", *CONFIDENCE_COLUMNS)}
        for number, image in enumerate(iter_images(tables)):
            if image.said is None:
                continue
            known = _Nothing(image.said.size) if truth is None else image.known_to(truth)
            if known is None:
                continue
            rows = slice(*tables.expression_starts[number : number + 2].tolist())
            yield judge_image(known, image.said, {name: column[rows] for name, column in columns.items()})
