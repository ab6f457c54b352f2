"""COCO compressed run-length encoding: masks to strings in one vectorised pass, and their areas, boxes and IoU.

A mask is read column by column. Runs of background and foreground alternate, background first (of length 0 if the first
pixel is set). From the fourth run on, a run is stored as its difference to the run two before. A number is written in
groups of five bits, least significant first, each with a continuation bit, plus 48 as ASCII.
Source: pycocotools 2.0, maskApi.c, rleEncode and rleToString; property-tested against it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pycocotools import mask as coco

from pseudoris.schemas.shard import Box
from pseudoris.workers.device import to_host

Int64Array = NDArray[np.int64]

_DIGIT_BITS = 5
_CONTINUES = 0x20
_SIGN = 0x10
_FIRST_CHARACTER = 48
# Runs are below 2^31 pixels, their differences below 2^32 in absolute value: 33 bits with the sign.
_MAX_DIGITS = 7
# pycocotools 2.0.11 keeps the number of masks in a uint8 and fails with numpy 2 above it.
_MAX_AREAS = 255


def encode(masks: torch.Tensor) -> list[str]:
    """Return the COCO compressed RLE of every mask, equal to what pycocotools gives.

    Args:
        masks: (N, H, W) bool on any device, H and W at least 1.

    Returns:
        N ASCII strings, the `counts` of an RLE whose `size` is [H, W].
    """
    num_masks, height, width = masks.shape
    if num_masks == 0:
        return []
    runs, runs_a_mask = _runs(masks.transpose(1, 2).reshape(num_masks, height * width))
    characters, characters_a_run = _to_characters(_differences(runs, runs_a_mask))
    run_ends = np.cumsum(characters_a_run)
    ends = run_ends[np.cumsum(runs_a_mask) - 1]
    text = characters.tobytes().decode("ascii")
    return [text[start:end] for start, end in zip([0, *ends[:-1].tolist()], ends.tolist(), strict=True)]


def decode(counts: Sequence[str], size: tuple[int, int]) -> NDArray[np.bool_]:
    """Return the masks (N, H, W) bool, C order, of RLE strings that share one `size` (H, W)."""
    if not counts:
        return np.zeros((0, *size), dtype=np.bool_)
    stacked = coco.decode(_coco(counts, size))
    return np.ascontiguousarray(stacked.transpose(2, 0, 1)).astype(np.bool_)


def runs(counts: str) -> Int64Array:
    """Return the lengths of a mask's runs, column by column, background first, from an RLE string of ours.

    Raises:
        ValueError: The string is empty, or has a number that is too long. Check foreign strings with `is_valid`.
    """
    digits = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    found = _to_runs(digits) if len(digits) else None
    if found is None:
        raise ValueError(f"an RLE of {len(counts)} characters cannot be decoded: {counts[:40]!r}")
    return found


def is_valid(counts: str, size: tuple[int, int]) -> bool:
    """Return whether a foreign string is an RLE of exactly H · W pixels. Else pycocotools writes past its memory."""
    try:
        digits = np.frombuffer(counts.encode("ascii"), dtype=np.uint8).astype(np.int64) - _FIRST_CHARACTER
    except UnicodeEncodeError:
        return False
    if not len(digits) or digits.min() < 0 or digits.max() >= 2 * _CONTINUES or digits[-1] & _CONTINUES:
        return False
    runs = _to_runs(digits)
    return runs is not None and bool((runs >= 0).all()) and int(runs.sum()) == size[0] * size[1]


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


def ious(counts: Sequence[str], others: Sequence[str], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the IoU of every mask with every other one, (N, M) float64 in [0, 1]; empty masks give 0."""
    return _overlaps(counts, others, size, is_share=False)


def shares_inside(counts: Sequence[str], others: Sequence[str], size: tuple[int, int]) -> NDArray[np.float64]:
    """Return the share of mask n that is inside other m, (N, M) float64 in [0, 1]: |n ∩ m| / |n|."""
    return _overlaps(counts, others, size, is_share=True)


