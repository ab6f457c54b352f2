"""Fits the confidence on development scenes, and measures its gain on test scenes and in other worlds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np

from evidence.experiments.composing.posterior_fit import fitted_weights
from evidence.experiments.listener.judged_scenes import (
    COMPOSERS,
    FEATURE_SETS,
    Composed,
    Rule,
    SceneRows,
    bootstrap,
    collect,
)
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.annotated_scenes import LISTENED, SHIPPED, SceneSet, annotated_chunk, annotated_scenes
from evidence.experiments.quality.markdown_cells import TRIPLE, differences, ratios
from evidence.experiments.quality.parts import Options, draw_generator
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.estimate import Sums
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import Scene
from pseudoris.training.calibration.confidence_fit import (
    NO_LABELS,
    Calibration,
    JudgedImage,
    calibrate,
    choose,
    fit,
    reached,
    without_labels,
)
from pseudoris.workers.composing.composer import Composer

SceneT = TypeVar("SceneT")

# Of the confidence: numbers of scenes, draws of each number, and the features that are weighed.
COUNTS: Final = (5, 10, 20, 50, 100, 200)
NUM_DRAWS: Final = 10
NAMES: Final = ("clip+vote", "all")
# As many scenes as a person annotates in a day or two.
BY_SENTENCES: Final = 50

# Of the posterior, which takes longer to judge: each draw composes anew.
POSTERIOR_COUNTS: Final = (5, 20, 50, 200)
NUM_POSTERIOR_DRAWS: Final = 3
COMPOSER: Final = "weighing composer"
# Weights are fitted; what they are bounded by stays.
_FITTED: Final = (
    *("noun_share", "noun_correctness", "word_bias", "word_against", "word_share"),
    *("object_bias", "object_predicted_iou", "object_stability", "object_overlap"),
)
_SEED: Final = 6


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
            found = [_calibrated(chosen, name, aim) for chosen in draws_of(development, count, NUM_DRAWS)]
            rows.append({"rule": name, "scenes": count, "labels": "oracle", **_row(found, development, asked)})
    by_sentences = [replace(scene, is_right=scene.is_right_by_sentences) for scene in development]
    for name in NAMES:
        count = min(BY_SENTENCES, len(by_sentences))
        found = [_calibrated(chosen, name, aim) for chosen in draws_of(by_sentences, count, NUM_DRAWS)]
        rows.append({"rule": name, "scenes": count, "labels": "sentences", **_row(found, development, asked)})
    return rows


def measure_posterior_labels(
    options: Options, development: SceneSet, asked: Mapping[str, SceneSet]
) -> list[dict[str, Any]]:
    """Return a row for each number of scenes: figures of what is composed alone, by the name of the scenes asked."""
    images = annotated_scenes(options, development, LISTENED)
    fitted = [
        (count, _fitted_composer([development.scene(at) for at in chosen], [images[at] for at in chosen]))
        for count in POSTERIOR_COUNTS
        if count <= development.count
        for chosen in draws_of(range(development.count), count, NUM_POSTERIOR_DRAWS)
    ]
    composers = tuple(composer for _, composer in fitted)
    figures = {name: _composed_figures(options, scenes, composers) for name, scenes in asked.items()}
    rows = []
    for count in dict.fromkeys(count for count, _ in fitted):
        at = [place for place, (each, _) in enumerate(fitted) if each == count]
        found = {name: spread([of_scenes[place] for place in at]) for name, of_scenes in figures.items()}
        # Of several draws the first one's weights.
        weights = {name: getattr(composers[at[0]].posterior, name) for name in _FITTED}
        rows.append({"scenes": count, "draws": len(at), "weights": weights, **found})
    return rows


def draws_of(scenes: Sequence[SceneT], count: int, num_draws: int) -> Iterator[list[SceneT]]:
    """Yield different draws of `count` scenes; one where that is all of them."""
    for draw in range(num_draws if count < len(scenes) else 1):
        rng = draw_generator(_SEED, count, draw)
        yield [scenes[place] for place in sorted(rng.choice(len(scenes), count, replace=False).tolist())]


def figures_of(sums: Sequence[Sums]) -> list[float]:
    """Return accuracy, yield and coverage of all images together."""
    totals = np.sum([[each[name] for name in TRIPLE] for each in sums], axis=0)
    return [numerator / denominator if denominator else 0.0 for numerator, denominator in totals.tolist()]


def spread(figures: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Return mean, deviation and the least of accuracy, yield and coverage over draws."""
    table = np.array(figures)
    deviation = table.std(axis=0, ddof=1) if len(table) > 1 else np.full(table.shape[1], np.nan)
    return {
        name: {
            "mean": round(float(table[:, at].mean()), 4),
            "std": None if np.isnan(deviation[at]) else round(float(deviation[at]), 4),
            "least": round(float(table[:, at].min()), 4),
        }
        for at, name in enumerate(TRIPLE)
    }


def _calibrated(scenes: Sequence[JudgedImage], name: str, aim: tuple[float, float]) -> Calibration:
    return calibrate(scenes, FEATURE_SETS[name], coverage=aim[0], least_yield=aim[1])


def _no_labels(asked: Mapping[str, Sequence[SceneRows]], aim: tuple[float, float]) -> dict[str, Any]:
    """Of each set of scenes by the scores of its own candidates: without labels nothing is seen too early."""
    found = {name: without_labels(scenes, NO_LABELS, wanted_yield=aim[1]) for name, scenes in asked.items()}
    figures = {name: spread([_kept_figures(found[name], scenes)]) for name, scenes in asked.items()}
    return {"rule": "no labels", "scenes": 0, "labels": "none", "draws": 1, "candidates_a_scene": 0.0, **figures}


