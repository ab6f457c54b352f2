"""Measurements that run in their own process and are stored: a training, the floor, the student."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from evidence.benchmarks.measurement import cpu_seconds, digest_of
from evidence.experiments.ppt.ablation_rows import TRAININGS, AblationRuns, Sizes, Training, annotation_digest
from evidence.experiments.ppt_data.pseudo_label_figures import HIT_IOU, iou, masks_of, targets_of
from evidence.experiments.segmenter.segmenter_config import SegmenterConfig, load_segmenter_config
from evidence.experiments.segmenter.segmenter_training import train_segmenter
from pseudoris.files.location import RunLocation
from pseudoris.training.evaluation.answerers import ClipAndSam
from pseudoris.training.evaluation.held_out import Answerer, HeldOutExpressions, held_out_figures
from pseudoris.training.learning import TrainingFolder, open_fabric
from pseudoris.training.learning.checkpoint_folder import CHECKPOINT_NAME, load_checkpoint
from pseudoris.training.learning.trainer import load_trained
from pseudoris.training.ppt.curriculum import SELECTED_NAME, SourceRuns, open_sources, read_chosen
from pseudoris.training.ppt.pairs import LabelFrame, masks_in_frame
from pseudoris.training.ppt.ppt_config import PptConfig, load_ppt_config
from pseudoris.training.ppt.ppt_learner import FrozenEncoders, PointLearner
from pseudoris.training.ppt.ppt_training import PptRequest, train_ppt
from pseudoris.training.ppt.recipes.recipe_config import load_recipe_config

# The size of the scenes: nothing is scaled.
_FRAME: Final = LabelFrame(192, 192)


def select_figures(folder: Path, made: AblationRuns) -> dict[str, Any]:
    """Return what Select chose in a training of the whole curriculum.

    Args:
        folder: Of the training.
        made: What it was trained on.

    Returns:
        pairs: Of H_ref, with one target. reachable: the share of them that have a pseudo-mask whose IoU with the target
        is at least `HIT_IOU`. rounds: of each round that selects, its name, the share of pairs that it decided, and
        the share of these that it decided rightly.
    """
    hits = _hits(made)
    judged = [each for each in hits if each]
    rounds = []
    for name in sorted(path.parent.name for path in folder.glob(f"*/{SELECTED_NAME}")):
        decided, right = _choice(read_chosen(folder / name) or [], hits)
        rounds.append({"name": name, "decided": decided, "right": right})
    return {"pairs": len(judged), "reachable": float(np.mean([any(each) for each in judged])), "rounds": rounds}


def mean_select(found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the means of what `select_figures` returned of the seeds of one training."""
    rounds = []
    for same in zip(*(each["rounds"] for each in found), strict=True):
        means = {name: float(np.mean([each[name] for each in same])) for name in ("decided", "right")}
        rounds.append({"name": same[0]["name"], **means})
    return {"pairs": found[0]["pairs"], "reachable": found[0]["reachable"], "rounds": rounds}


def _hits(made: AblationRuns) -> list[list[bool]]:
    """Of each pair of H_ref which pseudo-masks are the target; nothing of a text with several targets or none."""
    human = RunLocation.open(made.truth)
    targets, truth = targets_of(human), masks_of(human)
    # As trainings read it: a choice is a place among the pseudo-masks that they were given.
    runs = SourceRuns(h=(made.h,))
    (drawn,) = open_sources(runs, load_ppt_config("tiny"), _FRAME, runs.snapshots())["h_ref"]
    pairs = drawn.unflipped()
    found: list[list[bool]] = []
    for pair in (pairs[at] for at in range(len(pairs))):
        wanted = targets.get((pair.image_id, pair.text), [])
        if len(wanted) != 1:
            found.append([])
            continue
        (target,) = masks_in_frame(torch.from_numpy(truth[wanted[0]])[None], _FRAME) >= 0.5
        pseudo_masks = (pair.labels.masks >= 0.5).numpy()
        found.append([iou(mask, target.numpy()) >= HIT_IOU for mask in pseudo_masks])
    return found


