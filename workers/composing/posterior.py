"""The probability, for the composer, that a phrase is true of each mask, from its noun, its words, and the mask.

    P(noun | mask)   =  softmax over the nouns drawn for the mask of
                        noun_share · log share  +  noun_correctness · correctness
    P(word | mask)   =  logistic(word_bias + word_against · log(share / share of what replaces it)
                                           + word_share · log(share of both together))
    P(object | mask) =  logistic(object_bias + object_predicted_iou · logit(predicted IoU)
                                 + object_stability · logit(stability score)
                                 + object_overlap · share inside another mask)
                        · max(1 - object_nested · share that has the captions of the mask around it, 0.001)
    P(phrase | mask) =  P(noun | mask) · Π P(word | mask)

The captioner draws dozens of captions for each mask, on several crops and by several rules: what is true is drawn
often, what a rule made up to be distinctive is drawn once. The captions of a mask are not independent, so the weights
must be fitted to make these values probabilities. A noun or word that was not drawn has a small fixed probability.
Called by `pipeline`, `training` and `workers`. The formulas must stay those that the fitted weights were fitted to, and
equal input must give equal bits: composed rows are bytes of tables, and `refilter` makes them again.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, reduce
from itertools import chain, combinations, permutations
from typing import Final

import numpy as np

from pseudoris.primitives import rle
from pseudoris.primitives.attribute_slots import canonical, fills_slot, fits_also, opposed_among
from pseudoris.primitives.english import PEOPLE, plural_of
from pseudoris.primitives.kinds import kinds_of
from pseudoris.primitives.noun_phrases import (
    NounPhrase,
    PhraseReader,
    english_among,
    implies,
    phrases_by_rules,
    says_more,
)
from pseudoris.schemas.fitted import Counted, Floats, NounRelations, PosteriorConfig
from pseudoris.schemas.shard import SOURCE_MODEL, ExpressionRecord, MaskRecord, ShardImage
from pseudoris.workers.composing.shown_colours import ShownColours

# This is added to shares, because 0 has no logarithm.
MIN_SHARE: Final = 1e-4
# Words replace each other in images where at least so many captions would join them if they were said independently.
_LEAST_JOINED: Final = 3.0
# Words that were not drawn have these probabilities, set by hand: a noun, a word that a drawn one replaces, any other;
# the latter without slots and with them (in `everyday_world` 0.014; captions of photographs leave more unsaid).
UNSAID_NOUN: Final = 0.006
_UNSAID_WORD: Final = 0.01
_SILENT_WORD: Final = {False: 0.1, True: 0.03}
# Log-odds of SAM's scores are clipped to ± this, a probability of 0.9999: beyond it a mask is almost certain.
_MAX_LOG_ODDS: Final = 9.21
# Narrower names together need more than this part of the share of a wider name: one stray "boy" makes no person a boy.
_LEAST_TOLD: Final = 0.25
# `object_nested` multiplies P(object) by at least this, because a probability of 0 would have no logarithm.
_LEAST: Final = 1e-3
# An overlap counts at most this much: half of a mask within another says as much as all of it.
_MAX_OVERLAP: Final = 0.5


@dataclass(frozen=True, slots=True)
class Evidence:
    """The candidates of one mask as weighted evidence."""

    nouns: Mapping[str, float]  # each head noun's share of the weight of the candidates that name one
    correctness: Mapping[str, float]  # the scorer's correctness of each noun; 0 without a score
    words: Mapping[str, float]  # each other word's share of the weight of the candidates that are noun phrases
    phrases: tuple[NounPhrase, ...]  # the distinct noun phrases of one thing (not "two red dogs"), the heaviest first
    several: float = 0.0  # the share of the weight of the noun phrases that are of several things


def drawn_by_mask(image: ShardImage) -> Mapping[str, Sequence[ExpressionRecord]]:
    """Return the captioner's candidates of one mask each, by mask id; a mask without any is absent."""
    drawn: defaultdict[str, list[ExpressionRecord]] = defaultdict(list)
    for expression in image.expressions:
        if expression.source == SOURCE_MODEL and len(expression.target_mask_ids) == 1:
            drawn[expression.target_mask_ids[0]].append(expression)
    return drawn


