"""Finds head nouns and noun phrases of English captions by rules (`spacy_nouns.py` does it by a parser).

Called by `filtering`, `composing`, `noun_phrases.py`, `training` and `interchange`. Heads stand in the tables and in
CLIP's prompts, so a change of a rule changes scores. Phrases are found by word classes and the neighbours of each word.
The rules for the head, in the order in which they apply (method page, section 4):

1. The first noun phrase has the head. It ends before a preposition, a verb, a relative pronoun, a participle that
   follows a noun, or a comma. Openers are skipped ("there is", "this is"), and a clause before the subject ("in the
   park, a dog" → dog). If the sentence has only a verb or a preposition and its object, that counts ("riding a horse").
2. Its last noun is the head ("a red fire truck" → truck, "the dog's tail" → tail), except for a few fixed compounds
   that name another thing ("hot dog").
3. Pictures, quantities and vague parts before `of` are skipped ("a photo of a pair of shoes" → shoes, "the top
   of a bus" → bus). Containers are objects: "a cup of coffee" → cup.
4. A place, colour or pronoun alone is not a head ("left", "the red", "he is running"): None.
"""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Literal

from pseudoris.primitives import english as lexicon
from pseudoris.primitives.kinds import kind_of, wider_names

NounRule = Literal["rules", "spacy", "spacy_first_child"]

_TOKEN = re.compile(r"[^\W_]+(?:['-][^\W_]+)*|'s?(?=\s|$)|[&]|[,;:.()/!?\"-]")
PUNCTUATION = frozenset(',;:.()/!?"-')
_CLITIC = "'s"
# Matches a hyphen between spaces, because some captioners write "black - haired".
_SPACED = re.compile(rf" - (?=(?:{'|'.join(sorted(lexicon.LINKING_PARTICIPLES))}|shirt|decker)\b)")
# `_NO_THINGS` name no thing, `_OF_OTHERS` name none before `of`, and a crop of a thing does not show `_NOT_SEEN`.
_NO_THINGS = lexicon.PICTURES | lexicon.PLACES | lexicon.COLOURS | lexicon.NUMERALS
_OF_OTHERS = lexicon.QUANTITIES | lexicon.PARTS
_NOT_SEEN = lexicon.DETERMINERS | lexicon.PLACES | lexicon.NUMERALS
# These words are neither nouns nor adjectives.
CLOSED = (PUNCTUATION | lexicon.DETERMINERS | lexicon.PREPOSITIONS | lexicon.RELATIVES | lexicon.CONJUNCTIONS) | (
    lexicon.AUXILIARIES | lexicon.PERSONAL_PRONOUNS | lexicon.EMPTY_PRONOUNS
)
_WITH_IS = lexicon.EMPTY_PRONOUNS | lexicon.PERSONAL_PRONOUNS | lexicon.RELATIVES | {"this"}
_PLURAL = lexicon.PLURAL_DETERMINERS | lexicon.PLURAL_NUMERALS
_SINGULAR = frozenset(("a", "an", "another", "one", "each", "every"))
_NO_VERBS = lexicon.CLOTHES | lexicon.PAIRS | lexicon.BODY | lexicon.NOUNS_IN_S
# No article is put before a text that begins with one of these words. After a verb, they begin its object.
_WITHOUT_ARTICLE = lexicon.DETERMINERS | lexicon.PLURAL_NUMERALS | {"one"}


@dataclass(slots=True)
class Chunk:
    """One noun phrase as positions in a list of words.

    Attributes:
        modifiers: Positions of determiners, numerals, adjectives and participles before the first noun.
        nouns: Positions of its nouns, the head last; empty if it has none.
        end: Position of the word that ended it; the number of words if none did.
    """

    modifiers: list[int] = field(default_factory=list)
    nouns: list[int] = field(default_factory=list)
    end: int = 0

    def head(self, words: list[str]) -> str | None:
        """Return the head, one word or a fixed compound; None for a phrase without a noun."""
        if self.nouns:
            last = self.nouns[-1]
            pair = f"{words[last - 1]} {words[last]}" if last else ""
            return pair if pair in lexicon.FIXED_COMPOUNDS else words[last]
        if self.modifiers and words[self.modifiers[-1]] in lexicon.ADJECTIVES_OR_NOUNS:
            # In "one of the dogs" the word "one" is a number, and in "the one" it is a noun.
            is_count = words[self.modifiers[-1]] == "one" and words[self.end : self.end + 1] == ["of"]
            return None if is_count else words[self.modifiers[-1]]
        return None


