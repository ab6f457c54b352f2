"""Reads a caption: the head noun of the thing that it is about, and what describes it, each as one attribute.

"A close up of a man in a red shirt holding a frisbee on a beach" is about a man; "in a red shirt" and "holding a
frisbee" describe him, and the beach is scenery. Clauses count as what they say of their subject: "a circle that is red
and has a tail" is a red circle with a tail. What the rules cannot place is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Final, Literal

from pseudoris.schemas.config import FilterConfig
from pseudoris.workers import english as lexicon
from pseudoris.workers.filtering import head_nouns as rules

# Several things of a kind; a thing that English names by a plural; and what has no number.
Number = Literal["one", "pair", "several", "stuff"]


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """What a caption says of the thing that it is about.

    Attributes:
        noun: The head: a word, or a fixed compound.
        before: Attributes in front of it: adjectives, nouns, an owner ("man's").
        after: Attributes behind it: "in a red shirt", "holding a frisbee", "sitting".
        number: How many things the noun names.
        words: The attributes' content words, one entry an attribute: equal for "in a red shirt" and "wearing a red
            shirt".
    """

    noun: str
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()
    number: Number = "one"
    words: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Derive `words`."""
        object.__setattr__(self, "words", frozenset(map(content_of, (*self.before, *self.after))))

    @property
    def text(self) -> str:
        """The phrase without an article."""
        return " ".join((*self.before, self.noun, *self.after))


def shorter(phrase: NounPhrase, most: int) -> Iterator[NounPhrase]:
    """Yield the phrase with each `most` of its attributes, then with each fewer, down to one."""
    attributes, first = (*phrase.before, *phrase.after), len(phrase.before)
    for count in range(most, 0, -1):
        for kept in combinations(range(len(attributes)), count):
            before, after = (
                [attributes[at] for at in kept if (at < first) == is_before] for is_before in (True, False)
            )
            yield replace(phrase, before=tuple(before), after=tuple(after))


def content_of(attribute: str) -> str:
    """Return the words of an attribute that tell it from others: "red shirt" of "in a red shirt"."""
    words = ("without" if word == "no" else word for word in attribute.split())
    return " ".join(word for word in words if word not in _LIGHT) or attribute


_CLOSED: Final = lexicon.DETERMINERS | lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS
# Of these small words the sense depends on them: "turned on" and "turned off".
_LIGHT: Final = (_CLOSED | lexicon.POSSESSIONS | {"wearing", "wears"}) - {"without", "on", "off", "up", "down"}


@lru_cache(maxsize=1 << 16)
def implies(words: str, fewer: str) -> bool:
    """Return whether what has an attribute has another one too, both as of `content_of`: "long tail" and "tail"."""
    more, less = words.split(), fewer.split()
    # Who has a red shirt is not red.
    is_of_same = more[-1] == less[-1] or rules.is_progressive(less[0])
    return is_of_same and set(less) <= set(more) and ("without" in more) == ("without" in less)


def says_more(words: str, fewer: str) -> bool:
    """Return whether an attribute has all words of another one, both as of `content_of`: "red shirt" and "red"."""
    more, less = set(words.split()), set(fewer.split())
    return less <= more and ("without" in more) == ("without" in less)


def noun_phrase(caption: str, noun: str | None) -> NounPhrase | None:
    """Return what a caption says of `noun`, its head as a noun finder has it; None if the caption has no such head."""
    words, named = rules.tokenise(caption), (noun or "").lower().split()
    start = 0
    # A captioner that loops says "with a handle handle".
    is_loop = any(each == following and each not in _REPEATED for each, following in pairwise(words))
    # "Does not have a tail" says nothing that can be composed.
    is_denied = any(word in _DENIALS or word.endswith("n't") for word in words)
    while named and start < len(words) and not is_loop and not is_denied:
        chunk = rules.read_chunk(words, start)
        last = chunk.nouns[-1] + 1 if chunk.nouns else chunk.end
        if words[last - len(named) : last] == named or chunk.head(words) == " ".join(named):
            return _Reading(words, chunk, " ".join(named), start).phrase()
        start = max(chunk.end, start) + 1
    return None


# Captions and their head nouns → what each says of its head; None where it says nothing.
PhraseReader = Callable[[Sequence[str], Sequence[str]], list[NounPhrase | None]]


def phrases_by_rules(captions: Sequence[str], nouns: Sequence[str]) -> list[NounPhrase | None]:
    """Return `noun_phrase` of each caption."""
    return [noun_phrase(caption, noun) for caption, noun in zip(captions, nouns, strict=True)]


