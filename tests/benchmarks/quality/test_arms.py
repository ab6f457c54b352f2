"""Arms of an experiment with students."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.quality.arms import Arm, mean_and_deviation, seeded, summarise
from benchmarks.quality.options import Options

ARM = Arm(runs=("out/pseudo",))


def test_figures_of_seeds_become_mean_and_deviation_of_a_sample() -> None:
    figures = summarise([{"miou": 0.5, "p50": 0.25}, {"miou": 0.7, "p50": 0.25}])

    assert figures["miou"] == {"mean": 0.6, "std": pytest.approx(0.14142), "values": [0.5, 0.7]}
    assert figures["p50"]["std"] == 0.0
    assert mean_and_deviation(figures) == "0.600 ± 0.141"


def test_one_seed_has_no_deviation() -> None:
    figures = summarise([{"miou": 0.5}])

    assert figures["miou"]["std"] == 0.0
    assert mean_and_deviation(figures) == "0.500"


def test_every_seed_is_an_arm_of_its_own_and_a_trial_has_one(tmp_path: Path) -> None:
    whole = seeded(Options(tmp_path), ARM)
    quick = seeded(Options(tmp_path, is_quick=True), ARM)

    assert [arm.seed for arm in whole] == [0, 1, 2]
    assert len({arm.digest() for arm in [*whole, *quick]}) == 4


@pytest.mark.parametrize(
    "other",
    [
        replace(ARM, runs=("out/pseudo", "out/more")),
        replace(ARM, human="out/true"),
        replace(ARM, assignments=("data.is_kept_only=false",)),
        replace(ARM, seed=1),
    ],
)
def test_whatever_differs_is_trained_anew(other: Arm) -> None:
    assert other.digest() != ARM.digest()
