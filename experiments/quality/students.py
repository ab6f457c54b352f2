"""What a student learns from each step of the method: naive captions, distinctive ones, filtered ones, and the truth.

All students see the same training images; expressions and masks differ: the pipeline has SAM's masks, the truth has
the true ones. On held-out scenes they are evaluated with what people would say (`human_expressions`), half
of which names a place or a relation. Two baselines that need no training are listed as well.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, Final

import torch

from experiments.quality.markdown_cells import markdown_table
from experiments.quality.parts import Options, Part, Result
from experiments.quality.scene_runs import BY_SHARES, SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import (
    Arm,
    is_decided,
    mean_and_deviation,
    num_steps,
    said_difference,
    seeded,
    summarise,
    train_arms,
)
from experiments.quality.student_baselines import BaselineMask, BaselineMasks, ClipBaseline, RandomBaseline
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import Shard, ShardImage
from pseudoris.synthworld.scene_shards import encode_png
from pseudoris.synthworld.scenes import Split
from pseudoris.training.learning.evaluator import HeldOutExpressions, evaluate, named_figures
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.masks import SamProposer

# Of the other parts that train students too, which then share these arms.
NUM_SCENES, QUICK_SCENES = 400, 40
NUM_TEST, QUICK_TEST = 150, 20
_RANDOM_SEEDS: Final = 5
# Every draw of the captioner, whether the filter kept it or not.
_UNFILTERED: Final = "data.is_kept_only=false"
_TITLES: Final = {
    "random": "no training: a random mask of SAM's",
    "clip": "no training: SAM's mask with the best CLIP score",
    "naive": "naive captions (beam search)",
    "distinctive": "+ distinctive sampling",
    "filtered": "+ filter",
    "composed": "+ positions and relations (composer)",
    "truth": "people's masks and expressions",
}
_FIGURES: Final = {"miou": "mIoU", "oiou": "oIoU", "p30": "P@0.3", "p50": "P@0.5", "p70": "P@0.7", "p90": "P@0.9"}
# Each takes one step more than the one before; docs/quality.json says mean and deviation of them at its top.
_HEADLINE: Final = ("naive", "distinctive", "filtered", "composed", "truth")


def run(options: Options) -> Result:
    """Train on each, and measure the baselines."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    val = test_run(options)
    arms = {
        "naive": Arm((pseudo_run(options, scenes),), assignments=(_UNFILTERED, 'data.decoders=["beam"]')),
        "distinctive": Arm((pseudo_run(options, scenes),), assignments=(_UNFILTERED,)),
        "filtered": Arm((pseudo_run(options, scenes),)),
        "composed": Arm((pseudo_run(options, scenes, composing=BY_SHARES),)),
        "truth": Arm((true_run(options, scenes),)),
    }
    groups = {name: seeded(options, arm) for name, arm in arms.items()}
    found = train_arms(options, groups, val, shown="students of each step")
    torch.set_num_threads(1)
    return {
        "scenes": scenes.count,
        "test_scenes": options.scenes(NUM_TEST, QUICK_TEST),
        "seeds": len(groups["truth"]),
        "arms": {**baselines(HeldOutExpressions(val)), **found.figures},
        "differences": {more: found.difference(more, less) for less, more in pairwise(_HEADLINE)},
    }


def test_run(options: Options) -> str:
    """Return the held-out scenes of the captioner's own world, as people would describe them."""
    return true_run(options, SceneRun(Split.TEST, options.scenes(NUM_TEST, QUICK_TEST)))


def baselines(questions: HeldOutExpressions) -> dict[str, dict[str, Any]]:
    """Return the figures of what needs no training: a random mask, over five draws, and the best one by CLIP."""
    proposed, config = propose(questions), load_config("tiny")
    drawn = [evaluate(RandomBaseline(proposed, seed=seed), questions) for seed in range(_RANDOM_SEEDS)]
    best = evaluate(ClipBaseline(proposed, config.filtering, config.compute, crops="both"), questions)
    return {
        "random": summarise([named_figures(meter.figures()) for meter in drawn]),
        "clip": summarise([named_figures(best.figures())]),
    }