def _overlaps(
    counts: Sequence[str], others: Sequence[str], size: tuple[int, int], *, is_share: bool
) -> NDArray[np.float64]:
    if not counts or not others:
        return np.zeros((len(counts), len(others)))
    # For a "crowd" COCO divides the intersection only by the first mask's area.
    table = coco.iou(_coco(counts, size), _coco(others, size), [is_share] * len(others))
    return np.asarray(table, dtype=np.float64)


def _coco(counts: Sequence[str], size: tuple[int, int]) -> list[dict[str, Any]]:
    return [{"size": list(size), "counts": text.encode("ascii")} for text in counts]


def _runs(flat: torch.Tensor) -> tuple[Int64Array, Int64Array]:
    """Return the runs of all rows (N, P) one after another, and how many belong to each row."""
    num_masks, num_pixels = flat.shape
    changes = torch.empty_like(flat)
    # Runs start with background, so a mask that starts with foreground has a first run of length 0.
    changes[:, 0] = flat[:, 0]
    torch.logical_xor(flat[:, 1:], flat[:, :-1], out=changes[:, 1:])
    rows, starts = np.divmod(_set_positions(changes.flatten()), num_pixels)
    runs_a_mask = np.bincount(rows, minlength=num_masks) + 1
    ends = np.full(len(rows) + num_masks, num_pixels, dtype=np.int64)
    # The change number c of row r ends run c + r: each row before adds one run, its last.
    ends[np.arange(len(rows)) + rows] = starts
    runs = np.diff(ends, prepend=0)
    first = np.cumsum(runs_a_mask)[:-1]
    runs[first] = ends[first]
    return runs, runs_a_mask


def _set_positions(flags: torch.Tensor) -> Int64Array:
    """Return the positions of the flags (P,) bool that are set."""
    # On a CPU numpy is five times as fast as torch. From a GPU only the positions are copied.
    if flags.device.type == "cpu":
        return np.flatnonzero(flags.numpy())
    (positions,) = to_host(flags.nonzero()[:, 0])
    return positions


def _to_runs(digits: Int64Array) -> Int64Array | None:
    """Return the runs that the digits, with their continuation bits, encode; None if a number is too long."""
    is_last = (digits & _CONTINUES) == 0
    starts = np.flatnonzero(np.concatenate([[True], is_last[:-1]]))
    lengths = np.diff(np.append(starts, len(digits)))
    if lengths.max() > _MAX_DIGITS:
        return None
    positions = np.arange(len(digits)) - np.repeat(starts, lengths)
    values = np.add.reduceat((digits & (_CONTINUES - 1)) << (_DIGIT_BITS * positions), starts)
    is_negative = (digits[is_last] & _SIGN) != 0
    runs: Int64Array = values - (is_negative.astype(np.int64) << (_DIGIT_BITS * lengths))
    for first in (1, 2):
        runs[first::2] = np.cumsum(runs[first::2])
    return runs


def _differences(runs: Int64Array, runs_a_mask: Int64Array) -> Int64Array:
    starts = np.cumsum(runs_a_mask) - runs_a_mask
    position = np.arange(len(runs)) - np.repeat(starts, runs_a_mask)
    is_relative = np.flatnonzero(position > 2)
    differences = runs.copy()
    differences[is_relative] -= runs[is_relative - 2]
    return differences


def _to_characters(values: Int64Array) -> tuple[NDArray[np.uint8], Int64Array]:
    """Return the characters of all values one after another, and how many each value takes."""
    digits = np.zeros((len(values), _MAX_DIGITS), dtype=np.uint8)
    is_used = np.zeros((len(values), _MAX_DIGITS), dtype=np.bool_)
    is_open = np.ones(len(values), dtype=np.bool_)
    rest = values
    for number in range(_MAX_DIGITS):
        digit = rest & (2**_DIGIT_BITS - 1)
        rest = rest >> _DIGIT_BITS
        is_used[:, number] = is_open
        # The last digit's high bit is the sign, so the remaining bits must all equal that sign.
        is_open = is_open & np.where(digit & _SIGN, rest != -1, rest != 0)
        digits[:, number] = digit + _CONTINUES * is_open + _FIRST_CHARACTER
        if not is_open.any():
            break
    return digits[is_used], is_used.sum(axis=1)
