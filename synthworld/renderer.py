"""Paints a scene: antialiased pixels, exact visible masks. For this room and `evidence`.

Everything is painted at three times the resolution without antialiasing and averaged down in integers, so that the
pixels are the same on every machine. A mask pixel is set exactly where its object covers at least half of the samples.
The tiny models' scenes were painted with these draws: another order of draws changes every published pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image, ImageDraw

from pseudoris.synthworld.scenes import (
    PIXEL_STREAM,
    SCENE_SIZE_PX,
    PatternStyle,
    Scene,
    SceneObject,
    World,
    generator,
    world_named,
)

# Outlines of categories and parts in a unit frame: centre (0, 0), x right, y down, an object of radius 1. A shape is a
# tuple of (filled, points) polygons painted in order: a polygon that is not filled cuts a hole.
Point = tuple[float, float]
Polygon = tuple[bool, tuple[Point, ...]]
Shape = tuple[Polygon, ...]


def _ellipse(cx: float, cy: float, rx: float, ry: float, *, filled: bool = True) -> Polygon:
    angles = [2 * math.pi * k / 48 for k in range(48)]
    return filled, tuple((cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles)


def _polygon(*points: Point) -> Polygon:
    return True, points


def _star(outer: float, inner: float, tips: int) -> Polygon:
    radii = [outer if k % 2 == 0 else inner for k in range(2 * tips)]
    angles = [math.pi * k / tips - math.pi / 2 for k in range(2 * tips)]
    return True, tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True))


def _heart() -> Polygon:
    """The classic parametric heart, scaled to radius 1."""
    ts = [2 * math.pi * k / 48 for k in range(48)]
    xs = [math.sin(t) ** 3 for t in ts]
    ys = [-(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 for t in ts]
    return True, tuple((0.98 * x, 0.98 * y - 0.05) for x, y in zip(xs, ys, strict=True))


def _drop() -> Polygon:
    """A round body that ends in a point at the top."""
    body = [
        (0.66 * math.cos(a), 0.34 + 0.62 * math.sin(a)) for a in (math.pi * (-0.12 + 1.24 * k / 30) for k in range(31))
    ]
    return True, ((0.0, -1.0), *body)


SHAPES: dict[str, Shape] = {
    "circle": (_ellipse(0, 0, 0.92, 0.92),),
    "square": (_polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),),
    "triangle": (_polygon((0, -0.95), (0.95, 0.75), (-0.95, 0.75)),),
    "star": (_star(1.05, 0.45, 5),),
    "heart": (_heart(),),
    "diamond": (_polygon((0, -1.05), (0.68, 0), (0, 1.05), (-0.68, 0)),),
    "cross": (
        _polygon((-0.32, -0.95), (0.32, -0.95), (0.32, 0.95), (-0.32, 0.95)),
        _polygon((-0.95, -0.32), (0.95, -0.32), (0.95, 0.32), (-0.95, 0.32)),
    ),
    "ring": (_ellipse(0, 0, 0.98, 0.98), _ellipse(0, 0, 0.45, 0.45, filled=False)),
    "arrow": (
        _polygon((0, -1.0), (0.85, 0.0), (-0.85, 0.0)),
        _polygon((-0.3, -0.1), (0.3, -0.1), (0.3, 1.0), (-0.3, 1.0)),
    ),
    "moon": (_ellipse(0, 0, 1.0, 1.0), _ellipse(0.55, -0.05, 0.78, 0.78, filled=False)),
    "flower": (
        *(
            _ellipse(0.58 * math.cos(a), 0.58 * math.sin(a), 0.42, 0.42)
            for a in (2 * math.pi * k / 6 - math.pi / 2 for k in range(6))
        ),
        _ellipse(0, 0, 0.5, 0.5),
    ),
    "drop": (_drop(),),
    "house": (
        _polygon((-0.72, -0.15), (0.72, -0.15), (0.72, 0.9), (-0.72, 0.9)),
        _polygon((0, -0.95), (1.02, -0.1), (-1.02, -0.1)),
        (False, ((-0.2, 0.35), (0.2, 0.35), (0.2, 0.95), (-0.2, 0.95))),
    ),
    "fish": (_ellipse(-0.22, 0, 0.76, 0.52), _polygon((0.3, 0), (1.0, -0.58), (1.0, 0.58))),
    "tree": (
        _polygon((0, -1.0), (0.62, -0.2), (-0.62, -0.2)),
        _polygon((0, -0.55), (0.8, 0.45), (-0.8, 0.45)),
        _polygon((-0.2, 0.4), (0.2, 0.4), (0.2, 1.0), (-0.2, 1.0)),
    ),
    "mushroom": (
        _polygon(*((math.cos(a), 0.1 + 0.95 * math.sin(a)) for a in (math.pi + math.pi * k / 24 for k in range(25)))),
        _polygon((-0.3, 0.05), (0.3, 0.05), (0.38, 0.95), (-0.38, 0.95)),
    ),
    "bolt": (
        _polygon((0.3, -1.05), (-0.68, 0.2), (-0.08, 0.2), (-0.3, 1.05), (0.68, -0.28), (0.1, -0.28), (0.6, -1.05)),
    ),
    "crown": (
        _polygon((-0.9, 0.7), (-0.98, -0.7), (-0.45, -0.02), (0, -0.9), (0.45, -0.02), (0.98, -0.7), (0.9, 0.7)),
    ),
    "key": (
        _ellipse(0, -0.5, 0.55, 0.52),
        _ellipse(0, -0.52, 0.2, 0.19, filled=False),
        _polygon((-0.17, -0.05), (0.17, -0.05), (0.17, 1.02), (-0.17, 1.02)),
        _polygon((0.1, 0.35), (0.6, 0.35), (0.6, 0.58), (0.1, 0.58)),
        _polygon((0.1, 0.76), (0.6, 0.76), (0.6, 1.0), (0.1, 1.0)),
    ),
    "boat": (
        _polygon((-1.0, 0.3), (1.0, 0.3), (0.62, 0.9), (-0.62, 0.9)),
        _polygon((-0.08, -1.0), (0.08, -1.0), (0.08, 0.35), (-0.08, 0.35)),
        _polygon((0.02, -0.95), (0.85, 0.12), (0.02, 0.12)),
    ),
}

# Parts are placed on the rim of the unit object, so that they stick out of every category alike.
PART_SHAPES: dict[str, Shape] = {
    "hat": (
        _polygon((-0.62, -0.8), (0.62, -0.8), (0.62, -0.97), (-0.62, -0.97)),
        _polygon((-0.36, -0.95), (0.36, -0.95), (0.36, -1.55), (-0.36, -1.55)),
    ),
    "tail": (
        _polygon(
            (0.35, 0.4), (0.9, 0.72), (1.2, 0.5), (1.5, 0.75), (1.42, 0.92), (1.2, 0.76), (0.92, 1.0), (0.2, 0.62)
        ),
    ),
    "handle": (_ellipse(-0.95, 0.05, 0.55, 0.5), _ellipse(-1.0, 0.05, 0.3, 0.27, filled=False)),
}


Texture = Callable[[np.random.Generator, int], np.ndarray]
SUPERSAMPLING = 3
_NO_OBJECT = 255


def clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return smooth noise of 4 to 12 cells per side."""
    cells = int(rng.integers(4, 13))
    coarse = rng.integers(0, 256, size=(cells, cells)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) / 255.0