def propose(questions: HeldOutExpressions) -> BaselineMasks:
    """Return the masks that the tiny preset's SAM proposes for the images of the questions."""
    config = load_config("tiny")
    proposer = SamProposer(config.masks, config.compute)
    found: dict[str, list[BaselineMask]] = {}
    for question in questions.of(questions.image_ids):
        data = encode_png(question.image.permute(1, 2, 0).numpy())
        height, width = question.image.shape[1:]
        image = ShardImage(0, question.image_id, "", data, sha256=sha256_hex(data), height=height, width=width)
        (done,) = proposer(Shard(0, 0, (image,))).images
        found[done.image_id] = [BaselineMask(mask.rle_size, mask.rle_counts, mask.box_xyxy_px) for mask in done.masks]
    return BaselineMasks(found)


def section(result: Result) -> str:
    """Return the part's Markdown."""
    arms = result["arms"]
    best = arms["truth"]["miou"]["mean"]
    rows = [
        [
            title,
            *(mean_and_deviation(arms[name], figure) for figure in _FIGURES),
            f"{arms[name]['miou']['mean'] / best:.0%}",
        ]
        for name, title in _TITLES.items()
    ]
    header = ["learnt from", *_FIGURES.values(), "share of the truth's mIoU"]
    blocks = [_introduction(result), markdown_table(header, rows), "\n".join(_readings(result))]
    return "\n\n".join(["## What a student learns", *blocks])


def headline(result: Result) -> Mapping[str, Any]:
    """Return `student_miou`: mean and standard deviation by what was learnt from."""
    arms = result["arms"]
    named = {name: {key: arms[name]["miou"][key] for key in ("mean", "std")} for name in _HEADLINE}
    return {"student_miou": named}


def _introduction(result: Result) -> str:
    return (
        f"A RIS student ([student.md](student.md)) learns from {result['scenes']} scenes of its captioner's world, "
        f"which no model of `tiny` has seen, and is asked what people would say of the objects of "
        f"{result['test_scenes']} test scenes. Mean ± standard deviation of {result['seeds']} seeds (of the random "
        f"mask, of {_RANDOM_SEEDS} draws). About half of the questions name a place or a relation, of which a "
        "captioner of crops never speaks: the composer's row is what that costs."
    )


def _readings(result: Result) -> list[str]:
    """Return what the table says, each a point of a list; what does not hold of these figures is left out."""
    arms, steps = result["arms"], result["differences"]
    miou = {name: arms[name]["miou"]["mean"] for name in _TITLES}
    said = [
        f"- Paired over scenes, distinctive sampling against naive captions is worth "
        f"{said_difference(steps['distinctive'])}; the filter on top {said_difference(steps['filtered'])}; positions "
        f"and relations on top of that {said_difference(steps['composed'])}; people's annotation on top of all "
        f"{said_difference(steps['truth'])}."
    ]
    if is_decided(steps["filtered"]) and steps["filtered"]["value"] < 0:
        said.append(
            "- The shipped filter is made for right expressions, and is silent about objects that are hard to tell "
            "apart: of those the student sees no mask at all. Whether wrong texts or missing objects cost it more "
            "these rows do not tell apart; what the composer adds speaks of such objects again."
        )
    if miou["clip"] > miou["truth"]:
        said.append(
            "- The student's frozen towers come from the same world: their CLIP began as a SAM that had true masks of "
            "6,000 scenes, and learnt noisy captions with a point in each object ([student.md](student.md)). Choosing "
            "among that SAM's own masks by the filter's CLIP still beats it, on the truth too. Read the rows against "
            "each other, not as what a student can be."
        )
    if miou["clip"] > miou["truth"] and arms["truth"]["p30"]["mean"] > arms["clip"]["p30"]["mean"]:
        said.append(
            "- What it lacks then are outlines: on the truth it finds the object (P@0.3) more often than CLIP, and "
            "draws its mask anew, in a few hundred steps, where CLIP is handed one of SAM's."
        )
    return said


def settings(options: Options) -> Mapping[str, Any]:
    """Return what figures of students depend on beside the method: their frozen towers, and how much they see."""
    return {
        "towers": weights_digest(Arm(()).config().towers.weights)[:16],
        "steps": num_steps(options),
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "test_scenes": options.scenes(NUM_TEST, QUICK_TEST),
    }


PART = Part("students", run, section, headline=headline, settings=settings)
