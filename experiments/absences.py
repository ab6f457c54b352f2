"""Whether a student learns to say "not here" on drawn scenes: GRES's figures with and without expressions of none.

    python -m experiments.absences OUT

trains choosers on composed pseudo-labels of training scenes: on expressions of one mask, and on those of several masks
and of none too. They are asked on fresh scenes what simulated annotators say of each object, and what the oracle finds
to mean nothing there: near absences, with one word changed for another that is said of the scene, and easy ones, said
of another scene. Other such scenes choose the threshold. Writes OUT/absences.json; that of the whole is kept as
experiments/results/absences.json.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any, Final

import numpy as np
import typer

from experiments.quality.parts import Options
from experiments.quality.scene_runs import (
    IMAGES_FOLDER,
    RUN_FOLDER,
    SceneRun,
    image_name,
    imported,
    pseudo_run,
    said_by_annotators,
    training_scenes,
    write_scenes,
)
from pseudoris.files.location import RunLocation
from pseudoris.primitives import rle
from pseudoris.schemas.ids import image_id
from pseudoris.store.runs.receipts import list_receipts
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS, PARTS, PATTERNS, PLURALS, SIZES
from pseudoris.synthworld.scene_truth import SceneImageTruth
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, Split
from pseudoris.training.chooser.chooser_config import load_chooser_config
from pseudoris.training.chooser.chooser_training import StudentRequest, load_student, train_student
from pseudoris.training.evaluation.bootstrap import ImageBootstrap, Sums
from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.checkpoint_folder import SUMMARY_NAME, TrainingFolder
from pseudoris.training.metrics import figure_sums, pixel_counts

# Of scenes that no model and no rule of absences was made on.
FIRST_DEV, FIRST_TEST = 2300, 120_000
# Of a student's settings.
ARMS: Final = {
    "one mask each": (),
    "groups, none 0.2": ("data.groups=true", "data.none=0.2"),
}
# `_without`: with the likeliest masks in place of "not here".
FIGURES: Final = {
    **{"giou": "gIoU", "no_target_accuracy": "N-acc.", "near": "near", "easy": "easy", "target_accuracy": "T-acc."},
    **{"miou": "mIoU", "oiou": "oIoU", "miou_without": "mIoU without", "oiou_without": "oIoU without"},
}
# Of a scene, half of each sort; it has about five objects, each with two or three expressions.
NONE_A_SCENE: Final = 6
# What may take the place of a word that describes.
_SLOTS: Final = (CATEGORIES, tuple(PLURALS.values()), tuple(COLOURS), PATTERNS, SIZES, PARTS)
CHANGED: Final = {word: slot for slot in _SLOTS for word in slot}


def absent_texts(scenes: Sequence[Scene], at: int) -> dict[str, str]:
    """Return expressions that mean nothing in a scene, the same on every machine, each with its sort.

    Easy: what annotators say of the scenes that follow. Near: what they say of its own objects, with one word changed
    for another that is said of the scene.
    """
    truth = SceneImageTruth(scenes[at])
    found: dict[str, str] = {}
    for sort, texts in (("near", _changed(scenes[at], at)), ("easy", _said_elsewhere(scenes, at))):
        absent = (text for text in texts if text not in found and truth.referents(text) == frozenset())
        found |= dict.fromkeys(islice(absent, NONE_A_SCENE // 2), sort)
    return found


def _said_elsewhere(scenes: Sequence[Scene], at: int) -> Iterator[str]:
    """Yield one expression of each other scene, so that few of them are alike."""
    for step in range(1, len(scenes)):
        other = scenes[(at + step) % len(scenes)]
        said = [text for number in range(len(other.objects)) for text in said_by_annotators(other, number)]
        yield from said[step % max(len(said), 1) :][:1]


def _changed(scene: Scene, at: int) -> Iterator[str]:
    """Yield what is said of a scene's objects with one word changed for another of its kind that is said there too."""
    rng = np.random.default_rng(at)
    said = [text for number in range(len(scene.objects)) for text in said_by_annotators(scene, number)]
    heard = sorted({word for text in said for word in text.split()})
    for text in rng.permutation(said).tolist():
        words = text.split()
        others = {
            n: [each for each in heard if each != word and each in CHANGED.get(word, ())]
            for n, word in enumerate(words)
        }
        places = [n for n, found in others.items() if found]
        if places:
            place = int(rng.choice(places))
            yield " ".join((*words[:place], str(rng.choice(others[place])), *words[place + 1 :]))


def grefs_run(folder: Path, scenes: SceneRun) -> str:
    """Write scenes with expressions of their objects and of none as gRefCOCO, import them, and return the run."""
    drawn = scenes.all()
    if not list_receipts(RunLocation.open(str(folder / RUN_FOLDER))):
        write_scenes(folder, drawn, lambda scene, number: ())
        instances = json.loads((folder / "annotation.json").read_text())
        (folder / "instances.json").write_text(json.dumps(instances) + "\n")
        refs = list(_refs(drawn, instances["annotations"]))
        (folder / "grefs(unc).json").write_text(json.dumps(refs) + "\n")
    words = ("shards.max_images=64", "shards.embed_images=true")
    return str(imported(folder, folder / IMAGES_FOLDER, folder / RUN_FOLDER, "grefcoco", words, ("val",)))


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


