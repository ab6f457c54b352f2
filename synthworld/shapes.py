"""Outlines of the categories and parts as polygons in unit coordinates.

Unit frame: centre (0, 0), x right, y down, an object of radius 1. A shape is a tuple of (filled, points) polygons
painted in order: a polygon that is not filled cuts a hole.
"""

from __future__ import annotations

import math
from collections.abc import Callable

Point = tuple[float, float]
Polygon = tuple[bool, tuple[Point, ...]]
Shape = tuple[Polygon, ...]


def _ellipse(cx: float, cy: float, rx: float, ry: float, *, filled: bool = True) -> Polygon:
    angles = [2 * math.pi * k / 48 for k in range(48)]
    return filled, tuple((cx + rx * math.cos(a), cy + ry * math.sin(a)) for a in angles)


def _polygon(*points: Point) -> Polygon:
    return True, points


def _star(outer: float, inner: float, tips: int) -> Polygon:
    """A star with its first tip up."""
    radii = [outer if k % 2 == 0 else inner for k in range(2 * tips)]
    angles = [math.pi * k / tips - math.pi / 2 for k in range(2 * tips)]
    return True, tuple((r * math.cos(a), r * math.sin(a)) for r, a in zip(radii, angles, strict=True))


def _heart() -> Polygon:
    """The classic parametric heart, scaled to radius 1."""
    ts = [2 * math.pi * k / 48 for k in range(48)]
    xs = [math.sin(t) ** 3 for t in ts]
    ys = [-(13 * math.cos(t) - 5 * math.cos(2 * t) - 2 * math.cos(3 * t) - math.cos(4 * t)) / 16 for t in ts]
    return True, tuple((0.98 * x, 0.98 * y - 0.05) for x, y in zip(xs, ys, strict=True))


def _sixths() -> list[float]:
    """The directions of a flower's petals, the first one up."""
    return [2 * math.pi * k / 6 - math.pi / 2 for k in range(6)]


def _drop() -> Polygon:
    """A round body that ends in a point at the top."""
    body = [
        (0.66 * math.cos(a), 0.34 + 0.62 * math.sin(a)) for a in (math.pi * (-0.12 + 1.24 * k / 30) for k in range(31))
    ]
    return True, ((0.0, -1.0), *body)


_BUILDERS: dict[str, Callable[[], Shape]] = {
    "circle": lambda: (_ellipse(0, 0, 0.92, 0.92),),
    "square": lambda: (_polygon((-0.8, -0.8), (0.8, -0.8), (0.8, 0.8), (-0.8, 0.8)),),
    "triangle": lambda: (_polygon((0, -0.95), (0.95, 0.75), (-0.95, 0.75)),),
    "star": lambda: (_star(1.05, 0.45, 5),),
    "heart": lambda: (_heart(),),
    "diamond": lambda: (_polygon((0, -1.05), (0.68, 0), (0, 1.05), (-0.68, 0)),),
    "cross": lambda: (
        _polygon((-0.32, -0.95), (0.32, -0.95), (0.32, 0.95), (-0.32, 0.95)),
        _polygon((-0.95, -0.32), (0.95, -0.32), (0.95, 0.32), (-0.95, 0.32)),
    ),
    "ring": lambda: (_ellipse(0, 0, 0.98, 0.98), _ellipse(0, 0, 0.45, 0.45, filled=False)),
    "arrow": lambda: (
        _polygon((0, -1.0), (0.85, 0.0), (-0.85, 0.0)),
        _polygon((-0.3, -0.1), (0.3, -0.1), (0.3, 1.0), (-0.3, 1.0)),
    ),
    "moon": lambda: (_ellipse(0, 0, 1.0, 1.0), _ellipse(0.55, -0.05, 0.78, 0.78, filled=False)),
    "flower": lambda: (
        *(_ellipse(0.58 * math.cos(a), 0.58 * math.sin(a), 0.42, 0.42) for a in _sixths()),
        _ellipse(0, 0, 0.5, 0.5),
    ),
    "drop": lambda: (_drop(),),
    "house": lambda: (
        _polygon((-0.72, -0.15), (0.72, -0.15), (0.72, 0.9), (-0.72, 0.9)),
        _polygon((0, -0.95), (1.02, -0.1), (-1.02, -0.1)),
        (False, ((-0.2, 0.35), (0.2, 0.35), (0.2, 0.95), (-0.2, 0.95))),
    ),
    "fish": lambda: (_ellipse(-0.22, 0, 0.76, 0.52), _polygon((0.3, 0), (1.0, -0.58), (1.0, 0.58))),
    "tree": lambda: (
        _polygon((0, -1.0), (0.62, -0.2), (-0.62, -0.2)),
        _polygon((0, -0.55), (0.8, 0.45), (-0.8, 0.45)),
        _polygon((-0.2, 0.4), (0.2, 0.4), (0.2, 1.0), (-0.2, 1.0)),
    ),
    "mushroom": lambda: (
        (
            True,
            tuple(
                (1.0 * math.cos(a), 0.1 + 0.95 * math.sin(a)) for a in (math.pi + math.pi * k / 24 for k in range(25))
            ),
        ),
        _polygon((-0.3, 0.05), (0.3, 0.05), (0.38, 0.95), (-0.38, 0.95)),
    ),
    "bolt": lambda: (
        _polygon((0.3, -1.05), (-0.68, 0.2), (-0.08, 0.2), (-0.3, 1.05), (0.68, -0.28), (0.1, -0.28), (0.6, -1.05)),
    ),
    "crown": lambda: (
        _polygon((-0.9, 0.7), (-0.98, -0.7), (-0.45, -0.02), (0, -0.9), (0.45, -0.02), (0.98, -0.7), (0.9, 0.7)),
    ),
    "key": lambda: (
        _ellipse(0, -0.5, 0.55, 0.52),
        _ellipse(0, -0.52, 0.2, 0.19, filled=False),
        _polygon((-0.17, -0.05), (0.17, -0.05), (0.17, 1.02), (-0.17, 1.02)),
        _polygon((0.1, 0.35), (0.6, 0.35), (0.6, 0.58), (0.1, 0.58)),
        _polygon((0.1, 0.76), (0.6, 0.76), (0.6, 1.0), (0.1, 1.0)),
    ),
    "boat": lambda: (
        _polygon((-1.0, 0.3), (1.0, 0.3), (0.62, 0.9), (-0.62, 0.9)),
        _polygon((-0.08, -1.0), (0.08, -1.0), (0.08, 0.35), (-0.08, 0.35)),
        _polygon((0.02, -0.95), (0.85, 0.12), (0.02, 0.12)),
    ),
}
SHAPES: dict[str, Shape] = {name: build() for name, build in _BUILDERS.items()}

# Parts are anchored on the unit object's rim, so that they stick out of every category at the same place.
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