def noun_phrases(text: str) -> list[str]:
    """Return the noun phrases of an English expression in order, each once, without words about the surroundings.

    A phrase keeps its adjectives and loses articles, numbers and places, which a crop of the thing alone cannot show:
    "the second red car from the left" has the phrase "red car". Pictures, quantities and places do not count as things
    ("a photo of", "the left of"). The list is empty if the rules find no phrase.
    """
    words = tokenise(text)
    found: dict[str, None] = {}
    start = 0
    while start < len(words):
        chunk = read_chunk(words, start)
        head = chunk.head(words)
        is_of_others = head in _OF_OTHERS and words[chunk.end : chunk.end + 1] == ["of"]
        if head is not None and head not in _NO_THINGS and not is_of_others:
            modifiers = (words[index] for index in chunk.modifiers)
            seen = [word for word in modifiers if word not in _NOT_SEEN and word[0].isalnum()]
            found[" ".join([*seen, *(words[index] for index in chunk.nouns)])] = None
        start = max(chunk.end, start) + 1
    return [phrase for phrase in found if phrase]


@lru_cache(maxsize=1 << 14)
def tokenise(text: str) -> list[str]:
    """Return lower-case words, shared by all callers; punctuation marks and the possessive `'s` are separate words."""
    text = text.lower().replace("’", "'").replace("w/o", "without").replace("w/", "with ")
    text = _SPACED.sub("-", text)
    text = re.sub(r"\bclose[ -]?ups?\b|\bup[ -]close\b", "closeup", text)
    text = text.replace("upside down", "upside-down").replace("side by side", "side-by-side")
    words: list[str] = []
    for token in _TOKEN.findall(text):
        if token == "'":
            words.append(_CLITIC)
        elif token.endswith(_CLITIC) and token != _CLITIC:
            stem = token[: -len(_CLITIC)]
            is_contraction = stem in _WITH_IS
            words += [stem, "is" if is_contraction else _CLITIC]
        else:
            words.append(token)
    return words


def read_chunk(words: list[str], start: int) -> Chunk:
    """Return the noun phrase that starts at `start`; it may have no noun, or no words at all."""
    chunk = Chunk(end=len(words))
    for i in range(start, len(words)):
        if words[i] == _CLITIC and chunk.nouns:
            # The words before a possessive name the owner of the phrase that follows, so they are not its head.
            chunk.modifiers, chunk.nouns = [*chunk.modifiers, *chunk.nouns], []
        elif not chunk.nouns and _modifies(words, i, chunk):
            chunk.modifiers.append(i)
        elif words[i] in CLOSED or (_ends(words, i, chunk) if chunk.nouns else _is_leading_verb(words, i, chunk)):
            chunk.end = i
            break
        elif chunk.nouns and describes(words[i]):
            # Words before an adjective are no nouns but describe one: "vintage blue car", "hand painted wooden sign".
            chunk.modifiers, chunk.nouns = [*chunk.modifiers, *chunk.nouns, i], []
        else:
            chunk.nouns.append(i)
    return chunk


def _modifies(words: list[str], i: int, chunk: Chunk) -> bool:
    """Whether word i comes before the noun of its phrase; no noun was found yet."""
    word = words[i]
    if word == "that":  # "that man", but not "that is a man"
        return not chunk.modifiers and noun_follows(words, i + 1)
    if word in lexicon.DETERMINERS:
        return True
    if word in lexicon.CONJUNCTIONS or word == ",":
        return bool(chunk.modifiers) and _continues_list(words, i, chunk)
    if word in lexicon.PARTICLES and i and is_past_participle(words[i - 1]):
        return noun_follows(words, i + 1)  # "a rolled up towel"
    if word in lexicon.SHADES and _at(words, i + 1) in lexicon.COLOURS:
        return True
    is_clothing = "clothing" in wider_names(_at(words, i + 1))  # "in blue swimming trunks"
    if is_progressive(word) and (is_clothing or not _is_worn_colour(words, chunk)):
        # Without a determiner, "riding a horse" and "sitting on" are verbs, but "smiling woman" is not.
        return bool(chunk.modifiers) or noun_follows(words, i + 1) or i + 1 == len(words)
    return describes(word)


