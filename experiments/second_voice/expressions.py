"""A second voice: what another simulated annotator says of an object, in other words and other sentences.

`simulated_expressions` speaks by the closed grammar. Who learns from that grammar and is asked in it has seen every
form of every question. This voice means the same references, and puts them into sentences of its own:

- about half of its expressions only use words that `first_voice_expressions` uses too, in other forms: "star small
  red", "of the two stars the left", "the star with the ring below";
- the others have words of their own, among them synonyms: "find me the tiny scarlet star", "the thing beneath the
  hoop", "star, red, furthest to the left". The tiny models never saw these words.

Each expression comes from a reference that the oracle confirms to mean this object alone. The category is left out only
where the oracle confirms the rest among all objects of the scene. Kinds are as frequent as in
`first_voice_expressions`, and the draw has a key of its own. The oracle's grammar cannot read most of these
texts, and no text says its kind: `simulated_expressions.kinds_of(scene, second_voice_expressions)`
says the kinds of a scene's texts.
"""

from __future__ import annotations

import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from dataclasses import replace as replaced
from itertools import permutations
from typing import Final

import numpy as np

from experiments.second_voice.words import (
    ADJECTIVES,
    ENDS,
    FAR,
    HIGHER,
    MAX_TOKENS,
    NEW_CONVERSES,
    NEW_RELATIONS,
    NOUNS,
    OPENERS,
    PLAIN_CONVERSES,
    PLAIN_RELATIONS,
    SHORT_SPOTS,
    SPOTS,
    THINGS,
    ZONES,
    is_familiar,
    num_tokens,
    plural,
)
from pseudoris.synthworld.attributes import COMPARATIVES, EXTREMES, NUMBERS, ORDINALS, RELATIONS
from pseudoris.synthworld.grammar import Description, Extreme, NamedObject, Ordinal, Reference, parse_reference
from pseudoris.synthworld.oracle import fits, meant_among
from pseudoris.synthworld.scenes import Scene, SceneObject
from recipes.scene_texts import indefinite_article, speech_generator, to_text
from recipes.simulated_expressions import (
    ATTRIBUTE,
    MAX_EXPRESSIONS,
    MAX_WORDS,
    MIN_EXPRESSIONS,
    RELATION,
    Expression,
    Utterance,
    draw_utterance,
    num_words,
    utterances,
)

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
    return [wording(word) for word in (noun.size, noun.pattern, noun.colour) if word is not None]


def _held(noun: Description, wording: Wording) -> list[str]:
    return [] if noun.part is None else ["with", "a", wording(noun.part)]


# In expressions with words of its own. A noun that a model does not know leaves it less to go by than an adjective.
_SYNONYM_SHARE, _NOUN_SYNONYM_SHARE = 0.4, 0.2
_FAMILIAR_SHARE: Final = 0.5
_FORMATTER: Final = string.Formatter()


@dataclass(frozen=True)
class Saying:
    """An expression's text, the form that it fills, and the utterance that it puts into words."""

    text: str
    form: str
    utterance: Utterance


def second_voice_expressions(scene: Scene, number: int) -> tuple[Expression, ...]:
    """Return two or three different expressions of an object, the same on every machine.

    Each has at most `MAX_WORDS` words and fits a text tower of 16 CLIP tokens. Fewer if there are no more; none if
    neither words nor position distinguish the object.
    """
    target = frozenset((number,))
    return tuple(Expression(each.text, each.utterance.kind, target) for each in sayings(scene, number))


def sayings(scene: Scene, number: int) -> tuple[Saying, ...]:
    """Return the expressions of an object with the references that they put into words."""
    rng = speech_generator(scene, number, voice="second")
    wanted = int(rng.integers(MIN_EXPRESSIONS, MAX_EXPRESSIONS + 1))
    pool = [each for each in utterances(scene, number) if num_words(each) <= MAX_WORDS]
    found: dict[str, Saying] = {}
    while pool and len(found) < wanted:
        drawn = draw_utterance(pool, rng)
        pool.remove(drawn)
        said = _said(drawn, scene, number, rng)
        if said is not None:
            found.setdefault(said.text, said)
    return tuple(found.values())


def things_fitting(noun: Description, scene: Scene) -> dict[int, SceneObject]:
    """Return the objects that a noun phrase fits if its category is not said, by their numbers."""
    return {
        number: item
        for number, item in enumerate(scene.objects)
        if fits(replaced(noun, category=item.attributes.category), item)
    }


def _said(utterance: Utterance, scene: Scene, number: int, rng: np.random.Generator) -> Saying | None:
    """The utterance in one of the forms that fit it; None if all are too long, or what the first voice says too."""
    first = bool(rng.random() < _FAMILIAR_SHARE)
    is_enough = _is_thing_enough(utterance.reference, scene, number)
    for wants_familiar in (first, not first):
        wording: Wording = _same if wants_familiar else _synonyms(rng)
        slots = slots_of(utterance.reference, wording, is_thing_enough=is_enough)
        forms = (FAMILIAR_FORMS if wants_familiar else NEW_FORMS)[utterance.form]
        for place in rng.permutation(len(forms)):
            text = _filled(forms[place], slots, rng)
            if text is not None and _is_sayable(text, wants_familiar=wants_familiar):
                return Saying(text, forms[place], utterance)
    return None


def _is_thing_enough(reference: Reference, scene: Scene, number: int) -> bool:
    """Whether the reference means the object even if its category is not said.

    Never with a third of the picture: all things of that kind would have to lie well inside or outside of it.
    """
    if reference.noun.position is not None or isinstance(reference, Ordinal):
        return False
    return meant_among(things_fitting(reference.noun, scene), reference, scene) == frozenset((number,))


def _same(word: str) -> str:
    return word


def _synonyms(rng: np.random.Generator) -> Wording:
    """A wording that says the same word for an attribute throughout an expression."""
    chosen: dict[str, str] = {}

    def wording(word: str) -> str:
        if word not in chosen:
            share = _NOUN_SYNONYM_SHARE if word in NOUNS else _SYNONYM_SHARE
            others = NOUNS.get(word, ADJECTIVES.get(word, ()))
            chosen[word] = _one_of(others, rng) if others and rng.random() < share else word
        return chosen[word]

    return wording


def _filled(form: str, slots: Slots, rng: np.random.Generator) -> str | None:
    """The form with one alternative in each slot; None if a slot has none."""
    names = [name for _, name, _, _ in _FORMATTER.parse(form) if name]
    if not all(name in slots for name in names):
        return None
    return form.format(**{name: _one_of(slots[name], rng) for name in names})


def _is_sayable(text: str, *, wants_familiar: bool) -> bool:
    """Whether a text is short enough, has the wanted words, and is none of the first voice."""
    if len(text.split()) > MAX_WORDS or num_tokens(text) > MAX_TOKENS or is_familiar(text) != wants_familiar:
        return False
    read = parse_reference(text)
    return read is None or text not in (to_text(read), to_text(read, article=""))


def _one_of(alternatives: Sequence[str], rng: np.random.Generator) -> str:
    return alternatives[int(rng.integers(len(alternatives)))]
