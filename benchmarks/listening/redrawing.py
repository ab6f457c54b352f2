"""Candidates drawn against similar masks above all, `captions.sampling.others_weighting=similar`; beside the mean."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

from benchmarks.listening.collecting import SceneRows
from benchmarks.listening.report import FIGURES, by_tau
from benchmarks.listening.rules import Rule
from benchmarks.quality.tables import as_json
from training.evaluation.bootstrap import ImageBootstrap

SIMILAR: Final = "captions.sampling.others_weighting=similar"
NUM_SCENES: Final = 100
HOWS: Final = ("mean", "similar")
DRAWN, PRESET, BASE = "drawn", "preset", "all"


def measure_redrawn(mean: Sequence[SceneRows], similar: Sequence[SceneRows], rule: Rule, tau: float) -> dict[str, Any]:
    """Return, by what is kept, the figures of both and their paired differences.

    Args:
        mean: Test scenes, others weighted alike.
        similar: The first of them, drawn anew.
        rule: Weights and bounds of everything weighed, fitted to the mean's candidates.
        tau: Of the preset's own filter.
    """
    found = ImageBootstrap(
        [
            {**_sums("mean", one, rule, tau), **_sums("similar", other, rule, tau)}
            for one, other in zip(mean, similar, strict=False)
        ]
    )
    figures = {
        kept: {
            **{how: {figure: as_json(found.ratio(f"{how}.{kept}.{figure}")) for figure in FIGURES} for how in HOWS},
            "step": {
                figure: as_json(found.difference(f"{HOWS[1]}.{kept}.{figure}", f"{HOWS[0]}.{kept}.{figure}"))
                for figure in FIGURES
            },
        }
        for kept in (DRAWN, PRESET, BASE)
    }
    return {"scenes": len(similar), **figures}


def _sums(how: str, scene: SceneRows, rule: Rule, tau: float) -> dict[str, tuple[float, float]]:
    kept = {
        DRAWN: scene.sums(np.ones(len(scene.is_right), np.bool_)),
        PRESET: scene.sums(by_tau(scene, tau)),
        BASE: rule.sums(scene),
    }
    return {f"{how}.{name}.{figure}": pair for name, sums in kept.items() for figure, pair in sums.items()}
