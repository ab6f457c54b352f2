"""Whether students that never saw an image can say which of its expressions are right: cross-fitted self-verification.

    nice python -m experiments.self_verification [--out quality-out] [--json F]

The training images of a run are divided into folds by their bytes, so that copies share one. The student of a fold
learns from the annotation of all others, and grounds the expressions of images that it never saw: those of its fold,
and of scenes that are no training data. How well its mask covers the target joins the confidence as a feature of
P(right), fitted on development scenes and judged on fresh ones, against the same fit without it: as many expressions
kept, those with the highest probability.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Final, Protocol

import numpy as np
import torch
import typer
from numpy.typing import NDArray

from benchmarks.measurement import machine
from experiments.quality.markdown_cells import as_json, cell, markdown_table
from experiments.quality.parts import Options
from experiments.quality.scene_runs import SceneRun, pseudo_run, training_scenes, true_run
from experiments.quality.student_arms import Arm, seeded, train_arms
from experiments.quality.students import BEST_PRESET, FIRST_FRESH, best_arm
from pseudoris.schemas.tables import EXPRESSIONS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.synthworld.scene_truth import SceneTruth
from pseudoris.synthworld.scenes import Split
from pseudoris.training.calibration.logistic_regression import logistic_regression
from pseudoris.training.chooser.chooser_learner import Choice, ChooserLearner
from pseudoris.training.dataset import RisDataset, SampleSpec
from pseudoris.training.evaluation.bootstrap import ImageBootstrap
from pseudoris.training.evaluation.counts import judge, match_image
from pseudoris.training.evaluation.run_images import iter_images, read_shard
from pseudoris.training.evaluation.truth import open_truth
from pseudoris.training.learning.evaluator import HeldOutExpressions, ImageQuestion
from pseudoris.training.student.student_training import load_student

NUM_FOLDS: Final = 4
# Kept expressions a mask.
YIELDS: Final = (2.0, 3.0, 5.0)
_FIRST_DEVELOPMENT, _NUM_DEVELOPMENT, _NUM_FRESH = 2_000, 150, 100
_COLUMNS: Final = ("target_mask_ids", "text", "samples", "kept", "kind", "source")
_MIN_ODDS: Final = 1e-4
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
        ious = _ious(question.masks, choice.masks)
        chosen = ious.gather(1, choice.probabilities.argmax(1, keepdim=True))[:, 0]
        return torch.stack([chosen, (ious * choice.probabilities).sum(1)], 1).double().numpy()


def _ious(masks: torch.Tensor, others: torch.Tensor) -> torch.Tensor:
    """(T, N) of (T, H, W) and (N, H, W) bool."""
    one, other = (each.flatten(1).float() for each in (masks, others))
    both = one @ other.T
    return both / (one.sum(1)[:, None] + other.sum(1) - both).clamp(min=1)


@dataclass(frozen=True)
class Grounded:
    """The kept expressions of a scene.

    Attributes:
        confidence: (T,).
        covers: (T, 2), see `FoldedStudents.covers`.
        is_right: (T,) bool.
        objects: (T,) int64, the object that the mask is; -1 for none.
        num_masks: Of the scene.
        num_objects: That can be seen.
    """

    confidence: Floats
    covers: Floats
    is_right: NDArray[np.bool_]
    objects: NDArray[np.int64]
    num_masks: int
    num_objects: int

    def features(self, *, is_verified: bool) -> Floats:
        """Return (T, F): the log odds of the confidence, and with a student how well it covers the target."""
        odds = np.clip(self.confidence, _MIN_ODDS, 1 - _MIN_ODDS)
        known = np.log(odds / (1 - odds))[:, None]
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
    location = RunLocation.open(run)
    truth = open_truth("synthworld", require_header(location), SceneTruth)
    confidence = _confidence(location)
    questions = HeldOutExpressions(run)
    asked = {each.image_id: each for each in questions.of(questions.image_ids)}
    for receipt in cached_receipts(location):
        for image in iter_images(read_shard(location, receipt, *_COLUMNS)):
            known, question = image.known_to(truth), asked.get(image.image_id)
            if known is None or image.candidates is None:
                continue
            matched = match_image(known, image.candidates)
            verdicts = judge(known, image.candidates, matched.object_of_mask)
            rows = {
                (targets[0], text): (right, at)
                for targets, text, right, at in zip(
                    image.candidates.targets,
                    image.candidates.texts,
                    verdicts.is_right.tolist(),
                    verdicts.target.tolist(),
                    strict=True,
                )
            }
            pairs = [] if question is None else list(zip(question.mask_ids, question.texts, strict=True))
            yield Grounded(
                confidence=np.array([confidence[image.image_id, *pair] for pair in pairs], np.float64),
                covers=np.zeros((0, 2)) if question is None else students.covers(question),
                is_right=np.array([rows[pair][0] for pair in pairs], np.bool_),
                objects=np.array([rows[pair][1] for pair in pairs], np.int64),
                num_masks=len(image.candidates.mask_ids),
                num_objects=int(matched.is_visible.sum()),
            )


def _confidence(location: RunLocation) -> dict[tuple[str, str, str], float]:
    names = ("image_id", "target_mask_ids", "text", "confidence")
    rows = read_table(location, EXPRESSIONS, names, list(cached_receipts(location))).to_pylist()
    return {(row["image_id"], row["target_mask_ids"][0], row["text"]): row["confidence"] or 0.0 for row in rows}


Ranker = Callable[[Grounded], Floats]


def fitted(scenes: Sequence[Grounded], *, is_verified: bool) -> Ranker:
    """Return P(right) as a logistic regression on judged scenes has it, up to a monotone function."""
    table = np.concatenate([scene.features(is_verified=is_verified) for scene in scenes])
    bias, slopes = logistic_regression(table, np.concatenate([scene.is_right for scene in scenes]).astype(np.float64))
    return lambda scene: bias + scene.features(is_verified=is_verified) @ slopes


def compare(scenes: Sequence[Grounded], rankers: Mapping[str, Ranker], wanted_yield: float) -> dict[str, Any]:
    """Return the figures of each ranker at the same number of expressions, and of the second less the first."""
    count = round(wanted_yield * sum(scene.num_masks for scene in scenes))
    kept: dict[str, list[NDArray[np.bool_]]] = {}
    for name, rank in rankers.items():
        ranks = [rank(scene) for scene in scenes]
        bound = np.sort(np.concatenate(ranks))[::-1][count - 1]
        kept[name] = [each >= bound for each in ranks]
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


def fold_arms(options: Options, runs: Sequence[str], keys: Sequence[str], arm: Arm) -> dict[str, list[Arm]]:
    """Return an arm a fold, which leaves the fold's images out."""
    found = {}
    for fold in range(NUM_FOLDS):
        listed = sorted({key for key in keys if fold_of(key) == fold})
        table = options.out / "folds" / f"fold-{fold}-of-{NUM_FOLDS}.csv"
        table.parent.mkdir(parents=True, exist_ok=True)
        table.write_text("\n".join(["sha256", *listed]) + "\n", encoding="utf-8")
        words = (*arm.assignments, f"data.exclude=[{table}]")
        found[f"fold {fold}"] = seeded(options, Arm(tuple(runs), assignments=words), num_seeds=1)
    return found


