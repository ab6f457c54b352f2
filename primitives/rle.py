"""Masks as COCO run-length codes: makes them from tensors and from any of COCO's forms, decodes and measures them.

Called by `workers`, `interchange`, `training`, `cli` and `evidence`. Codes must equal those of pycocotools byte by
byte: they stand in the tables. A foreign code must pass `is_valid` first, because pycocotools checks none. Imports no
torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from pseudoris.primitives.run_lengths import Box, decode_image_runs, encode_runs

if TYPE_CHECKING:
    # Only annotations need torch: readers of foreign masks run without it.
    import torch

Int64Array = NDArray[np.int64]

# `coco.area` gets at most this many masks: pycocotools 2.0.11 counts them in a uint8, and fails above 255 with numpy 2.
_MAX_AREAS = 255
MIN_MATCH_IOU: Final = 0.5


def encode(masks: torch.Tensor) -> list[str]:
    """Return the COCO compressed RLE (`counts`) of masks (N, H, W) bool on any device, H and W at least 1."""
    num_masks, height, width = masks.shape
    if num_masks == 0:
        return []
    flags = changes(masks).flatten()
    # On a CPU numpy finds the positions five times as fast as torch. From a GPU only the positions are copied.
    is_on_cpu = flags.device.type == "cpu"
    positions = np.flatnonzero(flags.numpy()) if is_on_cpu else flags.nonzero()[:, 0].cpu().numpy()
    return encode_changes(positions, num_masks, height * width)


def changes(masks: torch.Tensor) -> torch.Tensor:
    """Return which pixels of masks (N, H, W) bool, column by column, differ from the one before, (N, H·W) bool.

    Runs start with background, so a mask that starts with foreground has a first run of length 0.
    """
    flat = masks.transpose(1, 2).reshape(len(masks), -1)
    flags = flat.clone()
    flags[:, 1:] ^= flat[:, :-1]
    return flags


def encode_changes(positions: NDArray[np.int64], num_masks: int, num_pixels: int) -> list[str]:
    """Return the codes of masks from the positions where `changes`, flattened, is true."""
    rows, starts = np.divmod(positions, num_pixels)
    runs_a_mask = np.bincount(rows, minlength=num_masks) + 1
    ends = np.full(len(rows) + num_masks, num_pixels, dtype=np.int64)
    # Change c of row r ends run c + r, because each earlier row has one run more than changes.
    ends[np.arange(len(rows)) + rows] = starts
    runs = np.diff(ends, prepend=0)
    first = np.cumsum(runs_a_mask)[:-1]
    runs[first] = ends[first]
    return encode_runs(runs, runs_a_mask)


def decode(counts: Sequence[str], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the masks (N, H, W) bool, C order, of RLE strings that share one `size` (H, W)."""
    if not counts:
        return np.zeros((0, *size), dtype=np.bool_)
    stacked = coco.decode(_coco(counts, size))
    return np.ascontiguousarray(stacked.transpose(2, 0, 1)).astype(np.bool_)


def canonical_counts(pixels: NDArray[np.bool_]) -> str:
    """Return the compressed encoding that pycocotools gives for a mask (height, width); an import may hold another."""
    return str(coco.encode(np.asfortranarray(pixels, np.uint8))["counts"], "ascii")


def is_valid(counts: str, size: tuple[int, int]) -> bool:
    """Return whether a foreign string is an RLE of exactly H · W pixels. Else pycocotools writes past its memory."""
    try:
        decode_image_runs(*size, counts)
    except ValueError:
        return False
    return True


def areas(counts: Sequence[str], size: tuple[int, int]) -> Int64Array:
    """Return the number of pixels of every mask, (N,) int64."""
    chunks = [coco.area(_coco(counts[first : first + _MAX_AREAS], size)) for first in range(0, len(counts), _MAX_AREAS)]
    return np.concatenate(chunks).astype(np.int64) if chunks else np.zeros(0, dtype=np.int64)


def boxes(counts: Sequence[str], size: tuple[int, int]) -> list[Box]:
    """Return the tight box (x0, y0, x1, y1) in pixels of every mask, x1 and y1 exclusive; (0, 0, 0, 0) if empty."""
    if not counts:
        return []
    rows = np.asarray(coco.toBbox(_coco(counts, size)), dtype=np.int64)
    return [(x, y, x + width, y + height) for x, y, width, height in rows.tolist()]


