"""Adapts the composer's weights to the models of a run, without labels. For `calibrate --composer` and experiments.

The scores of other models have another spread, so each weight is multiplied by the ratio of the two spreads: a score
then has the effect that a score of the same rank had where the weights were fitted. Only weights for any captioner are
changed: weights that were fitted to labels with the run's own models stay.

Which names captions give to one thing, and which are wider, is learnt too. Two names of one thing ("man", "guy") are
drawn for the same masks, and the scorer does not tell them apart. Confused names (a circle that is called a ring now
and then) have their large shares on different masks, and the scorer tells them apart. A wider name ("person") is drawn
beside the names of several things. Confused names must never be merged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import chain, combinations, islice
from typing import Final

import numpy as np

from pseudoris.schemas.fitted import Floats, NounRelations, PosteriorConfig, for_any_captioner
from pseudoris.schemas.shard import ShardImage
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES
from pseudoris.store.tables.annotations import SHARD_COLUMNS, shard_images
from pseudoris.store.tables.open_run import OpenRun
from pseudoris.workers.composing.posterior import Evidence, by_names, drawn_by_mask, evidence_of, object_features

# The weights were fitted on drawn scenes (`evidence.experiments.composing.any_captioner`). Their scores had this
# standard deviation of correctness, and these means and standard deviations of predicted IoU and stability as log-odds.
CORRECTNESS_STD: Final = 0.0518
SCORE_MEANS: Final = (1.834, 1.797)
SCORE_STDS: Final = (0.696, 0.470)
_DIGITS: Final = 4
_MAX_IMAGES: Final = 5_000
# A score with a smaller standard deviation differs only by rounding, so it gets the weight 0.
_LEAST_STD: Final = 1e-6
# A name counts for a mask if at least this share of the mask's sampled captions contain it.
_SAID: Final = 0.1
# A name is judged only if it counts for at least this many masks; for more, where the table of kinds knows names:
# captions of 33 photographs taught that a table is a bench.
_LEAST_MASKS: Final = 5
_MASKS_BESIDE_KINDS: Final = 50
# Chosen on drawn scenes whose captioner has three names a category, and on captions with planted wrong nouns. `share`
# was 0.52 or more for names of one thing, at most 0.19 for confused names, and 0.22 to 1 for a wider name. In a few
# dozen masks a wider name can have more than 0.52 by chance, hence the margin of `_SAME`.
_SAME: Final = 0.62
_WIDER: Final = 0.25
# The scorer prefers names of one thing by fewer standard deviations of correctness, both ways together: confused names
# had 1.5 or more. A wider name may be preferred by half of that where it is drawn more: it had 0.4.
_MOST_TOLD_APART: Final = 1.2


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
        is_of_photographs = config.composing.places == "photographs" if own is None and config.composing else False
        is_of_photographs |= own is not None and own.has_kinds
        shipped = for_any_captioner(is_heard=is_heard, is_of_photographs=is_of_photographs)
        own = PosteriorConfig(**shipped["values"]["posterior"])
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
    names = noun_relations(evidence, _MASKS_BESIDE_KINDS if weights.has_kinds else _LEAST_MASKS)
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


def noun_relations(masks: Sequence[Evidence], least_masks: int = _LEAST_MASKS) -> NounRelations:
    """Return the relations of the nouns that were drawn for the masks of a run, of those of at least some masks."""
    same = NounRelations(same=_names(_Together(masks, least_masks)))
    merged = _Together((by_names(each, same) for each in masks), least_masks)
    wider: defaultdict[str, list[str]] = defaultdict(list)
    for name, other in sorted(merged.both):
        is_covered = merged.share(name, other) > max(_WIDER, merged.share(other, name))
        if is_covered and merged.gap(other, name) < _MOST_TOLD_APART / 2:
            wider[other].append(name)
    several = {
        name: tuple(each)
        for name, each in wider.items()
        # A wider name must cover two names that are seldom drawn together. Otherwise it may name a part of one thing.
        if any(max(merged.share(*pair), merged.share(*pair[::-1])) < _WIDER for pair in combinations(each, 2))
    }
    # The relations are built anew, because a copy of `same` would keep its derived values.
    return NounRelations(same=same.same, wider=several)


def _names(together: _Together) -> tuple[tuple[str, ...], ...]:
    """Return the names of each thing that has several, the most said first."""
    group, share = {name: [name] for name in together.said}, together.share
    for name, other in sorted(together.both):
        if (
            group[name] is not group[other]
            and min(share(name, other), share(other, name)) >= _SAME
            and together.gap(name, other) + together.gap(other, name) < _MOST_TOLD_APART
            # Two names differ if a third is drawn with one of them only, as "boy" is with "kid", but not with "girl".
            and not any(
                max(beside := (share(each, name), share(each, other))) >= _SAME and min(beside) < _WIDER
                for each in together.said
            )
        ):
            group[name] += group[other]
            group |= dict.fromkeys(group[other], group[name])
    groups = {id(names): names for names in group.values() if len(names) > 1}.values()
    return tuple(sorted(tuple(sorted(names, key=lambda name: (-together.said[name], name))) for names in groups))


class _Together:
    """Sums over masks: `said` of each name's share of the draws, `both` of the products of two names' shares."""

    def __init__(self, masks: Iterable[Evidence], least_masks: int) -> None:
        self._least_masks = least_masks
        self.said, self.both = defaultdict[str, float](float), defaultdict[tuple[str, str], float](float)
        self._num_masks, self._gaps = Counter[str](), defaultdict[tuple[str, str], list[float]](list)
        known: list[float] = []
        for mask in masks:
            shares, correctness = mask.nouns, mask.correctness
            known += correctness.values()
            for name, share in shares.items():
                self.said[name] += share
                self._num_masks[name] += share >= _SAID
                for other in shares:
                    self.both[name, other] += share * shares[other]
                    if other != name and share >= shares[other]:
                        self._gaps[name, other].append(correctness[name] - correctness[other])
        self._std = float(np.std(known)) if known else 0.0

    def share(self, name: str, other: str) -> float:
        """Return what share of the draws `other` has where `name` is drawn, of the share where it is drawn itself.

        0 if too few masks have `name`.
        """
        if self._num_masks[name] < self._least_masks or (name, other) not in self.both:
            return 0.0
        return self.both[name, other] / self.said[name] * self.said[other] / self.both[other, other]

    def gap(self, name: str, other: str) -> float:
        """By how many standard deviations the scorer prefers a name where it is drawn more; 0 if it never is."""
        found = self._gaps.get((name, other), ())
        return float(np.mean(found)) / self._std if found and self._std else 0.0