def _is_leading_verb(words: list[str], i: int, chunk: Chunk) -> bool:
    """Whether word i, where a noun could come first, is a verb: "riding a horse", "i see two dogs"."""
    if is_progressive(words[i]):
        return True
    if chunk.modifiers:  # "a boy in red jumps", but "a boy in red shorts"
        is_verb = _at(words, i + 1) in lexicon.DIRECTIONS and lexicon.is_plural(words[i]) and kind_of(words[i]) is None
        is_verb |= finite_stem(words[i]) is not None
        return _is_worn_colour(words, chunk) and is_verb and not noun_follows(words, i + 1)
    if words[i] in lexicon.VERBS:
        return _at(words, i + 1) in _WITHOUT_ARTICLE
    # A verb may follow a relative pronoun: "what looks like a fox".
    return i > 0 and words[i - 1] in lexicon.RELATIVES and _is_finite_verb(words[i], is_plural=False)


def _is_worn_colour(words: list[str], chunk: Chunk) -> bool:
    """Whether the words read so far are what someone wears: "in red", "wearing all black"."""
    colours = {words[at] for at in chunk.modifiers} - lexicon.CONJUNCTIONS - {"all"}
    return bool(colours) and colours <= lexicon.COLOURS and words[chunk.modifiers[0] - 1] in ("in", "wearing")


def _continues_list(words: list[str], i: int, chunk: Chunk) -> bool:
    """Whether the comma or `and` at i joins two adjectives of one phrase: "a small, red and white hat"."""
    before = words[chunk.modifiers[-1]]
    is_after_adjective = before in lexicon.CONJUNCTIONS or before == "," or _is_adjective(before)
    following = _at(words, i + 1)
    if words[i] == "," and (before in lexicon.PLACES or following in lexicon.DETERMINERS):
        return False
    if following in lexicon.COLOURS and (_is_worn_colour(words, chunk) or _at(words, i + 2) in ("top", "tops")):
        return True
    return is_after_adjective and (noun_follows(words, i + 1) or following in lexicon.CONJUNCTIONS)


def _ends(words: list[str], i: int, chunk: Chunk) -> bool:
    """Whether the open-class word i, after a noun of its phrase, ends the phrase."""
    word, following = words[i], _at(words, i + 1)
    last = words[chunk.nouns[-1]]
    if f"{word} {following}" in lexicon.GERUND_COMPOUNDS or f"{last} {word}" in lexicon.FIXED_COMPOUNDS:
        return False
    if following in lexicon.DETERMINERS:  # Two phrases are never adjacent: the word between them is a verb.
        return True
    if word == "number" and lexicon.NUMERAL_PATTERN.fullmatch(following):
        return True
    if word in lexicon.PLACES:
        return True
    if word in lexicon.LINKING_PARTICIPLES:
        return not noun_follows(words, i + 1)
    if is_progressive(word) or is_adverb(word):
        return True
    if describes(word):
        return last in lexicon.KNOWN_NOUNS or not noun_follows(words, i + 1)
    is_plural = last in lexicon.IRREGULAR_PLURALS or (last.endswith("s") and not last.endswith(("ss", "us")))
    counts = {words[at] for at in chunk.modifiers}
    is_compound = not is_plural and not is_animate(last) and noun_follows(words, i + 1)  # "two street race cars"
    is_finite = _is_finite_verb(word, is_plural=is_plural or (bool(counts & _PLURAL) and not is_compound))
    return is_finite or _is_unlisted_verb(words, i, last, counts)


def _is_unlisted_verb(words: list[str], i: int, last: str, counts: Set[str]) -> bool:
    """Whether word i, which no list has, is a verb by its form and its neighbours: "a dog vaults over a fence"."""
    word, following = words[i], _at(words, i + 1)
    is_noun = following in lexicon.AUXILIARIES or (noun_follows(words, i + 1) and following not in lexicon.CONJUNCTIONS)
    is_unknown, is_living, is_several = kind_of(word) is None, is_animate(last), bool(counts & _PLURAL)
    is_direction = following in lexicon.DIRECTIONS or following in lexicon.DEGREES
    if lexicon.is_plural(last):
        if lexicon.is_plural(word):  # "two dogs looks"
            return not is_noun and finite_stem(word) is not None
        return (is_living or is_several) and not (counts & _SINGULAR or is_noun) and (is_unknown or is_direction)
    if not lexicon.is_plural(word):
        return last in lexicon.QUANTITIES and word in lexicon.VERBS and not is_noun
    is_name = word in _NO_VERBS or "person" in wider_names(word)
    if is_name or is_several or (last in lexicon.QUANTITIES and not is_unknown):
        return False
    if counts & _SINGULAR:  # No head after "a" is a plural.
        return not is_noun or (is_unknown and is_living)
    if is_direction and (is_living or (is_unknown and counts)):
        return not (is_unknown and is_noun)
    return is_unknown and is_living and bool(counts) and not is_noun and following not in ("", *PUNCTUATION)


