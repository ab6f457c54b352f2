"""Writes SVG for every chart: gallery, reports, docs. Called by `audit`, `training/evaluation` and `viewer`.

Elements, files and round steps of an axis are here; each chart computes its own coordinates. All texts are escaped.
"""

from __future__ import annotations

import math
from typing import Final

from markupsafe import Markup, escape

from pseudoris.primitives.untrusted import visible

_DIGITS: Final = (1.0, 2.0, 5.0, 10.0)


def element(name: str, /, *inside: Markup | str, **attributes: object) -> Markup:
    """Return an element. In attribute names `_` becomes `-`, a final `_` is dropped; an attribute of None is left out.

    Texts and values are escaped, control characters in them spelled; `Markup` inside stays as it is.
    """
    named = Markup("").join(
        Markup(' {}="{}"').format(key.rstrip("_").replace("_", "-"), visible(value))
        for key, value in attributes.items()
        if value is not None
    )
    content = Markup("").join(escape(visible(each)) for each in inside)
    return Markup("<{0}{1}>{2}</{0}>" if inside else "<{0}{1}/>").format(name, named, content)


def svg_file(width: float, height: float, *inside: Markup | str, **attributes: object) -> Markup:
    """Return an SVG file of `width` x `height` px that stands on its own, an element a line."""
    size = {"viewBox": f"0 0 {width} {height}", "width": width, "height": height}
    lines = Markup("\n").join(["", *inside, ""])
    return element("svg", lines, xmlns="http://www.w3.org/2000/svg", **size, **attributes) + "\n"


def round_step(least: float, digits: tuple[float, ...] = _DIGITS) -> float:
    """Return the smallest of `digits` by a power of ten that is not below `least` > 0; `digits` end with 10."""
    power = 10.0 ** math.floor(math.log10(least))
    return next(power * digit for digit in digits if power * digit >= least * (1 - 1e-9))
