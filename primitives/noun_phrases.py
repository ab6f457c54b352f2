"""Reads what a caption says of its head noun, which `head_nouns` or spaCy finds.

For `composing`, `spacy_nouns` and `rewording`; composed expressions, which are bytes of tables, follow from it.
"A close up of a man in a red shirt holding a frisbee on a beach" is about a man; "in a red shirt" and "holding a
frisbee" describe him, and the beach is scenery. Clauses count as what they say of their subject: "a circle that is red
and has a tail" is a red circle with a tail. A rule that cannot place words must leave them out, not guess.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import combinations, pairwise
from typing import Final, Literal

from pseudoris.primitives import english as lexicon
from pseudoris.primitives import head_nouns as rules
from pseudoris.primitives.kinds import is_listed, kind_of, wider_names

# A noun names one thing, a pair that has a plural name, several things, or stuff that is not counted.
Number = Literal["one", "pair", "several", "stuff"]


@dataclass(frozen=True, slots=True)
class NounPhrase:
    """What a caption says of the thing that it is about."""

    noun: str  # the head: a word, or a fixed compound
    before: tuple[str, ...] = ()  # attributes in front of it: adjectives, nouns, an owner ("man's")
    after: tuple[str, ...] = ()  # attributes behind it: "in a red shirt", "holding a frisbee", "sitting"
    number: Number = "one"  # how many things the noun names
    # Each attribute has one entry, its content words: "in a red shirt" and "wearing a red shirt" have the same.
    words: frozenset[str] = field(init=False)

    def __post_init__(self) -> None:
        """Derive `words`."""
        object.__setattr__(self, "words", frozenset(map(content_of, (*self.before, *self.after))))

    @property
    def text(self) -> str:
        """The phrase without an article."""
        return " ".join((*self.before, self.noun, *self.after))


def is_sayable(phrase: NounPhrase) -> bool:
    """Return whether English says it in one phrase: neither two colours, nor "in a suit in a tie"."""
    openings = {each.split()[0].replace("wearing", "in") for each in phrase.after}
    return sum(_rank(each) == 2 for each in phrase.before) < 2 and len(openings) == len(phrase.after)


def shorter(phrase: NounPhrase, most: int) -> Iterator[NounPhrase]:
    """Yield the phrase with each `most` of its attributes, then with each fewer, down to one."""
    attributes = [*((each, True) for each in phrase.before), *((each, False) for each in phrase.after)]
    for count in range(most, 0, -1):
        for kept in combinations(attributes, count):
            before, after = (tuple(each for each, is_before in kept if is_before == side) for side in (True, False))
            yield replace(phrase, before=before, after=after)


def content_of(attribute: str) -> str:
    """Return the words of an attribute that tell it from others: "red shirt" of "in a red shirt"."""
    words = ("without" if word == "no" else word for word in attribute.split())
    return " ".join(word for word in words if word not in _LIGHT) or attribute


_CLOSED: Final = lexicon.DETERMINERS | lexicon.PREPOSITIONS | lexicon.CONJUNCTIONS
# These small words mean little. "On" and "off" are not among them: "turned on" is not "turned off".
_LIGHT: Final = (_CLOSED | lexicon.POSSESSIONS | {"wearing", "wears"}) - {"without", "on", "off", "up", "down"}


@lru_cache(maxsize=1 << 16)
def implies(words: str, fewer: str) -> bool:
    """Return whether what has an attribute has another one too, both as of `content_of`: "long tail" and "tail"."""
    if "without" in words.split():
        # Someone without a shirt is also without a red shirt, so the two attributes change places.
        words, fewer = fewer, words
    more, less = words.split(), fewer.split()
    # Someone in a red shirt is not red: the last words must be equal, unless `less` begins with a participle in -ing.
    return (more[-1] == less[-1] or rules.is_progressive(less[0])) and says_more(words, fewer)


def says_more(words: str, fewer: str) -> bool:
    """Return whether an attribute has all words of another one, both as of `content_of`: "red shirt" and "red"."""
    more, less = set(words.split()), set(fewer.split())
    return less <= more and ("without" in more) == ("without" in less)


def noun_phrase(caption: str, noun: str | None) -> NounPhrase | None:
    """Return what a caption says of `noun`, its head as a noun finder has it; None if the caption has no such head."""
    words, name = rules.tokenise(caption), (noun or "").lower()
    # A captioner that repeats itself writes "with a handle handle". Such a caption is not read.
    is_loop = any(each == following and each not in _REPEATED for each, following in pairwise(words))
    # A caption that denies something ("does not have a tail") says nothing that can be composed.
    is_denied = any(word in _DENIALS or word.endswith("n't") for word in words)
    if is_loop or is_denied or not name.strip():
        return None
    found = _phrase_of(words, name.split())
    if found is None and " " in name:
        # The rules end a phrase before the "can" of "trash can", so a name that they cut is read as one word.
        place = next((at for at in range(len(words)) if " ".join(words[at:]).startswith(name)), len(words))
        found = _phrase_of([*words[:place], name, *words[place + len(name.split()) :]], [name])
    return found


def _phrase_of(words: list[str], named: list[str]) -> NounPhrase | None:
    start = rules.subject_start(words)
    while start < len(words):
        chunk = rules.read_chunk(words, start)
        last = chunk.nouns[-1] + 1 if chunk.nouns else chunk.end
        if words[last - len(named) : last] == named and (len(named) == 1 or last - len(named) >= start):
            # In "there is no dog" and "a no parking sign" the named thing is absent.
            is_absent = any(words[at] in ("no", "neither") for at in chunk.modifiers)
            return None if is_absent else _Reading(words, chunk, " ".join(named), start).phrase()
        start = max(chunk.end, start) + 1
    return None


# The function takes captions and their head nouns, and returns what each says of its head, None if nothing.
PhraseReader = Callable[[Sequence[str], Sequence[str]], list[NounPhrase | None]]


def phrases_by_rules(captions: Sequence[str], nouns: Sequence[str]) -> list[NounPhrase | None]:
    """Return `noun_phrase` of each caption."""
    return [noun_phrase(caption, noun) for caption, noun in zip(captions, nouns, strict=True)]


_DENIALS: Final = frozenset(("not", "never", "cannot", "cant", "wont", "isnt", "doesnt"))
_REPEATED: Final = lexicon.DEGREES | rules.PUNCTUATION


def english_among(captions: Iterable[str]) -> frozenset[str]:
    """Return those of a mask's captions that are English.

    Enough of their words are known, of closed classes above all, and all are in Latin letters; words that other
    languages have too do not count. One or two words ("fire hydrant") say too little: they are what most of the longer
    captions are, and English without any. Source: of 1,000 captions by models and 25,014 by people none and 0.1 % have
    fewer known words, and all of 200 in Spanish, French, German, Italian and Portuguese.
    """
    words = {caption: [word for word in rules.tokenise(caption) if word[0].isalnum()] for caption in captions}
    other = {caption for caption, said in words.items() if max(map(max, said), default="") > _LAST_LATIN}
    longer = other | {caption for caption, said in words.items() if len(said) > _MAX_SHORT}
    telling = {caption: [word for word in words[caption] if word not in lexicon.SHARED] for caption in longer - other}
    found = {each for each, said in telling.items() if _num_known(said) >= _MIN_KNOWN_SHARE * len(said)}
    return frozenset(found if 2 * len(found) < len(longer) else found | (words.keys() - longer))


_MAX_SHORT: Final = 2
_LAST_LATIN: Final = "\u024f"
_MIN_KNOWN_SHARE: Final = 0.4
_KNOWN: Final = rules.CLOSED | lexicon.KNOWN_NOUNS | lexicon.QUANTITIES | lexicon.PICTURES | lexicon.STUFF


def _num_known(words: Sequence[str]) -> int:
    return sum(map(_is_known, words)) + sum(map(is_listed, map(" ".join, pairwise(words))))


def _is_known(word: str) -> bool:
    is_noun = word in _KNOWN or word.removesuffix("s") in _KNOWN or is_listed(word)
    return is_noun or rules.describes(word) or rules.is_progressive(word) or rules.finite_stem(word) is not None


def number_of(noun: str, counted: Set[str], *, is_list: bool, is_many: bool = False) -> Number:
    """Return how many things a noun names, behind the words `counted`; `is_many` of "a herd of sheep"."""
    last = noun.split()[-1]
    if is_list or counted & lexicon.PLURAL_NUMERALS:
        return "several"
    if last in lexicon.PAIRS | lexicon.STUFF:
        return "pair" if last in lexicon.PAIRS else "stuff"
    is_plural = lexicon.is_plural(last) and not counted & {"a", "an"}
    is_plural |= is_many and lexicon.plural_of(last) == last
    return "several" if is_plural or counted & lexicon.PLURAL_DETERMINERS else "one"


class _Reading:
    """Reads on from the noun phrase of the head."""

    def __init__(self, words: list[str], chunk: rules.Chunk, noun: str, start: int) -> None:
        self._words, self._chunk, self._noun, self._start = words, chunk, noun, start
        self._before, self._after = _attributes_before(words, chunk, noun), list[str]()
        self._is_list = False
        # `_other` is the last noun besides the head; "and" in a list, "with" of what has a verb of its own ("with its
        # tail wagging"). A verb without an object is about this noun.
        self._other = ""
        self._attribute_end = -1

    def phrase(self) -> NounPhrase:
        at = self._chunk.end
        while at < len(self._words):
            following = self._read(at)
            if following is None:
                break
            at = following
        counted = {self._words[at] for at in self._chunk.modifiers}
        is_of_many = self._at(self._start - 1) == "of" and self._at(self._start - 2) in lexicon.QUANTITIES
        is_list = self._is_list or self._words[-2:] == ["each", "other"]
        number = number_of(self._noun, counted, is_list=is_list, is_many=is_of_many)
        return NounPhrase(self._noun, tuple(dict.fromkeys(self._before)), tuple(dict.fromkeys(self._after)), number)

    def _at(self, at: int) -> str:
        return self._words[at] if 0 <= at < len(self._words) else ""

    def _read(self, at: int) -> int | None:
        """Read what begins at a word; return where the next begins, or None where the description ends."""
        word = self._words[at]
        # "Used to be" describes the past, so its "be" does not count.
        is_now = word in lexicon.AUXILIARIES and (self._at(at - 1), word) != ("to", "be")
        is_now |= word in ("get", "gets", "getting") and rules.is_past_participle(self._at(at + 1))
        if is_now or (word in ("while", "whilst") and rules.is_progressive(self._at(at + 1))):
            # The verb is about the head, not about the last noun before it.
            self._other = ""
            opening = "with" if word in lexicon.POSSESSIONS else "doing" if word in ("do", "does") else None
            if opening == "with" and rules.is_past_participle(self._at(at + 1)):
                return None  # "has caught a ball"
            return at + 1 if opening is None else self._attribute(at + 1, opening)
        # In "wearing a hat that is red" the hat is red, in "a cup of tea that is red" the cup.
        is_of_object = self._other or (self._after and word != "who" and not self._after[-1].startswith("of "))
        if word in lexicon.ENDS_OF_DESCRIPTIONS or (word in lexicon.RELATIVES and is_of_object):
            return None
        if word == "," or word in lexicon.CONJUNCTIONS:
            return self._joined(at)
        if word in lexicon.RELATIVES:
            return at + 1
        if word in lexicon.PREPOSITIONS:
            if word != "to" or self._at(at + 1) not in lexicon.VERBS:
                return self._prepositional(at)
            return at + 2 if rules.is_animate(self._other) else self._verb(at + 1)
        return self._verb(at) if rules.is_verb(self._words, at) else self._adjective(at)

    def _adjective(self, at: int) -> int | None:
        word, before = self._words[at], self._at(at - 1)
        is_said = before in lexicon.AUXILIARIES or before in lexicon.CONJUNCTIONS or at == self._chunk.end
        if not is_said or not rules.describes(word):
            return at + 1 if self._other == "and" and rules.describes(word) else None
        if not rules.is_adverb(word) and not is_no_attribute(word):
            insert_adjective(self._before, word)
        return at + 1

    def _joined(self, at: int) -> int | None:
        """Read on after "and" or a comma; right after the head, another thing makes it a list: "a man and a dog"."""
        further, is_and = self._at(at + 1), self._words[at] != ","
        is_thing = further in lexicon.DETERMINERS or rules.noun_follows(self._words, at + 1)
        is_last = is_and or ("and" in self._words[at:] and not rules.describes(further))
        if is_thing and is_last and at == self._chunk.end:
            self._is_list, self._other = True, "and"
            end = self._object_end(at + 1)
            self._other = "" if rules.is_progressive(self._at(end or at)) else "and"
            return end
        if self._has_subject(at + 1):
            return None
        if is_and and rules.describes(further) and rules.noun_follows(self._words, at + 2):
            return self._object_end(at + 1)  # "and parked cars" is another thing
        if not is_and and not self._is_list and rules.is_progressive(further):
            self._other = ""
        return at + 1

    def _has_subject(self, at: int) -> bool:
        """Whether a clause with a subject of its own begins at a word: "and one is red"."""
        end = self._object_end(at) if self._at(at) in lexicon.DETERMINERS | lexicon.NUMERALS else None
        if end is None or self._at(end) in lexicon.AUXILIARIES:
            return end is not None
        is_other = self._at(at) in lexicon.NUMERALS | {"another"}  # "and one riding a horse"
        return rules.is_verb(self._words, end) and (is_other or not rules.is_progressive(self._at(end)))

    def _prepositional(self, at: int) -> int | None:
        word, end = self._words[at], self._object_end(at + 1)
        if end is None:
            return at + 1
        inside = self._words[at + 1 : end]
        is_of_body = inside[0] in lexicon.POSSESSIVES and inside[-1] in lexicon.BODY
        is_after_object = bool(self._after) and at == self._attribute_end and " " in self._after[-1]
        if is_after_object and is_of_body and word != "with":
            # "Holding a phone in her hand" stays one attribute.
            self._after[-1] = " ".join((self._after[-1], word, *inside))
            return end
        is_worn = word == "in" and (inside[-1] in lexicon.CLOTHES or "clothing" in wider_names(inside[-1]))
        if is_worn and (self._other == "and" or rules.is_animate(self._other, {"person"})):
            return end
        is_near = lexicon.SURROUNDINGS.intersection(self._words[end : end + 3])
        is_free = not self._other and (at != self._attribute_end or self._after[-1].startswith("with "))
        is_free &= not (rules.is_verb(self._words, at - 1) and rules.is_animate(inside[-1]))  # "standing with a dog"
        is_part = word in ("with", "without") and not is_near and (is_free or self._is_held(at, inside))
        is_content = word == "of" and at == self._chunk.end
        if is_worn or is_part or is_content:
            return self._attribute(at + 1, word)
        self._other = "with" if word == "with" and self._is_doing(end) else inside[-1]
        return end

    def _is_doing(self, end: int) -> bool:
        """Whether what ends at a word does what follows: "with its tail wagging", not "with a hat riding a horse"."""
        is_done_to = self._object_end(end + 1) is not None and not rules.is_animate(self._at(end - 1))
        return rules.is_progressive(self._at(end)) and not is_done_to

    def _is_held(self, at: int, inside: Sequence[str]) -> bool:
        """Whether a thing behind a place is the head's: "a dog in a field with a ball", "with its tail up"."""
        kinds = {inside[-1], *wider_names(inside[-1])}
        is_its = inside[0] in lexicon.POSSESSIVES or self._at(at + len(inside) + 2) in lexicon.POSSESSIVES
        is_after_object = bool(self._other) and at == self._attribute_end  # "holding a bottle with a red cap"
        is_its |= not kinds.isdisjoint(_HELD - _WORN if is_after_object else _HELD)
        return is_its and (not self._other or self._is_bystander())

    def _is_bystander(self) -> bool:
        """Whether the noun before is a thing beside a head that is alive, so that what follows is the head's."""
        is_thing = not rules.is_animate(self._other) and "vehicle" not in wider_names(self._other)
        return self._other not in ("and", "with") and is_thing and rules.is_animate(self._noun)

    def _verb(self, at: int) -> int | None:
        word, following = self._words[at], self._at(at + 1)
        is_done = rules.is_past_participle(word)
        # A sandwich "cut in half" is cut, but a bride who "cut a cake" is cutting.
        verb = word if is_done and self._object_end(at + 1) is None else rules.progressive(word, is_finite=not is_done)
        is_heads = self._is_bystander() and verb not in lexicon.VERBS_OF_THINGS
        if not is_done and (is_heads or not rules.is_progressive(word)):
            self._other = ""
        is_needed = f"{verb} {following}" in lexicon.VERBS_WITH_PREPOSITIONS
        is_needed |= following in lexicon.PREPOSITIONS_OF_PARTICIPLES and not verb.endswith("ing")
        if is_needed and self._object_end(at + 2) is not None:
            is_other = bool(self._other) and is_done and word not in ("dressed", "looking")  # "in a room painted by"
            is_other |= rules.is_animate(self._other, {"person"}) or (word, following) == ("seen", "from")
            return self._object_end(at + 2) if is_other else self._attribute(at + 2, f"{verb} {following}")
        if following in lexicon.PREPOSITIONS or self._object_end(at + 1) is None:
            is_particle = following in lexicon.PARTICLES | {"on"} and self._object_end(at + 2) is None
            if not self._other and is_particle and f"{verb} {following}" in lexicon.VERBS_WITH_PREPOSITIONS:
                self._after.append(f"{verb} {following}")
            elif not self._other and verb not in lexicon.VERBS_OF_PICTURES and following not in ("him", "them"):
                # The verb goes before the noun ("parked truck"). Behind it, the next words would seem its object.
                self._before.insert(0, f"{verb} {following}" if is_particle and is_done else verb)
            return at + 1 + (following in lexicon.PERSONAL_PRONOUNS)
        is_others = self._other == "with" or rules.is_animate(self._other, {"person"})
        return self._object_end(at + 1) if is_others else self._attribute(at + 1, verb)

    def _attribute(self, at: int, opening: str, article: Sequence[str] = ()) -> int | None:
        """Add "with a hat" and, after "and" or a comma, "with a tie"."""
        end = self._object_end(at)
        if end is None:
            return at
        is_state = self._at(end) in ("open", "closed", "up", "down", "on", "off") and self._object_end(end + 1) is None
        is_done = rules.is_past_participle(self._at(end)) and self._at(end + 1) not in ("by", "with")
        if opening == "with" and (is_state or is_done):
            end += 1
        inside = [*article, *self._words[at:end]]
        if "or" in (*inside, self._at(end)):
            return self._object_end(end + 1) if self._at(end) == "or" else end
        self._after.append(" ".join((opening, *inside)))
        # Clothes, and what follows "of" or "wearing", cannot be the subject of the words that follow.
        if opening not in ("of", "wearing", "dressed in", "dressed as") and lexicon.CLOTHES.isdisjoint(inside):
            is_doing = opening == "with" and inside[0] in lexicon.POSSESSIVES and inside[-1] in lexicon.BODY
            self._other = "with" if is_doing and self._is_doing(end) else inside[-1]
        self._attribute_end = end
        following = end + (self._at(end) == ",")
        following += self._at(following) == "and"
        listed = self._object_end(following) if following > end else None
        last = "" if listed is None else self._words[listed - 1]
        is_counted = self._at(following) in lexicon.DETERMINERS | lexicon.NUMERALS
        # "In tie" is no English, so "in a suit and tie" gets an article: "in a suit", "in a tie".
        is_bare = bool(last) and opening in ("in", "wearing") and not is_counted and not lexicon.is_plural(last)
        is_listed = bool(last) and (not is_bare or "clothing" in wider_names(last))
        is_person = last in lexicon.PEOPLE and inside[-1] not in lexicon.PEOPLE
        if last and is_counted and (opening == "of" or is_person or (opening == "in" and last not in lexicon.CLOTHES)):
            # "A cup of coffee and a spoon" and "a man in blue and a woman" are two things.
            self._is_list, self._other = True, "and"
            return listed
        is_verb = rules.is_verb(self._words, following) and not rules.noun_follows(self._words, following)
        word = self._at(following)
        is_finite = rules.finite_stem(word) not in (None, word) and opening.endswith("ing")
        is_verb |= is_finite and (kind_of(word) is None or self._at(following + 1) in lexicon.DETERMINERS)
        if not is_listed or is_verb:
            return end
        needs_article = is_bare and inside[0] in ("a", "an") and last not in lexicon.STUFF
        return self._attribute(following, opening, ("an" if word[0] in "aeiou" else "a",) if needs_article else ())

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
            words = [self._words[place] for place in chunk.nouns[-2:]]
            is_several = self._is_list or lexicon.is_plural(self._noun)
            if is_several and len(words) == 2 and words[1] in lexicon.VERBS:  # "kids in snow gear play"
                end -= not _BEFORE_VERBS.isdisjoint((words[0], *wider_names(words[0])))
        return end