def phrase_reader(config: FilterConfig) -> PhraseReader:
    """Return what reads captions as `filtering.nouns` says: the parser for `spacy`, else the rules."""
    if config.nouns != "spacy":
        return phrases_by_rules
    # Imported here: most runs read by rules.
    from pseudoris.workers.filtering.spacy_nouns import SpacyPhrases

    return SpacyPhrases(config).phrases


_DENIALS: Final = frozenset(("not", "never", "cannot", "cant", "wont", "isnt", "doesnt"))
_REPEATED: Final = lexicon.DEGREES | rules.PUNCTUATION


def english_among(captions: Iterable[str]) -> frozenset[str]:
    """Return those of a mask's captions that are English.

    Enough of their words are known, of closed classes above all. One or two words ("fire hydrant") say too little: they
    are what most of the longer captions are, and English without any. Source: of 1,000 captions by models and 25,014 by
    people none and 0.1 % have fewer known words, and all of 200 in Spanish, French, German, Italian and Portuguese.
    """
    short, longer = set[str](), dict[str, bool]()
    for caption in captions:
        words = [word for word in rules.tokenise(caption) if word[0].isalnum()]
        if len(words) <= _MAX_SHORT:
            short.add(caption)
        else:
            longer[caption] = sum(map(_is_known, words)) >= _MIN_KNOWN_SHARE * len(words)
    found = {caption for caption, is_english in longer.items() if is_english}
    return frozenset(found | short if 2 * len(found) >= len(longer) else found)


_MAX_SHORT: Final = 2
_MIN_KNOWN_SHARE: Final = 0.4
_KNOWN: Final = (
    *(lexicon.DETERMINERS, lexicon.PREPOSITIONS, lexicon.RELATIVES, lexicon.PERSONAL_PRONOUNS, lexicon.EMPTY_PRONOUNS),
    *(lexicon.CONJUNCTIONS, lexicon.AUXILIARIES, lexicon.KNOWN_NOUNS, lexicon.CLOTHES, lexicon.STUFF, lexicon.PAIRS),
    *(lexicon.PICTURES, lexicon.QUANTITIES, lexicon.PARTS, lexicon.NOUNS_IN_ING, lexicon.IRREGULAR_PLURALS),
)
_KNOWN_WORDS: Final = frozenset().union(*_KNOWN)


def _is_known(word: str) -> bool:
    is_listed = word in _KNOWN_WORDS or word.removesuffix("s") in _KNOWN_WORDS
    return is_listed or rules.describes(word) or rules.is_progressive(word) or rules.finite_stem(word) is not None


