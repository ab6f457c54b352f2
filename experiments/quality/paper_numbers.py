"""The filter with the paper's numbers, trained as the paper trains: what the shipped numbers of the chain leave open.

What each outcome means was written before the first result: experiments/predictions.md.
"""

from __future__ import annotations

from functools import partial
from typing import Final

import pseudoris
from experiments.quality.page import template
from experiments.quality.paper_chain import FIRST_FRESH, answers, miou
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import pseudo_run, training_scenes
from experiments.quality.student_arms import UNFILTERED, Arm
from experiments.quality.students import NUM_SCENES, QUICK_SCENES, settings_of

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
    found, result = answers(options, arms, shown="students of the paper's numbers")
    return {**result, "differences": {f"{more} - {less}": found.difference(more, less) for more, less in _DIFFERENCES}}


PART: Final = Part(
    "paper_numbers",
    run,
    template("paper_numbers"),
    headline=lambda result: {"paper_numbers": miou(result)},
    settings=partial(settings_of, first=FIRST_FRESH),
)
