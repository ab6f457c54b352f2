"""The variety of a run's expressions: near-duplicates, and how the vocabulary grows.

Two expressions are *near-duplicates* if the Jaccard index of their word sets is at least `MIN_JACCARD`. Of one mask
they are redundant; of two masks of an image they are ambiguous. A word set holds the words in lower case, each once and
in no order, without articles and the frame of a caption (`a photo of`): `the red star` and `an image of a star, red`
have the same one.

The growth of the vocabulary is a curve over the expressions that are read, with Heaps' law fitted to it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

MIN_JACCARD: Final = 0.8
# Each expression of an image is compared with each other: 20,000 pairs at most.
MAX_COMPARED: Final = 200
# Beyond, sets that were not seen before are not remembered, and a repetition of theirs is not found.
MAX_REMEMBERED: Final = 2_000_000
FRAME_WORDS: Final = frozenset({"a", "an", "the", "of", "photo", "picture", "image"})
_MAX_POINTS: Final = 256
# Fewer points give no reliable slope.
_MIN_FITTED: Final = 8
_WORD: Final = re.compile(r"[^\W_]+(?:['’-][^\W_]+)*")

# An expression's target masks and its text.
Spoken = tuple[tuple[str, ...], str]


def words_of(text: str) -> list[str]:
    """Return the words of an expression in lower case, in order."""
    return _WORD.findall(text.lower())


def word_set(text: str) -> frozenset[str]:
    """Return the words that distinguish an expression; all words if it has only the frame."""
    words = frozenset(words_of(text))
    return words - FRAME_WORDS or words


def jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    """Return the size of the intersection over that of the union; 1 for two empty sets."""
    union = len(first | second)
    return len(first & second) / union if union else 1.0


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Counts of near-duplicates among kept expressions.

    Attributes:
        compared: Expressions that were compared with the others of their image.
        left_out: Those beyond `MAX_COMPARED` of their image.
        same_mask: Compared ones with a near-duplicate of the same mask.
        other_mask: Compared ones with a near-duplicate of another mask of the image.
        seen_before: Expressions whose word set an earlier image had.
        counted: Expressions that were checked for `seen_before`.
    """

    compared: int = 0
    left_out: int = 0
    same_mask: int = 0
    other_mask: int = 0
    seen_before: int = 0
    counted: int = 0


class DuplicateCounter:
    """Takes kept expressions image by image; remembers one number a distinct word set."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(Duplicates.__dataclass_fields__, 0)
        self._seen: set[int] = set()

    def add_image(self, spoken: Iterable[Spoken]) -> None:
        """Count the kept expressions of one image."""
        sets = [(targets, word_set(text)) for targets, text in spoken]
        compared = sets[:MAX_COMPARED]
        same, other = _near_duplicates(compared)
        self._counts["compared"] += len(compared)
        self._counts["left_out"] += len(sets) - len(compared)
        self._counts["same_mask"] += same
        self._counts["other_mask"] += other
        # Of Python's own hash of 64 bits: two sets in two million share one with a chance of one in ten million.
        hashes = [hash(words) for _, words in sets]
        self._counts["counted"] += len(hashes)
        self._counts["seen_before"] += sum(each in self._seen for each in hashes)
        if len(self._seen) < MAX_REMEMBERED:
            self._seen.update(hashes)

    def counts(self) -> Duplicates:
        """Return what was counted so far."""
        return Duplicates(**self._counts)


def _near_duplicates(sets: Sequence[tuple[tuple[str, ...], frozenset[str]]]) -> tuple[int, int]:
    """How many have a near-duplicate of the same targets, and how many one of others."""
    same, other = [False] * len(sets), [False] * len(sets)
    for i, (targets, words) in enumerate(sets):
        for j in range(i + 1, len(sets)):
            other_targets, other_words = sets[j]
            # The smaller over the larger set bounds the index from above.
            small, large = sorted((len(words), len(other_words)))
            if small < MIN_JACCARD * large or jaccard(words, other_words) < MIN_JACCARD:
                continue
            found = same if targets == other_targets else other
            found[i] = found[j] = True
    return sum(same), sum(other)


@dataclass(frozen=True, slots=True)
class Growth:
    """Distinct words against expressions.

    Attributes:
        points: (expressions read, distinct words among them), both ascending, from (0, 0).
        heaps_exponent: β of words = K · expressions^β, by least squares on the logarithms; None for too few points.
            Near 0 the vocabulary is used up, and at 0.5 it grows as a natural text's does.
    """

    points: tuple[tuple[int, int], ...]
    heaps_exponent: float | None

    @property
    def num_words(self) -> int:
        """Distinct words in all."""
        return self.points[-1][1]


class VocabularyGrowth:
    """Takes expressions in order; keeps the distinct words, and a few hundred points of the curve."""

    def __init__(self) -> None:
        self._words: set[str] = set()
        self._num_read = 0
        self._points = [(0, 0)]
        self._step = 1

    def add(self, texts: Iterable[str]) -> None:
        """Read expressions."""
        for text in texts:
            self._words.update(words_of(text))
            self._num_read += 1
            if self._num_read % self._step == 0:
                self._points.append((self._num_read, len(self._words)))
                if len(self._points) > _MAX_POINTS:
                    # How many will come is not known: every other point is given up, and the step doubles.
                    self._points = self._points[::2]
                    self._step *= 2

    def growth(self) -> Growth:
        """Return the curve so far, its last point included."""
        last = (self._num_read, len(self._words))
        points = self._points if self._points[-1] == last else [*self._points, last]
        return Growth(tuple(points), _heaps_exponent(points))


def _heaps_exponent(points: list[tuple[int, int]]) -> float | None:
    seen = np.array([point for point in points if min(point) > 0], dtype=np.float64)
    if len(seen) < _MIN_FITTED:
        return None
    logs = np.log(seen)
    return float(np.polynomial.polynomial.polyfit(logs[:, 0], logs[:, 1], 1)[1])
