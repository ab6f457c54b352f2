"""Learns, without labels, which names captions give to one thing, and which are wider. For `run_units`, experiments.

Two names of one thing ("man", "guy") are drawn for the same masks, and the scorer does not tell them apart. Confused
names (a circle that is called a ring now and then) have their large shares on different masks, and the scorer tells
them apart. A wider name ("person") is drawn beside the names of several things. Confused names must never be merged.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Final

import numpy as np

from pseudoris.schemas.fitted import NounRelations
from pseudoris.workers.composing.posterior import Evidence, by_names

# A name counts for a mask if at least this share of the mask's sampled captions contain it.
_SAID: Final = 0.1
# A name is judged only if it counts for at least this many masks.
_LEAST_MASKS: Final = 5
# Chosen on drawn scenes whose captioner has three names a category, and on captions with planted wrong nouns. `share`
# was 0.52 or more for names of one thing, at most 0.19 for confused names, and 0.22 to 1 for a wider name. In a few
# dozen masks a wider name can have more than 0.52 by chance, hence the margin of `_SAME`.
_SAME: Final = 0.62
_WIDER: Final = 0.25
# The scorer prefers names of one thing by fewer standard deviations of correctness, both ways together: confused names
# had 1.5 or more. A wider name may be preferred by half of that where it is drawn more: it had 0.4.
_MOST_TOLD_APART: Final = 1.2


def noun_relations(masks: Sequence[Evidence]) -> NounRelations:
    """Return the relations of the nouns that were drawn for the masks of a run."""
    same = NounRelations(same=_names(_Together(masks)))
    merged = _Together(by_names(each, same) for each in masks)
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

    def __init__(self, masks: Iterable[Evidence]) -> None:
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
        if self._num_masks[name] < _LEAST_MASKS or (name, other) not in self.both:
            return 0.0
        return self.both[name, other] / self.said[name] * self.said[other] / self.both[other, other]

    def gap(self, name: str, other: str) -> float:
        """By how many standard deviations the scorer prefers a name where it is drawn more; 0 if it never is."""
        found = self._gaps.get((name, other), ())
        return float(np.mean(found)) / self._std if found and self._std else 0.0
