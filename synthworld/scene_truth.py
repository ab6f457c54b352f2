"""Scenes as a truth to evaluate against: repainted masks, an oracle for texts. For `cli`, users, recipes, experiments.

Fulfils the protocols of `pseudoris.training.evaluation.truth`, which this room may not import. A truth file comes from
a user: words and places that cannot be painted are refused before anything is painted.

The oracle judges to which objects of a scene an expression refers. Words, thirds of the image and counts are true or
false. Rows and relations can be too close to decide:

    end of a row    objects less than `ROW_MARGIN_PX` short of the outermost one share its place
    relation        YES if the way from the anchor leads at least `MIN_STEP_PX` to the side and no further across,
                    NO if it leads less than `TOUCH_PX` to the side, or more than twice as far across,
                    MAYBE between: one person says so, another does not

An expression that is too close to decide is never right:

- an object that may be meant counts as meant as soon as another one surely is: the expression is ambiguous;
- if no object surely is, or a group has a member that only may be, the answer is None;
- if an expression presupposes what is not so, "the left of the two circles" among three, the answer is None.
  If no object has the noun's words, it means none: the empty set.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from functools import cache, cached_property, partial
from typing import ClassVar, Final

import numpy as np
from pycocotools import mask as coco
from pydantic import TypeAdapter

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import parse_json
from pseudoris.schemas.ids import image_id
from pseudoris.synthworld.attributes import (
    CATEGORIES,
    COLOURS,
    COMPARATIVES,
    EXTREMES,
    NUMBERS,
    ORDINALS,
    PARTS,
    PATTERNS,
    RELATIONS,
    SIZES,
    is_held_out,
)
from pseudoris.synthworld.demo import TRUTH_FILE
from pseudoris.synthworld.grammar import Description, Extreme, Group, Ordinal, Reference, Relation, parse_reference
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import DEFAULT_WORLD, SCENE_SIZE_PX, WORLDS, Scene, SceneObject

ROW_MARGIN_PX = 10.0
MIN_STEP_PX = 16.0
TOUCH_PX = 4.0
MAX_SLANT = 2.0
# An object is at a side of the picture if its centre lies in this outermost share of the width or height.
SIDE = 1 / 3
# Three objects have a middle one only if their row is at least this many times as long as wide.
MIN_ROW_SHAPE = 1.5


def referents(caption: str, scene: Scene) -> frozenset[int] | None:
    """Return the numbers of the objects that a caption or expression means; None if it cannot be decided.

    A text that fits no object gives an empty set; one that cannot be parsed, or is too close to call, None.
    """
    reference = parse_reference(caption)
    return None if reference is None else meant(reference, scene)


def meant(reference: Reference, scene: Scene) -> frozenset[int] | None:
    """Return the objects that a reference means; None if it cannot be decided."""
    return meant_among(row_of(reference.noun, scene), reference, scene)


def meant_among(row: Mapping[int, SceneObject], reference: Reference, scene: Scene) -> frozenset[int] | None:
    """Return the objects of `row`, all that fit its noun phrase, that a reference means; None if undecided."""
    if not row:
        return frozenset()
    if isinstance(reference, Extreme):
        side = next(side for side, words in EXTREMES.items() if reference.word in words)
        # Some words need an exact number of objects: "middle" needs three, "upper" and "lower" need two.
        presupposed = {NUMBERS[reference.number]} if reference.number is not None else set()
        presupposed |= {3} if side == "middle" else {2} if reference.word in COMPARATIVES else set()
        if presupposed and presupposed != {len(row)}:
            return None
        return middle(row) if side == "middle" else at_place(side, 1, row)
    if isinstance(reference, Ordinal):
        rank = ORDINALS.index(reference.word) + 1
        return at_place(reference.side, rank, row) if rank <= len(row) else None
    surely, maybe = frozenset(row), frozenset[int]()
    if reference.relation is not None:
        surely, maybe = _related(reference.relation, row, scene)
    if isinstance(reference, Group):
        number = 2 if reference.word == "both" else NUMBERS.get(reference.word)
        if maybe or (surely and number is not None and number != len(surely)):
            return None
        return surely
    return None if maybe and not surely else surely | maybe


def row_of(noun: Description, scene: Scene) -> dict[int, SceneObject]:
    """Return the objects that a noun phrase fits, by their numbers."""
    return {n: item for n, item in enumerate(scene.objects) if fits(noun, item)}


def fits(description: Description, item: SceneObject) -> bool:
    """Return whether each stated word is true of the object; attributes that are not stated are ignored."""
    for name in ("category", "colour", "pattern", "size", "part"):
        if getattr(description, name) not in (None, getattr(item.attributes, name)):
            return False
    x, y = (c / SCENE_SIZE_PX for c in item.centre_xy_px)
    is_at = {"left": x < SIDE, "right": x > 1 - SIDE, "top": y < SIDE, "bottom": y > 1 - SIDE}
    return description.position is None or is_at[description.position]


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


class Degree(IntEnum):
    """Whether something holds."""

    NO = 0
    MAYBE = 1
    YES = 2


def lies(side: str, item: SceneObject, anchor: SceneObject) -> Degree:
    """Return whether an object is on a side of another one."""
    step = along(side, item) - along(side, anchor)
    aside = abs(across(side, item) - across(side, anchor))
    if step >= MIN_STEP_PX and step >= aside:
        return Degree.YES
    return Degree.MAYBE if step >= TOUCH_PX and aside <= MAX_SLANT * step else Degree.NO


def along(side: str, item: SceneObject) -> float:
    """Return an object's distance toward a side, in pixels: larger is further."""
    x, y = item.centre_xy_px
    return {"left": -x, "right": x, "top": -y, "bottom": y}[side]


