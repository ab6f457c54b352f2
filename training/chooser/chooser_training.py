"""`train student`: from runs to a folder, and back to a chooser. For `cli`, `answerers` and experiments.

A training that was killed and resumed ends with the weights of one that was not. Every refusal comes before the folder
is taken. A student is read back only with the masks and weights that it was trained on.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import nn
from torch.nn.utils.rnn import pad_sequence

from pseudoris.files.location import RunLocation
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.head_nouns import noun_prompt
from pseudoris.training.chooser.candidate_masks import GEOMETRY_WIDTH, PAIR_WIDTH, Candidates, CandidateStore
from pseudoris.training.chooser.choices import Choice, least_none, trusted_levels
from pseudoris.training.chooser.chooser_config import ChooserConfig
from pseudoris.training.chooser.chooser_model import Chooser, ChooserInput
from pseudoris.training.chooser.question_dataset import QuestionBatch, QuestionDataset, collate_questions
from pseudoris.training.evaluation.held_out import (
    HeldOutExpressions,
    ImageQuestion,
    begin_validation,
    digests_of,
    held_out_figures,
)
from pseudoris.training.learning import FitSummary, StepReport, Trainer, TrainingFolder
from pseudoris.training.learning.checkpoint_folder import SUMMARY_NAME, TRAININGS_VERSION, Trained
from pseudoris.training.learning.frozen_towers import FeatureCache, FrozenTowers
from pseudoris.training.learning.trainer import begin_together, load_trained, trained_state
from pseudoris.training.learning.training_data import check_moved, open_feed, open_runs, weighted_mean
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.filtering.spacy_nouns import noun_finder

# One pass answers at most this many expressions of an image.
_TEXTS_A_PASS = 64
# Cached sentences and prompts take at most this many bytes: those of ten thousand expressions take 30 MB.
_TEXT_BYTES = 2**27
# Multiplied by this, CLIP's cosines differ by about 1.
_COSINE_SCALE = 10.0
CHOOSER: Final = "chooser"


class ChooserLearner:
    """A chooser on top of its frozen models; `held_out` is asked at each validation, None for none."""

    def __init__(
        self, config: ChooserConfig, store: CandidateStore, held_out: HeldOutExpressions | None = None
    ) -> None:
        """Draw fresh weights from the seed of the training alone, not from torch's global generator."""
        self.store, self.towers, self.held_out, self._config = store, store.towers, held_out, config
        filtering = store.run.filtering
        self._nouns, self._prompt = noun_finder(filtering), partial(noun_prompt, nouns=filtering.nouns)
        self._sentences = FeatureCache[torch.Tensor](_TEXT_BYTES, lambda seen: seen.nbytes)
        self._num_texts = 2 if config.model.has_head_noun else 1
        width = self._embedded(["a"]).shape[-1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.training.seed)
            num_cosines = 2 * self._num_texts
            self.module = Chooser(config, self.towers.widths, crop_width=2 * width, num_cosines=num_cosines)

    def losses(self, module: nn.Module, batch: QuestionBatch) -> Mapping[str, torch.Tensor]:
        """Return the loss of a batch: softmax of scores against that of IoUs."""
        if not len(batch):
            # All masks of the batch were skipped. Other ranks wait for this pass, so the module reads an image of one
            # mask of which nothing is known, and the loss is 0.
            seen = torch.zeros(1, 2, self._embedded(["a"]).shape[-1]), torch.zeros(1, self.towers.widths.patch)
            mask = Candidates((1, 1), ("",), *seen, torch.zeros(1, GEOMETRY_WIDTH), torch.zeros(1, 1, PAIR_WIDTH))
            given = self._input([mask], ["a"], torch.zeros(1, dtype=torch.int64))
            return {"loss": 0 * module(given).sum()}
        found = [mirrored(self.store[key]) if is_mirrored else self.store[key] for key, is_mirrored in batch.images]
        logits = module(self._input(found, batch.texts, batch.owners)).float()
        ious, weights = batch.ious.to(logits.device), batch.weights.to(logits.device)
        return {"loss": choice_loss(logits, ious, self._config.target.temperature, weights)}

    def validate(self, module: nn.Module, fabric: Fabric) -> Mapping[str, float]:
        """Return the figures of the held-out expressions."""
        if self.held_out is None:
            return {}
        return held_out_figures(partial(self.answer, module=module), self.held_out, fabric)

    def answer(self, question: ImageQuestion, *, module: nn.Module | None = None) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; `module` as of `choose`."""
        return self.choose(question.image_key, question.image, question.texts, module).chosen

    @torch.no_grad()
    def choose(
        self, image_key: str, image: torch.Tensor, texts: Sequence[str], module: nn.Module | None = None
    ) -> Choice:
        """Return the choice for some expressions of an image (3, H, W) uint8, upright RGB.

        One `image_key` is one image. `module` takes the place of the own one, as the trainer wrapped it.
        """
        asked = self.module.eval() if module is None else module
        candidates = self.store.of(image_key, image)
        answers_none = self._config.answers_none
        if not candidates.counts:
            nothing = torch.zeros(0, *candidates.size, dtype=torch.bool)
            return Choice(torch.zeros(len(texts), 0), nothing, none=torch.ones(len(texts)) if answers_none else None)
        parts = []
        for first in range(0, len(texts), _TEXTS_A_PASS):
            some = list(texts[first : first + _TEXTS_A_PASS])
            given = self._input([candidates], some, torch.zeros(len(some), dtype=torch.int64))
            parts.append((asked(given).float().softmax(-1).cpu(), given.levels.cpu()))
        found, levels = (torch.cat(each) for each in zip(*parts, strict=True))
        choice = Choice(found[:, int(answers_none) :], candidates.decoded(), is_of_several=self._config.data.groups)
        if answers_none:
            choice = replace(choice, none=found[:, 0], min_none=self.min_none, levels=levels)
        return choice

    @property
    def min_none(self) -> float | None:
        """From which probability on no mask is the answer; None if that was not chosen, or is no answer."""
        found = float(self.module.min_none) if self._config.answers_none else math.nan
        return None if math.isnan(found) else found

    def _input(self, found: Sequence[Candidates], texts: Sequence[str], owners: torch.Tensor) -> ChooserInput:
        crops = pad_sequence([each.crops for each in found], batch_first=True).float()
        num_masks = crops.shape[1]
        pairs = crops.new_zeros(len(found), num_masks, num_masks, found[0].pairs.shape[-1])
        for own, each in zip(pairs, found, strict=True):
            own[: len(each.pairs), : len(each.pairs)] = each.pairs
        counts = torch.tensor([len(each.counts) for each in found])
        is_mask = torch.arange(num_masks) < counts[:, None]
        # Cosines (T, N, S) of texts with crops, less their mean over an image's masks, have a spread of about 1.
        # Levels (T, 2 · S) keep what that removes: the highest and the mean, in the same scale.
        cosines = torch.einsum("tnkd,tqd->tnkq", crops[owners], self._embedded(texts)).flatten(2)
        own_masks = is_mask[owners][..., None]
        mean = (cosines * own_masks).sum(1, keepdim=True) / own_masks.sum(1, keepdim=True)
        highest = cosines.masked_fill(~own_masks, -1).amax(1)
        known = {
            "crops": crops.flatten(2),
            "pooled": pad_sequence([each.pooled for each in found], batch_first=True).float(),
            "geometry": pad_sequence([each.geometry for each in found], batch_first=True),
            "pairs": pairs,
            "is_mask": is_mask,
            "owners": owners,
            "cosines": (cosines - mean) * own_masks * _COSINE_SCALE,
            "levels": torch.cat([highest, mean[:, 0]], 1) * _COSINE_SCALE,
        }
        # The features of texts are on the device already.
        moved = {name: each.to(self.towers.device) for name, each in known.items()}
        return ChooserInput(**moved, texts=self.towers.encode_texts(texts))

    def _embedded(self, texts: Sequence[str]) -> torch.Tensor:
        """Embeddings (T, Q, D) of each sentence, and of the prompt of its head noun."""
        both = zip(texts, map(self._prompt, texts, self._nouns(texts)), strict=True)
        # Rows are cloned, because a cached view of one row would keep its whole batch in memory.
        found = self._sentences.read(
            [text for each in both for text in each[: self._num_texts]],
            lambda texts: (row.clone() for row in self.store.clip.embed_texts(texts)),
        )
        return torch.stack(found).view(len(texts), self._num_texts, -1)


def mirrored(found: Candidates) -> Candidates:
    """Return the candidates of the mirrored image; embeddings, which hardly change, are left as they are."""
    geometry, pairs = found.geometry.clone(), found.pairs.clone()
    geometry[:, 0] *= -1
    pairs[..., [0, 2]] *= -1
    return replace(found, geometry=geometry, pairs=pairs)


def choice_loss(
    logits: torch.Tensor, ious: torch.Tensor, temperature: float, weights: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the mean, weighted by (T,), of the cross entropy of scores and softmax(IoU / temperature), a scalar.

    Logits (T, N) are -inf where there is no candidate; of `ious` (T, N), or fewer, later columns are padding.
    """
    is_mask = logits.isfinite()
    ious = F.pad(ious, (0, logits.shape[1] - ious.shape[1]))
    target = (ious / temperature).masked_fill(~is_mask, float("-inf")).softmax(-1)
    return -weighted_mean((target * logits.log_softmax(-1).masked_fill(~is_mask, 0)).sum(-1), weights)


