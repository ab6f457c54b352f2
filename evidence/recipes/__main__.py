"""Trains the tiny models from scratch: `python -m evidence.recipes [--out DIR] [--only MODEL]`.

Seeded; 75 minutes on two cores, and 130 of one for the last three. First SAM trains beside captioner and CLIP. In the
second phase these two train on crops of SAM's masks, while SAM continues. The last phase trains the scene CLIP,
which starts from SAM and CLIP, in parallel with a SAM for prompts of several points and a captioner that is trained for
longer. A model whose weights file is in the folder is not trained again, and an interrupted training continues from its
last checkpoint. To ship new weights: `python -m evidence.recipes.shipped_weights OUT`.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated, Final, TypeVar

import typer

from evidence.recipes import training_plan
from evidence.recipes.caption_recipe import LongerRecipe
from evidence.recipes.child_environment import MEMORY_ENVIRONMENT, child_environment
from evidence.recipes.optimiser import Recipe
from evidence.recipes.training_plan import TrainingPlan

RecipeT = TypeVar("RecipeT", bound=Recipe)
Job = tuple[Callable[..., None], tuple[object, ...]]


class Model(StrEnum):
    """What can be trained.

    Captioner and CLIP need SAM's masks, CLIP the captioner's image tower; the scene CLIP starts from SAM and CLIP, the
    SAM for prompts of several points from SAM. The captioners that are trained for longer need SAM's masks; those of
    other words, and a captioner and a CLIP that learn further names from finished ones, are for experiments, and
    trained with `--only`.
    """

    SAM = "sam"
    COCA = "coca"
    CLIP = "clip"
    SCENE_CLIP = "scene-clip"
    SAM_PROMPTS = "sam-prompts"
    COCA_LONGER = "coca-longer"
    COCA_BRIEF = "coca-brief"
    COCA_CLAUSES = "coca-clauses"
    CLIP_NAMES = "clip-names"

    @property
    def stem(self) -> str:
        """The name of its weights file, without the suffix."""
        return self.value.replace("-", "_")


# The models from which the last phase starts.
_STARTS_FROM: Final = {
    Model.SCENE_CLIP: (Model.SAM, Model.CLIP),
    Model.SAM_PROMPTS: (Model.SAM,),
    Model.COCA_LONGER: (Model.SAM,),
    Model.COCA_BRIEF: (Model.SAM,),
    Model.COCA_CLAUSES: (Model.SAM,),
    Model.CLIP_NAMES: (Model.SAM, Model.CLIP, Model.COCA_LONGER),
}
# No preset has them: experiments do.
EXPERIMENTAL: Final = frozenset((Model.COCA_BRIEF, Model.COCA_CLAUSES, Model.CLIP_NAMES))
_LONGER: Final = EXPERIMENTAL | {Model.COCA_LONGER}


def train(plan: TrainingPlan, models: frozenset[Model]) -> None:
    """Trains the wanted models that are not done, and what they need of the others."""
    needed = models | {model for last in models for model in _STARTS_FROM.get(last, ())}
    wanted = {model for model in needed if not plan.weights(model.stem).exists()}
    if not wanted:
        return
    plan.work.mkdir(parents=True, exist_ok=True)
    if wanted - _LONGER:
        training_plan.scenes_of(plan)
    if wanted - _STARTS_FROM.keys():
        _first_phases(plan, wanted)
    finishing = {
        Model.SAM: training_plan.finish_sam,
        Model.COCA: training_plan.finish_captioner,
        Model.CLIP: training_plan.finish_clip,
    }
    _side_by_side([(finish, (plan,)) for model, finish in finishing.items() if model in wanted])
    last: dict[Model, Callable[[TrainingPlan], None]] = {
        Model.SCENE_CLIP: training_plan.train_scenes,
        Model.SAM_PROMPTS: training_plan.train_prompts,
        Model.COCA_LONGER: training_plan.train_longer_captioner,
        Model.COCA_BRIEF: partial(training_plan.train_longer_captioner, name="coca_brief"),
        Model.COCA_CLAUSES: partial(training_plan.train_longer_captioner, name="coca_clauses"),
    }
    if wanted & (_LONGER - {Model.CLIP_NAMES}):
        # Once, before several processes ask for them.
        training_plan.longer_sampler(plan, plan.coca_longer)
    _side_by_side([(job, (plan,)) for model, job in last.items() if model in wanted])
    if Model.CLIP_NAMES in wanted:
        _side_by_side([(training_plan.train_names, (plan,))])


def _first_phases(plan: TrainingPlan, wanted: set[Model]) -> None:
    """Trains the models from which the second phases start, and proposes the masks for them."""
    first: list[Job] = [(training_plan.first_sam, (plan,))]
    if wanted & {Model.COCA, Model.CLIP}:
        training_plan.true_crops(plan)
        first.append((training_plan.first_captioner_and_clip, (plan, Model.CLIP in wanted)))
    _side_by_side(first)
    if wanted & {Model.COCA, Model.CLIP}:
        training_plan.proposed_crops(plan)


def _side_by_side(jobs: list[Job]) -> None:
    """Runs each job in a process of one thread, and raises what one of them raised."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(len(jobs), mp_context=context, initializer=training_plan.start_worker)
    with child_environment(MEMORY_ENVIRONMENT), pool:
        running: list[Future[None]] = [pool.submit(job, *arguments) for job, arguments in jobs]
        for future in running:
            future.result()


def shortened(plan: TrainingPlan, steps: int) -> TrainingPlan:
    """Return the plan with at most this many steps in each phase, for a trial of the whole chain."""

    def cut(recipe: RecipeT) -> RecipeT:
        return replace(recipe, steps=min(recipe.steps, steps))

    def less(longer: LongerRecipe) -> LongerRecipe:
        num_scenes, num_proposed = min(longer.num_scenes, plan.num_scenes), plan.num_proposed_scenes
        proposed = min(longer.num_proposed_scenes, num_proposed)
        return replace(longer, captions=cut(longer.captions), num_scenes=num_scenes, num_proposed_scenes=proposed)

    phases = ("sam", "coca", "clip", "coca_on_masks", "clip_on_masks", "scene_clip", "sam_prompts", "clip_names")
    return replace(
        plan,
        **{phase: cut(getattr(plan, phase)) for phase in phases},
        sam_further=tuple(map(cut, plan.sam_further)),
        coca_longer=less(plan.coca_longer),
        coca_brief=less(plan.coca_brief),
        coca_clauses=less(plan.coca_clauses),
        coca_names=less(plan.coca_names),
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder for the weights and the restart files.")] = Path("tiny-weights"),
    only: Annotated[
        Model | None, typer.Option(help="Train only this model, and the models that it needs if they are missing.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Maximum steps per phase, for a quick trial of all phases.")
    ] = None,
    scenes: Annotated[
        int, typer.Option(min=20, help="Training scenes; the longer captioner has 9,900 of its own.")
    ] = 6000,
) -> None:
    """Trains the tiny SAM, CoCas, CLIP, scene CLIP and SAM for prompts of several points."""
    training_plan.start_logging()
    plan = TrainingPlan(out=out, seed=seed, num_scenes=scenes, num_proposed_scenes=min(1200, scenes))
    if max_steps is not None:
        plan = shortened(plan, max_steps)
    train(plan, frozenset((only,)) if only else frozenset(Model) - EXPERIMENTAL)


if __name__ == "__main__":
    typer.run(main)
