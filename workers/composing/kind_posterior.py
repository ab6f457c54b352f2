"""What the masks of an image probably are, where names of one kind of thing count together. For `likelihood`.

    P(name | mask)   =  logistic(noun_bias + noun_share · log((for + 0.02) / (against + 0.02)))

`for` and `against` are shares of the draws, by `primitives.kinds.truth`; all else is as of `posterior`, whose rules on
formulas and bits hold here too.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from functools import cache, cached_property, lru_cache
from itertools import product
from typing import Final

import numpy as np

from pseudoris.primitives.attribute_slots import fills_slot
from pseudoris.primitives.english import BODY, STUFF, is_plural, plural_of
from pseudoris.primitives.head_nouns import CLOSED, read_chunk, subject_start, tokenise
from pseudoris.primitives.kinds import (
    MIN_SUPPORT,
    basic_names,
    fits_anything,
    is_listed,
    is_same,
    is_wide,
    is_wider,
    kind_of,
    kinds_of,
    says_several,
    supported_name,
    truth,
)
from pseudoris.primitives.noun_phrases import NounPhrase, is_no_attribute
from pseudoris.schemas.fitted import Floats
from pseudoris.schemas.shard import CROP_MASKED, ExpressionRecord
from pseudoris.workers.composing.posterior import UNSAID_NOUN, Evidence, Posterior, logistic, nouns_of, shares_of

# What these say of a person, the name says; and only what is alive holds or wears something.
_SEXES, _OF_PERSONS = frozenset({"male", "female"}), ("holding ", "wearing ")
# A mask above this probability is one of a kind, and above this share of captions of several things it is several.
# In a crowd each lets expect so many without a mask. Set by hand.
_LIKELY, _HIDDEN_IN_CROWD = 0.5, 0.1
# So many things without a mask a name fits that is wider than some basic name: one that is basic itself, as "truck",
# and one that is not, as "appliance". Chosen on 16 photographs.
_HIDDEN_OF_WIDE: Final = {True: 1.0, False: 3.0}
# If all masks of an image are too small, so many things without a mask are expected of a kind that it shows. By hand.
_HIDDEN_OF_SMALL: Final = 0.2
_NUMBERS: Final = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9, "ten": 10}
_OTHERS: Final = frozenset({"another", "other"})
_MANY: Final = frozenset({"several", "many", "herd", "flock", "group", "pack", "school", "pair"})
# "Three large brown dogs": a number counts the next of so many words that says several.
_COUNTED_WORDS: Final = 3
# Draws for and against a name count as at least this share, because no number of captions leaves no doubt.
_LEAST_AGAINST: Final = 0.02
# Of a mask whose captions name other kinds with this squared share, an unsaid kind has this probability: on photographs
# 0.03 of the names of other masks are true where the most frequent kind has a share below 0.5.
_SCATTERED: Final = 0.1
# Where most draws of the mask alone support a name, other nouns of crops with what is around it have this weight: they
# may be of what is around ("man" of a tie), or show that the mask is misnamed. Chosen in `everyday_world` and on 16
# photographs.
_OF_CONTEXT: Final = 0.3


@dataclass(frozen=True, eq=False)
class KindPosterior(Posterior):
    """As `Posterior`, where names of one kind of thing count together (`primitives.kinds`).

    A mask has the basic name that its draws support: narrower names and synonyms count for it, wider ones say nothing.
    Of another mask a wider name says that it may be a rival.
    """

    several: Sequence[Mapping[str, float]]  # by mask, as of `kinds_of_several`
    whole: Sequence[str] = ()  # the draws of the whole picture
    num_too_small: int = 0  # masks that were dropped

    @cached_property
    def nouns(self) -> Sequence[Mapping[str, float]]:
        """By mask, the share of each noun drawn for it, weighed by its correctness; they add up to 1."""
        linear = self.config.model_copy(update={"noun_share": 1.0})
        return [nouns_of(each, linear) for each in self.evidence]

    def names(self, mask: int) -> Sequence[str]:
        """Return what a mask is called: the name that most draws support, or less likely; and a wider one without it.

        A mask of several things has none. Parts of a body are no names: a picture has more of them than masks. Nor are
        wide names that cannot be counted: nobody says "the leftmost cutlery".
        """
        supports = () if self.evidence[mask].several > _LIKELY else (_LIKELY, MIN_SUPPORT)
        found = [supported_name(self.nouns[mask], support) for support in supports]
        named = dict.fromkeys(
            self._synonym(mask, each.name) for each in found if each is not None and not each.is_several
        )
        return [name for name in named if name not in BODY and not (name in STUFF and is_wide(name))]

    def _synonym(self, mask: int, name: str) -> str:
        """Return the synonym that most captions of a mask say; "bike" is one, though it has two basic names."""
        nouns = self.nouns[mask]
        same = [each for each in nouns if is_same(name, each) or (truth(name, each) == 1.0 and basic_names(each)[1:])]
        single = [each for each in same if not says_several(each)]
        return max(single, key=lambda each: (nouns[each], each == name), default=name)

    def phrases(self, mask: int, name: str) -> Sequence[NounPhrase]:
        """Return what is drawn of a mask by nouns that may fit it, under one of its names."""
        drawn = (each for each in self.evidence[mask].phrases if truth(name, each.noun))
        return list(dict.fromkeys(self._called(each, name) for each in drawn))

    def _called(self, phrase: NounPhrase, name: str) -> NounPhrase:
        """Return a phrase under another name, without what says it again ("female woman"), or is said of what lives."""
        before = tuple(
            each
            for each in phrase.before
            if each not in _SEXES and truth(name, each) != 1.0 and not _is_of_compound(each, phrase)
        )
        is_alive = not kinds_of(name).isdisjoint({"person", "animal"})
        after = tuple(each for each in phrase.after if is_alive or not each.startswith(_OF_PERSONS))
        return replace(phrase, noun=name, before=before, after=after)

    def fits(self, phrase: NounPhrase) -> Floats:
        """As `Posterior.fits`, of draws that say something for or against the noun."""
        return self.with_words(phrase, self._named[0](phrase.noun))

    def may_be(self, phrase: NounPhrase, rivals: Callable[[NounPhrase], Floats]) -> Floats:
        """As `Posterior.may_be`; what scatters may be anything, and have a drawn colour that its pixels allow."""
        words = [(word, self.named(word), self.of_word(word)) for word in sorted(phrase.words)]
        found = []
        for mask, noun in enumerate(self._named[1](phrase.noun)):
            drawn = self.words[mask]
            said = (
                max(p[mask], self.shown.of_rival(word, mask)) if key in drawn else p[mask] for word, key, p in words
            )
            found.append(math.prod(said, start=noun))
        return np.asarray(np.maximum(self.is_object * np.array(found), rivals(phrase)), np.float64)

    @cached_property
    def _named(self) -> tuple[Callable[[str], Sequence[float]], Callable[[str], Sequence[float]]]:
        """By noun, the probabilities that it is true of each mask, and that it may be."""

        def is_named(noun: str) -> Sequence[float]:
            likely = []
            for nouns, evidence in zip(self.nouns, self.evidence, strict=True):
                # Of several things a name for one is not true, nor the other way round. It may be a rival.
                is_group = evidence.several > _LIKELY and not says_several(noun)
                own = [each for each in nouns.items() if says_several(each[0]) == says_several(noun) and not is_group]
                speaks = [(share, truth(noun, said)) for said, share in own]
                right, wrong = (sum(share for share, is_true in speaks if is_true == value) for value in (1.0, 0.0))
                share = math.log(right + _LEAST_AGAINST) - math.log(wrong + _LEAST_AGAINST)
                odds = self.config.noun_bias + self.config.noun_share * share
                likely.append(UNSAID_NOUN + (1.0 - UNSAID_NOUN) * (logistic(odds) if right else 0.0))
            return likely

        def may_be(noun: str) -> Sequence[float]:
            # Names that fit anything count nowhere.
            said = (
                sum(share for said, share in nouns.items() if truth(noun, said) and not fits_anything(said))
                for nouns in self.nouns
            )
            return [unsaid + (1.0 - unsaid) * each for unsaid, each in zip(self._unsaid, said, strict=True)]

        return cache(is_named), cache(may_be)

    @cached_property
    def _unsaid(self) -> Sequence[float]:
        """By mask, the probability of a kind that no caption names."""
        found = []
        for nouns in self.nouns:
            kinds: defaultdict[str, float] = defaultdict(float)
            for noun, share in nouns.items():
                kinds[kind_of(noun) or noun] += share
            found.append(max(UNSAID_NOUN, _SCATTERED * (1.0 - max(kinds.values(), default=0.0)) ** 2))
        return found

    @cached_property
    def hidden(self) -> Callable[[str], float]:
        """As `Posterior.hidden`.

        It is raised where captions of a lone thing mention several, in a crowd, of a wide name, where captions of the
        whole picture name more than have masks, and where masks were too small.
        """
        return cache(self._hidden)

    def _hidden(self, noun: str) -> float:
        alike = [mask for mask, probability in enumerate(self._named[1](noun)) if probability > _LIKELY]
        told = [
            max((share for kind, share in self.several[mask].items() if truth(noun, kind)), default=0.0)
            for mask in alike
        ]
        # Several that have masks explain the plural, until they are a crowd.
        of_crowd = _HIDDEN_IN_CROWD * len(alike)
        found = (1.0 if len(alike) == 1 else of_crowd) * sum(told) / max(len(told), 1)
        said = map(numbers_said, self.whole)
        numbers = [max((each for kind, each in draw.items() if truth(noun, kind)), default=0) for draw in said]
        missing = sum(max(number - len(alike), of_crowd) for number in numbers if number) / max(len(numbers), 1)
        small = self.num_too_small / (self.num_too_small + len(self.evidence)) if alike else 0.0
        of_wide = _HIDDEN_OF_WIDE[bool(basic_names(noun))] * is_wide(noun)
        return self.config.hidden * (max(found, missing) + of_wide + _HIDDEN_OF_SMALL * small)

    def told(self, noun: str) -> Set[str]:
        """As `Posterior.told`."""
        phrases = (each for evidence in self.evidence for each in evidence.phrases if truth(noun, each.noun))
        return frozenset().union(*(phrase.words for phrase in phrases))


def _is_of_compound(attribute: str, phrase: NounPhrase) -> bool:
    """Return whether an attribute makes a narrower name of the noun, as "food" of "food truck"; not "wooden"."""
    whole = kind_of(f"{attribute} {phrase.noun}")
    return not fills_slot(attribute) and (whole != kind_of(phrase.noun) or kind_of(attribute) is not None)


def full_name(text: str, head: str | None) -> str | None:
    """Return the longest name of the table with a caption's head in it: "trash can" of "trash"; without one the head.

    Of "a tank top" the rules find no head. "Brown" of "brown bear" stays an attribute, "golden" of a retriever not.
    """
    words, named = tokenise(text), (head or "").lower().split()
    last = read_chunk(words, subject_start(words)).end - 1
    if named:
        last = next((at for at in range(len(words)) if words[: at + 1][-len(named) :] == named), len(words))
    found = [head or ""]
    for at, end in product(range(max(last - 3, 0), last + 1 + (not named)), range(last + 1, last + 4)):
        name = " ".join(words[at:end])
        if end <= len(words) and end - at > 1 and is_listed(name):
            tail, is_attribute = " ".join(words[at + 1 : end]), fills_slot(words[at]) and not is_no_attribute(words[at])
            found += [] if is_attribute and is_wider(tail, name) and basic_names(tail) == (kind_of(tail),) else [name]
    return max(found, key=len) or None


def kinds_of_several(candidates: Sequence[ExpressionRecord]) -> Mapping[str, float]:
    """Return, by kind, the share of a mask's draws that mention several of it: "people" of "in a crowd of people"."""
    found: defaultdict[str, float] = defaultdict(float)
    for candidate in candidates:
        for kind in numbers_said(candidate.text):
            found[kind] += len(candidate.samples)
    return shares_of(found, max(sum(len(candidate.samples) for candidate in candidates), 1))


