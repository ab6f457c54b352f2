"""Trains the three tiny models from nothing: `python -m synthworld.train [--out DIR] [--only sam|coca|clip]`.

Seeded; about 75 minutes on two cores. SAM trains beside captioner and CLIP; then the latter two go on with crops of
SAM's masks, side by side. A model whose weights file stands in the folder is not trained again, and an interrupted
training goes on from its last checkpoint. To ship new weights, copy the three files into workers/checkpoints/tiny/.
"""

from __future__ import annotations

import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from synthworld.training import phases
from synthworld.training.coca import PairRecipe
from synthworld.training.phases import TrainingPlan
from synthworld.training.sam import SamRecipe


class Model(StrEnum):
    """What can be trained; captioner and CLIP need SAM's masks, and CLIP the captioner's image tower."""

    SAM = "sam"
    COCA = "coca"
    CLIP = "clip"


def train(plan: TrainingPlan, models: frozenset[str]) -> None:
    """Trains the wanted models, and SAM where a wanted one needs its masks."""
    plan.work.mkdir(parents=True, exist_ok=True)
    phases.scenes_of(plan)
    if models != {Model.SAM}:
        phases.true_crops(plan)
    first: list[tuple[Callable[..., None], tuple[object, ...]]] = [(phases.first_sam, (plan,))]
    if models != {Model.SAM}:
        first.append((phases.first_captioner_and_clip, (plan, models)))
    _side_by_side(first)
    second: list[tuple[Callable[..., None], tuple[object, ...]]] = []
    if models & {Model.COCA, Model.CLIP}:
        phases.proposed_crops(plan)
    if Model.COCA in models:
        second.append((phases.finish_captioner, (plan,)))
    if Model.CLIP in models:
        second.append((phases.finish_clip, (plan,)))
    _side_by_side(second)


def _side_by_side(jobs: list[tuple[Callable[..., None], tuple[object, ...]]]) -> None:
    """Runs each job in a process of one thread, and raises what one of them raised."""
    if not jobs:
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(jobs), mp_context=context, initializer=_start_worker) as pool:
        running: list[Future[None]] = [pool.submit(job, *arguments) for job, arguments in jobs]
        for future in running:
            future.result()


def _start_worker() -> None:
    """Threads and logging of a training process."""
    phases.use_one_thread()
    _start_logging()


def _start_logging() -> None:
    """Progress lines with the time of day."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", force=True)


def shortened(plan: TrainingPlan, steps: int) -> TrainingPlan:
    """Returns the plan with at most so many steps a phase, for a trial of the whole chain."""

    def cut(recipe: PairRecipe) -> PairRecipe:
        return replace(recipe, steps=min(recipe.steps, steps))

    sam: SamRecipe = replace(plan.sam, steps=min(plan.sam.steps, steps))
    return replace(
        plan,
        sam=sam,
        coca=cut(plan.coca),
        clip=cut(plan.clip),
        coca_on_masks=cut(plan.coca_on_masks),
        clip_on_masks=cut(plan.clip_on_masks),
    )


def main(
    out: Annotated[Path, typer.Option(help="Folder for the weights and for what a restart needs.")] = Path(
        "tiny-weights"
    ),
    only: Annotated[Model | None, typer.Option(help="Train this model alone (and SAM, where it is missing).")] = None,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    max_steps: Annotated[int | None, typer.Option(min=1, help="Steps a phase at most: a trial of the chain.")] = None,
    scenes: Annotated[int, typer.Option(min=20, help="Training scenes.")] = 6000,
) -> None:
    """Trains the tiny SAM, CoCa and CLIP."""
    _start_logging()
    plan = TrainingPlan(out=out, seed=seed, num_scenes=scenes, num_proposed_scenes=min(1200, scenes))
    if max_steps is not None:
        plan = shortened(plan, max_steps)
    train(plan, frozenset((only,)) if only else frozenset(Model))


if __name__ == "__main__":
    typer.run(main)
