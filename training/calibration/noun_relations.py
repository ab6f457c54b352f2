"""Which names a run's captions give to one thing, and which are wider; no label and no list of words is needed.

A captioner that calls every man "guy" now and then names one thing by two words: each is drawn wherever the other is.
What is merely confused is drawn together only where a picture is unclear, or the scorer tells the two apart: a circle
that is called a ring now and then looks like no ring. A wider name is drawn beside the names of several things, of
which none is drawn wherever it is.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from pseudoris.schemas.fitted import NounRelations
from pseudoris.workers.composing.posterior import Evidence, by_names

# A name is said of a mask from this share of its draws on, and judged from so many such masks on.
_SAID: Final = 0.1
_LEAST_MASKS: Final = 5
# Chosen on drawn scenes of a captioner with three names a category. Names of one thing are drawn in 0.79 or more of the
# masks of each other, other names in 0.46 at most; a wider name in 0.28 to 1.
_SAME: Final = 0.65
_WIDER: Final = 0.35
# By how many standard deviations of correctness the scorer may tell two names of one thing apart: of confused names it
# was 2.2 or more.
_MOST_TOLD_APART: Final = 1.2


def noun_relations(masks: Sequence[Evidence]) -> NounRelations:
    """Return the relations of the nouns that were drawn for the masks of a run."""
    same = NounRelations(same=_names(_Together.of(masks)))
    merged = _Together.of(by_names(each, same) for each in masks)
    wider: defaultdict[str, list[str]] = defaultdict(list)
    for name, other in sorted(merged.both):
        is_told_apart = merged.gap(name, other) >= _MOST_TOLD_APART
        if merged.share(name, other) >= _WIDER and merged.share(other, name) < _SAME and not is_told_apart:
            wider[other].append(name)
    # What is drawn beside one thing alone may be a part of it.
    return same.model_copy(update={"wider": {name: tuple(each) for name, each in wider.items() if len(each) > 1}})


def _names(together: _Together) -> tuple[tuple[str, ...], ...]:
    """Return the names of each thing that has several, the most said first."""
    group = {name: [name] for name in together.said}
    for name, other in sorted(together.both):
        is_same = min(together.share(name, other), together.share(other, name)) >= _SAME
        is_told_apart = together.gap(name, other) + together.gap(other, name) >= _MOST_TOLD_APART
        if is_same and not is_told_apart and group[name] is not group[other]:
            group[name] += group[other]
            group |= dict.fromkeys(group[other], group[name])
    groups = {id(names): names for names in group.values() if len(names) > 1}.values()
    return tuple(sorted(tuple(sorted(names, key=lambda name: (-together.said[name], name))) for names in groups))


@dataclass(frozen=True)
class _Together:
    """Sums over masks: of the share of each name where it is said, and of pairs where both are drawn."""

    said: Mapping[str, float]
    masks: Mapping[str, int]
    both: Mapping[tuple[str, str], float]
    gaps: Mapping[tuple[str, str], list[float]]
    std: float

    @classmethod
    def of(cls, masks: Iterable[Evidence]) -> _Together:
        said, number = defaultdict[str, float](float), defaultdict[str, int](int)
        both = defaultdict[tuple[str, str], float](float)
        gaps = defaultdict[tuple[str, str], list[float]](list)
        known: list[float] = []
        for mask in masks:
            shares, correctness = mask.nouns, mask.correctness
            known += correctness.values()
            for name, share in shares.items():
                if share < _SAID:
                    continue
                said[name] += share
                number[name] += 1
                for other in shares.keys() - {name}:
                    both[name, other] += share
                    if share >= shares[other]:
                        gaps[name, other].append(correctness[name] - correctness[other])
        return cls(said, number, both, gaps, float(np.std(known)) if known else 0.0)

    def share(self, name: str, other: str) -> float:
        """In which share of what is said by a name the other is drawn too; 0 if too few masks have the name."""
        return self.both.get((name, other), 0.0) / self.said[name] if self.masks.get(name, 0) >= _LEAST_MASKS else 0.0

    def gap(self, name: str, other: str) -> float:
        """By how many standard deviations the scorer prefers a name where it is drawn more; 0 if it never is."""
        found = self.gaps.get((name, other), ())
        return float(np.mean(found)) / self.std if len(found) and self.std else 0.0