def shares_inside(counts: Sequence[str], others: Sequence[str], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of mask n that is inside other m, (N, M) float64 in [0, 1]: |n ∩ m| / |n|."""
    return ious(counts, others, size, is_share=True)


def ious(
    counts: Sequence[str], others: Sequence[str], size: tuple[int, int], *, is_share: bool = False
) -> NDArray[np.float64]:
    """Return the IoU of every mask with every other one, (N, M) float64 in [0, 1]; empty masks give 0.

    With `is_share` it is the share of `shares_inside`.
    """
    if not counts or not others:
        return np.zeros((len(counts), len(others)))
    # For a "crowd" COCO divides the intersection by the area of the first mask only, as `is_share` asks.
    table = coco.iou(_coco(counts, size), _coco(others, size), [is_share] * len(others))
    return np.asarray(table, dtype=np.float64)


def match_masks(ious: np.ndarray, *, min_iou: float = MIN_MATCH_IOU) -> dict[int, int]:
    """Return the object of each mask in the assignment with the largest total IoU, without pairs below `min_iou`."""
    if ious.size == 0:
        return {}
    # scipy.optimize is imported here: it takes 25 MB in each actor, and runs without instance priors do not need it.
    from scipy.optimize import linear_sum_assignment

    # Pairs below the bound count as 0, so that they cannot displace a good pair.
    worth = np.where(ious >= min_iou, ious, 0.0)
    rows, columns = linear_sum_assignment(-worth)
    return {int(m): int(n) for m, n in zip(rows, columns, strict=True) if ious[m, n] >= min_iou}


def _coco(counts: Sequence[str], size: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"size": list(size), "counts": text.encode("ascii")} for text in counts]


_BARE_POLYGON: Final = "a polygon lacks its outer brackets: write [[x, y, …]], a list of polygons"
_UNKNOWN_FORM: Final = "the segmentation is neither RLE nor polygons of at least three points"
# A coordinate may be at most this. No image is as wide, and up to this value clipping is exact to 1e-6 pixels.
_MAX_COORDINATE_PX: Final = 1e9


class MaskSizeError(ValueError):
    """A segmentation has another size than its image."""


def unwrapped(segmentation: Any) -> Any:
    """Return the RLE inside a list of length one (a form that REFER's loaders need), and anything else unchanged."""
    is_wrapped = isinstance(segmentation, list) and len(segmentation) == 1 and isinstance(segmentation[0], dict)
    return segmentation[0] if is_wrapped else segmentation


def compressed_counts(segmentation: Any, size: tuple[int, int]) -> str | None:
    """Return the `counts` of a foreign segmentation as COCO compressed RLE; None if there is none.

    The forms are polygons in pixels ([[x, y, ...], ...], clipped to the image, their union counts; even-odd where one
    crosses itself), an uncompressed RLE (`counts` a list), and a compressed one (`counts` a string or bytes). An RLE
    may be alone in a list. The runs of a compressed one are not checked: they may not fill the image (H, W).

    Raises:
        MaskSizeError: An RLE has another size. It is raised before anything is drawn, because pycocotools takes memory
            for the stated size, and ends the process if there is not enough.
        ValueError: It is none of these forms.
    """
    segmentation = unwrapped(segmentation)
    if not segmentation:
        return None
    if isinstance(segmentation, dict):
        return _of_rle(segmentation, size)
    if isinstance(segmentation, list) and _is_polygon(segmentation):
        raise ValueError(_BARE_POLYGON)
    if not isinstance(segmentation, list) or not all(_is_polygon(piece) for piece in segmentation):
        raise ValueError(_UNKNOWN_FORM)
    height, width = size
    pieces = coco.frPyObjects([_clipped(piece, size) for piece in segmentation], height, width)
    return str(coco.merge(pieces)["counts"].decode("ascii"))


def _of_rle(segmentation: dict[str, Any], size: tuple[int, int]) -> str:
    claimed: Any = segmentation.get("size")
    if not isinstance(claimed, list | tuple) or list(claimed) != list(size):
        # Only a short size is shown, because an untrusted one may be huge.
        is_short = isinstance(claimed, list | tuple) and len(claimed) <= 4
        is_plain = is_short and all(isinstance(each, int) for each in claimed)
        shown = list(claimed) if is_plain else f"a {type(claimed).__name__}"
        raise MaskSizeError(f"the segmentation is of size {shown}, the image has {list(size)}")
    counts = segmentation.get("counts")
    if isinstance(counts, bytes):
        return counts.decode("ascii", "replace")
    if isinstance(counts, str):
        return counts
    if not isinstance(counts, list) or not all(isinstance(run, int) and 0 <= run < 2**31 for run in counts):
        raise ValueError(_UNKNOWN_FORM)
    if sum(counts) != size[0] * size[1]:
        raise ValueError(f"the runs cover {sum(counts)} pixels, the image has {size[0]} x {size[1]}")
    return str(coco.frPyObjects({"size": list(size), "counts": counts}, *size)["counts"].decode("ascii"))


def _is_polygon(piece: Any) -> bool:
    # A polygon needs six numbers, because COCO would read four as a box.
    is_list = isinstance(piece, list | tuple) and len(piece) >= 6 and len(piece) % 2 == 0
    return is_list and all(map(is_coordinate, piece))


def is_coordinate(value: Any) -> bool:
    """Return whether a value is a number of pixels: Python reads NaN, Infinity and 400 digits from JSON."""
    return isinstance(value, int | float) and abs(value) <= _MAX_COORDINATE_PX


def _clipped(polygon: list[float], size: tuple[int, int]) -> list[float]:
    """Return the part of a polygon that is within one image's size of the image, by Sutherland and Hodgman."""
    # pycocotools clips too, but needs memory for points far outside. Edges that clipping adds are outside the image.
    points = list(zip(polygon[::2], polygon[1::2], strict=True))
    for axis, side in ((0, size[1]), (1, size[0])):
        for sign, limit in ((-1, side), (1, 2 * side)):
            if all(sign * point[axis] <= limit for point in points):
                continue
            kept: list[tuple[float, float]] = []
            for begin, end in zip(points[-1:] + points[:-1], points, strict=True):
                first, last = sign * begin[axis], sign * end[axis]
                if (first <= limit) != (last <= limit):
                    part = (limit - first) / (last - first)
                    kept.append((begin[0] + part * (end[0] - begin[0]), begin[1] + part * (end[1] - begin[1])))
                if last <= limit:
                    kept.append(end)
            points = kept
    # COCO would read two points as a box, and fail without a point, so an empty polygon is written as six zeros.
    return [value for point in points for value in point] if len(points) >= 3 else [0.0] * 6
