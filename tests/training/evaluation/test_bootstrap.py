import numpy as np
import pytest

from training.evaluation.bootstrap import ImageBootstrap


def scenes(right, total=10):
    return [{"a": (float(r), float(total)), "b": (float(r) - 1, float(total))} for r in right]


def test_a_figure_is_the_ratio_of_the_sums_not_the_mean_of_ratios():
    bootstrap = ImageBootstrap([{"a": (1.0, 1.0)}, {"a": (0.0, 9.0)}])
    assert bootstrap.ratio("a").value == pytest.approx(0.1)


def test_the_interval_covers_the_value_and_shrinks_with_more_scenes():
    rng = np.random.default_rng(0)
    few = ImageBootstrap(scenes(rng.integers(2, 9, size=20))).ratio("a")
    many = ImageBootstrap(scenes(rng.integers(2, 9, size=500))).ratio("a")
    assert few.low < few.value < few.high
    assert many.high - many.low < few.high - few.low


def test_differences_are_paired():
    # In each scene `b` is exactly 0.1 below `a`: resampling the two apart would give a wide interval.
    step = ImageBootstrap(scenes(np.random.default_rng(1).integers(1, 10, size=30))).difference("a", "b")
    assert (step.low, step.value, step.high) == pytest.approx((0.1, 0.1, 0.1))


def test_a_figure_that_nothing_counted_is_not_a_number():
    estimate = ImageBootstrap([{"a": (0.0, 0.0)}]).ratio("a")
    assert all(np.isnan(value) for value in (estimate.value, estimate.low, estimate.high))
