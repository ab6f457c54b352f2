"""What a student learns from each step of the method: naive captions, distinctive, filtered, composed, simulated.

All students see the same training images; expressions and masks differ: the pipeline has SAM's masks,
simulated annotators the renderer's true ones. On fresh scenes they are asked what simulated annotators say
(`simulated_expressions`), half of which names a place or a relation. Rows that need no training choose among the same
masks.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise
from typing import Any, Final

import torch

from evidence.experiments.quality.markdown_cells import as_json
from evidence.experiments.quality.page import template
from evidence.experiments.quality.parts import BEFORE_0_7, Options, Part, Result
from evidence.experiments.quality.scene_runs import (
    EXAMPLES,
    KINDS,
    SceneRun,
    judged_sets,
    pseudo_run,
    read_kinds,
    training_scenes,
    true_run,
)
from evidence.experiments.quality.student_arms import (
    NUM_SEEDS,
    Answered,
    Arm,
    answered,
    answers_of,
    by_kind,
    num_steps,
    paper_steps,
    seeded,
    train_arms,
)
from evidence.experiments.quality.student_baselines import Ceiling, PlaceRules, RandomBaseline, head_phrase
from evidence.experiments.quality.svg_chart import Line, axis_of, line_chart, whisker
from pseudoris.schemas.config_layers import config_hash, load_config
from pseudoris.synthworld.scenes import Split
from pseudoris.training.evaluation.answerers import ClipChoice, SamProposals
from pseudoris.training.evaluation.held_out import Answerer, HeldOutExpressions
from pseudoris.workers.checkpoints.weight_files import weights_digest

NUM_SCENES, QUICK_SCENES = 400, 40
# Scenes that no choice was made on, asked once: those from 20,000 on were looked at before the best preset had its own
# captioner.
FIRST_FRESH, NUM_FRESH, QUICK_FRESH = 40_000, 300, 20
_RANDOM_SEEDS: Final = 5
# How much below the best score a mask may lie and still be the noun; chosen on development scenes.
_PLACE_MARGIN: Final = 0.4
# The listener and the composer: what is most often right (a file of examples/), and what trains best (a
# preset). The second, and that texts are said in other words, were chosen on development scenes.
LISTENER_COMPOSER, BEST_PRESET = "listener-composer.yaml", "tiny-composed"
# Without groups and absences, which the figures do not count and the students do not read.
OF_ONE_MASK: Final = "composing={kinds: [attribute, position, relation], bank: null}"
REWORDED: Final = ("data.rewording=true",)
# What the preset says with the captioner of `tiny`; the bounds were chosen on development scenes.
_SAYS_MORE: Final = "composing={max_per_mask: 12, min_first: 0.5, min_further: 0.6, max_per_form: 4}"
# Of rows that no claim stands on.
_FEWER_SEEDS: Final = {
    **dict.fromkeys(("probability", "reworded", "more"), 3),
    **dict.fromkeys(("best_plain", "simulated_people_plain"), 2),
}
# Without what is hand-written knowledge of English.
_WITHOUT_HAND: Final = ("model.has_head_noun=false", "mirrored_words=null")
# The paper's order, and what comes after it.
_STEPS: Final = (*("naive", "distinctive", "filtered", "probability", "reworded", "more", "best", "simulated_people"),)
# What these learn from, as an evaluation names it; the others learn from what is kept.
_LEARNT_SETS: Final = {"naive": "beam", "distinctive": "all"}
# docs/records/quality.json says mean and interval of these at its top.
_HEADLINE: Final = (
    *("zero_shot", "zero_shot_sentence", "zero_shot_places", "naive", "distinctive", "filtered"),
    *("probability", "reworded", "more", "best", "simulated_people", "ceiling"),
)


def run(options: Options) -> Result:
    """Train on each, and ask all of them and the rows without training the same."""
    all_arms = arms(options)
    groups = {name: seeded(options, arm, num_seeds=_FEWER_SEEDS.get(name, NUM_SEEDS)) for name, arm in all_arms.items()}
    val = fresh_run(options)
    found = train_arms(options, groups, val, shown="students of each step")
    torch.set_num_threads(1)
    found = found.with_others(untrained(val))
    return {
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "test_scenes": options.scenes(NUM_FRESH, QUICK_FRESH),
        "seeds": len(groups["simulated_people"]),
        "arms": found.figures,
        "kinds": {name: by_kind(found, name) for name in found.figures},
        "annotation": {name: annotation_figures(name, all_arms[name]) for name in _STEPS},
        "differences": differences(found),
        "share": {
            kind: as_json(found.bootstrap(kind).share("best", floor="zero_shot", top="simulated_people"))
            for kind in ("all", *KINDS)
        },
    }


def arms(options: Options) -> dict[str, Arm]:
    """Return what is trained, one arm of each."""
    scenes = training_scenes(options.scenes(NUM_SCENES, QUICK_SCENES))
    probable = (pseudo_run(options, scenes, example=LISTENER_COMPOSER),)
    best = Arm((pseudo_run(options, scenes, preset=BEST_PRESET, composing=OF_ONE_MASK),), assignments=REWORDED)
    simulated = (true_run(options, scenes),)
    return {
        **paper_steps(pseudo_run(options, scenes)),
        "probability": Arm(probable),
        "reworded": Arm(probable, assignments=REWORDED),
        "more": Arm(
            (pseudo_run(options, scenes, example=LISTENER_COMPOSER, composing=_SAYS_MORE),), assignments=REWORDED
        ),
        "best": best,
        "simulated_people": Arm(simulated),
        "best_plain": replace(best, assignments=(*best.assignments, *_WITHOUT_HAND)),
        "simulated_people_plain": Arm(simulated, assignments=_WITHOUT_HAND),
    }


def annotation_figures(name: str, arm: Arm) -> dict[str, float]:
    """Return accuracy and coverage of what an arm learns from."""
    found = judged_sets(arm.runs[0])[_LEARNT_SETS.get(name, "kept")]
    return {figure: round(found[figure].value or 0.0, 5) for figure in ("accuracy", "coverage")}


def differences(found: Answered) -> dict[str, dict[str, Any]]:
    """Return by how much each step exceeds the one before it, and each kind of student the row without training."""
    steps = {more: found.difference(more, less) for less, more in pairwise(_STEPS)}
    return {**steps, **{f"{name} - zero_shot": found.difference(name, "zero_shot") for name in _STEPS}}


def fresh_run(options: Options) -> str:
    """Return scenes of the captioner's own world that nothing was chosen on, as simulated annotators describe them."""
    count = options.scenes(NUM_FRESH, QUICK_FRESH)
    return true_run(options, SceneRun(Split.TEST, count, FIRST_FRESH))


