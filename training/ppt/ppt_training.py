"""Trains PPT (curriculum point prompting) through its phases, from runs to a folder. For `cli/train.py`, experiments.

A training that was killed and resumed ends with the weights of one that was not. Every refusal comes before the folder
is taken. H_ref: the pairs of image and text with several pseudo-masks. Select: before some rounds the present model
chooses the one that the text means.

OUT/config.json              settings and data, written once: a resume must have the same
OUT/01-semantic/, 02-…       one folder per round: checkpoint, summary and curves; selected.json if Select came first
OUT/checkpoint.pt            the last round that is done: what `predict` reads
OUT/summary.json             the figures of each phase
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from lightning_fabric import Fabric

from pseudoris.files.location import RunLocation
from pseudoris.primitives.counter_rng import key_of
from pseudoris.primitives.errors import ConfigError
from pseudoris.training.evaluation.held_out import HeldOutExpressions, begin_validation
from pseudoris.training.learning import FitSummary, ResumableFeed, StepReport, Trainer, TrainingFolder
from pseudoris.training.learning.checkpoint_folder import SUMMARY_NAME, TRAININGS_VERSION
from pseudoris.training.learning.trainer import begin_together, load_trained
from pseudoris.training.learning.training_data import check_moved
from pseudoris.training.ppt.curriculum import (
    Round,
    SourceRuns,
    open_sources,
    plan_rounds,
    read_chosen,
    select_referents,
    write_chosen,
)
from pseudoris.training.ppt.pairs import PairDataset, PromptedPairs, collate
from pseudoris.training.ppt.ppt_config import SOURCES, PairsDataConfig, PptConfig, Source
from pseudoris.training.ppt.ppt_learner import LEARNER, FrozenEncoders, PointLearner
from pseudoris.workers.checkpoints.weight_files import weights_digest

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PptRequest:
    """One training to run, into a local folder.

    `val` is a run or import whose kept expressions are asked at the end of each phase. A resume may name another one:
    all phases are then asked again.
    """

    config: PptConfig
    runs: SourceRuns
    out: Path
    val: str | None = None
    is_resuming: bool = False


@dataclass(frozen=True, slots=True)
class PptSummary:
    """How a training ended.

    `phases` has the figures of each phase's validation, in order; it is empty without `val`. `num_steps_now` and
    `wall_s` are of this call alone, without Select. `circularity` is as in `FitSummary`.
    """

    phases: Mapping[str, Mapping[str, float]]
    num_steps: int
    num_steps_now: int
    wall_s: float
    num_parameters: int
    circularity: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Reports:
    """Callbacks of a training, called on the first process alone.

    `on_plan` gets the rounds and the pairs of each source, before the first step, `on_select` the round, how many pairs
    have a referent now, of how many. Steps count over all rounds.
    """

    on_plan: Callable[[Sequence[Round], dict[Source, int]], None] = lambda rounds, pairs: None
    on_step: Callable[[StepReport], None] = lambda report: None
    on_select: Callable[[Round, int, int], None] = lambda each, decided, pairs: None


def train_ppt(request: PptRequest, fabric: Fabric, reports: Reports | None = None) -> tuple[PointLearner, PptSummary]:
    """Train through the curriculum, or continue in the folder; all processes of `fabric` (`open_fabric`) call this."""
    folder = TrainingFolder(request.out)
    folder.refuse_another(is_resuming=request.is_resuming)
    runs = (run for named in asdict(request.runs).values() for run in named)
    check_moved(request.config.data.moved, [*runs, *filter(None, [request.val])])
    encoders = FrozenEncoders(request.config, fabric.device)
    snapshots = request.runs.snapshots((folder.settings() or {}).get("snapshots"))
    sources = open_sources(request.runs, request.config, encoders.frame, snapshots)
    config, data = request.config, request.config.data
    digests = {"clip": weights_digest(config.clip.weights), "sam": weights_digest(config.sam.weights)}
    # These settings decide weights and figures, and are enough to build the model again.
    settings = {
        "version": TRAININGS_VERSION,
        "learner": LEARNER,
        "config": config.decisive(),
        "sha256": digests,
        "runs": {name: [RunLocation.open(run).root for run in runs] for name, runs in asdict(request.runs).items()},
        "snapshots": {RunLocation.open(run).root: each.state() for run, each in snapshots.items()},
    }
    num_pairs = {source: sum(map(len, parts)) for source, parts in sources.items()}

    def num_batches(names: Sequence[Source]) -> int:
        return _feed(PromptedPairs(_joined(sources, names)), data, fabric, seed=0).num_batches()

    rounds = plan_rounds(request.config.curriculum, num_pairs, num_batches)
    held_out = HeldOutExpressions.for_validation(request.val, data.moved)
    begin_together(folder, settings, fabric)
    images = PromptedPairs(_joined(sources, SOURCES)).image_keys()
    shared = begin_validation(images, snapshots, digests.values(), held_out, folder, fabric)
    curriculum = _Curriculum(
        request, fabric, reports or Reports(), encoders, sources, held_out, rounds, json.dumps(settings), shared
    )
    if fabric.is_global_zero:
        curriculum.reports.on_plan(rounds, num_pairs)
    return curriculum.run(folder)


@dataclass
class _Curriculum:
    """The rounds of one training, one after the other."""

    request: PptRequest
    fabric: Fabric
    reports: Reports
    encoders: FrozenEncoders
    sources: dict[Source, list[PairDataset]]
    held_out: HeldOutExpressions | None
    rounds: Sequence[Round]
    settings: str
    circularity: Sequence[str]

    def run(self, folder: TrainingFolder) -> tuple[PointLearner, PptSummary]:
        phases: dict[str, Mapping[str, float]] = {}
        state: dict[str, Any] | None = None
        before = folder
        steps_now, wall_s = 0, 0.0
        for each in self.rounds:
            own = TrainingFolder(self.request.out / each.name)
            own.path.mkdir(parents=True, exist_ok=True)
            is_new = not (own.path / SUMMARY_NAME).exists()
            if is_new:
                data = self._data(each, self._at(state, before), own)
                # Each round has a new learner, because DDP's wrapper keeps the weights of its round.
                learner = PointLearner(self.request.config, self.encoders, self.held_out if each.is_last else None)
                done = self._train(each, learner, data, own, state)
                steps_now, wall_s = steps_now + done.num_steps_now, wall_s + done.wall_s
            self.fabric.barrier()
            state, before = own.load(), own
            # The last round is saved even if it was done before: a process may have been killed before this write.
            if self.fabric.is_global_zero and state is not None and (is_new or each is self.rounds[-1]):
                folder.save(state)
            if each.is_last and self.held_out is not None:
                if is_new:
                    phases[each.phase] = done.figures
                else:
                    # The model is validated again, because the earlier figures may be about another run in `val`.
                    learner = self._at(state, own, self.held_out)
                    phases[each.phase] = learner.validate(learner.module, self.fabric)
        learner = self._at(state, before, self.held_out)
        num_parameters = sum(weight.numel() for weight in learner.module.parameters())
        num_steps = sum(each.num_steps for each in self.rounds)
        summary = PptSummary(phases, num_steps, steps_now, wall_s, num_parameters, self.circularity)
        if self.fabric.is_global_zero:
            folder.write_json(SUMMARY_NAME, {name: getattr(summary, name) for name in summary.__slots__})
        return learner, summary

    def _at(
        self, state: Mapping[str, Any] | None, where: TrainingFolder, held_out: HeldOutExpressions | None = None
    ) -> PointLearner:
        """The learner with the weights of a checkpoint, or fresh ones, in eval mode on the device."""
        learner = PointLearner(self.request.config, self.encoders, held_out)
        if state is not None:
            load_trained(learner.module, state["module"], where=str(where.path))
        learner.module.to(self.fabric.device).eval()
        return learner

    def _data(self, each: Round, learner: PointLearner, own: TrainingFolder) -> list[PairDataset]:
        """What a round trains on; Select decides H_ref by the weights that it begins with, once and for all resumes."""
        parts = {source: self.sources[source] for source in each.sources}
        if each.is_selecting:
            chosen = read_chosen(own.path)
            min_iou = self.request.config.curriculum.min_iou
            if chosen is None:
                chosen = select_referents(learner, parts["h_ref"], min_iou=min_iou, fabric=self.fabric)
                if self.fabric.is_global_zero:
                    write_chosen(own.path, chosen, min_iou=min_iou)
                    self.reports.on_select(each, sum(at >= 0 for at in chosen), len(chosen))
            # All ranks wait until the choice is on disk, where a resumed training reads it.
            self.fabric.barrier()
            num_pairs = sum(map(len, parts["h_ref"]))
            if len(chosen) != num_pairs:
                raise ConfigError(
                    f"{len(chosen)} referents were selected before, but now there are {num_pairs} pairs. The runs have "
                    "changed. Train again in another --out."
                )
            left = iter(chosen)
            parts["h_ref"] = [part.selected([next(left) for _ in range(len(part))]) for part in parts["h_ref"]]
        return _joined(parts, each.sources)

    def _train(
        self,
        each: Round,
        learner: PointLearner,
        data: Sequence[PairDataset],
        own: TrainingFolder,
        begin_with: Mapping[str, Any] | None,
    ) -> FitSummary:
        pairs = PromptedPairs(data, epochs_before=each.epochs_before, is_held=self.encoders.holds)
        # Each round has another order. The seed has 63 bits, the limit of DataLoader's workers.
        seed = key_of("round", self.request.config.training.seed, each.name) >> 1
        feed = _feed(pairs, self.request.config.data, self.fabric, seed=seed)
        total = self.rounds[-1].steps_before + self.rounds[-1].num_steps

        def on_step(report: StepReport) -> None:
            self.reports.on_step(replace(report, step=each.steps_before + report.step, num_steps=total))

        config = self.request.config.training.with_steps(each.num_steps)
        trainer = Trainer(
            self.fabric,
            # Only the first round has a warm-up, because later rounds begin with trained weights.
            config.model_copy(update={"num_warmup_steps": 0}) if each.steps_before else config,
            own,
            settings=self.settings,
            on_step=on_step,
            begin_with=begin_with,
            steps_before=each.steps_before,
            circularity=self.circularity,
        )
        done = trainer.fit(learner, feed)
        if pairs.num_skipped:
            logger.warning("%s: %d pairs replaced others whose image cannot be used", each.name, pairs.num_skipped)
        return done


def _joined(parts: Mapping[Source, Sequence[PairDataset]], names: Sequence[Source]) -> list[PairDataset]:
    return [part for name in names for part in parts[name]]


def _feed(pairs: PromptedPairs, config: PairsDataConfig, fabric: Fabric, *, seed: int) -> ResumableFeed:
    return ResumableFeed(
        pairs,
        collate,
        units_per_batch=config.pairs_per_batch // config.pairs_per_image,
        masks_per_unit=config.pairs_per_image,
        seed=seed,
        rank=fabric.global_rank,
        world_size=fabric.world_size,
        num_workers=config.num_workers,
    )
