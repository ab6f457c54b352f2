"""The students of an experiment: an arm is one kind of training data, and is trained with several seeds."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from statistics import fmean, stdev
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray

from evidence.benchmarks.measurement import digest_of
from evidence.experiments.process_pool import run_jobs
from evidence.experiments.quality.markdown_cells import as_json
from evidence.experiments.quality.parts import Options
from evidence.experiments.quality.scene_runs import ALL_KINDS, KINDS, read_kinds
from evidence.experiments.quality.seed_bootstrap import SeedBootstrap
from evidence.experiments.verdicts import interval, variance_over_images
from pseudoris.schemas.config_layers import config_hash
from pseudoris.training.chooser.chooser_config import ChooserConfig, load_chooser_config
from pseudoris.training.chooser.chooser_training import ChooserLearner, StudentRequest, load_student, train_student
from pseudoris.training.evaluation.held_out import Answerer, HeldOutExpressions, ImageQuestion, held_out_figures
from pseudoris.training.learning import open_fabric
from pseudoris.training.learning.checkpoint_folder import CHECKPOINT_NAME, SUMMARY_NAME, TrainingFolder
from pseudoris.workers.checkpoints.weight_files import weights_digest

# Of a student's training: a minute of one core.
NUM_STEPS: Final = 300
QUICK_STEPS: Final = 60
NUM_SEEDS: Final = 5
# Every draw of the captioner, whether the filter kept it or not.
_UNFILTERED: Final = "data.is_kept_only=false"
# Of an arm that says how expressions are drawn.
_DRAW_WORDS: Final = ("data.draw=", "data.weighting=draw", "data.weighting=both")


@dataclass(frozen=True)
class Arm:
    """One training.

    Attributes:
        runs: What is learnt from.
        assignments: Of the student's settings, as `--set` takes them.
        seed: Of weights and order.
    """

    runs: tuple[str, ...]
    assignments: tuple[str, ...] = ()
    seed: int = 0

    def config(self) -> ChooserConfig:
        """Return the student's settings."""
        # The draw of the first figures; the default of `train` was chosen by what they show.
        draw = () if any(word.startswith(_DRAW_WORDS) for word in self.assignments) else ("data.draw=distinct",)
        return load_chooser_config("tiny", None, [*draw, *self.assignments, f"training.seed={self.seed}"])

    def digest(self) -> str:
        """Return a name that says all of it, the frozen models included."""
        config = self.config()
        models = [weights_digest(config.towers.weights), config_hash(config.candidates.run_config())]
        return digest_of([self.runs, config.decisive(), *models])


@dataclass(frozen=True)
class _ArmJob:
    arm: Arm
    folder: Path
    val: str

    @property
    def answers(self) -> Path:
        return self.folder / f"answered-{digest_of(self.val)}.json"


@dataclass(frozen=True)
class Answered:
    """What groups of arms answered to the expressions of the same scenes.

    Attributes:
        figures: By group, `summarise` of its seeds.
        scenes: By group, for each of `ALL_KINDS`: sum of IoU and number of expressions by seed and scene, (seeds,
            scenes, 2) float64.
        untrained: Groups that need no training.
    """

    figures: dict[str, dict[str, Any]]
    scenes: Mapping[str, Mapping[str, NDArray[np.float64]]]
    untrained: frozenset[str] = frozenset()

    def bootstrap(self, kind: str = "all") -> SeedBootstrap:
        """Return the mIoU of every group in questions of one of `ALL_KINDS`, with intervals over scenes and seeds."""
        if kind not in self._bootstraps:
            self._bootstraps[kind] = SeedBootstrap({name: kinds[kind] for name, kinds in self.scenes.items()})
        return self._bootstraps[kind]

    @cached_property
    def _bootstraps(self) -> dict[str, SeedBootstrap]:
        return {}

    def difference(self, more: str, less: str, kind: str = "all") -> dict[str, Any]:
        """Return by how much the mIoU of a group exceeds that of another, which is trained independently.

        `low` and `high` are those of `verdicts.interval`; `seeds` are the differences of seeds that are paired by their
        number, and `trainings` are those of the side that has fewer, what needs no training aside.
        """
        sides = [self.scenes[name][kind] for name in (more, less)]
        by_seed = [(own := side.sum(1))[:, 0] / own[:, 1] for side in sides]
        sums, counts = sides[0].mean(0) - sides[1].mean(0), sides[0][0, :, 1]
        value = float(by_seed[0].mean() - by_seed[1].mean())
        found = interval(
            value, [own.tolist() for own in by_seed], variance_over_images(sums[:, 0], counts), len(counts)
        )
        seeds = [round(float(one - other), 5) for one, other in zip(*by_seed, strict=False)]
        trained = [len(own) for name, own in zip((more, less), by_seed, strict=True) if name not in self.untrained]
        return {**as_json(found), "seeds": seeds, "trainings": min(trained)}

    def with_others(self, others: Answered) -> Answered:
        """Return both, asked the same; the others need no training."""
        both = {**self.figures, **others.figures}, {**self.scenes, **others.scenes}
        return Answered(*both, untrained=frozenset(others.figures))