def evidence_of(
    candidates: Sequence[ExpressionRecord], counts: Counted, read: PhraseReader = phrases_by_rules
) -> Evidence:
    """Return the evidence of the candidates of one mask, whose captions `read` reads.

    Raises:
        ValueError: `counts` is "probability", and a candidate has no caption score.
    """
    nouns: defaultdict[str, float] = defaultdict(float)
    words: defaultdict[str, float] = defaultdict(float)
    phrases: defaultdict[NounPhrase, float] = defaultdict(float)
    correctness: dict[str, float] = {}
    num_read, weights = 0.0, weights_of(candidates, counts)
    english = english_among(candidate.text for candidate in candidates)
    weighed = [
        (candidate, candidate.head_noun.lower(), weight)
        for candidate, weight in zip(candidates, weights, strict=True)
        if candidate.head_noun and weight and candidate.text in english
    ]
    found = read([candidate.text for candidate, _, _ in weighed], [noun for _, noun, _ in weighed])
    for (candidate, noun, weight), phrase in zip(weighed, found, strict=True):
        nouns[noun] += weight
        # The score of any candidate can be taken, because for one mask correctness depends only on the noun.
        correctness[noun] = candidate.correctness or 0.0
        if phrase is None:
            continue
        num_read += weight
        for word in phrase.words:
            words[word] += weight
        phrases[phrase] += weight
    heaviest_first = sorted(phrases, key=lambda phrase: (-phrases[phrase], len(phrase.text), phrase.text))
    single = tuple(phrase for phrase in heaviest_first if phrase.number != "several")
    several = sum(weight for phrase, weight in phrases.items() if phrase.number == "several") / (num_read or 1.0)
    return Evidence(shares_of(nouns, sum(nouns.values())), correctness, shares_of(words, num_read), single, several)


def weights_of(candidates: Sequence[ExpressionRecord], counts: Counted) -> Sequence[float]:
    """Return the weight of each candidate of a mask, as `evidence_of` counts."""
    if counts != "probability":
        return [float(len(candidate.samples)) for candidate in candidates]
    heard = [candidate.caption_score for candidate in candidates if candidate.caption_score is not None]
    if len(heard) < len(candidates):
        raise ValueError(
            "the posterior counts probabilities, but a candidate has no caption_score from captions.listening"
        )
    # Weights are relative to the largest one: only shares matter, and very small probabilities would all become 0.
    return [math.exp(score - max(heard)) for score in heard]


def by_names(evidence: Evidence, names: NounRelations) -> Evidence:
    """Return the evidence with one name for each thing, and with its plural for several.

    Where names that a wider one covers were drawn often enough, what a caption says of a "person" it says of the
    likeliest of these. Elsewhere the wider name stays.
    """
    nouns: defaultdict[str, float] = defaultdict(float)
    correctness: dict[str, float] = {}
    first = {**{plural_of(name): plural_of(named) for name, named in names.first.items()}, **names.first}
    said = {noun: first.get(noun, noun) for noun in evidence.nouns}
    for noun, name in said.items():
        nouns[name] += evidence.nouns[noun]
        correctness[name] = max(correctness.get(name, -math.inf), evidence.correctness[noun])
    for wide, covered in names.covered.items():
        drawn = sorted(name for name in covered if name in nouns)
        if wide in nouns and sum(nouns[name] for name in drawn) > _LEAST_TOLD * nouns[wide]:
            likeliest = max(drawn, key=lambda name: nouns[name])
            said = {noun: likeliest if name == wide else name for noun, name in said.items()}
            del nouns[wide], correctness[wide]
    phrases = (replace(each, noun=said.get(each.noun, each.noun)) for each in evidence.phrases)
    shares = shares_of(nouns, sum(nouns.values()))
    return replace(evidence, nouns=shares, correctness=correctness, phrases=tuple(dict.fromkeys(phrases)))