def _attributes_before(words: Sequence[str], chunk: rules.Chunk, noun: str) -> list[str]:
    last = chunk.nouns[-1] if chunk.nouns else chunk.end - 1
    first = last if words[last] == noun else last - len(noun.split()) + 1
    found: list[str] = []
    if any(words[at] == "or" for at in chunk.modifiers):
        return found
    for at in (place for place in (*chunk.modifiers, *chunk.nouns) if place < first):
        word = words[at]
        if words[at + 1 : at + 2] == ["'s"]:
            # Words before an owner describe the owner, so they are dropped.
            found = [f"{word}'s"]
        elif word not in (*_JOINS, noun, *found[-1:]) and not is_no_attribute(word):
            if found and words[at - 1] in _JOINS:
                found[-1] = f"{found[-1]} and {word}"
            elif found and (word in _JOINED or found[-1] in _JOINING):
                found[-1] = f"{found[-1]} {word}"
            else:
                found.append(f"half {word}" if words[at - 1 : at] == ["half"] else word)
    return [each for each in found if each not in lexicon.DEGREES]


def is_no_attribute(word: str) -> bool:
    """Return whether a word before a noun says which or how many, or where in the picture."""
    return word in _NO_ATTRIBUTES or lexicon.NUMERAL_PATTERN.fullmatch(word) is not None


