"""The rule of verdicts: what it covers, and what it refuses to decide."""

import numpy as np
import pytest

from experiments.verdicts import MARGIN, interval, variance_over_images, verdict
from pseudoris.training.evaluation.bootstrap import ImageBootstrap

IMAGES, TRIALS = 60, 1500


def _differences(rng: np.random.Generator, *, of_seeds: float, of_images: float) -> list[tuple[float, float]]:
    """Return the ends of intervals of two sides of five trainings that do not differ."""
    found = []
    counts = np.full(IMAGES, 3.0)
    for _ in range(TRIALS):
        # What is hard for one side is hard for the other, but not quite as much; a training has its own luck.
        own = rng.normal(0, of_images, (2, 1, IMAGES)) + rng.normal(0, of_seeds, (2, 5, 1))
        own = own + rng.normal(0, 0.02, (2, 5, IMAGES))
        sides = own.mean(2)
        variance = variance_over_images(counts * (own[0] - own[1]).mean(0), counts)
        ends = interval(float(sides[0].mean() - sides[1].mean()), sides.tolist(), variance, IMAGES)
        found.append((ends.low, ends.high))
    return found


@pytest.mark.parametrize(("of_seeds", "of_images"), [(0.01, 0.0), (0.01, 0.04), (0.0, 0.04)])
def test_the_interval_of_five_trainings_a_side_covers_the_truth_as_often_as_it_says(of_seeds, of_images) -> None:
    found = _differences(np.random.default_rng(7), of_seeds=of_seeds, of_images=of_images)

    covered = float(np.mean([low <= 0 <= high for low, high in found]))

    # Three standard deviations of 1,500 trials are 0.017.
    assert 0.933 <= covered <= 0.985


def test_no_seed_of_a_bootstrap_moves_an_end_by_the_margin_or_turns_a_verdict() -> None:
    rng = np.random.default_rng(3)
    sums = rng.normal(0.04, 0.08, 100)
    ends = [ImageBootstrap([{"all": (4 * each, 4.0)} for each in sums], seed=seed).ratio("all") for seed in range(10)]

    both = np.array([[each.low, each.high] for each in ends])
    moved = np.abs(both - both.mean(0))

    assert (moved < MARGIN * (ends[0].high - ends[0].low)).all()
    assert {verdict(each.low, each.high, None) for each in ends} == {"above"}
    # By linearisation the ends are the bootstrap's, and no seed is asked for.
    exact = interval(float(sums.mean()), [], variance_over_images(4 * sums, [4.0] * 100), 100)
    assert (exact.low, exact.high) == pytest.approx((ends[0].low, ends[0].high), abs=0.002)


@pytest.mark.parametrize(
    ("low", "high", "trainings", "found"),
    [
        (0.01, 0.03, 5, "above"),
        (-0.03, -0.01, 5, "below"),
        (-0.01, 0.03, 5, "not told apart"),
        # The margin: another seed of a bootstrap, another sixth digit.
        (0.0005, 0.03, 5, "not told apart"),
        (-0.03, -0.0005, 6, "not told apart"),
        (0.01, 0.03, 4, "no verdict"),
        (0.01, 0.03, 1, "no verdict"),
        # Both sides are answers of the same models.
        (0.01, 0.03, None, "above"),
        (None, None, None, "no verdict"),
    ],
)
def test_a_verdict_needs_five_trainings_and_an_interval_clear_of_zero(low, high, trainings, found) -> None:
    assert verdict(low, high, trainings) == found
