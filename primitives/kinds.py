"""The kinds of things that nouns name: synonyms, wider names, and the name that a thing is called by.

A captioner calls one thing "car", "sedan" and "vehicle" in turn. `kinds.tsv` says which of these are one kind; it is
made by `evidence/recipes/kinds.py`. A basic name is what people call a thing first: neither "vehicle" nor "sedan", but
"car". Sets of names have no order of their own, so callers that write bytes must sort them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Set
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path
from typing import Final

from pseudoris.primitives.english import FIXED_COMPOUNDS, PAIRS, is_plural, plural_of

# A name is supported if it has this share of the draws that say something for or against it.
MIN_SUPPORT: Final = 0.7
# It also needs this share of all draws: one "man" beside ten of "person" makes no man.
MIN_SAID: Final = 0.25
# What flies, swims, or hangs from walls and poles.
_OFF_GROUND: Final = frozenset(
    {
        *(
            "bird",
            "fish",
            "insect",
            "aircraft",
            "airplane",
            "helicopter",
            "kite",
            "balloon",
            "light",
            "picture",
            "sign",
        ),
        *("cloud", "moon", "sun", "star", "window", "curtain", "shelf", "flag", "mirror", "clock", "television"),
    }
)


@dataclass(frozen=True, slots=True)
class _Table:
    first: Mapping[str, str]  # by name and by plural, the name that stands for its synonyms
    wider: Mapping[str, Set[str]]  # by kind, all wider kinds
    marks: Mapping[str, Set[str]]  # by mark, the names that have it
    plurals: Set[str]  # the keys of `first` that say several


@dataclass(frozen=True, slots=True)
class SupportedName:
    """What most draws of a mask say it is."""

    name: str
    share: float  # of the draws that say something for or against the name, in (0, 1]
    is_several: bool  # whether most draws of the kind say several


@cache
def _table() -> _Table:
    lines = Path(__file__).with_name("kinds.tsv").read_text(encoding="utf-8").splitlines()
    rows = [line.split("\t") for line in lines[2:]]
    first = {name: same or name for name, same, *_ in rows}
    above = {name: wider.split(", ") if wider else [] for name, same, wider, *_ in rows if not same}
    marks: defaultdict[str, set[str]] = defaultdict(set)
    plurals: dict[str, str] = {}
    for name, _, _, mark, irregular in rows:
        marks[mark].add(name)
        *before, last = name.split(" ")
        regular = " ".join((*before, plural_of(last)))
        plurals |= dict.fromkeys((regular, *(irregular.split(", ") if irregular else ())), first[name])
    wider: dict[str, frozenset[str]] = {}

    def close(kind: str) -> frozenset[str]:
        if kind not in wider:
            wider[kind] = frozenset(above[kind]).union(*map(close, above[kind]))
        return wider[kind]

    for kind in above:
        close(kind)
    return _Table(plurals | first, wider, marks, (plurals.keys() - first.keys()) | marks["several"])


@lru_cache(maxsize=1 << 14)
def _listed(noun: str) -> str | None:
    """The longest listed name or plural that a noun ends with; None without one, or if it is a fixed compound."""
    words = noun.lower().split()
    for at in range(len(words)):
        tail = " ".join(words[at:])
        if tail in _table().first:
            return tail
        if tail in FIXED_COMPOUNDS:
            return None
    return None


def is_listed(name: str) -> bool:
    """Return whether the table has a name, or its plural, as it is."""
    return name in _table().first


def kind_of(noun: str) -> str | None:
    """Return the kind of a noun: the name that stands for its synonyms, in the singular; None for an unknown one.

    A compound is a kind of its last words, as long a tail as the table has: "red fire trucks" of "fire truck".
    """
    listed = _listed(noun)
    return None if listed is None else _table().first[listed]


@lru_cache(maxsize=1 << 14)
def wider_names(noun: str) -> Set[str]:
    """Return all wider kinds of a noun's kind, not itself; empty for an unknown one."""
    return _table().wider.get(kind_of(noun) or "", frozenset())


def kinds_of(noun: str) -> Set[str]:
    """Return a noun's kind, or the noun itself if that is unknown, and all wider kinds."""
    return {kind_of(noun) or noun, *wider_names(noun)}


def is_wider(wide: str, narrow: str) -> bool:
    """Return whether a name is true of all that has another name, and of more."""
    return kind_of(wide) in wider_names(narrow)


def is_same(noun: str, other: str) -> bool:
    """Return whether two nouns name one kind, as "sofa" and "couches" do."""
    kinds = kind_of(noun), kind_of(other)
    return kinds[0] == kinds[1] if any(kinds) else plural_of(noun) == plural_of(other)


