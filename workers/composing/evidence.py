"""The captions of a mask as evidence: which nouns and words they use, and how often.

The captioner draws dozens of captions for each mask, on several crops and by several rules. What is true is drawn
often; what a rule made up to be distinctive is drawn once.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pseudoris.schemas.composer_settings import Counted
from pseudoris.schemas.shard import SOURCE_MODEL, ExpressionRecord, ShardImage
from pseudoris.workers.composing.language import NounPhrase

ReadPhrase = Callable[[str, str | None], NounPhrase | None]


@dataclass(frozen=True, slots=True)
class Evidence:
    """The candidates of one mask as weighted evidence.

    Attributes:
        nouns: Each head noun's share of the weight of the candidates that name one.
        correctness: The scorer's correctness of each noun; 0 without a score.
        words: Each other word's share of the weight of the candidates that are noun phrases.
        phrases: The distinct noun phrases, the heaviest first.
    """

    nouns: Mapping[str, float]
    correctness: Mapping[str, float]
    words: Mapping[str, float]
    phrases: tuple[NounPhrase, ...]


def drawn_by_mask(image: ShardImage) -> Mapping[str, Sequence[ExpressionRecord]]:
    """Return the captioner's candidates of one mask each, by mask id; a mask without any is absent."""
    drawn: defaultdict[str, list[ExpressionRecord]] = defaultdict(list)
    for expression in image.expressions:
        if expression.source == SOURCE_MODEL and len(expression.target_mask_ids) == 1:
            drawn[expression.target_mask_ids[0]].append(expression)
    return drawn


def evidence_of(candidates: Sequence[ExpressionRecord], counts: Counted, read: ReadPhrase) -> Evidence:
    """Return the evidence of the candidates of one mask; `read` takes the noun phrase from a caption.

    Raises:
        ValueError: `counts` is "probability", and a candidate has no caption score.
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
        # For one mask, correctness depends only on the noun.
        correctness[noun] = candidate.correctness or 0.0
        phrase = read(candidate.text, noun)
        if phrase is None:
            continue
        phrases[phrase] += weight
        for word in phrase.words:
            words[word] += weight
    of_nouns, of_words = _shares(nouns, sum(nouns.values())), _shares(words, sum(phrases.values()))
    # Equal weights are ordered by length, then alphabetically.
    heaviest_first = sorted(phrases, key=lambda phrase: (-phrases[phrase], len(phrase.text), phrase.text))
    return Evidence(of_nouns, correctness, of_words, tuple(heaviest_first))


def _weights(candidates: Sequence[ExpressionRecord], counts: Counted) -> list[float]:
    if counts == "draws":
        return [float(len(candidate.samples)) for candidate in candidates]
    scores = [candidate.caption_score for candidate in candidates]
    heard = [score for score in scores if score is not None]
    if len(heard) < len(scores):
        raise ValueError(
            "composing.posterior.counts=probability, but a candidate has no caption_score from captions.listening"
        )
    # Relative to the likeliest, because only shares matter, and exp(-700) would be 0.
    return [math.exp(score - max(heard)) for score in heard]


def _shares(weights: Mapping[str, float], total: float) -> dict[str, float]:
    return {name: weights[name] / total for name in sorted(weights)}


def substitutes(phrases: Iterable[NounPhrase]) -> Mapping[str, frozenset[str]]:
    """Return, for each word, the words that replace it: never used with it, but with the same noun and other words.

    In "red star", "blue star", "dotted star" and "red dotted star", red and blue replace each other: both describe a
    star, and no caption has both. Red and dotted do not. The more the captions vary, the more reliable this is.
    """
    said = {(phrase.noun, phrase.words) for phrase in phrases}
    in_context: defaultdict[tuple[str, frozenset[str]], list[str]] = defaultdict(list)
    together: set[tuple[str, ...]] = set()
    for noun, words in said:
        for word in words:
            in_context[noun, words - {word}].append(word)
        together.update(combinations(sorted(words), 2))
    found: defaultdict[str, set[str]] = defaultdict(set)
    for rivals in in_context.values():
        for first, second in combinations(sorted(rivals), 2):
            if (first, second) not in together:
                found[first].add(second)
                found[second].add(first)
    return {word: frozenset(found[word]) for word in sorted(found)}
