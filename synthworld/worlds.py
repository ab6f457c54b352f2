"""Worlds: how scenes look and what they hold. Used by this room, `recipes` and `experiments`.

Words mean the same in all worlds. The numbers of a world decide published pixels and figures: add a world, change none.
The tiny models were trained on `default`. `second` draws the same objects at the same places with another look.
`shifted` looks like `second`, and half of its categories are six times as frequent as the others. `crowded` looks like
`default` and holds more and smaller objects that share more words. `fourth` and `fifth` are test sets with their own
look and mix, each for one report only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from pseudoris.primitives.errors import ConfigError
from pseudoris.synthworld.attributes import CATEGORIES, COLOURS

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
