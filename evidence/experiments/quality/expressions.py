"""How right the expressions of a configuration are, in every world, on scenes that no choice was made on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from evidence.experiments.quality.markdown_cells import TRIPLE, as_json
from evidence.experiments.quality.page import template
from evidence.experiments.quality.parts import Options, Part, Result
from evidence.experiments.quality.scene_runs import SceneRun, judged_run, judged_sets, pseudo_run
from evidence.experiments.quality.students import BEST_PRESET, FIRST_FRESH, LISTENER_COMPOSER, OF_ONE_MASK, methods
from pseudoris.schemas.fitted import Floats, confidence_of, line_weights, ranks
from pseudoris.schemas.keep_rule import Flags
from pseudoris.store.runs.header import require_header
from pseudoris.synthworld.scenes import DEFAULT_WORLD, Split
from pseudoris.training.calibration.confidence_fit import fit_pair_weight, judged_images

NUM_SCENES, QUICK_SCENES = 300, 20
# The last was written after every choice but those of the best preset's captioner and bounds, made without it.
WORLDS: Final = (DEFAULT_WORLD, "second", "shifted", "fourth")
_KEPT, _ALL = "kept", "all"
# An accuracy and a yield that are aimed at.
_AIM: Final = 0.95
_LEAST_YIELD: Final = 2.0
# More than a scene has objects.
_MANY: Final = 1_000
_SHIPPED: Final = "tiny"


def run(options: Options) -> Result:
    """Annotate fresh scenes of every world as a user does, and judge them."""
    count = options.scenes(NUM_SCENES, QUICK_SCENES)
    runs = {
        BEST_PRESET: {
            world: pseudo_run(options, fresh(count, world), preset=BEST_PRESET, composing=OF_ONE_MASK)
            for world in WORLDS
        },
        LISTENER_COMPOSER: {
            world: pseudo_run(options, fresh(count, world), example=LISTENER_COMPOSER) for world in WORLDS
        },
    }
    configurations: dict[str, dict[str, dict[str, Any]]] = {
        name: {
            world: {**_figures(run), "bounded": _Ranked.of(run).bounded(_AIM, _LEAST_YIELD)}
            for world, run in of_worlds.items()
        }
        for name, of_worlds in runs.items()
    }
    configurations[_SHIPPED] = {DEFAULT_WORLD: _figures(pseudo_run(options, fresh(count)))}
    return {"scenes": count, "configurations": configurations}


def headline(result: Result) -> Mapping[str, Any]:
    """Return `expressions`: accuracy with its lower end, yield and coverage, by world."""
    found = {}
    for world, sets in result["configurations"][BEST_PRESET].items():
        kept = sets[_KEPT]
        found[world] = {figure: kept[figure]["value"] for figure in TRIPLE} | {"low": kept["accuracy"]["low"]}
    return {"expressions": found}


def settings(options: Options) -> Mapping[str, Any]:
    """Return what the figures depend on beside the method of `tiny`."""
    return {
        **methods(),
        "aim": [_AIM, _LEAST_YIELD],
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "first_fresh": FIRST_FRESH,
    }


def fresh(count: int, world: str = DEFAULT_WORLD) -> SceneRun:
    """Return scenes of a world that no choice was made on."""
    return SceneRun(Split.TEST, count, FIRST_FRESH, world)


def _figures(run_folder: str) -> dict[str, dict[str, Any]]:
    found = judged_sets(run_folder)
    return {name: {figure: as_json(found[name][figure]) for figure in TRIPLE} for name in (_KEPT, _ALL)}


@dataclass(frozen=True)
class _Ranked:
    """The expressions of a run, each with the probability that it is right.

    Attributes:
        probability: (T,) float64.
        is_right: (T,) bool.
        objects: (T,) int64, another number for each object of each scene; -1 for none.
        is_first: (T,) bool, the most probable one of its mask.
        num_masks: Of the run.
        num_objects: That can be seen.
    """

    probability: Floats
    is_right: Flags
    objects: NDArray[np.int64]
    is_first: Flags
    num_masks: int
    num_objects: int

    @classmethod
    def of(cls, run_folder: str) -> _Ranked:
        """Fit lines from confidence to the probability, of drawn and of composed expressions, to the run's truth."""
        location, truth = judged_run(run_folder)
        confidence = require_header(location).config.filtering.fitted_values.confidence
        images = judged_images(location, truth)
        lines = None if confidence is None else fit_pair_weight(images, confidence)
        if confidence is None or lines is None:
            raise ValueError(f"{run_folder} has no confidence that a bound could be set on")
        probabilities, firsts, objects = [], [], []
        for number, image in enumerate(images):
            drawn = line_weights(lines.drawn, confidence_of(image.features, confidence))
            both = np.concatenate([drawn, line_weights(lines.composed, image.beside.confidence)])
            groups = [*image.rated.groups, *(mask for mask, _ in image.beside.pairs)]
            targets = np.concatenate([image.targets, image.beside.targets])
            probabilities.append(both)
            firsts.append(ranks(both, groups) == 1)
            objects.append(np.where(targets < 0, -1, number * _MANY + targets))
        return cls(
            np.concatenate(probabilities),
            np.concatenate([each for image in images for each in (image.is_right, image.beside.is_right)]),
            np.concatenate(objects),
            np.concatenate(firsts),
            sum(image.num_masks for image in images),
            sum(image.num_visible for image in images),
        )

    def figures(self, kept: Flags) -> dict[str, float]:
        """Return accuracy, yield and coverage of some of them."""
        right = kept & self.is_right
        return {
            "accuracy": float(right.sum() / max(kept.sum(), 1)),
            "yield": float(kept.sum() / self.num_masks),
            "coverage": float(len(set(self.objects[right].tolist()) - {-1}) / self.num_objects),
        }

    def bounded(self, accuracy: float, least_yield: float) -> dict[str, float] | None:
        """Return the widest coverage of two bounds with an accuracy and a yield; None if no bounds have both.

        The bounds are on the probability of the most probable expression of a mask, and on that of others.
        """
        firsts, others = (
            rows[np.argsort(-self.probability[rows], kind="stable")]
            for rows in (np.flatnonzero(self.is_first), np.flatnonzero(~self.is_first))
        )
        right_others = np.concatenate([[0], np.cumsum(self.is_right[others])])
        num_others = np.arange(len(others) + 1)
        found = []
        for num_firsts in range(1, len(firsts) + 1):
            right = int(self.is_right[firsts[:num_firsts]].sum()) + right_others
            passing = np.flatnonzero(right >= accuracy * (num_firsts + num_others))
            # Coverage only grows with the others, so that the most of them are best.
            if len(passing) and num_firsts + passing[-1] >= least_yield * self.num_masks:
                kept = np.zeros(len(self.probability), np.bool_)
                kept[firsts[:num_firsts]] = True
                kept[others[: passing[-1]]] = True
                found.append(self.figures(kept))
        return max(found, key=lambda each: each["coverage"], default=None)


PART = Part(
    "expressions",
    run,
    template("expressions", lambda _: {"aim": _AIM, "least_yield": _LEAST_YIELD}),
    headline=headline,
    settings=settings,
)