def is_animate(noun: str, kinds: Set[str] = frozenset(("person", "animal"))) -> bool:
    """Return whether a noun names a person or an animal; an unknown one in -er, -ist or -man names a person."""
    is_unknown = kind_of(noun) is None and noun not in lexicon.NOUNS_IN_ER and not describes(noun)
    is_agent = is_unknown and noun.removesuffix("s").endswith(("er", "ist", "man"))
    return is_agent or noun in lexicon.PEOPLE or not kinds.isdisjoint((kind_of(noun), *wider_names(noun)))


def noun_follows(words: list[str], i: int) -> bool:
    """Return whether there is a noun at i, or after adjectives that start at i."""
    for j in range(i, len(words)):
        if words[j] in CLOSED and words[j] not in lexicon.CONJUNCTIONS:
            return False
        if words[j] in lexicon.ADJECTIVES_OR_NOUNS:
            return True
        if not describes(words[j]) and not is_progressive(words[j]) and words[j] not in lexicon.CONJUNCTIONS:
            return words[j] not in lexicon.DETERMINERS
    return False


def is_verb(words: list[str], i: int) -> bool:
    """Return whether word i, after a noun phrase, is a verb that goes on about it."""
    if i >= len(words) or words[i] in CLOSED:
        return False
    if is_progressive(words[i]) or is_past_participle(words[i]) or finite_stem(words[i]) is not None:
        return True
    # Any other word that ended the phrase before it is a verb that no list has.
    before = words[i - 1] if i else ","
    is_after_noun = before not in CLOSED and (is_adverb(before) or not describes(before))
    return is_after_noun and words[i] != "number" and not describes(words[i])


def progressive(verb: str, *, is_finite: bool = False) -> str:
    """Return "riding" of "rides" and "ride"; a participle as it is, and an unlisted word unless it `is_finite`."""
    stem = finite_stem(verb)
    if stem is None and is_finite and not verb.endswith("ing"):
        stem = re.sub("(?<=ch|sh|ss|zz)es$|(?<=x)es$|(?<!s)s$", "", re.sub("ies$", "y", verb))
    if stem is None or is_progressive(verb):
        return verb
    if stem.endswith("ie"):
        return f"{stem[:-2]}ying"
    if stem.endswith("e") and not stem.endswith("ee"):
        return f"{stem[:-1]}ing"
    is_short = len(stem) > 2 and stem[-1] in "bdgmnprt" and stem[-2] in "aeiou" and stem[-3] not in "aeiou"
    is_short = is_short and (len(re.findall("[aeiou]+", stem)) == 1 or stem == "begin")
    return f"{stem}{stem[-1] if is_short else ''}ing"


def finite_stem(word: str) -> str | None:
    """Return the base form of a verb that `english` lists: "ride" of "rides"; None of another word."""
    if word in lexicon.VERBS:
        return word
    stems = (word.removesuffix("s"), word.removesuffix("es"), f"{word.removesuffix('ies')}y")
    return next((stem for stem in stems if word.endswith("s") and stem in lexicon.VERBS), None)


def describes(word: str) -> bool:
    """Return whether a word is a numeral, an adjective, a past participle or an adverb."""
    is_numeral = word in lexicon.NUMERALS or word == "ones" or lexicon.NUMERAL_PATTERN.fullmatch(word) is not None
    return is_numeral or _is_adjective(word) or is_past_participle(word) or is_adverb(word)


def _is_adjective(word: str) -> bool:
    if word in lexicon.ADJECTIVES or ("-" in word.strip("-") and is_past_participle(word.rsplit("-", 1)[1])):
        return True
    if lexicon.SUPERLATIVE_PATTERN.fullmatch(word):
        return word not in lexicon.NOUNS_IN_EST
    return len(word) > 5 and word.endswith(lexicon.ADJECTIVE_SUFFIXES) and word not in lexicon.NOUNS_LIKE_ADJECTIVES


def is_past_participle(word: str) -> bool:
    """Return whether a word is a participle such as "parked" and "worn"."""
    if word in lexicon.IRREGULAR_PARTICIPLES or word in lexicon.LINKING_PARTICIPLES:
        return True
    return len(word) > 3 and word.endswith("ed") and word not in lexicon.NOUNS_IN_ED


def is_progressive(word: str) -> bool:
    """Return whether a word is a participle in -ing."""
    return len(word) > 4 and word.endswith("ing") and word not in lexicon.NOUNS_IN_ING


