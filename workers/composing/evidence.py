"""What was drawn for the masks of an image, weighed: nouns and words, in which phrases, and which replace which."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from schemas.composing import Counted
from schemas.shard import ExpressionRecord
from workers.composing.language import NounPhrase
from workers.composing.speech import ReadPhrase, most_said


@dataclass(frozen=True, slots=True)
class Evidence:
    """What the candidates of one mask say of it, each with its weight.

    Attributes:
        nouns: Share of the weight that names each head noun, of all that name one.
        correctness: What the scorer says of each of them; 0 where it does not say.
        words: Share of the weight that states each other word, of all that is a noun phrase.
        phrases: The distinct noun phrases drawn, the one of most weight first.
    """

    nouns: Mapping[str, float]
    correctness: Mapping[str, float]
    words: Mapping[str, float]
    phrases: tuple[NounPhrase, ...]


def evidence_of(candidates: Sequence[ExpressionRecord], counts: Counted, read: ReadPhrase) -> Evidence:
    """Return what the candidates of one mask say of it; `read` takes the noun phrase from a caption.

    Raises:
        ValueError: Probabilities count, and nobody has listened.
    """
    nouns: defaultdict[str, float] = defaultdict(float)
    words: defaultdict[str, float] = defaultdict(float)
    phrases: defaultdict[NounPhrase, float] = defaultdict(float)
    correctness: dict[str, float] = {}
    for candidate, weight in zip(candidates, _weights(candidates, counts), strict=True):
        noun = candidate.head_noun
        if noun is None or not weight:
            continue
        nouns[noun] += weight
        # Of one mask it depends on the noun alone.
        correctness[noun] = candidate.correctness or 0.0
        phrase = read(candidate.text, noun)
        if phrase is None:
            continue
        phrases[phrase] += weight
        for word in phrase.words:
            words[word] += weight
    of_nouns, of_words = _shares(nouns, sum(nouns.values())), _shares(words, sum(phrases.values()))
    return Evidence(of_nouns, correctness, of_words, tuple(most_said(phrases)))


def _weights(candidates: Sequence[ExpressionRecord], counts: Counted) -> list[float]:
    if counts == "draws":
        return [float(len(candidate.samples)) for candidate in candidates]
    scores = [candidate.caption_score for candidate in candidates]
    heard = [score for score in scores if score is not None]
    if len(heard) < len(scores):
        raise ValueError("composing.posterior counts probabilities, and captions.listening has found none")
    # Relative to the likeliest: shares are what counts, and the exponential of -700 would be 0.
    return [math.exp(score - max(heard)) for score in heard]


def _shares(weights: Mapping[str, float], total: float) -> dict[str, float]:
    return {name: weights[name] / total for name in sorted(weights)}


def substitutes(phrases: Iterable[NounPhrase]) -> Mapping[str, frozenset[str]]:
    """Return, by word, the words that replace it: said in its place beside the same noun and words, never with it.

    From "red star", "blue star", "dotted star" and "red dotted star" nobody learns that red replaces blue by knowing
    colours: both were said of a star, and no caption of the image says both. The more an image's captions vary, the
    more of this is seen, and the less is mistaken.
    """
    said = {(phrase.noun, phrase.words) for phrase in phrases}
    in_place: defaultdict[tuple[str, frozenset[str]], list[str]] = defaultdict(list)
    together: set[tuple[str, ...]] = set()
    for noun, words in said:
        for word in words:
            in_place[noun, words - {word}].append(word)
        together.update(combinations(sorted(words), 2))
    found: defaultdict[str, set[str]] = defaultdict(set)
    for rivals in in_place.values():
        for first, second in combinations(sorted(rivals), 2):
            if (first, second) not in together:
                found[first].add(second)
                found[second].add(first)
    return {word: frozenset(found[word]) for word in sorted(found)}
