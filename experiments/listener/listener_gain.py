"""Fits the confidence on development scenes, and measures its gain on test scenes and in other worlds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from experiments.listener.judged_scenes import (
    FEATURE_SETS,
    Rule,
    SceneRows,
    bootstrap,
    collect,
    rule_tree,
    step_tree,
)
from experiments.listener.label_budget import measure_labels, measure_posterior_labels
from experiments.quality.annotated_scenes import LISTENED, SceneSet
from experiments.quality.parts import Options
from pseudoris.schemas.config_layers import load_config
from pseudoris.training.calibration.confidence_fit import choose, fit, reached

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
    """The figures of some scenes under each rule, and the paired differences between rules."""
    found = bootstrap(scenes, load_config("tiny").filtering.tau, rules)
    steps = (*((name, "preset") for name in rules), ("all", "paper"), *_STEPS)
    return {
        "rules": {name: rule_tree(found, name) for name in ("right", "paper", "preset", *rules)},
        "steps": {f"{better} - {worse}": step_tree(found, better, worse) for better, worse in steps},
    }
