"""Whether a student learns to say "not here" on drawn scenes: GRES's figures with and without expressions of none.

    python -m experiments.absences OUT

trains choosers on composed pseudo-labels of training scenes: on expressions of one mask, and on those of several masks
and of none too. They are asked on fresh scenes what simulated annotators say of each object, and what annotators of
other scenes say that the oracle finds to mean nothing there. Another set of such scenes chooses the threshold. Writes
OUT/absences.json; that of the whole is kept as experiments/results/absences.json.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer
from numpy.typing import NDArray

from experiments.quality.parts import Options
from experiments.quality.scene_runs import (
    IMAGES_FOLDER,
    RUN_FOLDER,
    SceneRun,
    image_name,
    pseudo_run,
    said_by_annotators,
    training_scenes,
    write_scenes,
)
from pseudoris.schemas.config_layers import load_config
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, Split
from pseudoris.training.chooser.chooser_config import load_chooser_config
from pseudoris.training.chooser.chooser_training import StudentRequest, load_student, train_student
from pseudoris.training.evaluation.bootstrap import ImageBootstrap
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.imports import ImportRequest, import_annotation
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.checkpoint_folder import SUMMARY_NAME, TrainingFolder
from pseudoris.training.metrics import figure_sums, pixel_counts
from pseudoris.workers.masks import rle

KINDS: Final = 'composing.kinds=["attribute","position","relation","group","none"]'
# Of a student's settings.
ARMS: Final = {
    "one mask each": (),
    "groups, none 0.2": ("data.groups=true", "data.none=0.2"),
}
FIGURES: Final = {"giou": "gIoU", "no_target_accuracy": "N-acc.", "target_accuracy": "T-acc.", "miou": "mIoU"}
# Of a scene; it has about eight objects, each with two or three expressions.
NONE_A_SCENE: Final = 6


def absent_texts(scenes: Sequence[Scene], at: int) -> list[str]:
    """Return expressions of the scenes that follow which mean nothing in one, the same on every machine."""
    truth, found = SceneImageTruth(scenes[at]), dict[str, None]()
    for step in range(1, len(scenes)):
        other = scenes[(at + step) % len(scenes)]
        # One of each other scene, so that few of them are alike.
        said = [text for number in range(len(other.objects)) for text in said_by_annotators(other, number)]
        for text in said[step % max(len(said), 1) :][:1]:
            if truth.referents(text) == frozenset():
                found[text] = None
        if len(found) >= NONE_A_SCENE:
            break
    return list(found)[:NONE_A_SCENE]


def grefs_run(folder: Path, scenes: SceneRun) -> str:
    """Write scenes with expressions of their objects and of none as gRefCOCO, import them, and return the run."""
    run = RunLocation.open(str(folder / RUN_FOLDER))
    drawn = scenes.all()
    if not list_receipts(run):
        write_scenes(folder, drawn, lambda scene, number: ())
        instances = json.loads((folder / "annotation.json").read_text())
        (folder / "instances.json").write_text(json.dumps(instances) + "\n")
        refs = list(_refs(drawn, instances["annotations"]))
        (folder / "grefs(unc).json").write_text(json.dumps(refs) + "\n")
    config = load_config("tiny", None, ["shards.max_images=64", "shards.embed_images=true"])
    request = ImportRequest(
        str(folder),
        str(folder / IMAGES_FOLDER),
        config,
        "grefcoco",
        splits=("val",),
        num_workers=len(os.sched_getaffinity(0)),
    )
    import_annotation(request, run, on_progress=lambda done, total: None, on_wait=lambda text: None)
    return str(folder / RUN_FOLDER)


def _refs(scenes: Sequence[Scene], rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Yield gRefCOCO's references; hidden objects have no row of `annotations`, so rows are matched by their order."""
    said: list[tuple[int, list[int], list[str]]] = []
    for at, scene in enumerate(scenes):
        own = [row["id"] for row in rows if row["image_id"] == at]
        visible = [number for number, counts in enumerate(SceneImageTruth(scene).masks) if _has_pixels(counts)]
        said += [(at, [id_], said_by_annotators(scene, number)) for number, id_ in zip(visible, own, strict=True)]
        said += [(at, [-1], [text]) for text in absent_texts(scenes, at)]
    for number, (at, ids, texts) in enumerate(said):
        sentences = [{"sent_id": n, "sent": text, "raw": text, "tokens": text.split()} for n, text in enumerate(texts)]
        named = {"ref_id": number, "image_id": at, "file_name": image_name(at), "split": "val"}
        yield {**named, "ann_id": ids, "category_id": [1], "sentences": sentences}


