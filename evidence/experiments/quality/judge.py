"""The expressions of the best preset, judged by other conventions than those that the composer was written with.

Judge and composer share what "on the left" means (the outer third of the picture) and how far aside "left of" may lead
(twice the way): a composer that is held to its own conventions looks better than a viewer with others would find it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from evidence.experiments.quality.expressions import fresh
from evidence.experiments.quality.markdown_cells import TRIPLE, as_json
from evidence.experiments.quality.page import template
from evidence.experiments.quality.parts import Options, Part, Result
from evidence.experiments.quality.scene_runs import judged_sets, pseudo_run
from evidence.experiments.quality.students import BEST_PRESET, FIRST_FRESH, OF_ONE_MASK, methods
from pseudoris.synthworld import scene_truth

# Nothing was chosen on it, though its first scenes were shown before the preset was made.
WORLD: Final = "fourth"
NUM_SCENES, QUICK_SCENES = 300, 20
# The share of the picture that is a side, and the largest slant that some viewer would still call that side.
JUDGES: Final[Mapping[str, tuple[float, float]]] = {
    "a third, slant 2.0": (1 / 3, 2.0),
    "a quarter, slant 1.5": (1 / 4, 1.5),
    "a half, slant 2.0": (1 / 2, 2.0),
}


def run(options: Options) -> Result:
    """Annotate fresh scenes as a user does, and ask each judge."""
    count = options.scenes(NUM_SCENES, QUICK_SCENES)
    folder = pseudo_run(options, fresh(count, WORLD), preset=BEST_PRESET, composing=OF_ONE_MASK)
    judges = {}
    for name, (side_share, max_slant) in JUDGES.items():
        with conventions(side_share, max_slant):
            kept = judged_sets(folder)["kept"]
        judges[name] = {figure: as_json(kept[figure]) for figure in TRIPLE}
    return {"scenes": count, "world": WORLD, "judges": judges}


@contextmanager
def conventions(side_share: float, max_slant: float) -> Iterator[None]:
    """Let the oracle judge by other conventions for a while."""
    before = scene_truth.SIDE, scene_truth.MAX_SLANT
    scene_truth.SIDE, scene_truth.MAX_SLANT = side_share, max_slant
    try:
        yield
    finally:
        scene_truth.SIDE, scene_truth.MAX_SLANT = before


def headline(result: Result) -> Mapping[str, Any]:
    """Return `judges`: the accuracy by each of them."""
    return {"judges": {name: found["accuracy"] for name, found in result["judges"].items()}}


def settings(options: Options) -> Mapping[str, Any]:
    """Return what the figures depend on beside the method of `tiny`."""
    return {
        **methods(),
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "first_fresh": FIRST_FRESH,
        "judges": [list(each) for each in JUDGES.values()],
    }


PART: Final = Part("judge", run, template("judge"), headline=headline, settings=settings)