class _KindsOfQuestions:
    """Answers as another does, and notes the kind of each question in order."""

    def __init__(self, answerer: Answerer, kinds: Mapping[str, Mapping[str, str]]) -> None:
        self._answerer, self._kinds = answerer, kinds
        self.found: list[NDArray[np.str_]] = []

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        self.found.append(np.array([self._kinds[question.image_id][text] for text in question.texts]))
        return self._answerer.answer(question)


def answers_of(
    answerer: Answerer, questions: HeldOutExpressions, kinds_said: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    """Return what an answerer gives to all expressions of a run, as JSON; their kinds are what `read_kinds` returns.

    Returns:
        figures: What `held_out_figures` returns. scenes: For each of `ALL_KINDS`, sum of IoU and number of expressions
        by scene.
    """
    ious: list[NDArray[np.float64]] = []
    asked = _KindsOfQuestions(answerer, kinds_said)
    figures = held_out_figures(asked.answer, questions, on_image=ious.append)
    scenes: dict[str, list[tuple[float, int]]] = {kind: [] for kind in ALL_KINDS}
    for own, kinds in zip(ious, asked.found, strict=True):
        for kind in ALL_KINDS:
            chosen = own if kind == "all" else own[kinds == kind]
            scenes[kind].append((round(float(chosen.sum()), 6), len(chosen)))
    return {"figures": figures, "scenes": scenes}


def answered(groups: Mapping[str, Sequence[Mapping[str, Any]]]) -> Answered:
    """Return groups of what `answers_of` returned, a member for each seed."""
    return Answered(
        {name: summarise([each["figures"] for each in seeds]) for name, seeds in groups.items()},
        {
            name: {kind: np.array([each["scenes"][kind] for each in seeds], np.float64) for kind in ALL_KINDS}
            for name, seeds in groups.items()
        },
    )


def by_kind(found: Answered, group: str) -> dict[str, dict[str, float | None]]:
    """Return the mIoU of a group in all questions and in each kind of them, with intervals."""
    return {kind: as_json(found.bootstrap(kind).mean(group)) for kind in ("all", *KINDS)}


def train_arms(options: Options, arms: Mapping[str, Sequence[Arm]], val: str, *, shown: str) -> Answered:
    """Return what each named group of arms, the seeds of one, answers to a run's expressions.

    Trainings and answers that stand in OUT are taken from there.
    """
    jobs = {arm.digest(): arm for group in arms.values() for arm in group}
    wanted = {digest: _ArmJob(arm, _folder(options, arm), val) for digest, arm in jobs.items()}
    missing = [job for job in wanted.values() if not job.answers.exists()]
    if missing:
        run_jobs(_train_and_ask, missing, options.processes, shown=shown)
    found = {digest: json.loads(job.answers.read_text(encoding="utf-8")) for digest, job in wanted.items()}
    return answered({name: [found[arm.digest()] for arm in group] for name, group in arms.items()})


def summarise(seeds: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """Return by figure the mean over seeds, their standard deviation (of a sample; 0 of one) and the values."""
    return {
        name: {
            "mean": round(fmean(values), 5),
            "std": round(stdev(values), 5) if len(values) > 1 else 0.0,
            "values": [round(value, 5) for value in values],
        }
        for name in seeds[0]
        for values in [[figures[name] for figures in seeds]]
    }


def paper_steps(run: str) -> dict[str, Arm]:
    """Return the arms of the paper's steps on an annotation: naive captions, distinctive ones, filtered ones."""
    return {
        "naive": Arm((run,), assignments=(_UNFILTERED, 'data.decoders=["beam"]')),
        "distinctive": Arm((run,), assignments=(_UNFILTERED,)),
        "filtered": Arm((run,)),
    }


def num_steps(options: Options) -> int:
    """Return the optimiser steps of a training."""
    return options.pick(NUM_STEPS, QUICK_STEPS)


def seeded(options: Options, arm: Arm, *, num_seeds: int = NUM_SEEDS) -> list[Arm]:
    """Return the arm with each seed, and with the steps of this run."""
    steps = f"training.num_steps={num_steps(options)}"
    count = 1 if options.is_quick else num_seeds
    return [replace(arm, assignments=(*arm.assignments, steps), seed=options.seed + number) for number in range(count)]


def _train_and_ask(job: _ArmJob) -> None:
    """Train an arm unless it is trained, and write what it answers; runs in a child process."""
    found = answers_of(_trained(job), HeldOutExpressions(job.val), read_kinds(job.val))
    TrainingFolder(job.folder).write_json(job.answers.name, found)


def _trained(job: _ArmJob) -> ChooserLearner:
    folder, config, cache = job.folder, job.arm.config(), _cache(job.folder)
    if (folder / SUMMARY_NAME).exists():
        return load_student(folder, cache=cache)
    has_begun = (folder / CHECKPOINT_NAME).exists()
    if folder.exists() and not has_begun:
        shutil.rmtree(folder)
    request = StudentRequest(config.with_cache(cache), job.arm.runs, folder, is_resuming=has_begun)
    learner, _ = train_student(request, open_fabric(config.training))
    learner.module.eval()
    return learner


def _folder(options: Options, arm: Arm) -> Path:
    return options.out / "students" / arm.digest()


def _cache(folder: Path) -> Path:
    # Beside the trainings: all of them read the same images.
    return folder.parent / "candidates"