def shares_of(weights: Mapping[str, float], total: float) -> dict[str, float]:
    """Return the share of each name in a total, by name."""
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
            # "In red" and "in a red shirt" may both describe one man, so neither replaces the other.
            is_finer = says_more(first, second) or says_more(second, first)
            if (first, second) not in together and not is_finer:
                found[first].add(second)
                found[second].add(first)
    return {word: frozenset(found[word]) for word in sorted(found)}


def learnt_substitutes(phrases: Sequence[NounPhrase]) -> Mapping[str, frozenset[str]]:
    """Return `substitutes` by `canonical` words, only of two that enough captions could have joined."""
    named = [frozenset(map(canonical, phrase.words)) for phrase in phrases]
    longer = [words for words in named if len(words) > 1]
    counts = Counter(chain.from_iterable(longer))
    found: defaultdict[str, set[str]] = defaultdict(set)
    for word, others in substitutes(phrases).items():
        for other in others:
            first, second = canonical(word), canonical(other)
            if first != second and counts[first] * counts[second] >= _LEAST_JOINED * max(len(longer), 1):
                found[first].add(second)
    together = {pair for words in longer for pair in permutations(words, 2)}
    return {word: frozenset(each for each in others if (word, each) not in together) for word, others in found.items()}


@dataclass(frozen=True, eq=False)
class Posterior:
    """What the N masks of an image probably are."""

    config: PosteriorConfig
    evidence: Sequence[Evidence]  # the captions of each mask
    is_object: Floats  # (N,) float64, the probability that a mask is one object and not part or twin of another mask
    shown: ShownColours = field(default_factory=ShownColours, kw_only=True)

    @cached_property
    def nouns(self) -> Sequence[Mapping[str, float]]:
        """By mask, the probability of each noun drawn for it; they add up to 1."""
        return [nouns_of(each, self.config) for each in self.evidence]

    @cached_property
    def words(self) -> Sequence[Mapping[str, float]]:
        """By mask, the probability of each word drawn for it, by `named`."""
        return [{word: self._said(mask, word) for word in each} for mask, each in enumerate(self.shares)]

    @cached_property
    def shares(self) -> Sequence[Mapping[str, float]]:
        """By mask, the share of each word, by `named`."""
        found = []
        for evidence in self.evidence:
            shares: defaultdict[str, float] = defaultdict(float)
            for word, share in evidence.words.items():
                shares[self.named(word)] += share
            # A caption may say the same twice: "a dark haired woman with dark hair".
            most = 1.0 if self.config.has_slots else math.inf
            found.append({word: min(shares[word], most) for word in sorted(shares)})
        return found

    def named(self, word: str) -> str:
        """Return a word, with `has_slots` one for all that say the same."""
        return canonical(word) if self.config.has_slots else word

    def names(self, mask: int) -> Sequence[str]:
        """Return what a mask is called: its likeliest noun, the first of equals; nothing without draws."""
        nouns = self.nouns[mask]
        return [max(nouns, key=lambda noun: nouns[noun])] if nouns else []

    def phrases(self, mask: int, name: str) -> Sequence[NounPhrase]:
        """Return what is drawn of a mask under one of its names, the heaviest first."""
        return [each for each in self.evidence[mask].phrases if each.noun == name]

    def fits(self, phrase: NounPhrase) -> Floats:
        """Return the probability that a phrase is true of each mask, (N,) float64."""
        true_of = self.config.true_of(phrase.noun)
        likely = (sum(share * nouns.get(noun, 0.0) for noun, share in true_of.items()) for nouns in self.nouns)
        return self.with_words(phrase, [UNSAID_NOUN + (1.0 - UNSAID_NOUN) * each for each in likely])

    def may_be(self, phrase: NounPhrase, rivals: Callable[[NounPhrase], Floats]) -> Floats:
        """As `rivals` by phrase, where several things are rivals of one: "two dogs" of "the dog"."""
        true_of = self.config.true_of(phrase.noun)
        several = {replace(phrase, noun=plural_of(noun)): share for noun, share in true_of.items()}
        return reduce(np.maximum, (share * rivals(each) for each, share in several.items()), rivals(phrase))

    def with_words(self, phrase: NounPhrase, named: Sequence[float]) -> Floats:
        """Return the probability of a phrase by that of its noun: of both."""
        said = [self.of_word(word) for word in sorted(phrase.words)]
        return np.array([math.prod((each[mask] for each in said), start=noun) for mask, noun in enumerate(named)])

    @cached_property
    def of_word(self) -> Callable[[str], Sequence[float]]:
        """By word, the probability that it is true of each mask."""
        return cache(lambda word: [self._word(word, mask) for mask in range(len(self.evidence))])

    @cached_property
    def hidden(self) -> Callable[[str], float]:
        """By noun, how many things without a mask captions let expect that it fits; 0 without kinds."""
        return lambda _: 0.0

    def told(self, noun: str) -> Set[str]:
        """Return the words that captions say of what has a noun, or another name of its thing, as `words`."""
        names = {*self.config.true_of(noun), *(PEOPLE if noun in PEOPLE else ())}
        phrases = (phrase for each in self.evidence for phrase in each.phrases if phrase.noun in names)
        return frozenset().union(*(phrase.words for phrase in phrases))

    @cached_property
    def replaced_by(self) -> Mapping[str, frozenset[str]]:
        """By word, the words of the image that replace it, both by `named`."""
        phrases = list(chain.from_iterable(each.phrases for each in self.evidence))
        if not self.config.has_slots:
            return substitutes(phrases)
        opposed, learnt = opposed_among(sorted(set(chain.from_iterable(self.shares)))), learnt_substitutes(phrases)
        return {
            word: frozenset(others).union(
                other for other in learnt.get(word, ()) if not (fills_slot(word) and fills_slot(other))
            )
            for word, others in opposed.items()
        }

    def _said(self, mask: int, word: str) -> float:
        against, both = word_features(self.shares[mask], word, self.replaced_by, self.config.least_opposed)
        odds = self.config.word_bias + self.config.word_against * against + self.config.word_share * both
        return logistic(odds) * self.shown.of_drawn(word, mask)

    def _word(self, word: str, mask: int) -> float:
        said, word = self.words[mask], self.named(word)
        # A drawn "long tail" also implies "tail".
        found = max((said[other] for other in said if self._implies(other, word, mask)), default=None)
        if found is not None:
            return found
        is_replaced = any(other in said for other in self.replaced_by.get(word, ()))
        unsaid = _UNSAID_WORD if is_replaced else _SILENT_WORD[self.config.has_slots]
        return unsaid * self.shown.of_unsaid(word, mask)

    def _implies(self, said: str, word: str, mask: int) -> bool:
        if not self.config.has_slots:
            return implies(said, word)
        return fits_also(said, word, is_person=self.are_persons[mask])

    @cached_property
    def are_persons(self) -> Sequence[bool]:
        """By mask, whether some caption calls it a person."""
        return [any(each in PEOPLE or "person" in kinds_of(each) for each in nouns) for nouns in self.nouns]


