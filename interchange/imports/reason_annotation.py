"""Reads ReasonSeg: a JSON file beside each image, with texts and their mask. Called by `annotation_files.py`.

    {"text": ["the thing that ..."], "is_sentence": true, "shapes": [{"label": "target", "points": [[x, y], ...]}]}

A file has one mask: the shapes of every label except `flag` and labels with `ignore` in them. Larger shapes are painted
first, so that a small one counts where it lies on a large one. Without a target the texts refer to nothing in the
image. The mask must have the pixels of LISA's loader, which paints with OpenCV's `fillPoly` and `polylines`: `filled`
gives the same pixels for polygons in the image. A polygon that leaves the image differs by about one pixel in a
hundred, because OpenCV clips its edges first.

Source: dvlab-research/LISA, `utils/data_processing.py` (`get_mask_from_json`), 3cb2d43.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from pseudoris.interchange.imports.human_annotation import (
    Annotation,
    HumanImage,
    HumanMask,
    HumanPhrase,
    clean_texts,
    read_json,
    relative_path,
    shown,
)
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.rle import canonical_counts
from pseudoris.schemas.ids import sha256_hex

# A pixel has this many steps in OpenCV's fixed-point coordinates.
_STEPS: Final = 2**16
# A coordinate of this size or more is refused. No image is as wide, and products of smaller ones stay exact.
_MAX_COORDINATE_PX: Final = 2**20
_IGNORED, _FLAG = "ignore", "flag"


def painted(polygons: Sequence[NDArray[np.int64]], is_target: Sequence[bool], size: tuple[int, int]) -> str:
    """Return the mask of the targets in an image of size (H, W), COCO compressed RLE; other shapes cover targets.

    `polygons` are of pixel centres (N, 2) int64, x and y.
    """
    shapes = [filled(each, size) for each in polygons]
    areas = np.array([each.sum() for each in shapes])
    mask = np.zeros(size, np.bool_)
    for at in np.argsort(-areas, kind="stable"):
        mask[shapes[at]] = is_target[at]
    return canonical_counts(mask)


def filled(points: NDArray[np.int64], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return a polygon (N, 2) of pixel centres, filled with its outline, (H, W) bool."""
    height, width = size
    outline = np.zeros(size, np.bool_)
    # Edges of the polygon are counted at each pixel. The last column counts edges beyond the right border.
    sides = np.zeros((height, width + 1), np.int64)
    for (x0, y0), (x1, y1) in pairwise([*points.tolist(), points[0].tolist()]):
        _draw(outline, (x0, y0), (x1, y1))
        if y0 == y1:
            continue
        (x, first), (other, last) = ((x0, y0), (x1, y1)) if y0 < y1 else ((x1, y1), (x0, y0))
        rows = np.arange(max(first, 0), min(last, height))
        # The quotient is rounded towards zero, as in C.
        step = int(math.copysign(abs(other - x) * _STEPS // (last - first), other - x))
        # `columns` are the first pixels whose centre is not left of the edge. A centre on the edge is in the outline.
        columns = -(-(x * _STEPS + step * (rows - first)) // _STEPS)
        sides[rows, columns.clip(0, width)] += 1
    inside: NDArray[np.bool_] = (sides.cumsum(1)[:, :width] % 2 == 1) | outline
    return inside


def _draw(into: NDArray[np.bool_], start: tuple[int, int], end: tuple[int, int]) -> None:
    """Draw a line of pixels, from the left, as OpenCV's `LineIterator` steps along it."""
    (x0, y0), (x1, y1) = (start, end) if start[0] <= end[0] else (end, start)
    across, down = x1 - x0, abs(y1 - y0)
    longer, shorter = max(across, down), min(across, down)
    # Only steps within the image are drawn, because a file may name points that are far away.
    start_at, side = (
        (y0 if y1 >= y0 else into.shape[0] - 1 - y0, into.shape[0]) if down > across else (x0, into.shape[1])
    )
    major = np.arange(max(0, -start_at), min(longer, side - 1 - start_at) + 1)
    minor = (2 * shorter * major + max(longer - 1, 0)) // max(2 * longer, 1)
    right, below = (minor, major) if down > across else (major, minor)
    columns, rows = x0 + right, y0 + (below if y1 >= y0 else -below)
    is_inside = (rows >= 0) & (rows < into.shape[0]) & (columns >= 0) & (columns < into.shape[1])
    into[rows[is_inside], columns[is_inside]] = True


def read_reason(files: Mapping[str, bytes]) -> Annotation:
    """Return the annotation of JSON files by path below the folder of images; `train/a.json` is of `train/a.jpg`.

    A text's split is the first part of its path. A file that is not ReasonSeg's is a ConfigError, which names it.
    """
    left_out = Counter[str]()
    images = [_image(path, data, left_out) for path, data in files.items()]
    # All files share one digest, because a header should not list a thousand files.
    listed = "\n".join(f"{path} {sha256_hex(data)}" for path, data in files.items())
    return Annotation(tuple(images), {"*.json": sha256_hex(listed.encode())}, +left_out)


def _image(path: str, data: bytes, left_out: Counter[str]) -> HumanImage:
    try:
        data.decode()
    except UnicodeDecodeError:
        # Some of the files that ReasonSeg's authors published have Windows's code page 1252.
        data = data.decode("cp1252", errors="replace").encode()
    document = read_json(data, path)
    shapes = document.get("shapes") if isinstance(document, dict) else None
    texts = document.get("text") if isinstance(document, dict) else None
    if not isinstance(shapes, list) or not isinstance(texts, list):
        raise ConfigError(f"{path} is not ReasonSeg's. It needs the lists `text` and `shapes`.")
    polygons, is_target = [], []
    for place, shape in enumerate(shapes):
        where = f"{path}: shapes[{place}]"
        label = shape.get("label") if isinstance(shape, dict) else None
        if not isinstance(label, str):
            raise ConfigError(f"{where} has the label {shown(label)}. A text is needed.")
        if label.lower() == _FLAG:
            left_out["shapes of the label flag"] += 1
            continue
        points = shape.get("points")
        if not isinstance(points, list) or not points or not all(map(_is_point, points)):
            raise ConfigError(f"{where} has points of another form than [[x, y], …] in pixels. Fix the file.")
        # Fractions are dropped, as in ReasonSeg's own loader.
        polygons.append(np.array([[int(x), int(y)] for x, y in points], np.int64))
        is_target.append(_IGNORED not in label.lower())
    left_out["regions to ignore, which become background"] += len(is_target) - sum(is_target)
    masks = (HumanMask(0, 0, partial(painted, polygons, is_target)),) if any(is_target) else ()
    split = path.partition("/")[0]
    said = clean_texts(texts, left_out, where=path)
    image = relative_path(f"{path.removesuffix('.json')}.jpg", where=path)
    return HumanImage(image, None, masks, tuple(HumanPhrase((0,) if masks else (), text, split) for text in said))


def _is_point(point: Any) -> bool:
    return (
        isinstance(point, Sequence)
        and len(point) == 2
        and all(isinstance(each, int | float) and abs(each) < _MAX_COORDINATE_PX for each in point)
    )