class _Reading:
    """Reads on from the noun phrase of the head."""

    def __init__(self, words: list[str], chunk: rules.Chunk, noun: str, start: int) -> None:
        self._words, self._chunk, self._noun, self._start = words, chunk, noun, start
        self._before, self._after = _attributes_before(words, chunk, noun), list[str]()
        self._is_list = False
        # Whether another thing was named, and its noun: what follows without an object of its own is about that.
        self._is_elsewhere, self._nearest = False, ""

    def phrase(self) -> NounPhrase:
        at = self._chunk.end
        while at < len(self._words):
            following = self._read(at)
            if following is None:
                break
            at = following
        return NounPhrase(
            self._noun, tuple(dict.fromkeys(self._before)), tuple(dict.fromkeys(self._after)), self._number()
        )

    def _number(self) -> Number:
        last, counted = self._noun.split()[-1], {self._at(at) for at in self._chunk.modifiers}
        is_of_many = self._at(self._start - 1) == "of" and self._at(self._start - 2) in lexicon.QUANTITIES
        if self._is_list or not counted.isdisjoint(lexicon.PLURAL_NUMERALS) or self._words[-2:] == ["each", "other"]:
            return "several"
        if last in lexicon.PAIRS:
            return "pair"
        if last in lexicon.STUFF:
            return "stuff"
        is_plural = (lexicon.is_plural(last) and counted.isdisjoint({"a", "an"})) or not counted.isdisjoint(
            lexicon.PLURAL_DETERMINERS
        )
        return "several" if is_plural or (is_of_many and lexicon.plural_of(last) == last) else "one"

    def _at(self, at: int) -> str:
        return self._words[at] if 0 <= at < len(self._words) else ""

    def _read(self, at: int) -> int | None:
        """Read what begins at a word; return where the next begins, or None where the description ends."""
        word = self._words[at]
        if word == "while" and rules.is_progressive(self._at(at + 1)):
            self._is_elsewhere, self._nearest = False, ""
            return at + 1
        if word in lexicon.ENDS_OF_DESCRIPTIONS or (word in lexicon.RELATIVES and self._is_elsewhere):
            return None
        if word == "," or word in lexicon.CONJUNCTIONS:
            return self._joined(at)
        if word in lexicon.POSSESSIONS or (word in ("do", "does") and self._object_end(at + 1)):
            return self._attribute(at + 1, "with" if word in lexicon.POSSESSIONS else "doing")
        if word in lexicon.RELATIVES or word in lexicon.AUXILIARIES or word == "well":
            # Its subject is the head.
            self._is_elsewhere = self._is_elsewhere and word not in lexicon.AUXILIARIES
            return at + 1
        if word in lexicon.PREPOSITIONS:
            return self._verb(at + 1) if word == "to" and self._at(at + 1) in lexicon.VERBS else self._prepositional(at)
        return self._verb(at) if rules.is_verb(self._words, at) else self._adjective(at)

    def _adjective(self, at: int) -> int | None:
        word, before = self._words[at], self._at(at - 1)
        is_said = before in lexicon.AUXILIARIES or before in lexicon.CONJUNCTIONS or at == self._chunk.end
        if not is_said or not rules.describes(word):
            return None
        if not rules.is_adverb(word) and not is_no_attribute(word):
            insert_adjective(self._before, word)
        return at + 1

    def _joined(self, at: int) -> int | None:
        """Read on after "and" or a comma; right after the head, another thing makes it a list: "a man and a dog"."""
        further, is_and = self._at(at + 1), self._words[at] != ","
        is_thing = further in lexicon.DETERMINERS or rules.noun_follows(self._words, at + 1)
        is_thing = is_thing and (is_and or not rules.describes(further))
        is_list = is_thing and at == self._chunk.end and not rules.is_verb(self._words, at + 1)
        if is_list and (is_and or "and" in self._words[at:]):
            self._is_list = self._is_elsewhere = True
            return self._object_end(at + 1)
        return at + 1

    def _prepositional(self, at: int) -> int | None:
        word, end = self._words[at], self._object_end(at + 1)
        if end is None:
            return at + 1
        inside = self._words[at + 1 : end]
        is_of_body = inside[0] in lexicon.POSSESSIVES and inside[-1] in lexicon.BODY
        if self._after and " " in self._after[-1] and is_of_body:
            # "Holding a phone in her hand".
            self._after[-1] = " ".join((self._after[-1], word, *inside))
            return end
        is_worn = word == "in" and inside[-1] in lexicon.CLOTHES
        is_part = word in ("with", "without") and not self._is_elsewhere and not self._is_scenery(end)
        is_content = word == "of" and at == self._chunk.end
        if is_worn or is_part or is_content:
            return self._attribute(at + 1, word)
        self._is_elsewhere, self._nearest = True, inside[-1]
        return end

    def _is_scenery(self, at: int) -> bool:
        """Whether what ends before `at` is only near: "with trees in the background"."""
        return bool(lexicon.SURROUNDINGS.intersection(self._words[at : at + 3]))

    def _verb(self, at: int) -> int | None:
        word, following = self._words[at], self._at(at + 1)
        # "Cut into slices" was done to it.
        verb = word if following == "into" and rules.is_past_participle(word) else rules.progressive(word)
        is_complement = following in lexicon.PREPOSITIONS_OF_PARTICIPLES and not verb.endswith("ing")
        if not rules.is_progressive(word) and not rules.is_past_participle(word):
            # Its subject is the head.
            self._is_elsewhere, self._nearest = False, ""
        is_needed = is_complement or f"{verb} {following}" in lexicon.VERBS_WITH_PREPOSITIONS
        if is_needed and self._object_end(at + 2) is not None:
            return self._attribute(at + 2, f"{verb} {following}")
        if following in lexicon.PREPOSITIONS or self._object_end(at + 1) is None:
            if not self._is_elsewhere and verb not in lexicon.VERBS_OF_PICTURES:
                # "The parked truck": behind the noun it would take what follows, "the truck parked on the left".
                self._before.insert(0, verb)
            return at + 1
        return self._object_end(at + 1) if self._nearest in lexicon.PEOPLE else self._attribute(at + 1, verb)

    def _attribute(self, at: int, opening: str) -> int | None:
        """Add "with a hat" and, after "and" or a comma, "with a tie"."""
        end = self._object_end(at)
        if end is None:
            return at
        is_state = self._at(end) in ("open", "closed", "up", "on", "off") and self._object_end(end + 1) is None
        is_done = rules.is_past_participle(self._at(end)) and self._at(end + 1) not in ("by", "with")
        if opening == "with" and (is_state or is_done):
            end += 1
        inside = self._words[at:end]
        self._after.append(" ".join((opening, *inside)))
        # What is worn or held in it is no other thing that could do something.
        if opening not in ("of", "wearing") and lexicon.CLOTHES.isdisjoint(inside):
            self._is_elsewhere, self._nearest = True, inside[-1]
        following = end + (self._at(end) == ",")
        following += self._at(following) == "and"
        is_listed = following > end and self._object_end(following) is not None
        if is_listed and opening == "of" and self._at(following) in lexicon.DETERMINERS:
            # "A cup of coffee and a spoon" is two things.
            self._is_list = self._is_elsewhere = True
            return self._object_end(following)
        is_verb = rules.is_verb(self._words, following) and not rules.noun_follows(self._words, following)
        return self._attribute(following, opening) if is_listed and not is_verb else end

    def _object_end(self, at: int) -> int | None:
        """Return where the noun phrase that begins at a word ends, "of …" included; None if none does."""
        end = None
        while end is None or self._at(end) == "of":
            begins = at if end is None else end + 1
            chunk = rules.read_chunk(self._words, begins)
            modifiers = (self._words[place] for place in chunk.modifiers)
            is_empty = all(each in lexicon.DETERMINERS or rules.is_adverb(each) for each in modifiers)
            if self._at(begins) in _NO_OBJECTS or (is_empty and not chunk.nouns):
                break
            end = chunk.end
        return end


