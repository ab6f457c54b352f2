"""All that the grammar lets a person say of one object, so that the oracle takes it for that object alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

from synthworld.grammar import POSITIONS, Description
from synthworld.oracle import meant, meant_among, row_of
from synthworld.places import Degree, lies
from synthworld.references import Extreme, Named, Ordinal, Reference, Relation, say
from synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject
from synthworld.wording import COMPARATIVES, EXTREMES, NUMBERS, ORDINALS, RELATIONS

ATTRIBUTE, POSITION, RELATION = "attribute", "position", "relation"
# How far an object that is said to be in a third of the picture, or not meant by it, stays from the third's border.
BORDER_MARGIN_PX: Final = 8.0
_OPTIONAL: Final = ("colour", "pattern", "size", "part")
# A row of more is counted by nobody.
_MAX_COUNTED: Final = 4
_NUMBER_WORDS: Final[Mapping[int, str]] = {number: word for word, number in NUMBERS.items()}


@dataclass(frozen=True)
class Utterance:
    """A reference to one object: its form's name, and how many attributes it states, the anchor's included."""

    reference: Reference
    kind: str
    form: str
    num_attributes: int


def descriptions(item: SceneObject) -> Iterator[tuple[Description, int]]:
    """Yields every true description of an object by words alone, and how many attributes it states; fewest first."""
    truth = item.attributes
    names = [name for name in _OPTIONAL if getattr(truth, name) is not None]
    chosen = sorted(product((False, True), repeat=len(names)), key=sum)
    for flags in chosen:
        stated = {name: getattr(truth, name) for name, is_said in zip(names, flags, strict=True) if is_said}
        yield Description(truth.category, **stated), sum(flags)


def utterances(scene: Scene, number: int) -> list[Utterance]:
    """Return every reference that means this object alone, in a fixed order; none for objects too close to tell apart.

    Rows have at least two objects; thirds of the picture are only named well inside them; anchors are singled out by
    their own words, the fewest that do.
    """
    target = frozenset((number,))
    anchors = _anchors(scene, number)
    found = []
    for noun, stated in descriptions(scene.objects[number]):
        row = row_of(noun, scene)
        said = [Utterance(Named(noun), ATTRIBUTE, ATTRIBUTE, stated)] if len(row) == 1 else []
        said += [Utterance(reference, POSITION, "third", stated) for reference in _thirds(noun, row)]
        found += [each for each in said if meant(each.reference, scene) == target]
        said = [Utterance(reference, POSITION, form, stated) for form, reference in _rows(noun, row)]
        said += [Utterance(Named(noun, each), RELATION, RELATION, stated + words) for each, words in anchors]
        found += [each for each in said if meant_among(row, each.reference, scene) == target]
    return found


def shortest_names(scene: Scene, number: int) -> list[tuple[Description, int]]:
    """Return the descriptions by words alone that single an object out, those with the fewest attributes."""
    found: list[tuple[Description, int]] = []
    for noun, stated in descriptions(scene.objects[number]):
        if found and stated > found[0][1]:
            break
        if len(row_of(noun, scene)) == 1:
            found.append((noun, stated))
    return found


def _thirds(noun: Description, row: Mapping[int, SceneObject]) -> Iterator[Reference]:
    """The thirds of the picture, where no object of the row lies at a third's border."""
    for position in POSITIONS:
        places = [_coordinate(position, item) for item in row.values()]
        border = SCENE_SIZE_PX * (1 / 3 if position in ("left", "top") else 2 / 3)
        if min(abs(place - border) for place in places) >= BORDER_MARGIN_PX:
            yield Named(replace(noun, position=position))


def _coordinate(position: str, item: SceneObject) -> float:
    """The coordinate that decides whether an object is at a position."""
    return item.centre_xy_px[0 if position in ("left", "right") else 1]


def _rows(noun: Description, row: Mapping[int, SceneObject]) -> Iterator[tuple[str, Reference]]:
    """Ends of a row, with and without its number, and ordinals."""
    if len(row) < 2:
        return
    number = _NUMBER_WORDS.get(len(row)) if len(row) <= _MAX_COUNTED else None
    for side, words in EXTREMES.items():
        for word in words:
            if (side == "middle" and len(row) != 3) or (word in COMPARATIVES and len(row) != 2):
                continue
            yield "extreme", Extreme(noun, word)
            if number is not None:
                yield "of", Extreme(noun, word, number)
        # Of two, the second is the other end; of three, the middle.
        for word in ORDINALS[1 : len(row) - 1] if side != "middle" else ():
            yield "ordinal", Ordinal(noun, word, side)


def _anchors(scene: Scene, number: int) -> Sequence[tuple[Relation, int]]:
    """Every relation that surely holds to an object with a name of its own, and the attributes in that name."""
    item = scene.objects[number]
    return [
        (Relation(phrase, anchor), stated)
        for other, place in enumerate(scene.objects)
        if other != number
        for phrase, side in RELATIONS.items()
        if lies(side, item, place) is Degree.YES
        for anchor, stated in shortest_names(scene, other)
    ]


def num_words(utterance: Utterance) -> int:
    """Return how many words a reference has, its article included."""
    return len(say(utterance.reference).split())
