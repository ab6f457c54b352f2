"""The captions of a mask as votes: which nouns and words they use, and how often.

The captioner draws dozens of captions for each mask, on several crops and by several rules. What is true is drawn
often; what a rule made up to be distinctive is drawn once. So the share of the draws tells which phrases fit a mask,
may fit it, or do not fit, even if the scorer has no score of the phrase for the mask.

`CaptionVotes` holds shares of the draws, for decisions by bounds. `Evidence` holds shares of weights (draws or
probabilities), for decisions by one probability (`posterior`).
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from pseudoris.schemas.composer_settings import Counted
from pseudoris.schemas.shard import ExpressionRecord
from pseudoris.workers.composing.language import NounPhrase

ReadPhrase = Callable[[str, str | None], NounPhrase | None]


@dataclass(frozen=True, slots=True)
class VoteBounds:
    """The shares of the draws that decide.

    Attributes:
        min_noun: A noun is true of a mask if at least this share names it.
        max_noun: A noun is surely false if at most this share names it.
        min_word: A word is true of a mask if at least this share states it.
        max_word: A word is surely false if at most this share states it.
    """

    min_noun: float
    max_noun: float
    min_word: float
    max_word: float


@dataclass(frozen=True, slots=True)
class CaptionVotes:
    """The votes of the captions of one mask.

    Attributes:
        nouns: Share of the draws that name each head noun.
        words: Share of the draws that state each other word.
        seen: The nouns that fit the masked crop best by the scorer; all of them if there are no scores.
        phrases: The distinct noun phrases, the most frequent first, each with its share of the draws.
    """

    nouns: Mapping[str, float]
    words: Mapping[str, float]
    seen: frozenset[str]
    phrases: tuple[tuple[NounPhrase, float], ...]

    @property
    def noun(self) -> str | None:
        """The noun of the largest share, the first of equals; None without draws."""
        return max(self.nouns, key=lambda noun: self.nouns[noun], default=None)

    def surely_fits(self, phrase: NounPhrase, bounds: VoteBounds) -> bool:
        """Return whether a phrase is surely true of the mask."""
        return (
            self.noun == phrase.noun
            and phrase.noun in self.seen
            and self.nouns[phrase.noun] >= bounds.min_noun
            and all(self.words.get(word, 0.0) >= bounds.min_word for word in phrase.words)
        )

    def may_fit(self, phrase: NounPhrase, bounds: VoteBounds) -> bool:
        """Return whether a phrase may be true of the mask."""
        return self.nouns.get(phrase.noun, 0.0) > bounds.max_noun and all(
            self.words.get(word, 0.0) > bounds.max_word for word in phrase.words
        )


def votes_of(candidates: Iterable[ExpressionRecord], read: ReadPhrase) -> CaptionVotes:
    """Return the votes of the candidates of one mask; `read` takes the noun phrase from a caption."""
    nouns: Counter[str] = Counter()
    words: Counter[str] = Counter()
    phrases: Counter[NounPhrase] = Counter()
    looks: dict[str, float] = {}
    total = 0
    for candidate in candidates:
        count = len(candidate.samples)
        total += count
        if candidate.head_noun is not None:
            nouns[candidate.head_noun] += count
            # For one mask, correctness depends only on the noun.
            looks[candidate.head_noun] = 0.0 if candidate.correctness is None else candidate.correctness
        phrase = read(candidate.text, candidate.head_noun)
        if phrase is None:
            continue
        phrases[phrase] += count
        for word in phrase.words:
            words[word] += count
    return CaptionVotes(
        {noun: count / total for noun, count in sorted(nouns.items())},
        {word: count / total for word, count in sorted(words.items())},
        frozenset(noun for noun, look in looks.items() if look == max(looks.values())),
        tuple((phrase, phrases[phrase] / total) for phrase in heaviest_first(phrases)),
    )


def heaviest_first(phrases: Mapping[NounPhrase, float]) -> list[NounPhrase]:
    """Return phrases by weight, the heaviest first; equal weights are ordered by length, then alphabetically."""
    return sorted(phrases, key=lambda phrase: (-phrases[phrase], len(phrase.text), phrase.text))


def possible_rivals(phrase: NounPhrase, target: int, votes: Sequence[CaptionVotes], bounds: VoteBounds) -> list[int]:
    """Return the numbers of the other masks that a phrase may be true of."""
    return [n for n, mask_votes in enumerate(votes) if n != target and mask_votes.may_fit(phrase, bounds)]


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
    return Evidence(of_nouns, correctness, of_words, tuple(heaviest_first(phrases)))


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
