"""The composer's weights for any captioner, in the units of a run: no label is needed.

The weights were fitted where CLIP's cosines and SAM's scores have a spread of their own. Other models spread them
otherwise, so each weight is stretched by the ratio of the two spreads; nothing else of a weight changes.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from pseudoris.schemas.fitted import Floats, PosteriorConfig, for_any_captioner, log_odds
from pseudoris.schemas.shard import SOURCE_MODEL
from pseudoris.schemas.tables import EXPRESSIONS, MASKS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.tables.committed_tables import read_table

# Of the drawn scenes that the weights were fitted on (`experiments.composing.any_captioner`): the standard deviation of
# correctness; mean and standard deviation of predicted IoU and stability score as log-odds.
CORRECTNESS_STD: Final = 0.0518
SCORE_MEANS: Final = (1.834, 1.797)
SCORE_STDS: Final = (0.696, 0.470)
_DIGITS: Final = 4
# A spread below it is rounding: such a score tells nothing apart.
_LEAST_STD: Final = 1e-6


def posterior_of_run(location: RunLocation) -> PosteriorConfig:
    """Return the posterior of a run's composer, or what it would have; for any captioner, in the units of the run."""
    config = require_header(location).config
    fitted = config.filtering.fitted_values
    if fitted.posterior is not None and fitted.models:
        return fitted.posterior
    shipped = for_any_captioner(is_heard=config.captions.listening is not None)["values"]["posterior"]
    weights = fitted.posterior or PosteriorConfig(**shipped)
    said = read_table(location, EXPRESSIONS, ("source", "correctness"))
    drawn = np.array(said["source"].to_pylist()) == SOURCE_MODEL
    masks = read_table(location, MASKS, ("predicted_iou", "stability_score"))
    scores = np.column_stack([log_odds(masks[name].to_numpy().astype(np.float64)) for name in masks.column_names])
    return in_units_of(weights, said["correctness"].to_numpy().astype(np.float64)[drawn], scores)


def in_units_of(weights: PosteriorConfig, correctness: Floats, scores: Floats) -> PosteriorConfig:
    """Return the weights that give scores of a run the effect that scores of the same rank had where they were fitted.

    Args:
        weights: For any captioner.
        correctness: (T,) float64 of the run's candidates, NaN where there is none.
        scores: (M, 2) float64, predicted IoU and stability score of its masks as log-odds, NaN where there is none.
    """
    stretched = {"noun_correctness": weights.noun_correctness * _ratio(CORRECTNESS_STD, correctness)}
    bias = weights.object_bias
    for place, name in enumerate(("object_predicted_iou", "object_stability")):
        known = scores[~np.isnan(scores[:, place]), place]
        weight, ratio = getattr(weights, name), _ratio(SCORE_STDS[place], known)
        stretched[name] = weight * ratio
        bias += weight * (SCORE_MEANS[place] - ratio * (float(known.mean()) if len(known) else 0.0))
    rounded = {name: round(value, _DIGITS) for name, value in (*stretched.items(), ("object_bias", bias))}
    return weights.model_copy(update=rounded)


def _ratio(std: float, values: Floats) -> float:
    known = values[~np.isnan(values)]
    spread = float(known.std()) if len(known) else 0.0
    return std / spread if spread > _LEAST_STD else 0.0
