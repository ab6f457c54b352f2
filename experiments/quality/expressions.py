"""How right the expressions of a configuration are, in every world, on scenes that no choice was made on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from experiments.quality.judged_run import judged_sets
from experiments.quality.markdown_cells import as_json, cell, markdown_table
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import EXAMPLES, SceneRun, pseudo_run
from experiments.quality.students import BEST_PRESET, FIRST_FRESH, LISTENER_COMPOSER
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.synthworld.scenes import Split
from pseudoris.synthworld.worlds import DEFAULT_WORLD

NUM_SCENES, QUICK_SCENES = 100, 20
# The last was written after every choice was made.
WORLDS: Final = (DEFAULT_WORLD, "second", "shifted", "fourth")
_FIGURES: Final = ("accuracy", "yield", "coverage")
_KEPT, _ALL = "kept", "all"
_SHIPPED: Final = "tiny"


def run(options: Options) -> Result:
    """Annotate fresh scenes of every world as a user does, and judge them."""
    count = options.scenes(NUM_SCENES, QUICK_SCENES)
    worlds = {world: _figures(pseudo_run(options, _fresh(count, world), example=LISTENER_COMPOSER)) for world in WORLDS}
    other = {
        BEST_PRESET: _figures(pseudo_run(options, _fresh(count), preset=BEST_PRESET)),
        _SHIPPED: _figures(pseudo_run(options, _fresh(count))),
    }
    return {"scenes": count, "worlds": worlds, "other": other}


def section(result: Result) -> str:
    """Return the part's Markdown."""
    rows = [
        [f"`{LISTENER_COMPOSER}`", f"`{world}`", *(cell(found[_KEPT][figure]) for figure in _FIGURES), _ceiling(found)]
        for world, found in result["worlds"].items()
    ]
    rows += [
        [f"`{name}`", f"`{DEFAULT_WORLD}`", *(cell(found[_KEPT][figure]) for figure in _FIGURES), _ceiling(found)]
        for name, found in result["other"].items()
    ]
    text = (
        f"{result['scenes']} fresh scenes of each world: no setting was chosen on them, and the generator of the "
        "fourth was written after every choice. Annotated by `pseudoris annotate`, judged by `pseudoris evaluate`. The "
        "last column is the ceiling of any filter: the share of objects of which something right was drawn."
    )
    header = ["configuration", "world", "accuracy", "yield a mask", "coverage", "coverage of all draws"]
    return "\n\n".join(["## Expressions on fresh scenes", text, markdown_table(header, rows)])


def headline(result: Result) -> Mapping[str, Any]:
    """Return `expressions`: accuracy with its lower end, yield and coverage, by world."""
    found = {}
    for world, sets in result["worlds"].items():
        kept = sets[_KEPT]
        found[world] = {figure: kept[figure]["value"] for figure in _FIGURES} | {"low": kept["accuracy"]["low"]}
    return {"expressions": found}


def settings(options: Options) -> Mapping[str, Any]:
    """Return what the figures depend on beside the method of `tiny`."""
    methods = {
        LISTENER_COMPOSER: load_config("tiny", EXAMPLES / LISTENER_COMPOSER),
        BEST_PRESET: load_config(BEST_PRESET),
    }
    return {
        **{name: config_hash(config)[:16] for name, config in methods.items()},
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "first_fresh": FIRST_FRESH,
    }


def _fresh(count: int, world: str = DEFAULT_WORLD) -> SceneRun:
    return SceneRun(Split.TEST, count, FIRST_FRESH, world)


def _figures(run_folder: str) -> dict[str, dict[str, Any]]:
    found = judged_sets(run_folder)
    return {name: {figure: as_json(found[name][figure]) for figure in _FIGURES} for name in (_KEPT, _ALL)}


def _ceiling(found: Mapping[str, Any]) -> str:
    return cell(found[_ALL]["coverage"])


PART = Part("expressions", run, section, headline=headline, settings=settings)