def _choice(chosen: Sequence[int], hits: Sequence[Sequence[bool]]) -> tuple[float, float]:
    judged = [(at, each) for at, each in zip(chosen, hits, strict=True) if each]
    decided = [each[at] for at, each in judged if at >= 0]
    return len(decided) / len(judged), float(np.mean(decided)) if decided else 0.0


# Records of finished jobs. They are committed: a job that has one is not measured again, on any machine.
RECORDS: Final = Path(__file__).parents[1] / "results" / "ppt"


@dataclass(frozen=True)
class AblationJob:
    """One measurement.

    Attributes:
        kind: `ppt` trains, `floor` is the paper's row 1, `student` is the segmenter.
        name: Of the training.
        seed: Of weights and order.
        sizes: How long.
        folder: Of its training, which an interrupted job continues.
        record: Written when it is finished.
        runs: To train on and to ask; None for a job that has its record.
    """

    kind: Literal["ppt", "floor", "student"]
    name: str
    seed: int
    sizes: Sizes
    folder: Path
    record: Path
    runs: AblationRuns | None = None

    @property
    def is_finished(self) -> bool:
        """Whether its record stands."""
        return self.record.exists()

    @property
    def needs_annotation(self) -> bool:
        """Whether it is trained on the pipeline's annotation."""
        return self.kind == "student" or any(
            "annotated" in each.sources for each in TRAININGS if each.name == self.name
        )


def job_names(*, is_pseudo: bool) -> list[str]:
    """Return the names of all jobs, each once: with those of the pipeline's annotation, or without."""
    trainings = [each.name for each in TRAININGS if is_pseudo or "annotated" not in each.sources]
    return [*trainings, *(["student-pseudo"] if is_pseudo else []), "floor"]


def jobs_of(sizes: Sizes, folder: Path, records: Path, *, is_pseudo: bool) -> list[AblationJob]:
    """Return all jobs of an ablation, the paper's rows first; those of the pipeline's annotation where asked for."""
    found = []

    def add(kind: Literal["ppt", "floor", "student"], name: str, seed: int, *settings: object) -> None:
        own = f"{name}-{seed}-{_digest(sizes, *settings)}"
        found.append(AblationJob(kind, name, seed, sizes, folder / own, records / f"{own}.json"))

    for training in TRAININGS:
        if "annotated" in training.sources and not is_pseudo:
            continue
        # By the pipeline's whole method too, weights included.
        made = [annotation_digest()] if "annotated" in training.sources else []
        usual = sizes.num_seeds if training.is_paper else 1
        for seed in range(1 if sizes.num_seeds == 1 else training.num_seeds or usual):
            add("ppt", training.name, seed, training.sources, config_of(training, sizes, seed).decisive(), *made)
    if is_pseudo:
        add("student", "student-pseudo", 0, student_config(sizes).decisive(), annotation_digest())
    add("floor", "floor", 0)
    return found


def _digest(sizes: Sizes, *settings: object) -> str:
    """What a job was told, in its record's name: figures of another size or setting are never taken for its own."""
    of_runs = {name: value for name, value in asdict(sizes).items() if name not in ("num_student_steps", "num_seeds")}
    return digest_of([of_runs, *settings])[:8]