@lru_cache(maxsize=1 << 10)
def numbers_said(text: str) -> Mapping[str, int]:
    """Return, by kind, how many of it a text names where it says several: 3 of "three dogs", at least 2 of "dogs".

    "Another dog" is a second one. "Sheep" are several behind a number or "herd of", "glasses" behind a number.
    """
    found: dict[str, int] = {}
    opening, since = "", 0
    for word in tokenise(text):
        kind, since = kind_of(word), since + 1
        is_counted, is_alike = since <= _COUNTED_WORDS, plural_of(word) == word
        is_second = opening in _OTHERS or (is_alike and (opening in _NUMBERS or (opening and not is_plural(word))))
        if kind and (says_several(word) or (is_counted and is_second)):
            kind = kind if says_several(word) else word
            found[kind] = max(found.get(kind, 0), _NUMBERS.get(opening, 2) if is_counted else 2)
            opening = opening if opening in _OTHERS else ""
        if word in _NUMBERS or word in _OTHERS | _MANY:
            opening, since = word, 0
        elif opening in _OTHERS and word in CLOSED:
            opening = ""
    return found


def of_mask_alone(evidence: Evidence, candidates: Sequence[ExpressionRecord], weights: Sequence[float]) -> Evidence:
    """Return the evidence with less of what only draws of the surroundings name: "man" of a tie.

    `weights` are as of `weights_of`. Where draws of the mask alone scatter, nothing changes: the surroundings may tell.
    """
    alone, around = defaultdict[str, float](float), defaultdict[str, float](float)
    for candidate, weight in zip(candidates, weights, strict=True):
        noun, num_samples = (candidate.head_noun or "").lower(), len(candidate.samples)
        if noun in evidence.nouns and num_samples:
            share = sum(sample.crop == CROP_MASKED for sample in candidate.samples) / num_samples
            alone[noun] += share * weight
            around[noun] += (1.0 - share) * weight
    named = supported_name(alone)
    if named is None:
        return evidence
    for noun, weight in around.items():
        alone[noun] += weight if truth(named.name, noun) else _OF_CONTEXT * weight
    return replace(evidence, nouns=shares_of(alone, sum(alone.values())))