def fits_anything(noun: str) -> bool:
    """Return whether a noun says nothing of what it names: "object", "thing"."""
    return kind_of(noun) in _table().marks["anything"]


def says_several(noun: str) -> bool:
    """Return whether a noun names several things: a plural, or "crowd"; not "scissors" or "skis"."""
    listed = _listed(noun)
    return is_plural(noun) if listed is None else listed in _table().plurals and listed.split()[-1] not in PAIRS


def stands_on_ground(noun: str) -> bool:
    """Return whether what a noun names stands on ground, table or shelf: it is further away where it is higher."""
    return kinds_of(noun).isdisjoint(_OFF_GROUND)


def is_wide(noun: str) -> bool:
    """Return whether a noun is wider than some basic name: "vehicle", but "truck" of a van too."""
    return kind_of(noun) in _wider_than_basic()


@cache
def _wider_than_basic() -> Set[str]:
    table = _table()
    return frozenset().union(*(table.wider[table.first[name]] for name in table.marks["basic"]))


@lru_cache(maxsize=1 << 14)
def basic_names(noun: str) -> tuple[str, ...]:
    """Return the names that what a noun names is called by, sorted: ("car",) of "sedans".

    A marked name is its own. Another one has the narrowest marked names above it; without one it is its own, unless it
    is wider than a marked name ("vehicle") or fits anything: then it has none.
    """
    kind, basic = kind_of(noun), _table().marks["basic"]
    if kind is None or kind in basic:
        return (kind or noun,)
    above = sorted(basic & wider_names(kind))
    if not above:
        return () if kind in _wider_than_basic() or fits_anything(kind) else (kind,)
    return tuple(name for name in above if not any(is_wider(name, other) for other in above))


@lru_cache(maxsize=1 << 16)
def truth(name: str, said: str) -> float:
    """Return how likely a name is true of what a draw calls `said`: 1 surely, 0.5 maybe, 0 no.

    A synonym or a narrower name is surely true, a wider one maybe. So is one that fits anything, and a narrower name
    that leaves the basic names open: a "skier" may be a man or a woman, and a "toy" a bear. Other kinds exclude each
    other.
    """
    if is_same(name, said) or is_wider(name, said):
        return 1.0
    is_likeness = kind_of(said) in _table().marks["likeness"]
    # "Glasses" are eyeglasses, or several of a glass.
    is_open = is_likeness or plural_of(name) == said or _leaves_open(said, name)
    return 0.5 if is_open or is_wider(said, name) or fits_anything(said) else 0.0


def _leaves_open(said: str, name: str) -> bool:
    """Whether what is called `said` has, or shares, basic names that are wider than another name's."""
    return any(is_wider(each, name) for each in basic_names(said)) and basic_names(name) != basic_names(said)


def supported_name(
    shares: Mapping[str, float], min_support: float = MIN_SUPPORT, min_said: float = MIN_SAID
) -> SupportedName | None:
    """Return the name that a mask is called by, given the share or count of each head noun of its draws.

    The narrowest basic name that is supported; without one the narrowest wider name that is; None without both. Names
    whose `truth` is 1 speak for a name, those of 0 against it, others say nothing. Names that fit anything count
    nowhere, and unknown nouns are kinds of their own.
    """
    said = {noun: share for noun, share in sorted(shares.items()) if share > 0 and not fits_anything(noun)}
    total = sum(said.values())
    wide = {name for noun in said for name in (kind_of(noun) or noun, *wider_names(noun))}
    basic = (wide & _table().marks["basic"]) | {name for noun in said for name in basic_names(noun)}
    wide -= basic
    for names in (basic, {name for name in wide if not any(is_wider(each, name) for each in basic)}):
        found: list[tuple[float, str]] = []
        for name in sorted(names):
            speaks = {noun: truth(name, noun) for noun in said}
            for_it = sum(said[noun] for noun, value in speaks.items() if value == 1.0)
            against = sum(said[noun] for noun, value in speaks.items() if value == 0.0)
            if for_it >= min_said * total and for_it and for_it >= min_support * (for_it + against):
                found.append((for_it / (for_it + against), name))
        narrowest = [(share, name) for share, name in found if not any(is_wider(name, other) for _, other in found)]
        if narrowest:
            share, name = max(narrowest, key=lambda each: each[0])
            of_it = {noun: value for noun, value in said.items() if truth(name, noun) > 0}
            several = sum(value for noun, value in of_it.items() if says_several(noun))
            return SupportedName(name, share, 2 * several > sum(of_it.values()))
    return None
