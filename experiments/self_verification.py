"""Whether students that never saw an image can say which of its expressions are right: cross-fitted self-verification.

    nice python -m experiments.self_verification [--out quality-out] [--json F]

The training images of a run are divided into folds by their bytes, so that copies share one. The student of a fold
learns from the annotation of all others, and grounds the expressions of images that it never saw: those of its fold,
and of development scenes, which are no training data. How well its mask covers the target joins confidence and source
as a feature of P(right), fitted on development scenes and judged on the training images, against the same fit without
it: as many expressions kept, those with the highest probability. Intervals are over scenes; a fold has one student.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.measurement import machine
from experiments.quality.judged_run import judged_run
from experiments.quality.markdown_cells import as_json, cell, markdown_table
from experiments.quality.parts import Options
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import seeded, train_arms, trained_chooser
from experiments.quality.students import BEST_PRESET, best_arm
from pseudoris.schemas.confidence import log_odds
from pseudoris.schemas.shard import SOURCE_COMPOSER
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration.confidence_fit import logistic_regression
from pseudoris.training.chooser.chooser_training import Choice
from pseudoris.training.dataset import RisDataset, SampleSpec
from pseudoris.training.evaluation.bootstrap import ImageBootstrap
from pseudoris.training.evaluation.held_out import HeldOutExpressions, ImageQuestion
from pseudoris.training.evaluation.run_images import iter_images, read_shard
from pseudoris.training.evaluation.truth import judge, match_image
from pseudoris.workers.masks.instances import iou_table

NUM_FOLDS: Final = 4
# Kept expressions a mask.
YIELDS: Final = (2.0, 3.0, 5.0)
_FIRST_DEVELOPMENT, _NUM_DEVELOPMENT = 2_000, 150
_COLUMNS: Final = ("target_mask_ids", "text", "samples", "kept", "kind", "source", "confidence")
Floats = NDArray[np.float64]


class Chooses(Protocol):
    """A student that chooses among masks."""

    def choose(self, image_key: str, image: torch.Tensor, texts: Sequence[str]) -> Choice:
        """Return the choice for some expressions of an image."""


def fold_of(image_key: str, num_folds: int = NUM_FOLDS) -> int:
    """Return the fold of an image, by the sha256 of its bytes: the same in every round, and for every copy."""
    return int(image_key[:8], 16) % num_folds


@dataclass(frozen=True)
class FoldedStudents:
    """A student a fold.

    Attributes:
        students: By fold.
        seen: By fold, the images that its student learnt from.
    """

    students: Sequence[Chooses]
    seen: Sequence[frozenset[str]]

    def of(self, image_key: str) -> Chooses:
        """Return the student that may ground expressions of an image.

        Raises:
            ValueError: It has seen the image.
        """
        fold = fold_of(image_key, len(self.students))
        if image_key in self.seen[fold]:
            raise ValueError(f"the student of fold {fold} has seen image {image_key}: it cannot verify its expressions")
        return self.students[fold]

    def covers(self, question: ImageQuestion) -> Floats:
        """Return (T, 2): the IoU of the mask that is chosen for each expression with its target, and the expected one.

        Raises:
            ValueError: The student of its fold has seen the image.
        """
        choice = self.of(question.image_key).choose(question.image_key, question.image, question.texts)
        if not len(choice.masks):
            return np.zeros((len(question.texts), 2))
        ious, probabilities = iou_table(question.masks.numpy(), choice.masks.numpy()), choice.probabilities.numpy()
        chosen = ious[np.arange(len(ious)), probabilities.argmax(1)]
        return np.column_stack([chosen, (ious * probabilities).sum(1)]).astype(np.float64)


@dataclass(frozen=True)
class Grounded:
    """The kept expressions of a scene.

    Attributes:
        confidence: (T,).
        is_composed: (T,) bool; else it was drawn. The two have probabilities of their own.
        covers: (T, 2), see `FoldedStudents.covers`.
        is_right: (T,) bool.
        objects: (T,) int64, the object that the mask is; -1 for none.
        num_masks: Of the scene.
        num_objects: That can be seen.
    """

    confidence: Floats
    is_composed: NDArray[np.bool_]
    covers: Floats
    is_right: NDArray[np.bool_]
    objects: NDArray[np.int64]
    num_masks: int
    num_objects: int

    def features(self, *, is_verified: bool) -> Floats:
        """Return (T, F): source and log odds of the confidence, and with a student how well it covers the target."""
        odds, composed = log_odds(self.confidence), self.is_composed.astype(np.float64)
        known = np.column_stack([odds, composed, odds * composed])
        return np.column_stack([known, self.covers]) if is_verified else known

    def sums(self, is_kept: NDArray[np.bool_], name: str) -> dict[str, tuple[float, float]]:
        """Return numerator and denominator of accuracy, yield and coverage of what is kept."""
        right = self.is_right & is_kept
        covered = len(set(self.objects[right].tolist()) - {-1})
        return {
            f"{name}.accuracy": (float(right.sum()), float(is_kept.sum())),
            f"{name}.yield": (float(is_kept.sum()), float(self.num_masks)),
            f"{name}.coverage": (float(covered), float(self.num_objects)),
        }


def grounded(run: str, students: FoldedStudents) -> Iterator[Grounded]:
    """Yield the images of an annotated run of scenes, grounded and judged."""
    location, truth = judged_run(run)
    questions = HeldOutExpressions(run)
    asked = {each.image_id: each for each in questions.of(questions.image_ids)}
    for receipt in cached_receipts(location):
        tables = read_shard(location, receipt, *_COLUMNS)
        confidence = tables.expressions["confidence"].to_pylist()
        for image, first in zip(iter_images(tables), tables.expression_starts.tolist(), strict=False):
            known, question = image.known_to(truth), asked.get(image.image_id)
            if known is None or image.candidates is None:
                continue
            candidates = image.candidates
            matched = match_image(known, candidates)
            verdicts = judge(known, candidates, matched.object_of_mask)
            row_of = {
                (targets[0], text): at
                for at, (targets, text) in enumerate(zip(candidates.targets, candidates.texts, strict=True))
            }
            pairs = [] if question is None else zip(question.mask_ids, question.texts, strict=True)
            rows = [row_of[pair] for pair in pairs]
            yield Grounded(
                confidence=np.array([confidence[first + row] or 0.0 for row in rows], np.float64),
                is_composed=np.array([candidates.sources[row] == SOURCE_COMPOSER for row in rows], np.bool_),
                covers=np.zeros((0, 2)) if question is None else students.covers(question),
                is_right=verdicts.is_right[rows],
                objects=verdicts.target[rows],
                num_masks=len(candidates.mask_ids),
                num_objects=int(matched.is_visible.sum()),
            )


Ranker = Callable[[Grounded], Floats]


def fitted(scenes: Sequence[Grounded], *, is_verified: bool) -> Ranker:
    """Return P(right) as a logistic regression on judged scenes has it, up to a monotone function."""
    table = np.concatenate([scene.features(is_verified=is_verified) for scene in scenes])
    bias, slopes = logistic_regression(table, np.concatenate([scene.is_right for scene in scenes]).astype(np.float64))
    return lambda scene: bias + scene.features(is_verified=is_verified) @ slopes


def compare(scenes: Sequence[Grounded], rankers: Mapping[str, Ranker], wanted_yield: float) -> dict[str, Any]:
    """Return the figures of each ranker at the same number of expressions, and of the second less the first."""
    count = round(wanted_yield * sum(scene.num_masks for scene in scenes))
    starts = np.cumsum([len(scene.confidence) for scene in scenes])[:-1]
    kept: dict[str, list[NDArray[np.bool_]]] = {}
    for name, rank in rankers.items():
        ranks = np.concatenate([rank(scene) for scene in scenes])
        is_kept = np.zeros(len(ranks), np.bool_)
        # What is equal is taken as the images come, by either ranker.
        is_kept[np.argsort(-ranks, kind="stable")[:count]] = True
        kept[name] = np.split(is_kept, starts)
    bootstrap = ImageBootstrap(
        {key: sums for name in rankers for key, sums in scene.sums(kept[name][at], name).items()}
        for at, scene in enumerate(scenes)
    )
    before, after = rankers
    figures = ("accuracy", "yield", "coverage")
    return {
        **{name: {each: as_json(bootstrap.ratio(f"{name}.{each}")) for each in figures} for name in rankers},
        "gain": {each: as_json(bootstrap.difference(f"{after}.{each}", f"{before}.{each}")) for each in figures},
    }


def exclusion_tables(options: Options, keys: Sequence[str]) -> list[str]:
    """Write and return a table a fold, of its images."""
    folder = options.out / "folds"
    folder.mkdir(parents=True, exist_ok=True)
    tables = []
    for fold in range(NUM_FOLDS):
        table = folder / f"fold-{fold}-of-{NUM_FOLDS}.csv"
        own = sorted({key for key in keys if fold_of(key) == fold})
        table.write_text("\n".join(["sha256", *own]) + "\n", encoding="utf-8")
        tables.append(str(table))
    return tables


def image_keys(run: str, exclude: Sequence[str] = ()) -> list[str]:
    """Return the image of each mask that a training reads of a run."""
    return RisDataset(RunLocation.open(run), SampleSpec(parts=("image",), exclude=exclude)).image_digests()


def measure(options: Options) -> dict[str, Any]:
    """Train a student a fold, ground development scenes and the training images, and compare both fits."""
    scenes = training_scenes(options.pick(400, 40))
    development = SceneRun(Split.DEVELOPMENT, options.pick(_NUM_DEVELOPMENT, 20), _FIRST_DEVELOPMENT)
    arm = best_arm(options, scenes)
    (run,) = arm.runs
    tables = exclusion_tables(options, image_keys(run))
    groups = {
        table: seeded(options, replace(arm, assignments=(*arm.assignments, f"data.exclude=[{table}]")), num_seeds=1)
        for table in tables
    }
    found = train_arms(options, groups, true_run(options, development), shown="a student a fold")
    students = [trained_chooser(options, one) for (one,) in groups.values()]
    folded = FoldedStudents(students, [frozenset(image_keys(run, [table])) for table in tables])
    fit, judged = (list(grounded(each, folded)) for each in (pseudo_run(options, development, preset=BEST_PRESET), run))
    rankers = {
        "confidence": fitted(fit, is_verified=False),
        "and the students' IoU": fitted(fit, is_verified=True),
    }
    return {
        "machine": machine(),
        "folds": NUM_FOLDS,
        "development_scenes": development.count,
        "scenes": scenes.count,
        "student_miou": [found.figures[table]["miou"]["mean"] for table in tables],
        "yields": {str(each): compare(judged, rankers, each) for each in YIELDS},
    }


def table(result: Mapping[str, Any]) -> str:
    """Return the comparison as Markdown."""
    rows = []
    for wanted, found in result["yields"].items():
        for name, figures in found.items():
            sign = "+" if name == "gain" else ""
            rows.append([wanted, name, *(cell(figure, sign=sign) for figure in figures.values())])
    return markdown_table(["yield asked", "ranked by", "accuracy", "yield a mask", "coverage"], rows)


def main(
    out: Annotated[Path, typer.Option(help="Folder of what is used again.")] = Path("quality-out"),
    processes: Annotated[int, typer.Option(min=1, help="Of one thread each.")] = 2,
    quick: Annotated[bool, typer.Option("--quick", help="A trial: few scenes and steps.")] = False,
    json_path: Annotated[Path | None, typer.Option("--json", help="Write the figures to this file.")] = None,
) -> None:
    """Cross-fit students, and print what their grounding adds to the confidence."""
    result = measure(Options(out.resolve(), is_quick=quick, processes=processes))
    if json_path is not None:
        json_path.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    typer.echo(table(result))


if __name__ == "__main__":
    typer.run(main)
