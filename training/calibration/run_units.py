"""Adapts the composer's weights to the models of a run, without labels. For `calibrate --composer` and experiments.

The scores of other models have another spread, so each weight is multiplied by the ratio of the two spreads: a score
then has the effect that a score of the same rank had where the weights were fitted. Only weights for any captioner are
changed: weights that were fitted to labels with the run's own models stay.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain, islice
from typing import Final

import numpy as np

from pseudoris.schemas.fitted import Floats, PosteriorConfig, for_any_captioner
from pseudoris.schemas.shard import ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES
from pseudoris.store.tables.annotations import SHARD_COLUMNS, shard_images
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.training.calibration.noun_relations import noun_relations
from pseudoris.workers.composing.posterior import drawn_by_mask, evidence_of, object_features

# The weights were fitted on drawn scenes (`evidence.experiments.composing.any_captioner`). Their scores had this
# standard deviation of correctness, and these means and standard deviations of predicted IoU and stability as log-odds.
CORRECTNESS_STD: Final = 0.0518
SCORE_MEANS: Final = (1.834, 1.797)
SCORE_STDS: Final = (0.696, 0.470)
_DIGITS: Final = 4
_MAX_IMAGES: Final = 5_000
# A score with a smaller standard deviation differs only by rounding, so it gets the weight 0.
_LEAST_STD: Final = 1e-6


def posterior_of_run(run: OpenRun) -> PosteriorConfig:
    """Return the weights of a run's composer, or those that it would use, corrected by 5,000 images."""
    config = run.header.config
    fitted = config.filtering.fitted_values
    own = fitted.posterior
    # Weights fitted to labels name their models, and stay. With `object_nested` they are weights for any captioner.
    if own is not None and fitted.models and not own.object_nested:
        return own
    if own is None or fitted.models:
        is_heard = config.captions.listening is not None if own is None else own.counts == "probability"
        own = PosteriorConfig(**for_any_captioner(is_heard=is_heard)["values"]["posterior"])
    joined = (each.joined(SHARD_COLUMNS[IMAGES], None, SHARD_COLUMNS[EXPRESSIONS]) for each in run.shards())
    return corrected(own, islice(chain.from_iterable(map(shard_images, joined)), _MAX_IMAGES))


def corrected(weights: PosteriorConfig, images: Iterable[ShardImage]) -> PosteriorConfig:
    """Return weights for any captioner in the units of some images, with what their captions say of their nouns."""
    correctness: list[float | None] = []
    scores, evidence = [np.zeros((0, 2))], []
    for image in images:
        drawn = drawn_by_mask(image)
        correctness += [each.correctness for said in drawn.values() for each in said]
        evidence += [evidence_of(said, "draws") for said in drawn.values()]
        rated = [mask for mask in image.masks if mask.predicted_iou is not None and mask.stability_score is not None]
        scores.append(object_features(rated)[:, :2])
    names = noun_relations(evidence)
    found = in_units_of(weights, np.array(correctness, np.float64), np.concatenate(scores))
    return found.model_copy(update={"names": names if names.same or names.wider else None})


def in_units_of(weights: PosteriorConfig, correctness: Floats, scores: Floats) -> PosteriorConfig:
    """Return weights for any captioner in the units of a run's scores.

    `correctness` (T,) is that of the candidates, NaN where there is none; `scores` (M, 2) are predicted IoU and
    stability as log-odds, of the masks that have both.
    """
    ratio, _ = _ratio_and_mean(CORRECTNESS_STD, correctness)
    changed = {"noun_correctness": weights.noun_correctness * ratio, "object_bias": weights.object_bias}
    named = ("object_predicted_iou", "object_stability")
    for name, mean, std, values in zip(named, SCORE_MEANS, SCORE_STDS, scores.T, strict=True):
        weight, (ratio, own_mean) = getattr(weights, name), _ratio_and_mean(std, values)
        changed[name] = weight * ratio
        changed["object_bias"] += weight * (mean - ratio * own_mean)
    return weights.model_copy(update={name: round(value, _DIGITS) for name, value in changed.items()})


def _ratio_and_mean(std: float, values: Floats) -> tuple[float, float]:
    known = values[~np.isnan(values)]
    if not len(known):
        return 0.0, 0.0
    spread = float(known.std())
    return std / spread if spread > _LEAST_STD else 0.0, float(known.mean())