def nouns_of(evidence: Evidence, config: PosteriorConfig) -> Mapping[str, float]:
    """Return the probability of each noun drawn for a mask."""
    odds = {
        noun: config.noun_share * math.log(share + MIN_SHARE) + config.noun_correctness * evidence.correctness[noun]
        for noun, share in evidence.nouns.items()
    }
    most = max(odds.values(), default=0.0)
    weights = {noun: math.exp(value - most) for noun, value in odds.items()}
    total = sum(weights.values())
    return {noun: weight / total for noun, weight in weights.items()}


def word_features(
    shares: Mapping[str, float], word: str, replaced_by: Mapping[str, frozenset[str]], least_opposed: float
) -> tuple[float, float]:
    """Return log(share of the word / share of what replaces it), and log(both together).

    `shares` are a mask's of each word, `replaced_by` is as of `substitutes`, and `least_opposed` is added to the share
    of what replaces it.
    """
    share = shares[word]
    against = sum(shares.get(other, 0.0) for other in sorted(replaced_by.get(word, ())))
    return math.log((share + MIN_SHARE) / (against + least_opposed)), math.log(share + against + MIN_SHARE)


def is_object(masks: Sequence[MaskRecord], config: PosteriorConfig, evidence: Sequence[Evidence] = ()) -> Floats:
    """Return the probability that each of N masks is an object, (N,) float64.

    It is 1 for masks without SAM's scores, before `object_nested`, which alone reads the evidence of each.
    """
    nested = nested_shares(masks, evidence) if config.object_nested and masks else np.zeros(len(masks))
    found = []
    for mask, (iou, stability, overlap) in zip(masks, object_features(masks), strict=True):
        is_scored = mask.predicted_iou is not None and mask.stability_score is not None
        scores = config.object_predicted_iou * iou + config.object_stability * stability
        odds = config.object_bias + scores + config.object_overlap * overlap
        found.append(logistic(odds) if is_scored else 1.0)
    return np.array(found, np.float64) * np.maximum(1.0 - config.object_nested * nested, _LEAST)


