"""Intervals over scenes and seeds."""

import numpy as np
import pytest

from experiments.quality.seed_bootstrap import SeedBootstrap


def _sums(miou_by_seed: list[float], *, spread: float = 0.0, scenes: int = 200) -> np.ndarray:
    noise = np.random.default_rng(5).normal(0, spread, scenes)
    return np.stack([np.stack([4 * (miou + noise), np.full(scenes, 4.0)], -1) for miou in miou_by_seed])


def test_an_arm_without_any_spread_is_known_exactly() -> None:
    found = SeedBootstrap({"arm": _sums([0.5, 0.5])}).mean("arm")

    assert (found.value, found.low, found.high) == pytest.approx((0.5, 0.5, 0.5))


def test_seeds_widen_an_interval_that_scenes_alone_would_not() -> None:
    found = SeedBootstrap({"arm": _sums([0.4, 0.5, 0.6])}).mean("arm")

    assert found.value == pytest.approx(0.5)
    assert found.low < 0.46
    assert found.high > 0.54


def test_a_share_is_of_the_way_from_one_arm_to_another() -> None:
    arms = {"floor": _sums([0.5], spread=0.1), "arm": _sums([0.6, 0.7], spread=0.1), "top": _sums([0.7], spread=0.1)}

    found = SeedBootstrap(arms).share("arm", floor="floor", top="top")

    assert found.value == pytest.approx(0.75)
    assert found.low == pytest.approx(0.5)
    assert found.high == pytest.approx(1.0)
