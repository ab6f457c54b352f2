"""How many labels weights and bounds need: fitted on a few development scenes, judged on all test scenes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeVar

import numpy as np

from benchmarks.listening.collecting import SceneRows
from benchmarks.listening.rules import FEATURE_SETS
from benchmarks.quality.options import draw_generator
from training.calibration.fitting import NO_LABELS, Calibration, calibrate, without_labels
from training.calibration.judged import JudgedImage
from training.evaluation.bootstrap import Sums

SceneT = TypeVar("SceneT")

COUNTS: Final = (5, 10, 20, 50, 100, 200)
NUM_DRAWS: Final = 10
# As many scenes as a person annotates in a day or two.
BY_SENTENCES: Final = 50
NAMES: Final = ("clip+vote", "all")
_SEED: Final = 6
_FIGURES: Final = ("accuracy", "yield", "coverage")


def measure_labels(
    development: Sequence[SceneRows], asked: Mapping[str, Sequence[SceneRows]], aim: tuple[float, float]
) -> list[dict[str, Any]]:
    """Return a row for each number of scenes, and for none.

    Args:
        development: Of which some are drawn to fit weights on, and to choose bounds by.
        asked: Scenes to report, by name.
        aim: Coverage and yield aimed at.
    """
    rows = [_no_labels(asked, aim)]
    for name in NAMES:
        for count in (each for each in COUNTS if each <= len(development)):
            found = [_calibrated(chosen, name, aim) for chosen in draws_of(development, count)]
            rows.append({"rule": name, "scenes": count, "labels": "oracle", **_row(found, development, asked)})
    told = [replace(scene, is_right=scene.is_right_by_sentences) for scene in development]
    for name in NAMES:
        count = min(BY_SENTENCES, len(told))
        found = [_calibrated(chosen, name, aim) for chosen in draws_of(told, count)]
        rows.append({"rule": name, "scenes": count, "labels": "sentences", **_row(found, development, asked)})
    return rows


def _calibrated(scenes: Sequence[JudgedImage], name: str, aim: tuple[float, float]) -> Calibration:
    return calibrate(scenes, FEATURE_SETS[name], coverage=aim[0], least_yield=aim[1])


def draws_of(scenes: Sequence[SceneT], count: int, num_draws: int = NUM_DRAWS) -> Iterator[list[SceneT]]:
    """Yield different draws of `count` scenes; one where that is all of them."""
    for draw in range(num_draws if count < len(scenes) else 1):
        rng = draw_generator(_SEED, count, draw)
        yield [scenes[place] for place in sorted(rng.choice(len(scenes), count, replace=False).tolist())]


def _no_labels(asked: Mapping[str, Sequence[SceneRows]], aim: tuple[float, float]) -> dict[str, Any]:
    """Of each set of scenes by the scores of its own candidates: without labels nothing is seen too early."""
    found = {name: without_labels(scenes, NO_LABELS, wanted_yield=aim[1]) for name, scenes in asked.items()}
    figures = {name: spread([_figures(found[name], scenes)]) for name, scenes in asked.items()}
    return {"rule": "no labels", "scenes": 0, "labels": "none", "draws": 1, "candidates_a_scene": 0.0, **figures}


def _row(
    found: Sequence[Calibration], development: Sequence[SceneRows], asked: Mapping[str, Sequence[SceneRows]]
) -> dict[str, Any]:
    return {
        "draws": len(found),
        "candidates_a_scene": round(float(np.mean([len(scene.is_right) for scene in development])), 1),
        **{name: spread([_figures(each, scenes) for each in found]) for name, scenes in asked.items()},
    }


def _figures(found: Calibration, scenes: Sequence[JudgedImage]) -> list[float]:
    return figures_of([scene.sums(found.reached.bounds.keeps(scene, found.weights)) for scene in scenes])


def figures_of(sums: Sequence[Sums]) -> list[float]:
    """Return accuracy, yield and coverage of all images together."""
    totals = np.sum([[each[name] for name in _FIGURES] for each in sums], axis=0)
    return [numerator / denominator if denominator else 0.0 for numerator, denominator in totals.tolist()]


def spread(figures: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return mean, deviation and the least of accuracy, yield and coverage over draws."""
    table = np.array(figures)
    spread = table.std(axis=0, ddof=1) if len(table) > 1 else np.full(table.shape[1], np.nan)
    return {
        name: {
            "mean": round(float(table[:, at].mean()), 4),
            "std": None if np.isnan(spread[at]) else round(float(spread[at]), 4),
            "least": round(float(table[:, at].min()), 4),
        }
        for at, name in enumerate(_FIGURES)
    }
