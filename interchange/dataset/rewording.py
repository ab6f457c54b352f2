"""Draws one of the forms of an English expression. Called by `sample_builder.py` and `exports/export_job.py`.

Captions say "a photo of a small red star", and people say "the small red star". A form must refer to the same object
in nearly every picture, and has no more words than its text. Only absences may get a place (`placed_absence`). Rules:

    opening    "a photo of", "there is" and the like are left out
    article    "a" and "an" become "the"; any article before the first noun phrase is left out
    order      a size stands before or after colour and pattern: "small red star", "red small star"
    relation   "below the box" becomes "under the box", "to the left of" becomes "left of"
    side       "star on the left" becomes "left star", of text whose noun phrase has nothing else behind it

The last two may change the meaning: a bowl that stands before a cup is below it in the picture, and not under it; and
another star may lie hardly further right than the star on the left. The reverse of a rule is never applied: a "left
star" may be anywhere. A text with unknown words, or where a word may matter ("light", "red fox"), keeps its words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Final, get_args

from pseudoris.primitives import english as lexicon
from pseudoris.primitives import place_phrases
from pseudoris.primitives.counter_rng import draw_below, key_of
from pseudoris.primitives.head_nouns import finite_stem, head_noun, read_chunk
from pseudoris.primitives.noun_phrases import NounPhrase, noun_phrase
from pseudoris.schemas.shard import SOURCE_HUMAN, ExpressionRecord


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# A reworded text in a sample has this `source`, which no table has.
SOURCE_REWORDED: Final = "reworded"

# These openings name a photograph. Others are kept, because "a painting of a dog" may be the object itself.
_PHOTO: Final = re.compile(
    r"(?:this is )?(?:(?:an? )?close[ -]?up of )*(?:an? )?(?:close[ -]?up of|(?:(?:close[ -]?up|\w+ and white|blurry|"
    r"full|side|aerial|overhead) )?(?:photo|photograph|picture|pic|image|shot|view) of) ",
    re.IGNORECASE,
)
_THERE: Final = re.compile(
    r"(?:there is|there are|here is|here are|this is|these are|it is) "
    r"(?=(?:an?|the|one|some|several|many|two|three|four|five|six) )",
    re.IGNORECASE,
)
# A picture on one of these things may be the object itself: "a picture of a cat on a mug".
_ON_THINGS: Final = (
    "wall screen tv television monitor laptop phone poster billboard sign page book magazine newspaper paper fridge "
    "refrigerator shirt t-shirt tshirt mug cup plate stamp card cover calendar box bag"
)
_IN_THINGS: Final = "frame book magazine newspaper page poster album"
_IS_SHOWN: Final = re.compile(
    rf"\b(?:on (?:\S+ )*?(?:{_ON_THINGS.replace(' ', '|')})|(?:in|inside) (?:\S+ )*?(?:{_IN_THINGS.replace(' ', '|')})"
    r"|framed|hanging|hung|printed|displayed)\b"
)

_CLAUSES: Final = lexicon.AUXILIARIES | lexicon.EMPTY_PRONOUNS
# Before these words the article carries meaning (how many, or which), so it stays.
_NEEDS_ARTICLE: Final = (
    lexicon.DETERMINERS
    | lexicon.NUMERALS
    | lexicon.PREPOSITIONS
    | lexicon.RELATIVES
    | lexicon.CONJUNCTIONS
    | lexicon.PERSONAL_PRONOUNS
)
# These nouns keep their article: without it "chicken" is meat, "glass" a material, and "orange" a colour.
_MATERIALS: Final = _words(
    "chicken lamb turkey salmon glass paper iron tin cork rubber plastic cardboard cloth wood stone brick hair light "
    "orange gold silver"
)
# Texts of this form keep their article, such as "the taller of the two dogs".
_OF_COUNTED: Final = re.compile(rf".* of (?:the |these |those )?(?:{'|'.join(sorted(lexicon.NUMERALS))})\b.*")
# Before "of" these words keep their article, as in "the left of the dog" and "the back of the bus".
_HALVES: Final = lexicon.PLACES | lexicon.PARTS
_ORDINALS: Final = frozenset({"first", "second", "third", "fourth"})
_RANK: Final = re.compile(r"(?:first|second|third|fourth) .* from the (?:left|right|top|bottom)")
_ENDS: Final = _words(
    "left right top bottom upper lower middle leftmost rightmost topmost bottommost left-most right-most"
)

_SIZES: Final = _words("small large big tiny huge")
# These words are only colours. "Orange" is left out, because "small orange tree" names a kind of tree.
_COLOURS: Final = _words("red yellow green blue purple pink brown black white grey gray aqua teal turquoise")
_CLASSES: Final = {
    **dict.fromkeys(_SIZES, "size"),
    **dict.fromkeys(_COLOURS, "colour"),
    **dict.fromkeys(lexicon.PATTERNS, "pattern"),
}
# With "red" or "left", these nouns keep their meaning. Others may not: a "brown bear" is a kind of bear.
_DRAWN: Final = _words("circle square triangle star heart diamond cross ring arrow moon drop mushroom bolt crown key")
_THINGS: Final = _DRAWN | lexicon.KNOWN_NOUNS - _words(
    "bear bull light batter catcher pitcher hand arm leg head shoe shoes pants window door wall building food people "
    "men women children kids someone somebody something anything animal bread broccoli glass orange"
)
# A form with more of these words than its text is left out: "under", "the left star", "red small star".
_LATE_SIZE: Final = rf"\b(?:{'|'.join(_CLASSES.keys() - _SIZES)}) (?:{'|'.join(_SIZES)})\b"
_UNSAID: Final = re.compile(rf"\bunder\b|\b(?:left|right|top|bottom) (?!of\b)|{_LATE_SIZE}")
# A relation is only reworded before an article: "the shelf below" stays, and so does "closest to the left of".
_RELATIONS: Final = (
    (re.compile(r"\b(\w+) below(?= (?:an?|the) )"), r"\1 under"),
    (
        re.compile(
            r"\b(?!(?:next|near|nearer|nearest|close|closer|closest|attached|connected|turned) )(\w+) "
            r"to the (left|right) of(?= (?:an?|the) )"
        ),
        r"\1 \2 of",
    ),
)
_SIDES: Final = {"on the left": "left", "on the right": "right", "at the top": "top", "at the bottom": "bottom"}
# In these texts "left" or "top" is no place: a "left arrow" points left, and a "top chef" is a good chef.
_OTHER_THINGS: Final = frozenset(
    {
        *("left arrow", "right arrow", "top arrow", "bottom arrow", "left sign", "right sign", "right triangle"),
        *("top coat", "top dog", "top chef", "top officer", "top cop", "top player"),
    }
)


def drawn_forms(
    texts: Sequence[str],
    sources: Sequence[str],
    *,
    seed: int,
    epoch: int,
    mask_id: str,
    absent_beside: Sequence[str] | None = None,
) -> list[str]:
    """Return a form of each text that an epoch draws of a mask, each of its forms equally likely.

    The draw follows from (seed, epoch, mask id, text), and how often the text came before. A human's texts are returned
    as they are. With `absent_beside`, the other texts of the image, the texts are absences, and half of them get a
    place first (`placed_absence`). An absence that has a side stays: if no star is on the left, one in the middle may
    be the left star.
    """
    said = list(texts)
    for at, (text, source) in enumerate(zip(texts, sources, strict=True)):
        if source == SOURCE_HUMAN or (absent_beside is not None and text.endswith(tuple(_SIDES))):
            continue
        turn, key = texts[:at].count(text), key_of("form", seed, epoch, mask_id, text)
        if absent_beside is not None:
            placing = key_of("place", seed, epoch, mask_id, text)
            text = said[at] = placed_absence(text, absent_beside, key=placing, turn=turn)
        forms = forms_of(text)
        if len(forms) > 1:
            said[at] = forms[draw_below(key, turn, len(forms))]
    return said


def sentences(image_id: str, said: Sequence[ExpressionRecord], number: int) -> Iterator[tuple[str, ...]]:
    """Yield what an export says for each of an image's expressions, with up to `number` further forms, at least 1.

    The first sentence is the text, without its opening. If the expression is kept, up to `number` forms follow that
    mean the same in every picture; mask and text decide which. No form equals another sentence of the image. A human's
    texts stay as they are.
    """
    taken = {each.text for each in said if each.kept}
    found: list[tuple[str, list[str]]] = []
    for each in said:
        phrase = each.text if each.source == SOURCE_HUMAN else _without_opening(each.text)
        usual = len(_UNSAID.findall(phrase))
        forms = [form for form in forms_of(phrase) if len(_UNSAID.findall(form)) <= usual]
        # Two texts may lose their openings and become equal, so the second gets another form: "a dog", then "the dog".
        first = (
            phrase if phrase == each.text else next((form for form in (phrase, *forms) if form not in taken), each.text)
        )
        taken.update((first,) if each.kept else ())
        found.append((first, forms if each.kept and each.source != SOURCE_HUMAN else []))
    for each, (first, forms) in zip(said, found, strict=True):
        key = ("sentence", (*each.target_mask_ids, image_id)[0], each.text)
        further = sorted((key_of(*key, form), form) for form in forms if form not in taken)[:number]
        taken.update(form for _, form in further)
        yield (first, *(form for _, form in further))


# Results are cached, because each epoch repeats all texts. The cache is bounded: a run may have millions of texts.
@lru_cache(maxsize=2**16)
def forms_of(text: str) -> tuple[str, ...]:
    """Return the forms of an expression in lower case, itself first; only itself if the rules do not know it."""
    phrase = _without_opening(text)
    if not _is_phrase(phrase):
        return (text,)
    first, _, rest = phrase.partition(" ")
    article, noun_phrase = (first, rest) if first in lexicon.ARTICLES else ("", phrase)
    found = dict.fromkeys((text, phrase))
    if article and not _is_free_of_article(article, noun_phrase):
        return tuple(found)
    reworded = [pattern.subn(word, noun_phrase) for pattern, word in _RELATIONS]
    # A phrase with exactly one relation also gets a form with another word for that relation.
    related = [text for text, count in reworded if count and sum(each for _, each in reworded) == 1]
    for ordered in (order for each in (noun_phrase, *related) for order in _orders(each)):
        found.update(dict.fromkeys(_with_articles(article, ordered, is_reordered=ordered != noun_phrase)))
        placed = _side_first(ordered)
        if placed is not None:
            found.update(dict.fromkeys(_with_articles("the" if article else "", placed, is_reordered=True)))
    return tuple(found)


def _without_opening(text: str) -> str:
    opening = _PHOTO.match(text) or _THERE.match(text)
    if opening is None:
        return text
    phrase = text[opening.end() :]
    is_on_thing = _IS_SHOWN.search(phrase) and "close" not in opening[0].lower()
    is_drink = head_noun(text) == "shot" != head_noun(phrase)
    # "There is a photo of a dog" has two openings, so the second opening is left out too.
    return text if opening.re is _PHOTO and (is_on_thing or is_drink) else _without_opening(phrase)


def _is_phrase(text: str) -> bool:
    """Whether a text is one noun phrase, with whatever describes it: no clause, no second one, no punctuation."""
    words = text.split()
    if " ".join(words) != text or text != text.lower() or head_noun(text) is None:
        return False
    if any(word in _CLAUSES or not re.sub("['-]", "", word).isalpha() for word in words):
        return False
    chunks = (read_chunk(words, start) for start in range(len(words)))
    # A text with a verb, such as "a dog sits on a mat", is a sentence and not a noun phrase.
    if any(each.nouns and finite_stem("".join(words[each.end : each.end + 1])) for each in chunks):
        return False
    return not any(
        word in lexicon.CONJUNCTIONS and following in lexicon.DETERMINERS for word, following in pairwise(words)
    )


def _is_free_of_article(article: str, noun_phrase: str) -> bool:
    """Whether the phrase means the same with another article, and with none."""
    words = noun_phrase.split()
    if article == "the" and _RANK.fullmatch(noun_phrase):
        return True
    if not words or words[0] in _NEEDS_ARTICLE or _OF_COUNTED.fullmatch(noun_phrase):
        return False
    before = words[: words.index("of")] if "of" in words else []
    if before and (before[-1] in lexicon.QUANTITIES or (len(before) == 1 and before[0] in _HALVES)):
        return False
    return head_noun(noun_phrase) not in {None, *_MATERIALS}


def _with_articles(article: str, noun_phrase: str, *, is_reordered: bool) -> Iterator[str]:
    if article in ("a", "an"):
        fitting = "an" if noun_phrase[0] in "aeiou" else "a"
        yield f"{fitting if is_reordered else article} {noun_phrase}"
    if article:
        yield f"the {noun_phrase}"
    yield noun_phrase


def _orders(noun_phrase: str) -> Iterator[str]:
    """Yield the phrase, then with its size before, and behind, the other adjectives of its noun."""
    yield noun_phrase
    words = noun_phrase.split()
    begin, end = _adjectives(words) or (0, 0)
    sizes = [word for word in words[begin:end] if word in _SIZES]
    others = [word for word in words[begin:end] if word not in _SIZES]
    if sizes and others:
        for adjectives in ((*sizes, *others), (*others, *sizes)):
            yield " ".join((*words[:begin], *adjectives, *words[end:]))


def _side_first(noun_phrase: str) -> str | None:
    """Return "left red star" of "red star on the left"; None of anything else."""
    *words, preposition, article, place = ("", "", *noun_phrase.split())
    words = [word for word in words if word]
    side = _SIDES.get(f"{preposition} {article} {place}")
    if side is None or not words or _adjectives(words) != (0, len(words) - 1):
        return None
    return None if f"{side} {words[-1]}" in _OTHER_THINGS else f"{side} {' '.join(words)}"


def _adjectives(words: list[str]) -> tuple[int, int] | None:
    """Return where the adjectives before the noun begin and end; None unless they and the noun are known words."""
    begin = 1 if words[0] in _ENDS | _ORDINALS else 0
    end = begin
    while end < len(words) and words[end] in _CLASSES:
        end += 1
    classes = [_CLASSES[word] for word in words[begin:end]]
    noun, following = words[end : end + 1], words[end + 1 : end + 2]
    # Two words of one class are not reordered, because the order of two colours may matter.
    is_known = noun != [] and noun[0] in _THINGS and len(set(classes)) == len(classes)
    is_whole = not following or following[0] in lexicon.PREPOSITIONS | lexicon.RELATIVES
    return (begin, end) if is_known and is_whole else None


# What is absent gets a place. The composer's absences have none, and its other expressions often have one. A model that
# learns from both would learn that a text with a place always refers to something. So half of the drawn absences get a
# place. A text that a rule gives must refer to nothing in every picture in which the absence does, whatever its anchor
# refers to:
#
#     side        the red circle on the left
#     end         the leftmost red circle
#     rank        the second red circle from the left, the left of the two red circles
#     relation    the red circle above the star
#     anchor      the star above the red circle
#
# A text stays if it is no noun phrase of the templates (`pseudoris.primitives.noun_phrases`), or has a place.
_PLACES: Final[tuple[place_phrases.Side, ...]] = get_args(place_phrases.Side)
_FORMS: Final = ("side", "end", "rank", "relation", "anchor")
# This many choices keep the plain text, as many as add a place: about half of the other expressions have a place.
_NUM_PLAIN: Final = len(_FORMS)
# At most this many other texts are tried as the anchor, until one of them is a noun phrase.
_NUM_TRIED: Final = 6
# Each draw of a text uses this many random numbers, so the next draw begins after them.
_NUMBERS_A_DRAW: Final = 3 + _NUM_TRIED
# These words may stand before the noun phrase of a text: "a photo of the".
_OPENINGS: Final = lexicon.ARTICLES | lexicon.PICTURES | {"of"}


def placed_absence(text: str, others: Sequence[str], *, key: int, turn: int) -> str:
    """Return an absence with a place, or as it is, as draw `turn` of a key says.

    `others` are texts of the same image. One of them, a noun phrase without a place, becomes the other side of a
    relation.
    """
    first = turn * _NUMBERS_A_DRAW
    form = draw_below(key, first, len(_FORMS) + _NUM_PLAIN)
    phrase = _phrase(text)
    if form >= len(_FORMS) or phrase is None:
        return text
    side, rank = _PLACES[draw_below(key, first + 1, len(_PLACES))], 1 + draw_below(key, first + 2, 3)
    said: str | None = None
    if _FORMS[form] == "side":
        said = place_phrases.at_side(side, phrase)
    elif _FORMS[form] == "end":
        said = place_phrases.extreme(side, phrase)
    elif _FORMS[form] == "rank":
        said = place_phrases.extreme_of(side, 2, phrase) if rank == 1 else place_phrases.ordinal(side, rank, phrase)
    else:
        numbers = range(first + 3, first + _NUMBERS_A_DRAW) if others else ()
        tried = (_phrase(others[draw_below(key, number, len(others))]) for number in numbers)
        if (other := next(filter(None, tried), None)) is not None:
            pair = (phrase, other) if _FORMS[form] == "relation" else (other, phrase)
            said = place_phrases.related(side, *pair)
    return said or text


def _phrase(text: str) -> NounPhrase | None:
    """Return the noun phrase that a text consists of; None if it has a place or names another thing."""
    found = noun_phrase(text, head_noun(text))
    if found is None or found.number == "several" or not f" {text}".endswith(f" {found.text}"):
        return None
    if not _OPENINGS.issuperset(text.removesuffix(found.text).split()):
        return None
    return None if "the" in found.text.split() or not lexicon.PLACES.isdisjoint(text.split()) else found
