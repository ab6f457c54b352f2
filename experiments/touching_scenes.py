"""A world that synthworld does not have: objects that touch, with parts of another colour and holes, on a loud ground.

A scene of `make_scene` is pushed together until its objects touch, and painted anew: its words, and what annotators say
of the places that its objects have then, stay true. Every object is drawn by synthworld's renderer, alone; then

- its hat, tail or handle has another colour, or a band of another colour crosses it where it has none of these,
- a round hole shows what lies behind, and is in no mask, where its body is wide enough for one,
- the ground has two tones far apart, mixed by any of the renderer's textures.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Final

import numpy as np
from PIL import Image, ImageFilter

from pseudoris.synthworld import renderer
from pseudoris.synthworld.attributes import COLOURS
from pseudoris.synthworld.renderer import TEXTURES, RenderedScene
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject, Split, pixel_generator, reach_of
from pseudoris.synthworld.scenes import make_scene as synthworld_scene
from pseudoris.synthworld.worlds import DEFAULT_WORLD

TOUCHING: Final = "touching"
# An object is pushed until it covers, or is covered by, this share of its own pixels.
_OVERLAP: Final = 0.02
# In radii: small enough that a circle is no ring.
_HOLE_RADIUS, _BAND_HALF_WIDTH = 0.22, 0.16
_RIM_PX: Final = 1


def make_scene(split: Split, position: int, *, world: str = DEFAULT_WORLD) -> Scene:
    """Return the scene at `position` of a split, of synthworld's worlds or of `touching`.

    Raises:
        ConfigError: The world is unknown.
    """
    if world != TOUCHING:
        return synthworld_scene(split, position, world=world)
    return _pushed(synthworld_scene(split, position))


def render(scene: Scene) -> RenderedScene:
    """Return the pixels and visible masks of a scene of `make_scene`; the same bytes for the same scene."""
    if scene.world != TOUCHING:
        return renderer.render(scene)
    rng = pixel_generator(scene)
    image = _ground(rng)
    masks = np.zeros((len(scene.objects), SCENE_SIZE_PX, SCENE_SIZE_PX), dtype=bool)
    for number, item in enumerate(scene.objects):
        pixels, mask = _painted(scene, item, rng)
        image[mask] = pixels[mask]
        masks[:, mask] = False
        masks[number] = mask
    return RenderedScene(image, masks)


def _pushed(scene: Scene) -> Scene:
    """The scene with each object but the first moved straight to the nearest earlier one, until it touches any."""
    placed: list[SceneObject] = []
    taken = np.zeros((SCENE_SIZE_PX, SCENE_SIZE_PX), dtype=bool)
    for item in scene.objects:
        mask, moved = _alone(scene, item).masks[0], (0, 0)
        if placed:
            # A far nearest object is reached in this many steps of a pixel.
            target = min((each.centre_xy_px for each in placed), key=lambda at: math.dist(at, item.centre_xy_px))
            way = math.dist(target, item.centre_xy_px)
            for step in range(math.ceil(way)):
                moved = _inside(item, tuple(b - a for a, b in zip(item.centre_xy_px, target, strict=True)), step / way)
                if (np.roll(mask, moved[::-1], (0, 1)) & taken).sum() >= _OVERLAP * mask.sum():
                    break
        x, y = item.centre_xy_px
        placed.append(replace(item, centre_xy_px=(x + moved[0], y + moved[1])))
        taken |= np.roll(mask, moved[::-1], (0, 1))
    return replace(scene, objects=tuple(placed), world=TOUCHING)


def _inside(item: SceneObject, way: tuple[float, ...], share: float) -> tuple[int, int]:
    """A share of a way in whole pixels, as far as the object with its part stays inside the picture."""
    left, top, right, bottom = (reach * item.radius_px for reach in reach_of(item.attributes.part))
    x, y = item.centre_xy_px
    dx = np.clip(round(share * way[0]), math.ceil(left - x), math.floor(SCENE_SIZE_PX - right - x))
    dy = np.clip(round(share * way[1]), math.ceil(top - y), math.floor(SCENE_SIZE_PX - bottom - y))
    return int(dx), int(dy)


def _alone(scene: Scene, item: SceneObject) -> RenderedScene:
    """An object as the default world draws it, with nothing before it."""
    return renderer.render(replace(scene, objects=(item,), world=DEFAULT_WORLD))


def _ground(rng: np.random.Generator) -> np.ndarray:
    """Two tones far apart, mixed by any texture, with grain; (192, 192, 3) uint8."""
    names = list(TEXTURES)
    weight = TEXTURES[names[int(rng.integers(len(names)))]](rng, SCENE_SIZE_PX)[..., None]
    dark = rng.integers(30, 100) + rng.integers(-25, 26, size=3)
    bright = dark + rng.integers(70, 120) + rng.integers(-25, 26, size=3)
    grain = rng.normal(0.0, 9.0, size=(SCENE_SIZE_PX, SCENE_SIZE_PX, 1))
    return np.asarray(np.clip(np.rint(dark * (1 - weight) + bright * weight + grain), 0, 255), dtype=np.uint8)


def _painted(scene: Scene, item: SceneObject, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """An object's pixels (192, 192, 3) uint8, and its mask (192, 192) bool without its hole."""
    whole = _alone(scene, item)
    bare = _alone(scene, replace(item, attributes=replace(item.attributes, part=None)))
    pixels, mask, body = whole.image.astype(np.float64), whole.masks[0], bare.masks[0]
    others = [rgb for name, rgb in COLOURS.items() if name != item.attributes.colour]
    other, angle = np.array(others[int(rng.integers(len(others)))]), rng.uniform(0, math.pi)
    ys, xs = np.mgrid[0:SCENE_SIZE_PX, 0:SCENE_SIZE_PX]
    x, y = item.centre_xy_px
    across = (xs - x) * math.cos(angle) + (ys - y) * math.sin(angle)
    band = body & (np.abs(across) < _BAND_HALF_WIDTH * item.radius_px)
    part = band if item.attributes.part is None else mask & ~body
    pixels[part] = other + rng.normal(0.0, 3.0, size=(int(part.sum()), 3))
    radius = _HOLE_RADIUS * item.radius_px
    # Where the hole's centre may lie: so far inside the body that a rim stays around it.
    size = 2 * (round(radius) + _RIM_PX) + 1
    free = np.asarray(Image.fromarray(body).filter(ImageFilter.MinFilter(size)))
    places = np.argwhere(free)
    if len(places):
        row, column = places[int(rng.integers(len(places)))]
        mask = mask & (np.hypot(xs - column, ys - row) > radius)
    return np.clip(np.rint(pixels), 0, 255).astype(np.uint8), mask