def measure(options: Options) -> dict[str, Any]:
    """Train a student a fold, ground development and fresh scenes, and compare both fits."""
    scenes = training_scenes(options.pick(400, 40))
    development = SceneRun(Split.DEVELOPMENT, options.pick(_NUM_DEVELOPMENT, 20), _FIRST_DEVELOPMENT)
    fresh = SceneRun(Split.TEST, options.pick(_NUM_FRESH, 20), FIRST_FRESH)
    arm = best_arm(options, scenes)
    keys = RisDataset(RunLocation.open(arm.runs[0]), SampleSpec(parts=("image",))).image_digests()
    groups = fold_arms(options, arm.runs, keys, arm)
    found = train_arms(options, groups, true_run(options, development), shown="a student a fold")
    students: list[ChooserLearner] = []
    for (one,) in groups.values():
        learner = load_student(options.out / "students" / one.digest(), cache=options.out / "students" / "candidates")
        if not isinstance(learner, ChooserLearner):
            raise TypeError(f"{learner} does not choose among masks")
        students.append(learner)
    seen = [frozenset(key for key in keys if fold_of(key) != fold) for fold in range(NUM_FOLDS)]
    folded = FoldedStudents(students, seen)
    judged = {
        each: list(grounded(pseudo_run(options, each, preset=BEST_PRESET), folded)) for each in (development, fresh)
    }
    rankers = {
        "confidence": fitted(judged[development], is_verified=False),
        "and the students' IoU": fitted(judged[development], is_verified=True),
    }
    return {
        "machine": machine(),
        "folds": NUM_FOLDS,
        "scenes": scenes.count,
        "development_scenes": development.count,
        "fresh_scenes": fresh.count,
        "student_miou": {name: found.figures[name]["miou"]["mean"] for name in groups},
        "yields": {str(each): compare(judged[fresh], rankers, each) for each in YIELDS},
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