def untrained(run: str) -> Answered:
    """Return what needs no training, and the best answer that these masks allow; a random mask over five draws."""
    questions, kinds = HeldOutExpressions(run), read_kinds(run)
    config = load_config("tiny")
    proposed = SamProposals(config)
    nouns = ClipChoice(proposed, config, asked=head_phrase)
    asked: dict[str, list[Answerer]] = {
        "random": [RandomBaseline(proposed, seed=seed) for seed in range(_RANDOM_SEEDS)],
        "zero_shot_sentence": [ClipChoice(proposed, config)],
        "zero_shot": [nouns],
        "zero_shot_places": [PlaceRules(nouns, proposed, margin=_PLACE_MARGIN)],
        "ceiling": [Ceiling(proposed)],
    }
    return answered({name: [answers_of(each, questions, kinds) for each in group] for name, group in asked.items()})


def plots(result: Result) -> Mapping[str, str]:
    """Return mIoU over what the annotation is worth by itself, a point an arm."""
    said = {name: figures["accuracy"] * figures["coverage"] for name, figures in result["annotation"].items()}
    whole = {name: result["kinds"][name]["all"] for name in said}
    points = {name: whisker(at, whole[name]) for name, at in said.items()}
    # By their names in docs/records/quality.json: the titles of the table do not fit.
    lines = [Line(name.replace("simulated_people", "simulated annotators"), [point]) for name, point in points.items()]
    along = axis_of("accuracy × coverage of the annotation", list(said.values()))
    up = axis_of("mIoU of the student", [value for point in points.values() for value in point[1:]])
    return {"annotation": line_chart("A student over the annotation that it learnt from", along, up, lines)}


def headline(result: Result) -> Mapping[str, Any]:
    """Return `students`: mean and interval of mIoU by what was learnt from."""
    kinds = result["kinds"]
    named = {"mean": "value", "low": "low", "high": "high"}
    return {"students": {name: {to: kinds[name]["all"][key] for to, key in named.items()} for name in _HEADLINE}}


def settings(options: Options) -> Mapping[str, Any]:
    """Return what figures of students depend on beside the method: their frozen towers, and what they see."""
    return {
        "towers": weights_digest(Arm(()).config().towers.weights)[:16],
        "steps": num_steps(options),
        "scenes": options.scenes(NUM_SCENES, QUICK_SCENES),
        "test_scenes": options.scenes(NUM_FRESH, QUICK_FRESH),
        "first_fresh": FIRST_FRESH,
        **methods(),
    }


def methods() -> dict[str, str]:
    """Return the hash of each method beyond that of `tiny`, by its name on the page."""
    found = {
        LISTENER_COMPOSER: load_config("tiny", EXAMPLES / LISTENER_COMPOSER, BEFORE_0_7),
        BEST_PRESET: load_config(BEST_PRESET, None, [OF_ONE_MASK, *BEFORE_0_7]),
    }
    return {name: config_hash(config)[:16] for name, config in found.items()}


PART = Part("students", run, template("students"), plots, headline=headline, settings=settings)
