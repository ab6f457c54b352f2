"""Images with candidates judged by a truth. Weights are fitted to them, and bounds are chosen with them.

They are read from a run's tables alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.fitted import CONFIDENCE_COLUMNS, Floats, Rated, features
from pseudoris.schemas.keep_rule import Flags
from pseudoris.schemas.shard import SOURCE_MODEL
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.training.evaluation.bootstrap import Sums
from pseudoris.training.evaluation.human_truth import HumanImageTruth
from pseudoris.training.evaluation.run_images import CANDIDATE_COLUMNS, read_shard
from pseudoris.training.evaluation.truth import CandidateTable, ImageTruth, Truth, judge, match_image

Ints = npt.NDArray[np.int64]
Columns = Mapping[str, Sequence[Any]]
# A ratio of 1: the caption of a mask alone in its image fits as well as one that fits its best rival.
LONE_LOG_RATIO: Final = 0.0
# What `judge_image` reads of the expressions table, beside what a `CandidateTable` holds.
JUDGED_COLUMNS: Final = ("source", "confidence", *CONFIDENCE_COLUMNS)


@dataclass(frozen=True, eq=False)
class AlwaysKept:
    """Expressions of one mask each that are kept at any bounds: a composer's, or a human's.

    Attributes:
        is_right: (K,) bool.
        targets: (K,) int64, the mask's object; -1 where that is none.
        confidence: (K,) float64, by the composer; NaN without one, as a human's.
        pairs: K mask ids and texts; empty if not known.
    """

    is_right: Flags
    targets: Ints
    confidence: Floats
    pairs: Sequence[tuple[str, str]] = ()


NOTHING_KEPT = AlwaysKept(np.zeros(0, np.bool_), np.zeros(0, np.int64), np.zeros(0))


@dataclass(frozen=True, eq=False)
class JudgedImage:
    """One image's T candidates.

    Attributes:
        rated: As the filter stage has them; groups are mask ids.
        is_right: (T,) bool, refers to its mask's object and to nothing else.
        targets: (T,) int64, its mask's object; -1 where that is none.
        num_masks: Masks of the image.
        num_visible: Objects of the truth with a pixel.
        beside: Expressions that are always kept.
    """

    rated: Rated
    is_right: Flags
    targets: Ints
    num_masks: int
    num_visible: int
    beside: AlwaysKept = field(default=NOTHING_KEPT)

    @cached_property
    def features(self) -> dict[str, Floats]:
        """What weights are multiplied with, (T,) float64 by name; computed once for all that is tried."""
        return features(self.rated, LONE_LOG_RATIO)

    def sums(self, keep: Flags) -> Sums:
        """Return numerator and denominator of accuracy, yield and coverage, for `keep` (T,) bool and `beside`."""
        right = keep & self.is_right
        kept = float(keep.sum() + len(self.beside.is_right))
        covered = np.concatenate([self.targets[right], self.beside.targets[self.beside.is_right]])
        return {
            "accuracy": (float(right.sum() + self.beside.is_right.sum()), kept),
            "yield": (kept, self.num_masks),
            "coverage": (float(len(np.unique(covered))), self.num_visible),
        }


def judged_images(location: RunLocation, truth: Truth | None, *, max_images: int | None = None) -> list[JudgedImage]:
    """Return the committed images of a truth, in plan order, with all candidates judged; all of them without.

    The run need not be finished, and at most `max_images` are read. Objects that were not annotated do not count as
    objects. Without a truth there is no object, and nothing is right.
    """
    require_header(location)
    found = list(islice(_iter_judged(location, truth), max_images))
    if not any(len(image.is_right) for image in found):
        known = (
            ""
            if truth is None
            else f" that the truth ({truth.title}) knows. Image keys, relative to SOURCE, must be equal"
        )
        raise ConfigError(f"{location.root} holds no committed image with candidates{known}")
    return found


def judge_image(truth: ImageTruth, candidates: CandidateTable, columns: Columns) -> JudgedImage:
    """Return an image judged; `columns` are `JUDGED_COLUMNS` of the same rows, None if undefined."""
    matched = match_image(truth, candidates)
    verdicts = judge(truth, candidates, matched.object_of_mask)
    drawn = np.array([source in (None, SOURCE_MODEL) for source in columns["source"]], np.bool_)
    beside = ~drawn & verdicts.is_single & candidates.is_kept
    # None, where there is nothing to compare with, becomes NaN.
    scores = {name: np.array(columns[name], np.float64)[drawn] for name in CONFIDENCE_COLUMNS}
    chosen = np.flatnonzero(drawn).tolist()
    return JudgedImage(
        rated=Rated([candidates.targets[row][0] for row in chosen], [candidates.texts[row] for row in chosen], scores),
        is_right=verdicts.is_right[drawn],
        targets=verdicts.target[drawn],
        num_masks=len(candidates.mask_ids),
        num_visible=int(matched.is_visible.sum()),
        beside=AlwaysKept(
            verdicts.is_right[beside],
            verdicts.target[beside],
            np.array(columns["confidence"], np.float64)[beside],
            [(candidates.targets[row][0], candidates.texts[row]) for row in np.flatnonzero(beside).tolist()],
        ),
    )


def _iter_judged(location: RunLocation, truth: Truth | None) -> Iterator[JudgedImage]:
    for receipt in cached_receipts(location):
        for image in read_shard(location, receipt, *dict.fromkeys((*CANDIDATE_COLUMNS, *JUDGED_COLUMNS))):
            if image.is_quarantined:
                continue
            known = HumanImageTruth(image.size, [], []) if truth is None else image.known_to(truth)
            if known is not None:
                columns = {name: image.expressions[name].to_pylist() for name in JUDGED_COLUMNS}
                yield judge_image(known, image.candidates, columns)