@dataclass(frozen=True, slots=True)
class StudentRequest:
    """One training to run.

    `val` is a run or import whose kept expressions are evaluated at each validation, `human` an import to mix in.
    `num_epochs` passes over the masks take the place of the settings' number of steps.
    """

    config: ChooserConfig
    runs: Sequence[str]
    out: Path
    val: str | None = None
    human: str | None = None
    num_epochs: int | None = None
    is_resuming: bool = False


def train_student(
    request: StudentRequest,
    fabric: Fabric,
    *,
    on_step: Callable[[StepReport], None] = lambda report: None,
    on_image: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[ChooserLearner, FitSummary]:
    """Train, or continue the training in the folder; return the learner and its summary.

    All processes of `fabric` make this call. `on_image` counts the images whose masks are proposed now, of how many.
    """
    folder = TrainingFolder(request.out)
    folder.refuse_another(is_resuming=request.is_resuming)
    config, saved = request.config, folder.settings()
    check_moved(config.data.moved, [*request.runs, *filter(None, (request.human, request.val))])
    towers = FrozenTowers(config.towers, fabric.device)
    has_groups = config.data.groups or config.answers_none
    held_out = HeldOutExpressions.for_validation(request.val, config.data.moved, has_groups=has_groups)
    earlier, seed = None if saved is None else saved.get("snapshots"), config.training.seed
    targets, images, snapshots = open_runs(request.runs, request.human, config.data, seed=seed, snapshots=earlier)
    learner = ChooserLearner(config, CandidateStore(config, towers), held_out)
    data = QuestionDataset(targets, images, store=learner.store, config=config, on_image=on_image)
    runs = [RunLocation.open(run).root for run in (*request.runs, *filter(None, [request.human]))]
    data.require_questions(runs)
    feed = open_feed(data, collate_questions, config.data, fabric, targets=targets, seed=seed)
    if request.num_epochs is not None:
        training = config.training.with_steps(request.num_epochs * feed.num_batches())
        config = config.model_copy(update={"training": training})
    # These settings decide the weights, and are enough to build the model again.
    settings: dict[str, Any] = {
        "version": TRAININGS_VERSION,
        "learner": CHOOSER,
        "candidates": learner.store.digest,
        "config": config.decisive(),
        "towers_sha256": weights_digest(config.towers.weights),
        "runs": runs[: len(request.runs)],
        **({} if request.human is None else {"human": runs[-1]}),
        "snapshots": snapshots,
    }
    begin_together(folder, settings, fabric)
    frozen = {*digests_of(learner.store.run), settings["towers_sha256"]}
    shared = begin_validation(images.all_images(), runs, frozen, held_out, folder, fabric)
    cut: dict[str, Any] = {"cut_texts": towers.cut_texts, "context_length": towers.context_length}
    trainer = Trainer(fabric, config.training, folder, json.dumps(settings), on_step, circularity=shared, **cut)
    summary = trainer.fit(learner, feed)
    if config.answers_none and held_out is not None and fabric.is_global_zero:
        summary = _with_least_none(learner, held_out, folder, summary)
    return learner, summary


def _with_least_none(
    learner: ChooserLearner, held_out: HeldOutExpressions, folder: TrainingFolder, summary: FitSummary
) -> FitSummary:
    """Fit on development scenes when no mask is the answer, store it, and return the figures with it."""
    # A training that is resumed at its end has the levels of its last fit. This one must not be relative to them.
    learner.module.trusted_levels.zero_()
    learner.module.min_none.fill_(math.nan)
    trusted, checkpoint = trusted_levels(learner.choose, held_out), folder.load()
    if trusted is None or checkpoint is None:
        return summary
    learner.module.trusted_levels.copy_(trusted)
    least = least_none(learner.choose, held_out)
    if least is not None:
        learner.module.min_none.fill_(least)
    folder.save({**checkpoint, "module": trained_state(learner.module)})
    found = replace(summary, figures=held_out_figures(learner.answer, held_out))
    folder.write_json(SUMMARY_NAME, {name: getattr(found, name) for name in found.__slots__})
    return found


def load_student(path: Path, device: str = "cpu", *, cache: Path | None = None) -> ChooserLearner:
    """Return the chooser of a training's folder, or of its checkpoint, in eval mode; `cache` as `candidates.cache`."""
    trained = Trained.read(path, CHOOSER, ChooserConfig, command="pseudoris train student")
    config = trained.config.with_cache(cache)
    trained.require_weights("CLIP", config.towers.weights, "towers_sha256")
    learner = ChooserLearner(config, CandidateStore(config, FrozenTowers(config.towers, torch.device(device))))
    if learner.store.digest != trained.settings.get("candidates"):
        raise ConfigError(
            f"{trained.file} chose among masks of the preset {config.candidates.preset!r} as it was then. Its settings "
            "or weights are others now. Train again, or use the version of pseudoris that trained it."
        )
    load_trained(learner.module, trained.module, where=str(trained.file))
    learner.module.to(device).eval()
    return learner
