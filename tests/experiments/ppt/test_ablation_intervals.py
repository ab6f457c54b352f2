"""Resamples of images and seeds, paired between rows."""

import numpy as np
import pytest

from experiments.quality.seed_bootstrap import PairedSeedBootstrap

# Three seeds of a row that differs from scene to scene, and one that is better by as much in each.
SCENES = np.linspace(0.0, 2.0, 40)
ROW = [(SCENES + shift).tolist() for shift in (-0.2, 0.0, 0.2)]
BETTER = [[value + 0.1 for value in each] for each in ROW]
COUNTS = [2] * 40


def test_a_difference_is_paired_image_for_image_and_seed_for_seed() -> None:
    drawn = PairedSeedBootstrap({"row": ROW, "better": BETTER}, COUNTS)

    own, found = drawn.mean("row"), drawn.difference("better", "row")

    assert own.value == pytest.approx(0.5)
    assert own.high - own.low > 0.1
    assert (found.value, found.low, found.high) == (pytest.approx(0.05), pytest.approx(0.05), pytest.approx(0.05))


def test_seeds_widen_an_interval_and_a_row_of_one_has_none() -> None:
    flat = [[1.0] * 40]
    several = [[1.0 + shift] * 40 for shift in (-0.2, 0.0, 0.2)]
    drawn = PairedSeedBootstrap({"one": flat, "several": several}, COUNTS)

    one, found = drawn.mean("one"), drawn.difference("several", "one")

    assert (one.low, one.high) == (0.5, 0.5)
    assert (found.low, found.high) == (pytest.approx(-0.1), pytest.approx(0.1))


def test_a_row_of_other_images_or_seeds_is_refused() -> None:
    with pytest.raises(ValueError, match=r"Row b has sums of \(2, 40\), not of 1 or 3 seeds by 40"):
        PairedSeedBootstrap({"a": ROW, "b": ROW[:2]}, COUNTS)