def nested_shares(masks: Sequence[MaskRecord], evidence: Sequence[Evidence]) -> Floats:
    """Return how far each of N masks is part of a larger one of the same noun, (N,) float64 in [0, 1]; N at least 1.

    It is 0 where half of its pixels or less are inside, 1 where all are, times the share of captions that the two have
    in common by their nouns. Of masks of equal area the later one is the smaller.
    """
    counts = [mask.rle_counts for mask in masks]
    inside = np.maximum(2.0 * rle.shares_inside(counts, counts, masks[0].rle_size) - 1.0, 0.0)
    places = np.argsort(np.argsort([-mask.area_px for mask in masks], kind="stable"))
    nouns = sorted({noun for each in evidence for noun in each.nouns})
    shares = np.array([[each.nouns.get(noun, 0.0) for noun in nouns] for each in evidence])
    common = np.minimum(shares[:, None], shares[None, :]).sum(axis=2)
    return np.asarray((inside * common * (places[:, None] > places[None, :])).max(axis=1))


def object_features(masks: Sequence[MaskRecord]) -> Floats:
    """Return predicted IoU and stability score as log-odds, and the share inside another mask, (N, 3) float64.

    A missing score counts as 0.
    """
    if not masks:
        return np.zeros((0, 3))
    counts = [mask.rle_counts for mask in masks]
    inside = rle.shares_inside(counts, counts, masks[0].rle_size)
    np.fill_diagonal(inside, 0.0)
    scores = [[_log_odds(mask.predicted_iou), _log_odds(mask.stability_score)] for mask in masks]
    return np.column_stack([np.array(scores), np.minimum(inside.max(axis=1), _MAX_OVERLAP)])


def _log_odds(probability: float | None) -> float:
    if probability is None:
        return 0.0
    bounded = min(max(probability, 1e-12), 1.0 - 1e-12)
    return min(max(math.log(bounded) - math.log1p(-bounded), -_MAX_LOG_ODDS), _MAX_LOG_ODDS)


def logistic(value: float) -> float:
    """Return the probability of log-odds, one by one: other ways to sum give other bits."""
    return 1.0 / (1.0 + math.exp(-min(max(value, -700.0), 700.0)))