def _attributes_before(words: Sequence[str], chunk: rules.Chunk, noun: str) -> list[str]:
    first = chunk.nouns[-1] - len(noun.split()) + 1 if chunk.nouns else chunk.end - 1
    places = [at for at in (*chunk.modifiers, *chunk.nouns) if at < first]
    found: list[str] = []
    joins = False
    for at in places:
        word = words[at]
        if words[at + 1 : at + 2] == ["'s"]:
            # What stands before an owner describes the owner.
            found, joins = [f"{word}'s"], False
        elif word in lexicon.CONJUNCTIONS or word in (",", "-"):
            joins = joins or bool(found)
        elif not is_no_attribute(word) and word not in (noun, *found[-1:]):
            if joins and found:
                found[-1] = f"{found[-1]} and {word}"
            elif found and (word in _JOINED or found[-1] in _JOINING):
                found[-1] = f"{found[-1]} {word}"
            else:
                found.append(word)
            joins = False
    return [each for each in found if each not in lexicon.DEGREES]


def is_no_attribute(word: str) -> bool:
    """Return whether a word before a noun says which or how many, or where in the picture."""
    return word in _NO_ATTRIBUTES or lexicon.NUMERAL_PATTERN.fullmatch(word) is not None


_NO_ATTRIBUTES: Final = (lexicon.DETERMINERS | lexicon.NUMERALS | lexicon.PLACES | {"couple"}) - {"single", "double"}
_NO_OBJECTS: Final = lexicon.PREPOSITIONS | lexicon.AUXILIARIES | lexicon.RELATIVES | {"", ","}
# They belong to the word before them: "a strange looking bird", "a rolled up towel", "a double decker bus".
_JOINING: Final = lexicon.SHADES | lexicon.DEGREES
_JOINED: Final = lexicon.LINKING_PARTICIPLES | lexicon.PARTICLES | {"decker"}


def may_be_called(phrase: NounPhrase, noun: str) -> bool:
    """Return whether what a phrase says may be said of another noun: "red" of any, "sitting" of people alone."""
    if lexicon.PEOPLE & {phrase.noun, noun}:
        return {phrase.noun, noun} <= lexicon.PEOPLE
    # "Traffic light" is a name; of an aqua star "aqua" is said.
    named = (each for each in phrase.before if _rank(each) == 3 or rules.is_progressive(each))
    return set(named) <= {"aqua", "leather", "glass"} and all(each.startswith("with") for each in phrase.after)


def insert_adjective(before: list[str], adjective: str) -> None:
    """Put what a clause says of a noun ("that is small") to its place before the noun."""
    later = (place for place, each in enumerate(before) if _rank(each) > _rank(adjective))
    before.insert(next(later, len(before)), adjective)


def _rank(attribute: str) -> int:
    """The place of an attribute before a noun: sizes first, then others, colours, nouns last."""
    words = attribute.split()
    if words[0] in lexicon.SIZES:
        return 0
    if words[-1] in lexicon.COLOURS:
        return 2
    return 1 if attribute.endswith("'s") or rules.describes(words[-1]) else 3
