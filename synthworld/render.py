"""Paints a scene: antialiased pixels and the exact visible mask of each object.

Everything is painted at three times the resolution without antialiasing and averaged down in integers, so that the
pixels are the same on every machine. A mask pixel is set exactly where its object covers at least half of the samples.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from synthworld.attributes import COLOURS
from synthworld.scenes import SCENE_SIZE_PX, Scene, SceneObject, pixel_generator
from synthworld.shapes import PART_SHAPES, SHAPES, Shape

SUPERSAMPLING = 3
_NO_OBJECT = 255
# Darkening of the pattern's second colour and of parts: visible on all eight colours, and never another colour's word.
_PATTERN_SHADE, _PART_SHADE = 0.42, 0.62


@dataclass(frozen=True)
class Rendered:
    """image (192, 192, 3) uint8 RGB; masks (N, 192, 192) bool, visible pixels of each object in the scene's order."""

    image: np.ndarray
    masks: np.ndarray


def render(scene: Scene) -> Rendered:
    """Returns the scene's pixels and visible masks; the same bytes for the same (seed, index)."""
    rng = pixel_generator(scene)
    side = SCENE_SIZE_PX * SUPERSAMPLING
    canvas = np.repeat(np.repeat(_background(rng), SUPERSAMPLING, axis=0), SUPERSAMPLING, axis=1)
    owner = np.full((side, side), _NO_OBJECT, dtype=np.uint8)
    for number, item in enumerate(scene.objects):
        _paint(canvas, owner, number=number, item=item)
    image = _average(canvas).astype(np.int16)
    image += np.rint(rng.normal(0.0, 3.0, size=image.shape)).astype(np.int16)
    masks = [_average((owner == n).astype(np.uint8) * 255) >= 128 for n in range(len(scene.objects))]
    return Rendered(np.clip(image, 0, 255).astype(np.uint8), np.stack(masks))


def _average(samples: np.ndarray) -> np.ndarray:
    """Box average of (S·H, S·W[, C]) uint8 to (H, W[, C]) uint8, rounded."""
    return np.asarray(Image.fromarray(samples).reduce(SUPERSAMPLING))


def _background(rng: np.random.Generator) -> np.ndarray:
    """A muted texture (192, 192, 3) uint8: two tones mixed by smooth noise, waves or tiles, with grain."""
    size = SCENE_SIZE_PX
    base = rng.integers(70, 150) + rng.integers(-22, 23, size=3)
    other = base + rng.choice([-1, 1]) * rng.integers(12, 40) + rng.integers(-8, 9, size=3)
    weight = _texture(rng, size)[..., None]
    grain = rng.normal(0.0, 4.0, size=(size, size, 1))
    pixels = base * (1 - weight) + other * weight + grain
    return np.asarray(np.clip(np.rint(pixels), 0, 255), dtype=np.uint8)


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """Mixing weights (size, size) in [0, 1] of one of three kinds of texture."""
    kind = int(rng.integers(3))
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float64)
    if kind == 0:
        cells = int(rng.integers(4, 13))
        coarse = rng.integers(0, 256, size=(cells, cells)).astype(np.uint8)
        return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) / 255.0
    angle, period = rng.uniform(0, math.pi), rng.uniform(10, 45)
    along = xs * math.cos(angle) + ys * math.sin(angle)
    if kind == 1:
        return np.asarray(0.5 + 0.5 * np.sin(2 * math.pi * along / period))
    across = -xs * math.sin(angle) + ys * math.cos(angle)
    return np.asarray(((np.floor(along / period) + np.floor(across / period)) % 2) * 0.8 + 0.1)


def _paint(canvas: np.ndarray, owner: np.ndarray, *, number: int, item: SceneObject) -> None:
    """Paints one object over the canvas and writes its number into `owner`, both in place."""
    reach = math.ceil(item.radius_px * 1.75 * SUPERSAMPLING)
    cx, cy = (round(c * SUPERSAMPLING) for c in item.centre_xy_px)
    side = canvas.shape[0]
    x0, y0, x1, y1 = max(cx - reach, 0), max(cy - reach, 0), min(cx + reach, side), min(cy + reach, side)
    frame = (x1 - x0, y1 - y0)
    body = _stencil(SHAPES[item.attributes.category], item, frame=frame, origin=(x0, y0))
    colour = np.clip(np.array(COLOURS[item.attributes.colour]) + item.tint, 0, 255)
    region, region_owner = canvas[y0:y1, x0:x1], owner[y0:y1, x0:x1]
    if item.attributes.part is not None:
        part = _stencil(PART_SHAPES[item.attributes.part], item, frame=frame, origin=(x0, y0))
        region[part] = np.rint(colour * _PART_SHADE).astype(np.uint8)
        region_owner[part] = number
    dark = body & _pattern(item.attributes.pattern, item, frame=frame, origin=(x0, y0))
    region[body] = colour.astype(np.uint8)
    region[dark] = np.rint(colour * _PATTERN_SHADE).astype(np.uint8)
    region_owner[body] = number


def _stencil(shape: Shape, item: SceneObject, *, frame: tuple[int, int], origin: tuple[int, int]) -> np.ndarray:
    """The shape as a bool array of `frame` (width, height) supersampled pixels at `origin`."""
    picture = Image.new("1", frame)
    draw = ImageDraw.Draw(picture)
    angle = math.radians(item.rotation_deg)
    scale = item.radius_px * SUPERSAMPLING
    cx, cy = (c * SUPERSAMPLING for c in item.centre_xy_px)
    for filled, points in shape:
        # Whole samples: the polygon then cannot depend on the last bits of a machine's sine.
        turned = [
            (
                round(cx + scale * (x * math.cos(angle) - y * math.sin(angle))) - origin[0],
                round(cy + scale * (x * math.sin(angle) + y * math.cos(angle))) - origin[1],
            )
            for x, y in points
        ]
        draw.polygon(turned, fill=int(filled))
    return np.asarray(picture, dtype=bool)


def _pattern(name: str, item: SceneObject, *, frame: tuple[int, int], origin: tuple[int, int]) -> np.ndarray:
    """Where the second colour goes, (height, width) bool; its period is fixed in scene pixels: size stays readable."""
    width, height = frame
    if name == "plain":
        return np.zeros((height, width), dtype=bool)
    ys, xs = np.mgrid[0:height, 0:width]
    dx = xs + (origin[0] - round(item.centre_xy_px[0] * SUPERSAMPLING))
    dy = ys + (origin[1] - round(item.centre_xy_px[1] * SUPERSAMPLING))
    if name == "striped":
        return np.asarray((dx + dy) % 24 < 11)
    if name == "checked":
        return np.asarray((dx // 14 + dy // 14) % 2 == 0)
    return np.asarray((dx % 20 - 10) ** 2 + (dy % 20 - 10) ** 2 < 36)