def across(side: str, item: SceneObject) -> float:
    """Return an object's place on the other axis, in pixels."""
    return item.centre_xy_px[1 if side in ("left", "right") else 0]


def at_place(side: str, rank: int, row: Mapping[int, SceneObject]) -> frozenset[int]:
    """Return the objects at a place in a row, counted from a side from 1: several if they share it."""
    places = {number: along(side, item) for number, item in row.items()}
    place = sorted(places.values(), reverse=True)[rank - 1]
    return frozenset(number for number, value in places.items() if abs(value - place) < ROW_MARGIN_PX)


def middle(row: Mapping[int, SceneObject]) -> frozenset[int]:
    """Return the middle one of three objects along their longer extent; all three if neither extent is longer."""
    places = {side: [along(side, item) for item in row.values()] for side in ("right", "bottom")}
    extents = {side: max(each) - min(each) for side, each in places.items()}
    longer, shorter = sorted(extents, key=lambda side: extents[side], reverse=True)
    if extents[longer] < MIN_ROW_SHAPE * extents[shorter]:
        return frozenset(row)
    return at_place(longer, 2, row)


SEEN: Final = "seen"
HELD_OUT: Final = "held_out"
_NAMES: Final = ("category", "colour", "pattern", "size", "part")
_WORDS: Final[Mapping[str, tuple[str | None, ...]]] = {
    "category": CATEGORIES,
    "colour": tuple(COLOURS),
    "pattern": PATTERNS,
    "size": SIZES,
    "part": (*PARTS, None),
}
_SCENES: Final = TypeAdapter(dict[str, Scene | None])


