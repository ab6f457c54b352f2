"""Judges an expression by the truth of a scene: which objects does it mean?

Words, thirds of the picture and counts are true or false. Rows and relations can be too close to call
(`synthworld.places`), and then an expression is never right:

- an object that may be meant counts as meant as soon as another one surely is: the expression is ambiguous;
- where no object surely is, or a group has a member that only may be, nobody can tell: None;
- an expression that presupposes what is not so, "the left of the two circles" among three, is no better: None.
  Where no object has the noun's words, it means none: the empty set.
"""

from __future__ import annotations

from collections.abc import Mapping

from synthworld.grammar import Description
from synthworld.places import Degree, at_place, lies, middle
from synthworld.reading import read
from synthworld.references import Extreme, Group, Ordinal, Reference, Relation
from synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject
from synthworld.wording import COMPARATIVES, EXTREMES, NUMBERS, ORDINALS, RELATIONS


def referents(caption: str, scene: Scene) -> frozenset[int] | None:
    """Return the numbers of the objects that a caption or expression means; None if nobody can tell.

    A text that fits no object gives an empty set; one that cannot be parsed, or is too close to call, None.
    """
    reference = read(caption)
    return None if reference is None else meant(reference, scene)


def refers_to(caption: str, scene: Scene, number: int) -> bool:
    """Return whether a caption means this object and nothing else of the scene; False if nobody can tell."""
    return referents(caption, scene) == frozenset((number,))


def meant(reference: Reference, scene: Scene) -> frozenset[int] | None:
    """Return the objects that a reference means; None if nobody can tell."""
    return meant_among(row_of(reference.noun, scene), reference, scene)


def row_of(noun: Description, scene: Scene) -> dict[int, SceneObject]:
    """Return the objects that a noun phrase fits, by their numbers."""
    return {n: item for n, item in enumerate(scene.objects) if fits(noun, item)}


def meant_among(row: Mapping[int, SceneObject], reference: Reference, scene: Scene) -> frozenset[int] | None:
    """Return the objects of `row`, all that fit its noun phrase, that a reference means; None if nobody can tell."""
    if not row:
        return frozenset()
    if isinstance(reference, Extreme):
        return _end(reference, row)
    if isinstance(reference, Ordinal):
        rank = ORDINALS.index(reference.word) + 1
        return at_place(reference.side, rank, row) if rank <= len(row) else None
    surely, maybe = frozenset(row), frozenset[int]()
    if reference.relation is not None:
        surely, maybe = _related(reference.relation, row, scene)
    if isinstance(reference, Group):
        return _whole_group(reference.word, surely, maybe)
    return None if maybe and not surely else surely | maybe


def fits(description: Description, item: SceneObject) -> bool:
    """Return whether each stated word is true of the object; what is not stated is not asked."""
    truth = item.attributes
    if description.category != truth.category:
        return False
    pairs = (
        (description.colour, truth.colour),
        (description.pattern, truth.pattern),
        (description.size, truth.size),
        (description.part, truth.part),
    )
    if any(said is not None and said != true for said, true in pairs):
        return False
    return description.position is None or _is_at(description.position, item)


def _is_at(position: str, item: SceneObject) -> bool:
    """Whether the centre lies in the third of the scene that the word names."""
    x, y = (c / SCENE_SIZE_PX for c in item.centre_xy_px)
    return {"left": x < 1 / 3, "right": x > 2 / 3, "top": y < 1 / 3, "bottom": y > 2 / 3}[position]


def _end(reference: Extreme, row: Mapping[int, SceneObject]) -> frozenset[int] | None:
    """The end of a row, which must have as many objects as the words presuppose."""
    side = next(side for side, words in EXTREMES.items() if reference.word in words)
    presupposed = {NUMBERS[reference.number]} if reference.number is not None else set()
    presupposed |= {3} if side == "middle" else {2} if reference.word in COMPARATIVES else set()
    if presupposed and presupposed != {len(row)}:
        return None
    return middle(row) if side == "middle" else at_place(side, 1, row)


def _related(relation: Relation, row: Mapping[int, SceneObject], scene: Scene) -> tuple[frozenset[int], frozenset[int]]:
    """Which of a row surely, and which only maybe, lie so to some object that the anchor's words fit."""
    anchors = [(n, item) for n, item in enumerate(scene.objects) if fits(relation.anchor, item)]
    side = RELATIONS[relation.phrase]
    degrees = {
        number: max((lies(side, item, anchor) for n, anchor in anchors if n != number), default=Degree.NO)
        for number, item in row.items()
    }
    surely = frozenset(number for number, degree in degrees.items() if degree is Degree.YES)
    return surely, frozenset(number for number, degree in degrees.items() if degree is Degree.MAYBE)


def _whole_group(word: str, surely: frozenset[int], maybe: frozenset[int]) -> frozenset[int] | None:
    """A group whose members nobody doubts and whose number is the one said."""
    number = 2 if word == "both" else NUMBERS.get(word)
    if maybe or (surely and number is not None and number != len(surely)):
        return None
    return surely
