"""What a draw will be able to say, and how precisely, before the first verdict."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pseudoris.audit.draw_record import DrawRecord
from pseudoris.audit.intervals import RatioEstimate, exact_share, mean_interval

_ACCURACIES: Final = (0.75, 0.9, 0.97)
_MEANS: Final = (0.5, 2.0)


@dataclass(frozen=True, slots=True)
class Precision:
    """A question that the audit answers.

    Attributes:
        question: In words.
        assumed: The value that is assumed.
        interval: The interval that it would get.
        half_width: Half the width of that.
        basis: The verdicts that it comes from.
    """

    question: str
    assumed: str
    interval: str
    half_width: str
    basis: str


def expected_precision(record: DrawRecord) -> Iterator[Precision]:
    """Yield the questions with the intervals to expect if all verdicts are given.

    They are those of simple random samples of the same size: strata make them narrower where scores tell right from
    wrong, and never wider.
    """
    kept = sum(stratum.num_drawn for stratum in record.strata if stratum.is_kept)
    unkept = sum(stratum.num_drawn for stratum in record.strata if not stratum.is_kept)
    images = sum(stratum.num_drawn for stratum in record.image_strata)
    has_kept = record.population.masks_with_kept / max(record.population.masks, 1)
    for accuracy in _ACCURACIES if kept else ():
        yield _share("accuracy of the kept", accuracy, kept, "kept pairs")
    if kept and has_kept:
        yield _share("masks with a right expression", 0.9, kept, "masks of kept pairs", scale=has_kept)
    if unkept:
        yield _share("right pairs that are not kept", 0.5, unkept, "pairs not kept")
    for mean in _MEANS if images else ():
        found = mean_interval(RatioEstimate(mean, mean / images, images, images, 1 / images, max(images - 1, 1)))
        yield Precision("missed objects an image", f"{mean:g}", *_shown(found.low, found.high), f"{images} images")


def _share(question: str, value: float, size: int, basis: str, *, scale: float = 1.0) -> Precision:
    low, high = (scale * limit for limit in exact_share(value * size, size))
    return Precision(question, f"{scale * value:.2f}", *_shown(low, high), f"{size} {basis}")


def _shown(low: float, high: float) -> tuple[str, str]:
    return f"{low:.2f} to {high:.2f}", f"± {(high - low) / 2:.3f}"