def answered(student: Path, run: str, scenes: Sequence[Scene], cache: Path) -> list[Sums]:
    """Return what each image of a run of scenes adds to the figures, of a student's answers."""
    learner, found = load_student(student, cache=cache), list[Sums]()
    sorts = {image_id(image_name(at)): absent_texts(scenes, at) for at in range(len(scenes))}
    for question in HeldOutExpressions(run, has_groups=True):
        choice = learner.choose(question.image_key, question.image, question.texts)
        chosen, likeliest = (pixel_counts(masks, question.masks) for masks in (choice.chosen, choice.likeliest))
        own = figure_sums(chosen)
        plain = figure_sums(likeliest)
        own |= {f"{name}_without": plain[name] for name in ("miou", "oiou")}
        for sort in ("near", "easy"):
            rows = chosen[[sorts[question.image_id].get(text) == sort for text in question.texts]]
            own[sort] = figure_sums(rows)["no_target_accuracy"]
        found.append(own)
    return found


def figures(answers: Sequence[Sequence[Sums]]) -> dict[str, Any]:
    """Return each figure over all seeds, with its interval over images; `answers` are those of each seed, by image."""
    bootstrap = ImageBootstrap([_added(of_image) for of_image in zip(*answers, strict=True)])
    seeds = [_added(of_seed) for of_seed in answers]
    return {
        name: {**asdict(bootstrap.ratio(name)), "seeds": [each[name][0] / max(each[name][1], 1) for each in seeds]}
        for name in FIGURES
    }


def _added(sums: Sequence[Sums]) -> Sums:
    return {name: (sum(each[name][0] for each in sums), sum(each[name][1] for each in sums)) for name in FIGURES}


def main(
    out: Annotated[Path, typer.Argument(help="A folder; what is done there stays done.")],
    train: Annotated[int, typer.Option(help="Training scenes.")] = 400,
    dev: Annotated[int, typer.Option(help="Development scenes, which choose the threshold.")] = 100,
    test: Annotated[int, typer.Option(help="Fresh scenes.")] = 200,
    seeds: Annotated[int, typer.Option(help="Students of each kind.")] = 2,
    steps: Annotated[int, typer.Option(help="Of a training.")] = 300,
    on_dev: Annotated[bool, typer.Option("--on-dev", help="Ask other development scenes, to make choices on.")] = False,
) -> None:
    """Train, ask, and write the figures."""
    run = pseudo_run(Options(out), training_scenes(train), preset="tiny-composed")
    val = grefs_run(out / f"dev-{dev}", SceneRun(Split.DEVELOPMENT, dev, FIRST_DEV))
    fresh = SceneRun(Split.DEVELOPMENT, test, FIRST_DEV + dev) if on_dev else SceneRun(Split.TEST, test, FIRST_TEST)
    asked = grefs_run(out / f"{fresh.split}-{test}", fresh)
    targets = [targets for image in HeldOutExpressions(asked, has_groups=True).images for targets in image.targets]
    record = {"train": train, "dev": dev, fresh.split.value: test, "steps": steps, "expressions": len(targets)}
    record["of none"] = sum(not each for each in targets)
    answers: dict[str, list[list[Sums]]] = {name: [] for name in ARMS}
    least: dict[str, list[float | None]] = {name: [] for name in ARMS}
    for seed, name in product(range(seeds), ARMS):
        student = _trained(out, run, val, name, seed, steps)
        answers[name].append(answered(student, asked, fresh.all(), out / "candidates"))
        least[name].append(load_student(student, cache=out / "candidates").min_none)
        found = {each: {**figures(of), "min_none": least[each]} for each, of in answers.items() if of}
        for each, of in found.items():
            typer.echo(f"{each}: " + ", ".join(f"{title} {of[key]['value']:.3f}" for key, title in FIGURES.items()))
        # After each training: what is there may be read.
        file = out / ("absences-dev.json" if on_dev else "absences.json")
        file.write_text(json.dumps({**record, "seeds": seed + 1, "arms": found}, indent=1) + "\n", encoding="utf-8")


def _trained(out: Path, run: str, val: str, name: str, seed: int, steps: int) -> Path:
    """Return the folder of a student, trained or gone on with unless it is there."""
    student = out / f"student-{re.sub('[^a-z0-9.]+', '-', name)}-{seed}-{steps}"
    given = [f"training.seed={seed}", f"training.num_steps={steps}", f"candidates.cache={out / 'candidates'}"]
    config = load_chooser_config("tiny", None, ["data.rewording=true", *given, *ARMS[name]])
    if not (student / SUMMARY_NAME).exists():
        request = StudentRequest(config, [run], student, val=val, is_resuming=TrainingFolder(student).is_begun)
        train_student(request, open_fabric(config.training))
    return student


if __name__ == "__main__":
    typer.run(main)