class SceneImageTruth:
    """The objects of one scene, in its painting order."""

    def __init__(self, scene: Scene, masks: np.ndarray | None = None) -> None:
        """Takes a scene; its visible masks (N, 192, 192) bool where they are painted already."""
        self._scene = scene
        self._masks = masks
        # Readings are cached, because an ablation compares systems that write the same texts thousands of times.
        self._parsed = cache(parse_reference)
        self._meant = cache(partial(meant, scene=scene))

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return SCENE_SIZE_PX, SCENE_SIZE_PX

    @cached_property
    def masks(self) -> list[str]:
        """COCO compressed RLE of each object's visible pixels; painted on first use."""
        masks = render(self._scene).masks if self._masks is None else self._masks
        encoded = coco.encode(np.asfortranarray(masks.transpose(1, 2, 0), dtype=np.uint8))
        return [each["counts"].decode() for each in encoded]

    def referents(self, text: str) -> frozenset[int] | None:
        """Return the objects that a text means, as the oracle reads it; None if it cannot be decided."""
        said = self._parsed(text)
        return None if said is None else self._meant(said)

    def attributes(self, text: str, number: int) -> tuple[int, int, int]:
        """Return how many attributes a text states, how many of these are true, how many the object has.

        Category, colour, pattern, size and part of the object itself count; a place, a relation and its anchor do not.
        A text that cannot be parsed has no attributes.
        """
        truth, said = self._scene.objects[number].attributes, self._parsed(text)
        noun = None if said is None else said.noun
        stated = [name for name in _NAMES if getattr(noun, name, None) is not None]
        num_true = sum(getattr(noun, name) == getattr(truth, name) for name in stated)
        return len(stated), num_true, sum(getattr(truth, name) is not None for name in _NAMES)

    def num_alike(self, number: int) -> int:
        """Return how many other objects are of the same category."""
        category = self._scene.objects[number].attributes.category
        return sum(item.attributes.category == category for item in self._scene.objects) - 1

    def group(self, number: int) -> str:
        """Return whether training scenes contain the object's pair of category and colour."""
        truth = self._scene.objects[number].attributes
        return HELD_OUT if is_held_out(truth.category, truth.colour) else SEEN


class SceneTruth:
    """The scenes of a demonstration set, by the names of their files."""

    file_name: ClassVar[str] = TRUTH_FILE
    groups: tuple[str, ...] = (SEEN, HELD_OUT)
    notes: tuple[str, ...] = ()
    unjudged_kinds: tuple[str, ...] = ()
    judges_texts: bool = True

    def __init__(self, scenes: Mapping[str, Scene], title: str) -> None:
        """Takes scenes by the keys of their images, relative to the folder of images."""
        self.title, self.num_images, self.example_key = title, len(scenes), next(iter(scenes), None)
        self._scenes = {image_id(key): scene for key, scene in scenes.items()}

    @classmethod
    def from_json(cls, data: bytes, name: str) -> SceneTruth:
        """Return the truth that `synthworld.demo` wrote next to its folder of images; broken files have no truth.

        Raises:
            ConfigError: It is not such a file; `name` is in the message.
        """
        try:
            scenes = _SCENES.validate_python(parse_json(data))
        except ValueError as error:
            raise ConfigError(
                f"{name} is not a truth of the synthetic world ({type(error).__name__}). Name the truth.json that "
                "`python -m pseudoris.synthworld.demo FOLDER` writes beside FOLDER/images."
            ) from error
        known = {key: scene for key, scene in scenes.items() if scene is not None}
        for key, scene in known.items():
            _check(scene, f"{name}: {key!r}")
        # The title does not name the default world, to which scenes of older files without a world belong.
        others = sorted({scene.world for scene in known.values()} - {DEFAULT_WORLD})
        return cls(known, f"synthetic world{''.join(f' {world!r}' for world in others)}, {name}")

    def of_image(self, image_id: str) -> SceneImageTruth | None:
        """Return the objects of a scene by its image's id; None if no scene has this id."""
        scene = self._scenes.get(image_id)
        return None if scene is None else SceneImageTruth(scene)


def _check(scene: Scene, where: str) -> None:
    """Refuses worlds that there are not, words that no world has, and objects too large to be painted."""
    if scene.world not in WORLDS:
        raise ConfigError(f"{where} has the world {scene.world!r}. The worlds are {', '.join(WORLDS)}.")
    if not (0 <= scene.seed < 2**32 and 0 <= scene.index < 2**32):
        raise ConfigError(f"{where} has seed {scene.seed} and index {scene.index}. Numbers from 0 to 2^32 are allowed.")
    if not scene.objects:
        raise ConfigError(f"{where} has no object, but a scene has at least one. Get the file again.")
    for item in scene.objects:
        for name in _NAMES:
            word = getattr(item.attributes, name)
            if word not in _WORDS[name]:
                raise ConfigError(f"{where} has the {name} {word!r}, which the synthetic world does not know")
        places = (*item.centre_xy_px, item.radius_px)
        if not all(0 <= place <= SCENE_SIZE_PX for place in places):
            raise ConfigError(f"{where} has an object at {places}. Up to {SCENE_SIZE_PX} pixels are allowed.")