def _has_pixels(counts: str) -> bool:
    return bool(rle.areas([counts], (SCENE_SIZE_PX, SCENE_SIZE_PX))[0])


def answered(student: Path, questions: HeldOutExpressions, cache: Path) -> list[NDArray[np.int64]]:
    """Return `pixel_counts` of a student's answers, image by image."""
    learner = load_student(student, cache=cache)
    return [pixel_counts(learner.answer(question), question.masks) for question in questions]


def figures(answers: Sequence[Sequence[NDArray[np.int64]]]) -> dict[str, Any]:
    """Return each figure over all seeds, with its interval over images; `answers` are those of each seed, by image."""
    sums = [figure_sums(np.concatenate(of_image)) for of_image in zip(*answers, strict=True)]
    bootstrap = ImageBootstrap(sums)
    every = (figure_sums(np.concatenate(of_seed)) for of_seed in answers)
    seeds = [{name: found[name][0] / max(found[name][1], 1) for name in FIGURES} for found in every]
    return {name: {**asdict(bootstrap.ratio(name)), "seeds": [each[name] for each in seeds]} for name in FIGURES}


def main(
    out: Annotated[Path, typer.Argument(help="A folder; what is done there stays done.")],
    train: Annotated[int, typer.Option(help="Training scenes.")] = 200,
    dev: Annotated[int, typer.Option(help="Scenes that choose the threshold.")] = 60,
    test: Annotated[int, typer.Option(help="Fresh scenes.")] = 100,
    seeds: Annotated[int, typer.Option(help="Students of each kind.")] = 3,
    steps: Annotated[int, typer.Option(help="Of a training.")] = 300,
) -> None:
    """Train, ask, and write the figures."""
    run = pseudo_run(Options(out), training_scenes(train), preset="tiny-composed", composing=KINDS)
    val = grefs_run(out / "dev", SceneRun(Split.DEVELOPMENT, dev))
    asked = HeldOutExpressions(grefs_run(out / "test", SceneRun(Split.TEST, test)), has_groups=True)
    num_none = sum(not targets for image in asked.images for targets in image.targets)
    questions = {"expressions": sum(len(image.texts) for image in asked.images), "of none": num_none}
    settings = {"train": train, "dev": dev, "test": test, "steps": steps, **questions}
    cache = out / "candidates"
    answers: dict[str, list[list[NDArray[np.int64]]]] = {name: [] for name in ARMS}
    least: dict[str, list[float | None]] = {name: [] for name in ARMS}
    for seed, (name, words) in product(range(seeds), ARMS.items()):
        student = out / f"student-{name.replace(' ', '-').replace(',', '')}-{seed}"
        given = [f"training.seed={seed}", f"training.num_steps={steps}", f"candidates.cache={cache}", *words]
        config = load_chooser_config("tiny", None, ["data.rewording=true", *given])
        if not (student / SUMMARY_NAME).exists():
            request = StudentRequest(config, [run], student, val=val, is_resuming=TrainingFolder(student).is_begun)
            train_student(request, open_fabric(config.training))
        answers[name].append(answered(student, asked, cache))
        least[name].append(load_student(student, cache=cache).min_none)
        found = {each: {**figures(of), "min_none": least[each]} for each, of in answers.items() if of}
        for each, of in found.items():
            typer.echo(f"{each}: " + ", ".join(f"{title} {of[key]['value']:.3f}" for key, title in FIGURES.items()))
        # After each training: what is there may be read.
        record = {**settings, "seeds": seed + 1, "arms": found}
        (out / "absences.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
