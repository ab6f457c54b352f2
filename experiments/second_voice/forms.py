"""The sentence forms of the second voice, and the phrases that fill them.

A form is a text with slots: "of the {nouns} the {end}". `slots_of` puts each piece of a reference into words, with
alternatives; a form whose slots are not all there does not fit the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import permutations
from typing import Final

from experiments.second_voice.words import (
    ENDS,
    FAR,
    HIGHER,
    NEW_CONVERSES,
    NEW_RELATIONS,
    OPENERS,
    PLAIN_CONVERSES,
    PLAIN_RELATIONS,
    SHORT_SPOTS,
    SPOTS,
    THINGS,
    ZONES,
    plural,
)
from pseudoris.synthworld.attributes import COMPARATIVES, EXTREMES, NUMBERS, ORDINALS, RELATIONS
from pseudoris.synthworld.grammar import Description, Extreme, NamedObject, Ordinal, Reference
from recipes.scene_texts import indefinite_article
from recipes.simulated_expressions import ATTRIBUTE, RELATION

Slots = dict[str, tuple[str, ...]]
# A word for an attribute to the word that is said for it.
Wording = Callable[[str], str]

# By `Utterance.form`, in words that `first_voice_expressions` uses too …
FAMILIAR_FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    ATTRIBUTE: (
        "{indefinite}",
        "the {swapped}",
        "{swapped}",
        "the {trailing}",
        "{trailing}",
        "with a {part} the {unparted}",
    ),
    "third": (
        "{spot} the {noun}",
        "{noun} {short_spot}",
        "{short_spot} {noun}",
        "the {trailing} {spot}",
        "the {swapped} {spot}",
        "{indefinite} {spot}",
    ),
    "extreme": (
        "of the {nouns} the {end}",
        "the {noun} {most}",
        "{trailing} {most}",
        "{most} of the {nouns}",
        "the {end} {swapped}",
    ),
    "of": (
        "of the {number} {nouns} the {end}",
        "of {number} {nouns} the {end}",
        "of the {number} the {end} {noun}",
        "the {end} {noun} of the {number}",
        "{end} {noun} of {number}",
    ),
    "ordinal": (
        "from the {side} the {rank} {noun}",
        "{rank} from the {side} of the {nouns}",
        "{noun} {rank} from {side}",
        "the {rank} {noun} from {side}",
        "of the {nouns} the {rank} from the {side}",
    ),
    RELATION: (
        "{plain_relation} the {anchor} the {noun}",
        "the {noun} {plain_relation} the {anchor}",
        "{trailing} {plain_relation} the {anchor}",
        "the {swapped} {plain_relation} the {anchor}",
        "the {noun} with the {anchor} {plain_converse}",
        "{noun} with the {anchor} {plain_converse}",
        "{indefinite} {plain_relation} the {anchor}",
    ),
}
# … and in words of its own.
NEW_FORMS: Final[Mapping[str, tuple[str, ...]]] = {
    ATTRIBUTE: (
        "{opener} the {noun}",
        "{opener} the {bare} {clause}",
        "the {bare} {clause}",
        "that {noun}",
        "{listed}",
        "that {colour} thing, the {uncoloured}",
        "the {colourless} in {colour}",
        "the {thing}",
        "{opener} the {thing}",
    ),
    "third": (
        "{opener} the {noun} {zone}",
        "the {noun} {zone}",
        "{zone}, the {noun}",
        "the {bare} that is {both} and {zone}",
        "{listed}, {zone}",
        "there is {indefinite} {zone}",
    ),
    "extreme": (
        "{opener} the {new_end} {noun}",
        "{new_end} {noun}",
        "the {noun} {far}",
        "the {noun} that is {far}",
        "out of the {nouns}, the {new_end} one",
        "the {new_end} one of the {nouns}",
        "{listed}, {far}",
        "the {new_end} {thing}",
    ),
    "of": (
        "out of the {number} {nouns}, the {new_end} one",
        "{opener} the {new_end} one of the {number} {nouns}",
        "there are {number} {nouns}, the {new_end} one",
        "{new_end} one of the {number} {nouns}",
    ),
    "ordinal": (
        "{opener} the {rank} {noun} from the {side}",
        "the {noun} that is {rank} from the {side}",
        "number {count} of the {nouns} from the {side}",
        "{listed}, {rank} from the {side}",
        "counting from the {side}, the {rank} {noun}",
    ),
    RELATION: (
        "{opener} the {noun} {new_relation} the {anchor}",
        "the {bare} that is {both} and {new_relation} the {anchor}",
        "the {noun} that is {new_relation} the {anchor}",
        "the {noun} that has the {anchor} {new_converse}",
        "{new_relation} the {anchor} there is {indefinite}",
        "the {thing} {new_relation} the {anchor}",
        "{thing} {new_relation} the {anchor}",
    ),
}


def slots_of(reference: Reference, wording: Wording, *, is_thing_enough: bool) -> Slots:
    """Return what can fill each slot of a form: alternatives that mean the same; a slot without any is left out.

    Args:
        reference: Of one object.
        wording: Gives the word that is said for a category, colour, pattern, size or part.
        is_thing_enough: Whether the object is meant even if its category is not said.
    """
    noun = replace(reference.noun, position=None)
    slots: Slots = {"opener": OPENERS, **_noun_slots(noun, wording), **_extra_noun_slots(noun, wording)}
    if is_thing_enough:
        slots["thing"] = tuple(_joined(noun, thing, wording) for thing in THINGS)
    if isinstance(reference, Extreme):
        slots |= _end_slots(reference)
    elif isinstance(reference, Ordinal):
        rank = ORDINALS.index(reference.word) + 1
        count = next(word for word, number in NUMBERS.items() if number == rank)
        slots |= {"rank": (reference.word,), "side": (reference.side,), "count": (count,)}
    elif isinstance(reference, NamedObject):
        slots |= _place_slots(reference, wording)
    return {name: alternatives for name, alternatives in slots.items() if alternatives}


def _noun_slots(noun: Description, wording: Wording) -> Slots:
    """The whole noun phrase, in several orders of words."""
    said, bare = _adjectives(noun, wording), wording(noun.category)
    whole = _joined(noun, bare, wording)
    held = _held(noun, wording)
    orders = list(permutations(said))[1:]
    return {
        "noun": (whole,),
        "nouns": (_joined(noun, plural(bare), wording),),
        "indefinite": (f"{indefinite_article(whole)} {whole}",),
        "swapped": tuple(" ".join((*order, bare, *held)) for order in orders),
        "trailing": (" ".join((bare, *said)),) if said and not held else (),
        "listed": (", ".join((bare, *said, *([" ".join(held)] if held else []))),),
    }


def _extra_noun_slots(noun: Description, wording: Wording) -> Slots:
    """The noun phrase in two pieces, of which one is said apart."""
    said, bare = _adjectives(noun, wording), wording(noun.category)
    part = None if noun.part is None else wording(noun.part)
    clauses = [*(["is " + " and ".join(said)] if said else []), *([f"has a {part}"] if part else [])]
    uncoloured = _joined(replace(noun, colour=None), bare, wording)
    has_colour = noun.colour is not None
    return {
        "bare": (bare,),
        "both": (" and ".join(said),) if said and not part else (),
        "clause": (f"that {' and '.join(clauses)}", f"which {' and '.join(clauses)}") if clauses else (),
        "part": (part,) if part else (),
        "unparted": (" ".join((*said, bare)),),
        "colour": (wording(noun.colour),) if noun.colour is not None else (),
        "uncoloured": (uncoloured,) if has_colour else (),
        "colourless": (uncoloured,) if has_colour and not part else (),
    }


def _end_slots(reference: Extreme) -> Slots:
    """The end of a row. Comparatives are only for two, so they are said only where the reference has one."""
    side = next(side for side, words in EXTREMES.items() if reference.word in words)
    is_comparative = reference.word in COMPARATIVES
    return {
        "end": (reference.word,),
        "most": (f"{side}most",) if side in FAR else (),
        "new_end": HIGHER[side] if is_comparative else ENDS[side],
        "far": FAR.get(side, ()),
        "number": () if reference.number is None else (reference.number,),
    }


def _place_slots(reference: NamedObject, wording: Wording) -> Slots:
    """The third of the picture, or the relation with its anchor."""
    if reference.noun.position is not None:
        side = reference.noun.position
        return {"spot": SPOTS[side], "short_spot": SHORT_SPOTS[side], "zone": ZONES[side]}
    if reference.relation is None:
        return {}
    side, anchor = RELATIONS[reference.relation.phrase], reference.relation.anchor
    return {
        "plain_relation": PLAIN_RELATIONS[side],
        "new_relation": NEW_RELATIONS[side],
        "plain_converse": PLAIN_CONVERSES[side],
        "new_converse": NEW_CONVERSES[side],
        "anchor": (_joined(anchor, wording(anchor.category), wording),),
    }


def _joined(noun: Description, head: str, wording: Wording) -> str:
    """A noun phrase in the usual order of words, with another head."""
    return " ".join((*_adjectives(noun, wording), head, *_held(noun, wording)))


def _adjectives(noun: Description, wording: Wording) -> list[str]:
    """The stated words before the category."""
    return [wording(word) for word in (noun.size, noun.pattern, noun.colour) if word is not None]


def _held(noun: Description, wording: Wording) -> list[str]:
    """The words for the part, if it is stated."""
    return [] if noun.part is None else ["with", "a", wording(noun.part)]