def waves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a sine along a random direction, 10 to 45 pixels long."""
    along, _, period = _turned(rng, size)
    return np.asarray(0.5 + 0.5 * np.sin(2 * math.pi * along / period))


def tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a turned chessboard of 10 to 45 pixels per field."""
    along, across, period = _turned(rng, size)
    return np.asarray(((np.floor(along / period) + np.floor(across / period)) % 2) * 0.8 + 0.1)


def cells(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return 12 to 40 flat patches, each of the pixels that are nearest to its random centre."""
    count = int(rng.integers(12, 41))
    centres, weights = rng.uniform(0, size, size=(count, 2)), rng.uniform(0, 1, size=count)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float64)
    distances = (xs[..., None] - centres[:, 0]) ** 2 + (ys[..., None] - centres[:, 1]) ** 2
    return np.asarray(weights[distances.argmin(axis=-1)])


def rings(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return waves around a random point, 14 to 40 pixels apart."""
    x, y = rng.uniform(0, size, size=2)
    period = rng.uniform(14, 40)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float64)
    return np.asarray(0.5 + 0.5 * np.sin(2 * math.pi * np.hypot(xs - x, ys - y) / period))


def bricks(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return courses of bricks with thin joints, every other course moved by half a brick."""
    height, joint = rng.uniform(9, 20), rng.uniform(1.5, 3.0)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float64)
    course = np.floor(ys / height)
    along = (xs + (course % 2) * height) % (2 * height)
    return np.asarray(np.where((ys % height < joint) | (along < joint), 0.9, 0.1 + 0.15 * (course % 3)))


def weave(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return bands that pass over and under one another, 12 to 32 pixels wide, along the sides of the picture."""
    width = rng.uniform(12, 32)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float64)
    over = (np.floor(xs / width) + np.floor(ys / width)) % 2
    along = np.where(over == 0, xs, ys) % width / width
    return np.asarray(0.5 + 0.4 * np.sin(math.pi * along) * np.where(over == 0, 1.0, -1.0))


