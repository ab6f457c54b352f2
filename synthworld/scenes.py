"""Scenes as plain data, drawn by (seed, index). Called by this room, `recipes`, `experiments` and `benchmarks`.

A scene index means the same scene on any machine: the order of draws must not change. Splits are disjoint index ranges.
Training scenes never hold a held-out category × colour pair; the other splits draw from all pairs.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np

from pseudoris.synthworld.attributes import (
    CATEGORIES,
    COLOURS,
    PARTS,
    PATTERNS,
    RADIUS_RANGE_PX,
    SIZES,
    Attributes,
    is_held_out,
)
from pseudoris.synthworld.worlds import DEFAULT_WORLD, World, world_named

SCENE_SIZE_PX = 192
MIN_OBJECTS, MAX_OBJECTS = 2, 10
# This share of objects repeats the colour and pattern of an earlier object, but not its category.
SAME_LOOK_SHARE = 0.15
_LAYOUT_STREAM, _PIXEL_STREAM = 0, 1
_PLACEMENT_TRIES = 60
# The least distance of an object from the left, top, right and bottom edge, in radii: a part that is cut off would make
# its word untrue.
_REACH: dict[str | None, tuple[float, float, float, float]] = {
    None: (0.95, 0.95, 0.95, 0.95),
    "hat": (0.95, 1.5, 0.95, 0.95),
    "tail": (0.95, 0.95, 1.45, 0.95),
    "handle": (1.45, 0.95, 0.95, 0.95),
}


class Split(StrEnum):
    """Which scenes: `train` for weights, `development` for thresholds, `test` for the one report, `demo` for users."""

    TRAIN = "train"
    DEVELOPMENT = "development"
    TEST = "test"
    DEMO = "demo"


_SPLIT_SIZE = 1_000_000


@dataclass(frozen=True)
class SceneObject:
    """One object: its words, centre (x, y) and radius in scene pixels, rotation, and colour offset (R, G, B)."""

    attributes: Attributes
    centre_xy_px: tuple[float, float]
    radius_px: float
    rotation_deg: float
    tint: tuple[int, int, int]


@dataclass(frozen=True)
class Scene:
    """A scene; `objects` are in painting order, later ones over earlier ones; `world` names how it looks."""

    seed: int
    index: int
    objects: tuple[SceneObject, ...]
    world: str = DEFAULT_WORLD


def generator(seed: int, index: int, *, stream: int) -> np.random.Generator:
    """Return the generator of one scene and stream; equal on every machine."""
    return np.random.Generator(np.random.Philox(key=np.array([seed, 4 * index + stream], dtype=np.uint64)))


def pixel_generator(scene: Scene) -> np.random.Generator:
    """Return the generator of a scene's textures and noise, apart from the one that laid it out."""
    return generator(scene.seed, scene.index, stream=_PIXEL_STREAM)


def make_scene(split: Split, position: int, *, seed: int = 0, world: str = DEFAULT_WORLD) -> Scene:
    """Return the scene at `position` of a split: 2 to 10 objects, no two described by the same attributes.

    In worlds with the same mix of categories, the scenes at one position have the same objects at the same places.
    """
    if not 0 <= position < _SPLIT_SIZE:
        raise ValueError(f"scene position {position} is outside [0, {_SPLIT_SIZE}): a split holds a million scenes")
    # The order of `Split` decides which scenes a split holds, so that order must not change.
    index = list(Split).index(split) * _SPLIT_SIZE + position
    mix = world_named(world)
    rng = generator(seed, index, stream=_LAYOUT_STREAM)
    wanted = int(rng.choice(np.arange(MIN_OBJECTS, MAX_OBJECTS + 1), p=_shares(mix.count_weights)))
    objects: list[SceneObject] = []
    # Placing an object may fail in a crowded scene. These attempts are always enough for MIN_OBJECTS objects.
    for attempt in range(40 * wanted):
        if len(objects) == wanted or (attempt >= 4 * wanted and len(objects) >= MIN_OBJECTS):
            break
        earlier = [o.attributes for o in objects]
        attributes = _draw_attributes(rng, earlier, mix, allow_held_out=split is not Split.TRAIN)
        placed = _place(rng, attributes, objects)
        if placed is not None and attributes not in [o.attributes for o in objects]:
            objects.append(placed)
    return Scene(seed, index, tuple(objects), world)


def reach_of(part: str | None) -> tuple[float, float, float, float]:
    """Return how far an object with a part reaches to the left, top, right and bottom, in radii."""
    return _REACH[part]


def _draw_attributes(
    rng: np.random.Generator, earlier: list[Attributes], mix: World, *, allow_held_out: bool
) -> Attributes:
    """Draws one object's words; often a distractor that shares words with an earlier object."""
    while True:
        # Words are drawn independently, with equal chances unless the world has others. 40 % of objects have a part.
        part = PARTS[int(rng.integers(len(PARTS)))] if rng.random() < 0.4 else None
        if mix.category_weights is None:
            category = CATEGORIES[int(rng.integers(len(CATEGORIES)))]
        else:
            category = CATEGORIES[int(rng.choice(len(CATEGORIES), p=_shares(mix.category_weights)))]
        colour = list(COLOURS)[int(rng.integers(len(COLOURS)))]
        pattern = PATTERNS[int(rng.integers(len(PATTERNS)))]
        is_large = rng.integers(len(SIZES)) if mix.small_share is None else rng.random() >= mix.small_share
        drawn = Attributes(category, colour, pattern, SIZES[int(is_large)], part)
        kind = rng.random()
        if earlier:
            other = earlier[int(rng.integers(len(earlier)))]
            if kind < mix.same_category_share:
                drawn = replace(drawn, category=other.category)
                copied = zip(("colour", "pattern", "size", "part"), rng.random(4) < mix.same_word_share, strict=True)
                drawn = replace(drawn, **{name: getattr(other, name) for name, is_copied in copied if is_copied})
            elif kind < mix.same_category_share + SAME_LOOK_SHARE:
                drawn = replace(drawn, colour=other.colour, pattern=other.pattern)
        if allow_held_out or not is_held_out(drawn.category, drawn.colour):
            return drawn


def _shares(weights: tuple[float, ...]) -> np.ndarray:
    return np.array(weights, dtype=np.float64) / sum(weights)


def _place(rng: np.random.Generator, attributes: Attributes, objects: list[SceneObject]) -> SceneObject | None:
    radius = float(rng.uniform(*RADIUS_RANGE_PX[attributes.size]))
    rotation = float(rng.uniform(-12.0, 12.0))
    tint = tuple(int(v) for v in rng.integers(-12, 13, size=3))
    left, top, right, bottom = (reach * radius for reach in reach_of(attributes.part))
    for _ in range(_PLACEMENT_TRIES):
        x, y = rng.uniform((left, top), (SCENE_SIZE_PX - right, SCENE_SIZE_PX - bottom))
        gaps = [math.dist((x, y), o.centre_xy_px) / (radius + o.radius_px) for o in objects]
        # Centres are at least 0.85 times both radii apart: outlines may overlap, but no object hides most of another.
        if all(gap >= 0.85 for gap in gaps):
            return SceneObject(attributes, (float(x), float(y)), radius, rotation, (tint[0], tint[1], tint[2]))
    return None