_NO_ATTRIBUTES: Final = (lexicon.DETERMINERS | lexicon.NUMERALS | lexicon.PLACES | {"couple"}) - {"single", "double"}
# A person or an animal has these things also behind a place: "a man on a beach with a surfboard".
_WORN: Final = frozenset(("clothing", "hair", "jewelry"))
_BEFORE_VERBS: Final = lexicon.CLOTHES | _WORN | {"person", "animal", "equipment"}
_HELD: Final = _WORN | {"sports equipment", "toy", "bag", "weapon", "musical instrument", "stick", "leash"}
_NO_OBJECTS: Final = lexicon.PREPOSITIONS | lexicon.AUXILIARIES | lexicon.RELATIVES | {"", ","}
_JOINS: Final = lexicon.CONJUNCTIONS | {",", "-"}
# These words belong to the word after them ("light blue"), and those of `_JOINED` to the word before ("rolled up").
_JOINING: Final = lexicon.SHADES | lexicon.DEGREES
_JOINED: Final = lexicon.LINKING_PARTICIPLES | lexicon.PARTICLES | {"decker"}


def may_be_said(attribute: str, said: Set[str]) -> bool:
    """Return whether an attribute may be said of a thing: "red" of any, "empty" if it is in `said` (`content_of`)."""
    *shades, last = attribute.split()
    return (last in _OF_ANYTHING and _SHADES.issuperset(shades)) or content_of(attribute) in said


_OF_ANYTHING: Final = lexicon.COLOURS | lexicon.SIZES | lexicon.PATTERNS | {"aqua", "leather", "glass"}
_SHADES: Final = _OF_ANYTHING | lexicon.SHADES | lexicon.DEGREES | lexicon.CONJUNCTIONS


def insert_adjective(before: list[str], adjective: str) -> None:
    """Put what a clause says of a noun ("that is small") to its place before the noun."""
    later = (place for place, each in enumerate(before) if _rank(each) > _rank(adjective))
    before.insert(next(later, len(before)), adjective)


def _rank(attribute: str) -> int:
    """Return the place of an attribute before a noun: sizes first, then others, colours, nouns last."""
    words = attribute.split()
    if words[0] in lexicon.SIZES:
        return 0
    if words[-1] in lexicon.COLOURS:
        return 2
    return 1 if attribute.endswith("'s") or rules.describes(words[-1]) else 3
