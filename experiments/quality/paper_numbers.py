"""The filter with the paper's numbers, trained as the paper trains: what the shipped numbers of the chain leave open.

What each outcome means was written before the first result: experiments/predictions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import pseudoris
from experiments.quality.page import template
from experiments.quality.paper_chain import FIRST_FRESH
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import UNFILTERED, Arm, by_kind, num_steps, seeded, train_arms
from experiments.quality.students import NUM_FRESH, NUM_SCENES, QUICK_FRESH, QUICK_SCENES
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.checkpoints.weight_files import weights_digest

# Equation 6 has tau = 1, the authors' code the lower bound of a cosine.
_PAPER: Final = ("filtering.tau=1", "filtering.min_cosine=1e-4")
_DRAW: Final = ("data.draw=pseudo_ris",)
_DIFFERENCES: Final = (
    ("paper_numbers", "distinctive"),
    ("tau_one", "distinctive"),
    ("shipped", "distinctive"),
    ("paper_numbers", "shipped"),
)


def run(options: Options) -> Result:
    """Train a chooser on each, and ask all the fresh scenes of the paper's chain."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    shipped = pseudo_run(options, scenes)
    # The scores do not depend on tau.
    tau_one = f"{shipped}-tau-1"
    pseudoris.refilter(shipped, tau_one, tau=1)
    arms = {
        "distinctive": Arm((shipped,), assignments=(UNFILTERED,)),
        "shipped": Arm((shipped,), assignments=_DRAW),
        "tau_one": Arm((tau_one,), assignments=_DRAW),
        "paper_numbers": Arm((pseudo_run(options, scenes, filtering=_PAPER),), assignments=_DRAW),
    }
    groups = {name: seeded(options, arm) for name, arm in arms.items()}
    count = options.scenes(NUM_FRESH, QUICK_FRESH)
    val = true_run(options, SceneRun(Split.TEST, count, FIRST_FRESH))
    found = train_arms(options, groups, val, shown="students of the paper's numbers")
    return {
        "scenes": scenes.count,
        "test_scenes": count,
        "seeds": len(groups["shipped"]),
        "arms": {name: {**by_kind(found, name), **found.figures[name]} for name in groups},
        "differences": {f"{more} - {less}": found.difference(more, less) for more, less in _DIFFERENCES},
    }


def headline(result: Result) -> Mapping[str, Any]:
    """Return `paper_numbers`: mean and interval of mIoU by arm."""
    return {"paper_numbers": {name: figures["all"] for name, figures in result["arms"].items()}}


def settings(options: Options) -> Mapping[str, Any]:
    """Return what the figures depend on beside the method."""
    return {
        "towers": weights_digest(Arm(()).config().towers.weights)[:16],
        "steps": num_steps(options),
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "test_scenes": options.scenes(NUM_FRESH, QUICK_FRESH),
        "first_fresh": FIRST_FRESH,
    }


PART: Final = Part("paper_numbers", run, template("paper_numbers"), headline=headline, settings=settings)
