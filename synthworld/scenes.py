"""Scenes as plain data, drawn by (seed, index), and the worlds that say how they look and what they hold.

Called by this room and all of `evidence`.

A scene index means the same scene on any machine: the order of draws must not change. Splits are disjoint index ranges.
Training scenes never hold a held-out category × colour pair; the other splits draw from all pairs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final

import numpy as np

from pseudoris.primitives.errors import ConfigError
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

# Words mean the same in all worlds. The numbers of a world decide published pixels and figures: add a world, change
# none. The tiny models were trained on `default`. `second` draws the same objects at the same places with another look.
# `shifted` looks like `second`, and half of its categories are six times as frequent as the others. `crowded` looks
# like `default` and holds more and smaller objects that share more words. `fourth` and `fifth` are test sets with their
# own look and mix, on which nothing is chosen.
DEFAULT_WORLD: Final = "default"
Rgb = tuple[int, int, int]


@dataclass(frozen=True)
class PatternStyle:
    """How patterns are drawn, in supersampled pixels (three per scene pixel); periods do not follow an object's size.

    Attributes:
        stripe_slope: 1 for stripes that fall from right to left, -1 for the other diagonal.
        stripe_period: From one dark stripe to the next, along x.
        stripe_width: Width of the dark stripe, along x.
        check: Side of a field.
        dot_period: From one dot to the next, along x and y.
    """

    stripe_slope: int = 1
    stripe_period: int = 24
    stripe_width: int = 11
    check: int = 14
    dot_period: int = 20
    dot_radius: int = 6


@dataclass(frozen=True)
class World:
    """One kind of scenes.

    Attributes:
        palette: The colour (R, G, B) of each word; it is nearest to the same word's colour in `COLOURS`, so the word
            stays true.
        textures: Names in `renderer.TEXTURES`, one of them drawn a scene.
        tones: Lowest and (exclusive) highest brightness of a background, of 255.
        chroma: How far a background's colour channels stray from its brightness.
        grain_std: Noise of the background alone, equal in the three channels.
        noise_std: Noise of the whole picture, a channel.
        lighting: By which share the picture darkens towards one side, drawn a scene from 0 to this.
        pattern_shade: Darkening of a pattern's second colour.
        part_shade: Darkening of a part.
        category_weights: How frequent each of `CATEGORIES` is, in any unit; None if all are equally frequent.
        count_weights: How frequent scenes of 2, 3, … 10 objects are, in any unit.
        small_share: Share of the objects that are small; None if all sizes are equally frequent.
        same_category_share: Share of the objects that repeat an earlier object's category. With fewer than by default,
            the category alone would be unambiguous too often, and naive captions would look good.
        same_word_share: With which probability each further word of that object is repeated too.
    """

    name: str
    palette: Mapping[str, Rgb]
    textures: tuple[str, ...]
    tones: tuple[int, int]
    chroma: int
    grain_std: float
    noise_std: float
    lighting: float = 0.0
    pattern_shade: float = 0.42
    part_shade: float = 0.62
    patterns: PatternStyle = PatternStyle()
    category_weights: tuple[float, ...] | None = None
    count_weights: tuple[float, ...] = (2, 4, 5, 5, 4, 3, 2, 1, 1)
    small_share: float | None = None
    same_category_share: float = 0.55
    same_word_share: float = 0.4


def _palette(hexadecimal: str) -> Mapping[str, Rgb]:
    """Return the colours of a world from red to white, in the order of `COLOURS`."""
    colours = map(bytes.fromhex, hexadecimal.split())
    return {word: (red, green, blue) for word, (red, green, blue) in zip(COLOURS, colours, strict=True)}


_DEFAULT: Final = World(
    name=DEFAULT_WORLD,
    palette=COLOURS,
    textures=("clouds", "waves", "tiles"),
    tones=(70, 150),
    chroma=22,
    grain_std=4.0,
    noise_std=3.0,
)
_SECOND_LOOK: Final = World(
    name="second",
    palette=_palette("c02442 f0943e eef02c 549630 30c4ce 3e52c8 9e48a0 eceef6"),
    textures=("cells", "rings", "bricks"),
    tones=(60, 140),
    chroma=34,
    grain_std=2.0,
    noise_std=8.0,
    lighting=0.15,
    pattern_shade=0.5,
    part_shade=0.7,
    patterns=PatternStyle(stripe_slope=-1, stripe_period=20, stripe_width=10, check=11, dot_period=16, dot_radius=5),
)
_FREQUENT: Final = 6.0
_SHIFTED: Final = replace(
    _SECOND_LOOK,
    name="shifted",
    category_weights=tuple(_FREQUENT if number % 2 else 1.0 for number in range(len(CATEGORIES))),
)
_CROWDED: Final = replace(
    _DEFAULT,
    name="crowded",
    count_weights=(0, 0, 0, 0, 0, 1, 1, 1, 1),
    small_share=0.85,
    same_category_share=0.8,
    same_word_share=0.65,
)
_FOURTH: Final = World(
    name="fourth",
    palette=_palette("e21c1e ec8e0c fae254 208c58 54d8ca 1e54de 7a2c94 faf4ee"),
    textures=("weave", "speckles", "slopes"),
    tones=(80, 160),
    chroma=28,
    grain_std=6.0,
    noise_std=5.0,
    lighting=0.15,
    pattern_shade=0.36,
    part_shade=0.55,
    patterns=PatternStyle(stripe_slope=-1, stripe_period=28, stripe_width=13, check=17, dot_period=24, dot_radius=7),
    category_weights=tuple(_FREQUENT if number % 3 == 0 else 1.0 for number in range(len(CATEGORIES))),
    count_weights=(1, 3, 5, 6, 5, 4, 2, 1, 1),
    small_share=0.4,
    same_category_share=0.6,
    same_word_share=0.45,
)
_FIFTH: Final = World(
    name="fifth",
    palette=_palette("d6342c fa8228 e8d63a 42a852 28b6bc 3442b2 883cbe f0f6f2"),
    textures=("bricks", "weave", "cells"),
    tones=(55, 145),
    chroma=30,
    grain_std=5.0,
    noise_std=6.0,
    lighting=0.1,
    pattern_shade=0.45,
    part_shade=0.6,
    patterns=PatternStyle(stripe_slope=1, stripe_period=19, stripe_width=9, check=12, dot_period=18, dot_radius=6),
    category_weights=tuple(_FREQUENT if number % 4 == 1 else 1.0 for number in range(len(CATEGORIES))),
    count_weights=(1, 3, 4, 5, 5, 4, 3, 2, 1),
    small_share=0.35,
    same_category_share=0.6,
    same_word_share=0.5,
)
WORLDS: Final[Mapping[str, World]] = {
    world.name: world for world in (_DEFAULT, _SECOND_LOOK, _SHIFTED, _CROWDED, _FOURTH, _FIFTH)
}


def world_named(name: str) -> World:
    """Return a world.

    Raises:
        ConfigError: There is none of this name.
    """
    if name not in WORLDS:
        raise ConfigError(f"There is no world {name!r}. The worlds are {', '.join(WORLDS)}.")
    return WORLDS[name]


SCENE_SIZE_PX = 192
MIN_OBJECTS, MAX_OBJECTS = 2, 10
# This share of objects repeats the colour and pattern of an earlier object, but not its category.
SAME_LOOK_SHARE = 0.15
# A scene's textures and noise have another generator than its layout.
_LAYOUT_STREAM, PIXEL_STREAM = 0, 1
_PLACEMENT_TRIES = 60
# How far an object with a part reaches to the left, top, right and bottom, in radii: its least distance from the edges,
# because a part that is cut off would make its word untrue.
REACH: dict[str | None, tuple[float, float, float, float]] = {
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
    left, top, right, bottom = (reach * radius for reach in REACH[attributes.part])
    for _ in range(_PLACEMENT_TRIES):
        x, y = rng.uniform((left, top), (SCENE_SIZE_PX - right, SCENE_SIZE_PX - bottom))
        gaps = [math.dist((x, y), o.centre_xy_px) / (radius + o.radius_px) for o in objects]
        # Centres are at least 0.85 times both radii apart: outlines may overlap, but no object hides most of another.
        if all(gap >= 0.85 for gap in gaps):
            return SceneObject(attributes, (float(x), float(y)), radius, rotation, (tint[0], tint[1], tint[2]))
    return None