def speckles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return 60 to 160 round spots of 4 to 14 pixels on an even ground."""
    canvas = Image.new("L", (size, size), 30)
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(60, 161))):
        x, y = (int(each) for each in rng.integers(0, size, size=2))
        radius, tone = int(rng.integers(4, 15)), int(rng.integers(90, 256))
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=tone)
    return np.asarray(canvas) / 255.0


def slopes(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return flat steps along a random direction, five to nine over the picture, each a little brighter."""
    along, _, _ = _turned(rng, size)
    steps = int(rng.integers(5, 10))
    level = np.floor((along - along.min()) / (along.max() - along.min() + 1.0) * steps)
    return np.asarray(level / (steps - 1))


def _turned(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates (size, size) along and across a random direction, and a random period."""
    angle, period = rng.uniform(0, math.pi), rng.uniform(10, 45)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float64)
    along = xs * math.cos(angle) + ys * math.sin(angle)
    return along, -xs * math.sin(angle) + ys * math.cos(angle), float(period)


# Mixing weights (size, size) float64 in [0, 1] between the two tones of a background. A world names a few of them, and
# a scene draws one.
TEXTURES: Final[Mapping[str, Texture]] = {
    each.__name__: each for each in (clouds, waves, tiles, cells, rings, bricks, weave, speckles, slopes)
}


@dataclass(frozen=True)
class RenderedScene:
    """image (192, 192, 3) uint8 RGB; masks (N, 192, 192) bool, visible pixels of each object in the scene's order."""

    image: np.ndarray
    masks: np.ndarray


def render(scene: Scene) -> RenderedScene:
    """Return the scene's pixels and visible masks; the same bytes for the same (seed, index) and world."""
    rng = generator(scene.seed, scene.index, stream=PIXEL_STREAM)
    world, size = world_named(scene.world), SCENE_SIZE_PX
    base = rng.integers(*world.tones) + rng.integers(-world.chroma, world.chroma + 1, size=3)
    other = base + rng.choice([-1, 1]) * rng.integers(12, 40) + rng.integers(-8, 9, size=3)
    texture = TEXTURES[world.textures[int(rng.integers(len(world.textures)))]]
    weight = texture(rng, size)[..., None]
    pixels = base * (1 - weight) + other * weight + rng.normal(0.0, world.grain_std, size=(size, size, 1))
    background = np.asarray(np.clip(np.rint(pixels), 0, 255), dtype=np.uint8)
    canvas = np.repeat(np.repeat(background, SUPERSAMPLING, axis=0), SUPERSAMPLING, axis=1)
    owner = np.full(canvas.shape[:2], _NO_OBJECT, dtype=np.uint8)
    for number, item in enumerate(scene.objects):
        _paint(canvas, owner, world, number=number, item=item)
    image = _average(canvas)
    if world.lighting:
        # The picture is darker towards a random side, by a random share of at most `lighting`.
        angle, share = rng.uniform(0, 2 * math.pi), rng.uniform(0, world.lighting)
        ys, xs = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        # `towards` rises from 0 to 1 in the direction of the angle.
        towards = 0.5 + (xs * math.cos(angle) + ys * math.sin(angle)) / math.sqrt(8)
        image = np.asarray(np.rint(image * (1 - share * towards)[..., None]), dtype=np.uint8)
    image = image.astype(np.int16)
    image += np.rint(rng.normal(0.0, world.noise_std, size=image.shape)).astype(np.int16)
    masks = [_average((owner == n).astype(np.uint8) * 255) >= 128 for n in range(len(scene.objects))]
    return RenderedScene(np.clip(image, 0, 255).astype(np.uint8), np.stack(masks))


def _average(samples: np.ndarray) -> np.ndarray:
    """Box average of (S·H, S·W[, C]) uint8 to (H, W[, C]) uint8, rounded."""
    return np.asarray(Image.fromarray(samples).reduce(SUPERSAMPLING))


def _paint(canvas: np.ndarray, owner: np.ndarray, world: World, *, number: int, item: SceneObject) -> None:
    reach = math.ceil(item.radius_px * 1.75 * SUPERSAMPLING)
    cx, cy = (round(c * SUPERSAMPLING) for c in item.centre_xy_px)
    side = canvas.shape[0]
    x0, y0, x1, y1 = max(cx - reach, 0), max(cy - reach, 0), min(cx + reach, side), min(cy + reach, side)
    frame = (x1 - x0, y1 - y0)
    body = _stencil(SHAPES[item.attributes.category], item, frame=frame, origin=(x0, y0))
    colour = np.clip(np.array(world.palette[item.attributes.colour]) + item.tint, 0, 255)
    region, region_owner = canvas[y0:y1, x0:x1], owner[y0:y1, x0:x1]
    if item.attributes.part is not None:
        part = _stencil(PART_SHAPES[item.attributes.part], item, frame=frame, origin=(x0, y0))
        region[part] = np.rint(colour * world.part_shade).astype(np.uint8)
        region_owner[part] = number
    dark = body & _pattern(item, world.patterns, frame=frame, origin=(x0, y0))
    region[body] = colour.astype(np.uint8)
    region[dark] = np.rint(colour * world.pattern_shade).astype(np.uint8)
    region_owner[body] = number


def _stencil(shape: Shape, item: SceneObject, *, frame: tuple[int, int], origin: tuple[int, int]) -> np.ndarray:
    """The shape as a bool array of `frame` (width, height) supersampled pixels at `origin`."""
    picture = Image.new("1", frame)
    draw = ImageDraw.Draw(picture)
    angle = math.radians(item.rotation_deg)
    scale = item.radius_px * SUPERSAMPLING
    cx, cy = (c * SUPERSAMPLING for c in item.centre_xy_px)
    for filled, points in shape:
        # Corners are rounded to whole samples, because the last bits of a sine may differ between machines.
        turned = [
            (
                round(cx + scale * (x * math.cos(angle) - y * math.sin(angle))) - origin[0],
                round(cy + scale * (x * math.sin(angle) + y * math.cos(angle))) - origin[1],
            )
            for x, y in points
        ]
        draw.polygon(turned, fill=int(filled))
    return np.asarray(picture, dtype=bool)


def _pattern(item: SceneObject, style: PatternStyle, *, frame: tuple[int, int], origin: tuple[int, int]) -> np.ndarray:
    """Where the second colour goes, (height, width) bool; its period is fixed in scene pixels: size stays readable."""
    width, height = frame
    name = item.attributes.pattern
    if name == "plain":
        return np.zeros((height, width), dtype=bool)
    ys, xs = np.mgrid[0:height, 0:width]
    dx = xs + (origin[0] - round(item.centre_xy_px[0] * SUPERSAMPLING))
    dy = ys + (origin[1] - round(item.centre_xy_px[1] * SUPERSAMPLING))
    if name == "striped":
        return np.asarray((dx + style.stripe_slope * dy) % style.stripe_period < style.stripe_width)
    if name == "checked":
        return np.asarray((dx // style.check + dy // style.check) % 2 == 0)
    period, middle = style.dot_period, style.dot_period // 2
    return np.asarray((dx % period - middle) ** 2 + (dy % period - middle) ** 2 < style.dot_radius**2)
