"""The paper's steps trained as the paper trains: the filter with kept captions alone, and with the authors' loader's.

What each outcome means was written before the first result: experiments/predictions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from experiments.quality.page import template
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import pseudo_run, training_scenes
from experiments.quality.student_arms import Answered, Arm, by_kind, paper_steps
from experiments.quality.students import NUM_SCENES, QUICK_SCENES, asked_fresh, settings_of
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
    arms = {f"{kind}/{name}": replace(arm, kind=kind) for kind in _KINDS for name, arm in arms.items()}
    found, result = answers(options, arms, shown="students of the paper's chain")
    return {**result, "differences": {kind: _differences(found, kind) for kind in _KINDS}}


def answers(options: Options, arms: Mapping[str, Arm], *, shown: str) -> tuple[Answered, Result]:
    """Return what the arms answer to the fresh scenes of this part, and the result without differences."""
    found, result = asked_fresh(options, arms, FIRST_FRESH, shown=shown)
    return found, {**result, "arms": {name: {**by_kind(found, name), **found.figures[name]} for name in arms}}


def _differences(found: Answered, kind: str) -> dict[str, Any]:
    return {f"{more} - {less}": found.difference(f"{kind}/{more}", f"{kind}/{less}") for more, less in _DIFFERENCES}


def miou(result: Result) -> Mapping[str, Any]:
    """Return mean and interval of mIoU by arm."""
    return {name: figures["all"] for name, figures in result["arms"].items()}


def settings(options: Options) -> Mapping[str, Any]:
    """Return what the figures depend on beside the method."""
    towers = {kind: weights_digest(Arm((), kind=kind).config().towers.weights)[:16] for kind in _KINDS}
    return {**settings_of(options, FIRST_FRESH), "towers": towers}


PART = Part(
    "paper_chain",
    run,
    template("paper_chain"),
    headline=lambda result: {"paper_chain": miou(result)},
    settings=settings,
)
