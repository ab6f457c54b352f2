"""The paper's steps trained as the paper trains: the filter with kept captions alone, and with the authors' loader's.

What each outcome means was written before the first result: experiments/predictions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from experiments.quality.page import template
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import (
    Answered,
    Arm,
    by_kind,
    num_steps,
    paper_steps,
    seeded,
    train_arms,
)
from experiments.quality.students import NUM_FRESH, NUM_SCENES, QUICK_FRESH, QUICK_SCENES
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.checkpoints.weight_files import weights_digest

# Nothing else asks scenes from here on.
FIRST_FRESH: Final = 50_000
_KINDS: Final[tuple[Literal["chooser", "segmenter"], ...]] = ("chooser", "segmenter")
_DIFFERENCES: Final = (
    ("filtered_pseudo_ris", "distinctive"),
    ("filtered_pseudo_ris", "filtered_distinct"),
    ("filtered_distinct", "distinctive"),
    ("distinctive", "naive"),
)


def run(options: Options) -> Result:
    """Train every arm of both learners, and ask all the same fresh scenes."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    steps = paper_steps(pseudo_run(options, scenes))
    distinct = steps.pop("filtered")
    drawn = replace(distinct, assignments=("data.draw=pseudo_ris",))
    arms = {**steps, "filtered_distinct": distinct, "filtered_pseudo_ris": drawn}
    groups = {
        f"{kind}/{name}": seeded(options, replace(arm, kind=kind)) for kind in _KINDS for name, arm in arms.items()
    }
    count = options.scenes(NUM_FRESH, QUICK_FRESH)
    val = true_run(options, SceneRun(Split.TEST, count, FIRST_FRESH))
    found = train_arms(options, groups, val, shown="students of the paper's chain")
    return {
        "scenes": scenes.count,
        "test_scenes": count,
        "seeds": len(groups["chooser/naive"]),
        "arms": {name: {**by_kind(found, name), **found.figures[name]} for name in groups},
        "differences": {kind: _differences(found, kind) for kind in _KINDS},
    }


def _differences(found: Answered, kind: str) -> dict[str, Any]:
    return {f"{more} - {less}": found.difference(f"{kind}/{more}", f"{kind}/{less}") for more, less in _DIFFERENCES}


def headline(result: Result) -> Mapping[str, Any]:
    """Return `paper_chain`: mean and interval of mIoU by learner and arm."""
    return {"paper_chain": {name: figures["all"] for name, figures in result["arms"].items()}}


def settings(options: Options) -> Mapping[str, Any]:
    """Return what the figures depend on beside the method."""
    return {
        "towers": {kind: weights_digest(Arm((), kind=kind).config().towers.weights)[:16] for kind in _KINDS},
        "steps": num_steps(options),
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "test_scenes": options.scenes(NUM_FRESH, QUICK_FRESH),
        "first_fresh": FIRST_FRESH,
    }


PART = Part("paper_chain", run, template("paper_chain"), headline=headline, settings=settings)
