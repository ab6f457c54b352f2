"""Which object a text agrees with most, by the words that humans said of each."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

# Letters and digits of any script: punctuation parts words and is dropped.
_WORD: Final = re.compile(r"[^\W_]+")


def words_of(text: str) -> list[str]:
    """Return the words of a text, lower-cased, without punctuation."""
    return _WORD.findall(text.lower())


class SentenceJudge:
    """Holds what was said of the objects of one image; a text refers to the object whose best sentence it is nearest.

    Nearest by token F1: 2 · words in common / (words of the text + words of the sentence), words counted as often as
    they occur.
    """

    def __init__(self, sentences: Sequence[Sequence[str]]) -> None:
        """Take the sentences of each object; an object may have none."""
        self._num_objects = len(sentences)
        said = [(number, Counter(words_of(text))) for number, texts in enumerate(sentences) for text in texts]
        self._objects = np.array([number for number, _ in said], dtype=np.int64)
        self._lengths = np.array([counts.total() for _, counts in said], dtype=np.int64)
        times: defaultdict[str, npt.NDArray[np.int64]] = defaultdict(lambda: np.zeros(len(said), dtype=np.int64))
        for place, (_, counts) in enumerate(said):
            for word, count in counts.items():
                times[word][place] = count
        self._times = dict(times)

    def scores(self, text: str) -> npt.NDArray[np.float64]:
        """Return the F1 of a text with each object's best sentence, (N,) float64 in [0, 1]."""
        best = np.zeros(self._num_objects)
        counts = Counter(words_of(text))
        common = np.zeros(len(self._objects), dtype=np.int64)
        for word, count in counts.items():
            if word in self._times:
                common += np.minimum(self._times[word], count)
        # One where both are empty: nothing is in common then either.
        lengths = np.maximum(self._lengths + counts.total(), 1)
        np.maximum.at(best, self._objects, 2 * common / lengths)
        return best

    def referent(self, text: str) -> int | None:
        """Return the object that a text agrees with most; None where it agrees with none, or with several alike."""
        scores = self.scores(text)
        # Equal fractions of whole numbers are equal floats: a tie is found as one.
        nearest = np.flatnonzero(scores == scores.max(initial=0.0))
        return int(nearest[0]) if len(nearest) == 1 and scores[nearest[0]] > 0 else None