def measure(job: AblationJob) -> dict[str, Any]:
    """Return the record of a job, measured unless it stands.

    Returns:
        figures: By row, what `held_out_figures` returns, and of each image the sum of its IoUs and its expressions.
        steps, cpu_s, wall_s: Of this call, an interrupted one's not counted. select: Of the whole curriculum, see
        `select_figures`.
    """
    if job.is_finished:
        found: dict[str, Any] = json.loads(job.record.read_text(encoding="utf-8"))
        return found
    if job.runs is None:
        raise ValueError(f"{job.name} has no record at {job.record}, and no runs to be measured on.")
    torch.set_num_threads(1)
    before, started = cpu_seconds(), time.monotonic()
    done = {"ppt": _trained, "floor": floor_figures, "student": _student}[job.kind](job, job.runs)
    done = {"name": job.name, "seed": job.seed, **done}
    done |= {"cpu_s": round(cpu_seconds() - before, 1), "wall_s": round(time.monotonic() - started, 1)}
    job.record.parent.mkdir(parents=True, exist_ok=True)
    unfinished = job.record.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(done) + "\n", encoding="utf-8")
    unfinished.replace(job.record)
    return done


def config_of(training: Training, sizes: Sizes, seed: int) -> PptConfig:
    """Return the settings of a training."""
    config = load_ppt_config("tiny", None, [f"training.seed={seed}", *training.words])
    return config.model_copy(update={"curriculum": training.curriculum(sizes.epochs_factor * training.share_of_epochs)})


def student_config(sizes: Sizes) -> SegmenterConfig:
    """Return the settings of the segmenter: those of its preset but for the draw, as long as `sizes` says."""
    config = load_segmenter_config("tiny", None, ["data.draw=distinct"])
    return config.model_copy(update={"training": config.training.with_steps(sizes.num_student_steps)})


@cache
def _encoders() -> FrozenEncoders:
    """All trainings of a process read the same images: an encoding each, not one a training."""
    return FrozenEncoders(load_ppt_config("tiny"))


def _trained(job: AblationJob, runs: AblationRuns) -> dict[str, Any]:
    """The figures after the phases that are rows; an interrupted training goes on."""
    (training,) = (each for each in TRAININGS if each.name == job.name)
    config = config_of(training, job.sizes, job.seed)
    request = PptRequest(config, training.runs(runs), job.folder, is_resuming=TrainingFolder(job.folder).is_begun)
    _, summary = train_ppt(request, open_fabric(config.training))
    held_out = HeldOutExpressions(runs.val)
    figures = {}
    for phase, row in training.phases.items():
        # The last round of the phase: rounds are numbered in order.
        at = sorted(path for path in job.folder.glob(f"[0-9][0-9]-{phase}*") if path.is_dir())[-1]
        learner = PointLearner(config, _encoders())
        load_trained(learner.module, load_checkpoint(at / CHECKPOINT_NAME)["module"], where=str(at))
        figures[row] = _asked(learner, held_out)
    done = {"figures": figures, "steps": summary.num_steps}
    return done | {"select": select_figures(job.folder, runs)} if job.name == "full" else done


def _asked(answerer: Answerer, held_out: HeldOutExpressions) -> dict[str, Any]:
    """The figures of an answerer, and the sum of IoUs and the number of expressions of each image, in order."""
    ious: list[NDArray[np.float64]] = []
    named = held_out_figures(answerer.answer, held_out, on_image=ious.append)
    sums = [round(float(each.sum()), 4) for each in ious]
    return {**named, "iou_sums": sums, "num_expressions": [len(each) for each in ious]}


def floor_figures(job: AblationJob, runs: AblationRuns) -> dict[str, Any]:
    """Return the figures of row 1: CLIP and SAM, without training."""
    return {"figures": {"1": _asked(ClipAndSam(load_recipe_config("tiny")), HeldOutExpressions(runs.val))}, "steps": 0}


def _student(job: AblationJob, runs: AblationRuns) -> dict[str, Any]:
    config = student_config(job.sizes)
    # It takes minutes: not worth a resume.
    shutil.rmtree(job.folder, ignore_errors=True)
    learner, summary = train_segmenter(config, [str(runs.pseudo)], job.folder, open_fabric(config.training))
    return {"figures": {job.name: _asked(learner, HeldOutExpressions(runs.val))}, "steps": summary.num_steps}
