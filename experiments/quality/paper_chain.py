"""The paper's steps trained as the paper trains: the filter with kept captions alone, and with the authors' loader's.

What each outcome means was written before the first result: experiments/predictions.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, Literal

from experiments.quality.markdown_cells import cell, markdown_table
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import (
    Answered,
    Arm,
    by_kind,
    num_steps,
    paper_steps,
    said_difference,
    seeded,
    train_arms,
)
from experiments.quality.students import NUM_FRESH, NUM_SCENES, QUICK_FRESH, QUICK_SCENES
from pseudoris.synthworld.scenes import Split
from pseudoris.workers.checkpoints.weight_files import weights_digest

# Nothing else asks scenes from here on.
FIRST_FRESH: Final = 50_000
_KINDS: Final[tuple[Literal["chooser", "segmenter"], ...]] = ("chooser", "segmenter")
_TITLES: Final = {
    "naive": "naive captions (beam search)",
    "distinctive": "+ distinctive sampling",
    "filtered_distinct": "+ filter, kept captions alone (`draw=distinct`)",
    "filtered_pseudo_ris": "+ filter, the authors' draw (`draw=pseudo_ris`)",
}
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


def section(result: Result) -> str:
    """Return the part's Markdown."""
    rows = [
        [title, *(cell(result["arms"][f"{kind}/{name}"]["all"]) for kind in _KINDS)] for name, title in _TITLES.items()
    ]
    said = [
        f"- {_TITLES[more].removeprefix('+ ')}, over {_TITLES[less].removeprefix('+ ')}: "
        + "; ".join(f"{kind} {said_difference(result['differences'][kind][f'{more} - {less}'])}" for kind in _KINDS)
        + "."
        for more, less in _DIFFERENCES
    ]
    text = (
        f"The steps of the paper on {result['scenes']} scenes, asked about {result['test_scenes']} fresh ones, mIoU; "
        f"means over {result['seeds']} seeds, 95 % intervals over scenes and seeds. The authors' loader draws any "
        "caption of a mask where none passes τ, weighs a text by how often it was drawn, and halves those of a mask "
        "alone in its image; `distinct` draws kept texts alone, each alike, and leaves a mask without one out. Rows "
        "without the filter draw `distinct`: the filter with the authors' draw differs from them in both. [What each "
        "outcome means](../experiments/predictions.md) was written first."
    )
    table = markdown_table(["learnt from", *_KINDS], rows)
    return "\n\n".join(["## The paper's chain, trained as the paper trains", text, table, "\n".join(said)])


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


PART = Part("paper_chain", run, section, headline=headline, settings=settings)
