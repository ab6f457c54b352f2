"""Tells which attributes of a thing rule each other out: red and blue, standing and sitting, a red hat and a blue cap.

Called by `workers/composing`. Attributes are as of `noun_phrases.content_of`. Two are opposed if they fill one slot of
a thing with different values: its colour, its posture, its hat. Pairs that are not known to share a slot are not
opposed: fourteen short captions hardly join any two words, so that no caption joins them says nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence, Set
from functools import lru_cache
from itertools import chain, combinations, product
from typing import Final

from pseudoris.primitives import english as lexicon
from pseudoris.primitives.noun_phrases import implies, says_more

# By what stands for them, words that say the same of a thing.
_SYNONYMS: Final = {
    "gray": "grey silver silvery",
    "dark blue": "navy",
    "light blue": "cyan aqua turquoise teal azure",
    "light brown": "tan beige khaki",
    "purple": "violet lavender",
    "yellow": "gold golden",
    "blond": "blonde",
    "dark red": "maroon burgundy",
    "wooden": "wood",
    "metal": "metallic steel stainless iron chrome",
    "plaid": "checkered checked tartan",
    "large": "big huge giant gigantic",
    "small": "little tiny mini",
    "old": "older elderly vintage antique old-fashioned",
    "young": "younger",
    "lying": "laying sleeping resting",
    "sitting": "seated",
    "hair": "haired",
    "hat": "cap",
    "t-shirt": "tshirt tee-shirt tee",
    "pants": "trousers",
    "beard": "bearded",
    "mustache": "moustache mustached",
    "glasses": "eyeglasses spectacles",
    "without shirt": "shirtless topless",
    "striped": "stripes stripy stripey",
}
_FIRST: Final[Mapping[str, tuple[str, ...]]] = {
    word: tuple(first.split()) for first, words in _SYNONYMS.items() for word in words.split()
}
_TONES: Final = (frozenset({"light", "pale", "bright", "sky", "baby", "blond"}), frozenset({"dark", "deep"}))
# A line is a slot, its values between bars. A word may fill several.
_SLOTS: Final = """
large | small
tall | short
long | short
wide | narrow
thick | thin
fat chubby | thin slim skinny
old | young new modern
wooden | metal | plastic | glass | leather | brick | stone concrete marble | ceramic | paper cardboard | wicker
standing | sitting | lying | kneeling crouching squatting | walking | running | jumping | flying | swimming | hanging
parked | driving moving
open opened | closed shut
full filled | empty
clean | dirty muddy
wet | dry
striped | dotted spotted | plaid | plain | floral
round circular | square rectangular | oval | triangular
male | female
curly | straight | wavy
raw | cooked grilled fried
asleep | awake
"""
# The same of what people wear: two shirts are opposed if their colours or patterns are.
_CLOTHES: Final = """
shirt t-shirt blouse top jersey polo | sweater sweatshirt hoodie
jacket coat blazer vest raincoat
pants jeans leggings | shorts trunks | skirt
dress gown | suit tuxedo | swimsuit bikini wetsuit | robe kimono
hat beanie | helmet
shoes sneakers | boots | sandals heels
tie | scarf
"""

# By colour word, those of `pixel_colours.NAMES` that its pixels have; all others are names themselves.
_PIXELS: Final = {
    "gray": ("grey",),
    "cream": ("white", "yellow"),
    "blond": ("yellow", "brown", "white"),
    "brunette": ("brown", "black"),
    "magenta": ("pink", "purple"),
}


def _values(slots: str) -> Mapping[str, Mapping[int, int]]:
    """Return the value of each word, by slot."""
    found: dict[str, dict[int, int]] = {}
    for slot, line in enumerate(slots.strip().splitlines()):
        for value, words in enumerate(line.split("|")):
            for word in words.split():
                found.setdefault(word, {})[slot] = value
    return found


_VALUES: Final = _values(_SLOTS)
_WORN: Final = _values(_CLOTHES)


@lru_cache(maxsize=1 << 16)
def canonical(attribute: str) -> str:
    """Return an attribute in words that stand for all that say the same: "dark hair" of "dark-haired"."""
    words = attribute.replace("-haired", " haired").split()
    return " ".join(dict.fromkeys(part for word in words for part in _FIRST.get(word, (word,))))


@lru_cache(maxsize=1 << 16)
def are_opposed(first: str, second: str) -> bool:
    """Return whether no thing has both attributes."""
    first, second = canonical(first), canonical(second)
    if says_more(first, second) or says_more(second, first):
        return False
    one, other = first.split(), second.split()
    if ("without" in one) != ("without" in other):
        lacking, having = (one, other) if "without" in one else (other, one)
        return {*lacking} - {"without"} <= {*having}
    worn = _WORN.get(one[-1], {}), _WORN.get(other[-1], {})
    if any(worn[0][slot] != worn[1][slot] for slot in worn[0].keys() & worn[1].keys()):
        return True
    if one[-1] == other[-1] and not (_is_value(one) or _is_value(other)):
        # "Black handle" and "wooden handle" may be one handle, "straw hat" and "bush hat" are not one hat.
        is_open = _is_value(one[:-1]) or _is_value(other[:-1]) or 1 in (len(one), len(other))
        return _differ(one[:-1], other[:-1]) or not is_open
    is_one_slot = worn[0].keys() & worn[1].keys() or (_is_value(one) and _is_value(other))
    return bool(is_one_slot) and _differ(one, other)


@lru_cache(maxsize=1 << 16)
def fills_slot(attribute: str) -> bool:
    """Return whether it is known which slot an attribute fills."""
    words = canonical(attribute).split()
    return words[-1] in _WORN or _is_value(words)


def opposed_among(attributes: Iterable[str]) -> Mapping[str, Set[str]]:
    """Return, for each of some attributes, those that it is opposed to."""
    sharing: defaultdict[str, list[str]] = defaultdict(list)
    found: dict[str, set[str]] = {each: set() for each in attributes}
    for attribute in found:
        for key in _keys(canonical(attribute).split()):
            sharing[key].append(attribute)
    for first, second in chain.from_iterable(combinations(each, 2) for each in sharing.values()):
        if are_opposed(first, second):
            found[first].add(second)
            found[second].add(first)
    return found


def _keys(words: Sequence[str]) -> Set[str]:
    """Return what two attributes share that are opposed: the last word, or a slot."""
    values = [f"slot {slot}" for word in words if _is_value(words) for slot in _VALUES.get(word, ())]
    tones = lexicon.COLOURS.union(*_TONES).intersection(words) if _is_value(words) else ()
    return {words[-1], *values, *(f"worn {slot}" for slot in _WORN.get(words[-1], ())), *(["colour"] if tones else [])}


def fits_also(said: str, asked: str, *, is_person: bool) -> bool:
    """Return whether what has the attribute `said` has `asked` too, as `implies`; a man in a red shirt is "in red"."""
    said, asked = canonical(said), canonical(asked)
    colours = lexicon.COLOURS.intersection(asked.split())
    is_worn = said.split()[-1] in lexicon.CLOTHES - lexicon.COLOURS
    return implies(said, asked) or (
        is_person and is_worn and len(colours) == len(asked.split()) and says_more(said, asked)
    )


@lru_cache(maxsize=1 << 16)
def pixel_names(attribute: str) -> tuple[tuple[str, ...], ...]:
    """Return for each colour that an attribute says of a thing or of what it wears the names that its pixels may have.

    Empty without a colour, and for what is colourful beside it: "with a red sign", "holding an orange".
    """
    words = canonical(attribute).split()
    colours = [word for word in words if word in lexicon.COLOURS]
    if not (_is_value(words) or (words[-1] in _WORN and len(words) > 1)):
        return ()
    tan = ("white", "yellow", "orange") if "light" in words else ()
    return tuple((*_PIXELS.get(word, (word,)), *(tan if word == "brown" else ())) for word in colours)


def is_own_colour(attribute: str) -> bool:
    """Return whether an attribute says colours of the thing as a whole, and nothing else but shades and the like."""
    return bool(pixel_names(attribute)) and _is_value(canonical(attribute).split())


def _is_value(words: Sequence[str]) -> bool:
    """Return whether words are nothing but colours, or values of slots."""
    return bool(words) and all(word in _VALUES or word in lexicon.COLOURS | lexicon.SHADES for word in words)


def _differ(first: Sequence[str], second: Sequence[str]) -> bool:
    one, other = (lexicon.COLOURS.intersection(words) for words in (first, second))
    if one and other and one != other:
        return one.isdisjoint(other)
    tones = [[not tone.isdisjoint(words) for tone in _TONES] for words in (first, second)]
    is_other_tone = tones[0] == tones[1][::-1] and tones[0][0] != tones[0][1]
    return is_other_tone or any(
        _VALUES[one][slot] != _VALUES[other][slot]
        for one, other in product(first, second)
        for slot in _VALUES.get(one, {}).keys() & _VALUES.get(other, {}).keys()
    )
