"""What simulated annotators say: all expressions that identify an object, and the few that are chosen of them.

The model is RefCOCO's game, in which a listener sees the image and has to click on the object. Expressions are short
and unambiguous, with few attributes and sometimes one more than needed. About every second one names a place or a
relation. The oracle confirms that each refers to its object and to nothing else. `quality.scene_runs` makes
runs of them: other draws would ask students other questions.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Final

import numpy as np

from evidence.recipes.scene_texts import speech_generator, to_text
from pseudoris.synthworld.attributes import COMPARATIVES, EXTREMES, NUMBERS, ORDINALS, RELATIONS
from pseudoris.synthworld.grammar import POSITIONS, Description, Extreme, NamedObject, Ordinal, Reference, Relation
from pseudoris.synthworld.scene_truth import Degree, lies, meant, meant_among, row_of
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject

ATTRIBUTE, POSITION, RELATION = "attribute", "position", "relation"
# Out of two to three expressions for each object.
MIN_EXPRESSIONS, MAX_EXPRESSIONS = 2, 3
# The longest expression for a text tower of sixteen tokens: "leftmost" and "triangles" are two tokens each, start and
# end one each.
MAX_WORDS: Final = 12
_PLACED_SHARE: Final = 0.5
# Among the expressions with a place or a relation.
_FORM_SHARES: Final[dict[str, float]] = {"third": 0.35, "extreme": 0.25, "of": 0.1, "ordinal": 0.05, RELATION: 0.25}
# Factor on an expression's probability for each attribute beyond the fewest of its form.
_BREVITY: Final = 0.15
_ARTICLES: Final[dict[str, float]] = {"the": 0.7, "": 0.3}
# The least distance of objects from the border of a third of the picture, if an expression names that third.
BORDER_MARGIN_PX: Final = 8.0
_OPTIONAL: Final = ("colour", "pattern", "size", "part")
# Simulated annotators do not count longer rows.
_MAX_COUNTED: Final = 4
_NUMBER_WORDS: Final[Mapping[int, str]] = {number: word for word, number in NUMBERS.items()}


@dataclass(frozen=True)
class Expression:
    """A text, its kind as the tables name it, and the numbers of the objects it means."""

    text: str
    kind: str
    targets: frozenset[int]


def first_voice_expressions(scene: Scene, number: int) -> tuple[Expression, ...]:
    """Return two or three different expressions of an object, the same on every machine.

    Fewer if the grammar has no more; none if neither words nor position distinguish the object.
    """
    rng = speech_generator(scene, number)
    wanted = int(rng.integers(MIN_EXPRESSIONS, MAX_EXPRESSIONS + 1))
    pool = [each for each in utterances(scene, number) if num_words(each) <= MAX_WORDS]
    found: dict[str, Expression] = {}
    for _ in range(wanted):
        if not pool:
            break
        drawn = draw_utterance(pool, rng)
        pool.remove(drawn)
        text = to_text(drawn.reference, article=_article(drawn.reference, rng))
        found[text] = Expression(text, drawn.kind, frozenset((number,)))
    return tuple(found.values())


def kinds_of(scene: Scene) -> dict[str, str]:
    """Return the kind of each expression that is said about a scene, by its text: all is said again."""
    said = (first_voice_expressions(scene, number) for number in range(len(scene.objects)))
    return {each.text: each.kind for of_object in said for each in of_object}


def draw_utterance(pool: Sequence[Utterance], rng: np.random.Generator) -> Utterance:
    """Return one of a pool: its form is drawn first, by its share among those there; then shorter ones are likelier."""
    forms = list(dict.fromkeys(each.form for each in pool))
    placed = [_FORM_SHARES[form] for form in forms if form != ATTRIBUTE]
    shares = [
        1 - _PLACED_SHARE if form == ATTRIBUTE else _PLACED_SHARE * _FORM_SHARES[form] / sum(placed) for form in forms
    ]
    form = forms[int(rng.choice(len(forms), p=_shares(shares)))]
    among = [each for each in pool if each.form == form]
    fewest = min(each.num_attributes for each in among)
    weights = [_BREVITY ** (each.num_attributes - fewest) for each in among]
    return among[int(rng.choice(len(among), p=_shares(weights)))]


def _article(reference: Reference, rng: np.random.Generator) -> str:
    """Often none before a noun phrase, always one before "left of the two stars" and "second star from the left"."""
    if isinstance(reference, Ordinal) or (isinstance(reference, Extreme) and reference.number is not None):
        return "the"
    return str(rng.choice(list(_ARTICLES), p=list(_ARTICLES.values())))


def _shares(weights: Sequence[float]) -> np.ndarray:
    values = np.array(weights, dtype=np.float64)
    return np.asarray(values / values.sum())


@dataclass(frozen=True)
class Utterance:
    """A reference to one object: its form's name, and how many attributes it states, the anchor's included."""

    reference: Reference
    kind: str
    form: str
    num_attributes: int


def utterances(scene: Scene, number: int) -> list[Utterance]:
    """Return every reference that means this object alone, in a fixed order; none if another object is too close.

    Rows have at least two objects; thirds of the picture are only named well inside them; anchors are singled out by
    their own words, the fewest that do.
    """
    target = frozenset((number,))
    anchors = _anchors(scene, number)
    found = []
    for noun, stated in descriptions(scene.objects[number]):
        row = row_of(noun, scene)
        said = [Utterance(NamedObject(noun), ATTRIBUTE, ATTRIBUTE, stated)] if len(row) == 1 else []
        said += [Utterance(reference, POSITION, "third", stated) for reference in _thirds(noun, row)]
        found += [each for each in said if meant(each.reference, scene) == target]
        said = [Utterance(reference, POSITION, form, stated) for form, reference in _rows(noun, row)]
        said += [Utterance(NamedObject(noun, each), RELATION, RELATION, stated + words) for each, words in anchors]
        found += [each for each in said if meant_among(row, each.reference, scene) == target]
    return found


def descriptions(item: SceneObject) -> Iterator[tuple[Description, int]]:
    """Yields every true description of an object by words alone, with its number of attributes, fewest first."""
    truth = item.attributes
    names = [name for name in _OPTIONAL if getattr(truth, name) is not None]
    chosen = sorted(product((False, True), repeat=len(names)), key=sum)
    for flags in chosen:
        stated = {name: getattr(truth, name) for name, is_said in zip(names, flags, strict=True) if is_said}
        yield Description(truth.category, **stated), sum(flags)


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
            yield NamedObject(replace(noun, position=position))


def _coordinate(position: str, item: SceneObject) -> float:
    return item.centre_xy_px[0 if position in ("left", "right") else 1]


def _rows(noun: Description, row: Mapping[int, SceneObject]) -> Iterator[tuple[str, Reference]]:
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
    return len(to_text(utterance.reference).split())
