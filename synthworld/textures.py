"""Textures of a background by name: mixing weights (size, size) float64 in [0, 1] between its two tones.

A world names a few of them, and a scene draws one. The tiny models' training scenes were painted with the draws of the
first three: another order of draws would change every published pixel.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Final

import numpy as np
from PIL import Image

Texture = Callable[[np.random.Generator, int], np.ndarray]


def clouds(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return smooth noise of 4 to 12 cells a side."""
    cells = int(rng.integers(4, 13))
    coarse = rng.integers(0, 256, size=(cells, cells)).astype(np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((size, size), Image.Resampling.BICUBIC)) / 255.0


def waves(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a sine along a random direction, 10 to 45 pixels long."""
    along, _, period = _turned(rng, size)
    return np.asarray(0.5 + 0.5 * np.sin(2 * math.pi * along / period))


def tiles(rng: np.random.Generator, size: int) -> np.ndarray:
    """Return a turned chessboard of 10 to 45 pixels a field."""
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


def _turned(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray, float]:
    """Coordinates (size, size) along and across a random direction, and a random period."""
    angle, period = rng.uniform(0, math.pi), rng.uniform(10, 45)
    ys, xs = np.mgrid[0:size, 0:size].astype(np.float64)
    along = xs * math.cos(angle) + ys * math.sin(angle)
    return along, -xs * math.sin(angle) + ys * math.cos(angle), float(period)


TEXTURES: Final[Mapping[str, Texture]] = {
    "clouds": clouds,
    "waves": waves,
    "tiles": tiles,
    "cells": cells,
    "rings": rings,
    "bricks": bricks,
}