def is_adverb(word: str) -> bool:
    """Return whether a word says how much or in which way."""
    if word in lexicon.DEGREES:
        return True
    return lexicon.ADVERB_PATTERN.fullmatch(word) is not None and word not in lexicon.NOUNS_IN_LY


def _is_finite_verb(word: str, *, is_plural: bool) -> bool:
    """Whether the word is a verb in agreement with the noun before: "dog runs", "dogs run", not "two fruit stands"."""
    return word in lexicon.VERBS if is_plural else finite_stem(word) not in (None, word)


def _at(words: list[str], i: int) -> str:
    return words[i] if i < len(words) else ""


def noun_prompt(text: str, noun: str | None, *, nouns: NounRule = "rules") -> str:
    """Return the prompt for the masked crop: "a photo of a {noun}", or of the whole text if there is no noun.

    A noun is singular or plural as in the text ("a photo of a dogs", like the authors' scripts). No second article is
    written. The authors' rule (`nouns`) knows "a", "an" and "the" alone: "two dogs" without a noun becomes "a photo of
    a two dogs".
    """
    named = noun if noun is not None else text
    first = named.split(maxsplit=1)[0] if named else ""
    has_article = first in (lexicon.ARTICLES if nouns == "spacy_first_child" else _WITHOUT_ARTICLE)
    return f"a photo of {named}" if has_article else f"a photo of a {named}"


def head_noun(text: str) -> str | None:
    """Return the head of the first noun phrase of an English expression; None if the rules find none."""
    words = tokenise(text)
    skipped: str | None = None
    start = subject_start(words)
    while start < len(words):
        chunk = read_chunk(words, start)
        head = chunk.head(words)
        if head is not None:
            next_start = _skip_to(words, chunk, head)
            if next_start is None:
                return head
            skipped, start = head, next_start
        elif _is_final(words, chunk):
            break
        else:
            start = chunk.end + 1
    return skipped


def subject_start(words: list[str]) -> int:
    """Return where the subject begins behind a clause: 6 in "as the sun sets, a dog barks"; else 0."""
    opening = words[0] if words else ""
    if opening not in lexicon.PREPOSITIONS and not (is_progressive(opening) and not read_chunk(words, 0).nouns):
        return 0
    for i in range(1, len(words) - 1):
        begins = i + (words[i] == ",")
        chunk, is_counted = read_chunk(words, begins), words[begins] in lexicon.DETERMINERS | lexicon.NUMERALS
        # Two phrases side by side, as "the park" and "a dog", are no object of the preposition.
        is_behind = begins > i or (is_counted and words[i - 1] not in CLOSED and not is_verb(words, i - 1))
        is_clause = _at(words, chunk.end) in lexicon.AUXILIARIES or is_verb(words, chunk.end)
        is_subject = chunk.nouns and (is_clause or (is_counted and is_animate(words[chunk.nouns[-1]])))
        if is_behind and (is_subject or words[begins] == "there"):
            return begins
    return 0


def _skip_to(words: list[str], chunk: Chunk, head: str) -> int | None:
    """Index of the phrase after a picture, quantity or part; None if `head` is an object itself."""
    following = words[chunk.end : chunk.end + 2]
    if head in lexicon.PICTURES:
        for offset, word in enumerate(following):
            if word in lexicon.SHOWING or word == "of":
                begins = chunk.end + offset + 1
                drink = _at(words, begins + describes(_at(words, begins)))
                return None if head == "shot" and drink in lexicon.DRINKS else begins
            if word not in lexicon.RELATIVES and word != "taken":
                return None
    if head in lexicon.QUANTITIES | lexicon.PARTS and following[:1] == ["of"]:
        return chunk.end + 1
    return None


def _is_final(words: list[str], chunk: Chunk) -> bool:
    """Whether a phrase without a noun ends the search. If not, the next phrase counts."""
    end_word = _at(words, chunk.end)
    if not chunk.modifiers:
        return end_word in lexicon.PERSONAL_PRONOUNS
    last = words[chunk.modifiers[-1]]
    if end_word == "of":  # "two of the dogs" and "top of the dog" are about dogs, "left of the dog" is a place
        return last in lexicon.PLACES - lexicon.PARTS
    if end_word in lexicon.AUXILIARIES:  # "this is a dog"
        return last not in lexicon.DEMONSTRATIVES
    # In "On the left, a red bus" the place does not end the search, because the phrase after the comma counts.
    opens = end_word in {",", ":", "-"} or end_word in lexicon.EMPTY_PRONOUNS
    return not opens or all(words[i] in lexicon.NUMERALS for i in chunk.modifiers)