def _row(
    found: Sequence[Calibration], development: Sequence[SceneRows], asked: Mapping[str, Sequence[SceneRows]]
) -> dict[str, Any]:
    return {
        "draws": len(found),
        "candidates_a_scene": round(float(np.mean([len(scene.is_right) for scene in development])), 1),
        **{name: spread([_kept_figures(each, scenes) for each in found]) for name, scenes in asked.items()},
    }


def _kept_figures(found: Calibration, scenes: Sequence[JudgedImage]) -> list[float]:
    return figures_of([scene.sums(found.reached.bounds.keeps(scene, found.weights)) for scene in scenes])


def _fitted_composer(scenes: Sequence[Scene], images: Sequence[ShardImage]) -> Composer:
    """The composer that ships, with weights of these scenes."""
    shipped = COMPOSERS[COMPOSER]
    weights = fitted_weights(scenes, images, shipped.posterior.counts)
    posterior = shipped.posterior.model_copy(update={name: getattr(weights, name) for name in _FITTED})
    return Composer(shipped.config, posterior)


def _composed_figures(options: Options, scenes: SceneSet, composers: tuple[Composer, ...]) -> list[list[float]]:
    compose_chunk = partial(_compose_chunk, options.out, scenes, composers)
    shown = f"composing on {scenes.world} {scenes.split} scenes"
    chunks = run_jobs(compose_chunk, scenes.chunks, options.processes, shown=shown)
    return [figures_of([sums for chunk in chunks for sums in chunk[place]]) for place in range(len(composers))]


def _compose_chunk(out: Path, scenes: SceneSet, composers: tuple[Composer, ...], chunk: range) -> list[list[Sums]]:
    images = annotated_chunk(out, scenes, chunk, LISTENED, SHIPPED)
    truths = [SceneImageTruth(scenes.scene(at)) for at in chunk]
    return [Composed.of(truths, images, composer).sums() for composer in composers]


# Coverage aimed at on development scenes, with a yield of at least so many expressions a mask.
AIMS: Final = ((0.55, 2.0), (0.65, 2.0), (0.72, 2.0), (0.8, 2.0))
# The aim whose rules the page compares, and for which labels are counted.
COMPARED: Final = (0.65, 2.0)
# The features that are weighed, and the composer beside them.
RULES: Final[Mapping[str, tuple[str, str | None]]] = {
    **{name: (name, None) for name in FEATURE_SETS},
    "all+weighing composer": ("all", "weighing composer"),
    # Neither listens: the cheapest of all that weighs.
    "clip+vote+weighing draws": ("clip+vote", "weighing draws"),
}
# Each adds one thing to the one before it, or beside it.
_STEPS: Final = (
    ("clip+vote", "clip"),
    ("clip+listener", "clip"),
    ("all", "clip"),
    ("all", "clip+vote"),
    ("all+weighing composer", "all"),
    ("clip+vote+weighing draws", "clip+vote"),
    ("all+weighing composer", "clip+vote+weighing draws"),
)


def measure(options: Options, development: SceneSet, asked: Mapping[str, SceneSet]) -> dict[str, Any]:
    """Annotate and judge all scenes, and return what `gain_report` says, with the labels that the composer needs.

    Args:
        options: Where scored candidates are kept, and with how many processes they are made.
        development: Scenes to fit on and to choose by.
        asked: Scenes to report, by name.
    """
    rows = {name: collect(options, scenes, LISTENED) for name, scenes in asked.items()}
    report = gain_report(collect(options, development, LISTENED), rows)
    # The last of three would add a minute, and nothing that the second does not show.
    first_two = dict(list(asked.items())[:2])
    return {**report, "composer_weights": measure_posterior_labels(options, development, first_two)}


def gain_report(development: Sequence[SceneRows], asked: Mapping[str, Sequence[SceneRows]]) -> dict[str, Any]:
    """Return the weights, the bounds for each aim, and what all rules come to under them, as JSON values.

    Args:
        development: Judged scenes to fit on and to choose bounds by.
        asked: Judged scenes to report, by name.
    """
    weights = {name: fit(development, names) for name, names in FEATURE_SETS.items()}
    reaches = {
        name: reached([scene.beside_composer(composer) for scene in development], weights[names])
        for name, (names, composer) in RULES.items()
    }
    aims = []
    for coverage, least_yield in AIMS:
        chosen = {name: choose(each, coverage=coverage, least_yield=least_yield) for name, each in reaches.items()}
        rules = {name: Rule(weights[names], chosen[name].bounds, composer) for name, (names, composer) in RULES.items()}
        aims.append(
            {
                "coverage": coverage,
                "yield": least_yield,
                "bounds": {name: rule.as_json() for name, rule in rules.items()},
                "development": {name: each.as_json() for name, each in chosen.items()},
                **{name: _figures(scenes, rules) for name, scenes in asked.items()},
            }
        )
    return {
        "scenes": {"development": len(development), **{name: len(scenes) for name, scenes in asked.items()}},
        "weights": {name: each.model_dump(exclude_defaults=True) for name, each in weights.items()},
        "aims": aims,
        "labels": measure_labels(development, asked, COMPARED),
    }


def _figures(scenes: Sequence[SceneRows], rules: Mapping[str, Rule]) -> dict[str, Any]:
    found = bootstrap(scenes, load_config("tiny").filtering.tau, rules)
    steps = (*((name, "preset") for name in rules), ("all", "paper"), *_STEPS)
    return {
        "rules": {name: ratios(found, name) for name in ("right", "paper", "preset", *rules)},
        "steps": {f"{better} - {worse}": differences(found, better, worse) for better, worse in steps},
    }
