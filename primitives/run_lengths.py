"""COCO's compressed run-length encoding (RLE) of masks: one reader, one writer, area, box. Called by most rooms.

`primitives/rle.py` writes masks by it; all other callers read masks.

A mask is read column by column. Runs of background and foreground alternate, background first (of length 0 if the first
pixel is set). From the fourth run on, a run is stored as its difference to the run two before. A number is written in
groups of five bits, least significant first, each with a bit that says whether more follow, plus 48 as ASCII. The top
bit of the last group is the sign. Source: pycocotools 2.0, maskApi.c, rleToString and rleFrString.

pycocotools does not check its input: if the runs do not fill the image, it reads or writes past its buffers. Files may
be damaged, so every run is checked here. Only `decode_mask` builds a mask: of a 100-megapixel image it takes 100 MB.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Box = tuple[int, int, int, int]

_CHUNK_BITS = 5
_CONTINUES = 0x20
_SIGN = 0x10
_FIRST_CHARACTER = 48
# A number has at most seven chunks: 35 bits are enough for any image's pixels, and sums cannot overflow int64.
_MAX_CHUNKS = 7


@dataclass(frozen=True, slots=True)
class RleSummary:
    """Area and box of a mask.

    Attributes:
        area_px: Number of pixels in the mask.
        box_xyxy_px: Tight box (x0, y0, x1, y1), x1 and y1 exclusive; all 0 for an empty mask.
    """

    area_px: int
    box_xyxy_px: tuple[int, int, int, int]


def summarise_rle(height: int, width: int, counts: str) -> RleSummary:
    """Return area and box of a mask.

    Args:
        height: Image height in pixels.
        width: Image width in pixels.
        counts: COCO's compressed string: runs in column-major order, the first one outside the mask.

    Raises:
        ValueError: `counts` is not such a string, or its runs do not add up to height x width.
    """
    runs, ends = decode_image_runs(height, width, counts)
    lengths, stops = runs[1::2], ends[1::2]
    stops, lengths = stops[lengths > 0], lengths[lengths > 0]
    if not lengths.size:
        return RleSummary(0, (0, 0, 0, 0))
    first, last = stops - lengths, stops - 1
    x0, x1 = int(first[0]) // height, int(last[-1]) // height + 1
    # A run that continues in the next column touches the bottom and the top of the image.
    if (first // height != last // height).any():
        y0, y1 = 0, height
    else:
        y0, y1 = int((first % height).min()), int((last % height).max()) + 1
    return RleSummary(int(lengths.sum()), (x0, y0, x1, y1))


def mask_faults(
    size: tuple[int, int], claimed: Sequence[int], counts: str, *, area_px: int, box_xyxy_px: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with a mask's record in an image of `size` (H, W): the name of the kind, and what was found.

    Args:
        size: Of the upright image.
        claimed: The mask's own size.
        counts: As of `summarise_rle`.
        area_px: What the record says.
        box_xyxy_px: What the record says.
    """
    if list(claimed) != list(size):
        yield "mask_rle", f"has size {list(claimed)}, its image {list(size)}"
        return
    try:
        found = summarise_rle(*size, counts)
    except ValueError as error:
        yield "mask_rle", f"does not decode: {error}"
        return
    if found.area_px != area_px or found.area_px < 1:
        yield "mask_area", f"says {area_px} pixels and decodes to {found.area_px}"
    if list(found.box_xyxy_px) != list(box_xyxy_px):
        yield "mask_box", f"says box {list(box_xyxy_px)} and decodes to {list(found.box_xyxy_px)}"


def decode_image_runs(height: int, width: int, counts: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the run lengths (R,) of a mask, and where each run ends (R,), int64; errors as `summarise_rle`."""
    # A longer text is invalid, because each run but the first has a pixel. It would unpack to 50 times its size.
    if len(counts) > _MAX_CHUNKS * (height * width + 1):
        raise ValueError(f"the runs take {len(counts)} characters, more than an image of {height} x {width} can need")
    runs = decode_runs(counts)
    if runs.size and runs.min() < 0:
        raise ValueError(f"a run has the negative length {runs.min()}")
    # Longer runs are refused before the sum, which they could lead around to the right one.
    if runs.size and runs.max() > height * width:
        raise ValueError(f"the runs cover more than the image, which has {height} x {width} pixels")
    ends = np.cumsum(runs)
    total = int(ends[-1]) if ends.size else 0
    if total != height * width:
        raise ValueError(f"the runs cover {total} pixels, the image has {height} x {width}")
    return runs, ends


def decode_mask(counts: str, height: int, width: int) -> npt.NDArray[np.bool_]:
    """Return a mask (H, W) bool, C order; errors as `summarise_rle`."""
    runs, ends = decode_image_runs(height, width, counts)
    pixels = np.zeros((height, width), dtype=np.bool_)
    if runs.size > 1:
        # Runs go down the columns. Only the columns that the mask touches are filled, because most masks are small.
        left, right = int(ends[0]) // height, -(-int(ends[1::2][-1]) // height)
        runs[0] -= left * height
        columns = np.repeat(np.arange(runs.size) % 2 == 1, runs)[: (right - left) * height]
        pixels[:, left:right] = columns.reshape(right - left, height).T
    return pixels


def decode_runs(counts: str) -> npt.NDArray[np.int64]:
    """Return the run lengths (R,) int64 of a compressed string; whether they fill an image is not checked."""
    values, _ = _numbers(counts)
    # From the third run on, a run is stored as its difference to the run two before. Run 0 is not part of these sums.
    for parity in (1, 2):
        values[parity::2] = np.cumsum(values[parity::2])
    return values


def _numbers(text: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return the numbers (R,) of a text as they are written, and where the characters of each end (R,), int64."""
    try:
        codes = np.frombuffer(text.encode("ascii"), np.uint8).astype(np.int64) - _FIRST_CHARACTER
    except UnicodeEncodeError:
        raise ValueError("the runs hold a character outside ASCII") from None
    if codes.size and (codes.min() < 0 or codes.max() > 63):
        raise ValueError("the runs hold a character outside `0` ... `o`")
    is_last = (codes & _CONTINUES) == 0
    if codes.size and not is_last[-1]:
        raise ValueError("the runs end in the middle of a number")
    ends = np.flatnonzero(is_last)
    starts = np.concatenate(([0], ends[:-1] + 1)) if ends.size else ends
    sizes = ends - starts + 1
    if sizes.size and sizes.max() > _MAX_CHUNKS:
        raise ValueError(f"a run is written in {sizes.max()} characters, at most {_MAX_CHUNKS} make sense")
    shifts = _CHUNK_BITS * (np.arange(codes.size) - np.repeat(starts, sizes))
    payload = (codes & (_CONTINUES - 1)) << shifts
    values = np.add.reduceat(payload, starts) if starts.size else payload
    is_negative = (codes[ends] & _SIGN) != 0
    return values - np.where(is_negative, np.int64(1) << (_CHUNK_BITS * sizes), 0), ends + 1


# This many characters are measured at once: a run takes about 200 bytes of memory meanwhile.
_MEASURED_TOGETHER = 2**18


def are_measured(
    counts: Sequence[str],
    sizes: npt.NDArray[np.int64],
    areas_px: npt.NDArray[np.int64],
    boxes_xyxy_px: npt.NDArray[np.int64],
) -> bool:
    """Return whether each of N masks decodes to its area and box; all are decoded at once, as `summarise_rle` does one.

    Args:
        counts: (N,), as of `summarise_rle`.
        sizes: (N, 2), height and width, at least 1.
        areas_px: (N,).
        boxes_xyxy_px: (N, 4).
    """
    lengths = np.fromiter(map(len, counts), np.int64, len(counts))
    if not lengths.all():
        return False
    ends, first = np.cumsum(lengths), 0
    while first < len(counts):
        most = _MEASURED_TOGETHER + (ends[first - 1] if first else 0)
        last = max(first + 1, int(np.searchsorted(ends, most, "right")))
        some = slice(first, last)
        if not _are_measured(counts[some], lengths[some], sizes[some], areas_px[some], boxes_xyxy_px[some]):
            return False
        first = last
    return True


def _are_measured(
    counts: Sequence[str],
    lengths: npt.NDArray[np.int64],
    sizes: npt.NDArray[np.int64],
    areas_px: npt.NDArray[np.int64],
    boxes_xyxy_px: npt.NDArray[np.int64],
) -> bool:
    try:
        runs, stops = _numbers("".join(counts))
    except ValueError:
        return False
    # Numbers of two masks may not share characters.
    lasts = np.searchsorted(stops, np.cumsum(lengths))
    if not np.array_equal(stops[np.minimum(lasts, len(stops) - 1)], np.cumsum(lengths)):
        return False
    runs_a_mask = np.diff(lasts + 1, prepend=0)
    starts = lasts + 1 - runs_a_mask
    position = np.arange(len(runs)) - np.repeat(starts, runs_a_mask)
    heights, pixels = np.repeat(sizes[:, 0], runs_a_mask), np.repeat(sizes.prod(axis=1), runs_a_mask)
    for is_summed in (position % 2 == 1, (position % 2 == 0) & (position > 0)):
        sums = np.cumsum(np.where(is_summed, runs, 0))
        before = np.repeat(sums[starts] - np.where(is_summed, runs, 0)[starts], runs_a_mask)
        runs = np.where(is_summed, sums - before, runs)
    if ((runs < 0) | (runs > pixels)).any():
        return False
    stops = np.cumsum(runs)
    stops -= np.repeat(stops[starts] - runs[starts], runs_a_mask)
    if not np.array_equal(stops[lasts], sizes.prod(axis=1)):
        return False
    is_set = (position % 2 == 1) & (runs > 0)
    firsts, ends = stops - runs, stops - 1
    # A run that continues in the next column touches the bottom and the top of the image.
    turns = firsts // heights != ends // heights
    edges = [
        np.minimum.reduceat(np.where(is_set, low, np.iinfo(np.int64).max), starts)
        for low in (firsts // heights, np.where(turns, 0, firsts % heights))
    ]
    edges += [
        np.maximum.reduceat(np.where(is_set, high, -1), starts) + 1
        for high in (ends // heights, np.where(turns, heights - 1, ends % heights))
    ]
    areas = np.add.reduceat(np.where(is_set, runs, 0), starts)
    boxes = np.where(areas[:, None] > 0, np.stack(edges, axis=1), 0)
    return np.array_equal(areas, areas_px) and np.array_equal(boxes, boxes_xyxy_px)


def encode_runs(runs: npt.NDArray[np.int64], runs_a_mask: npt.NDArray[np.int64]) -> list[str]:
    """Return the compressed string of each of N masks, in one pass over the characters of all.

    Args:
        runs: (R,) the run lengths of all masks, one mask after another.
        runs_a_mask: (N,) how many belong to each mask, at least one.
    """
    ends = np.cumsum(runs_a_mask)
    position = np.arange(len(runs)) - np.repeat(ends - runs_a_mask, runs_a_mask)
    is_relative = np.flatnonzero(position > 2)
    rest = runs.copy()
    rest[is_relative] -= runs[is_relative - 2]
    digits = np.zeros((len(rest), _MAX_CHUNKS), dtype=np.uint8)
    is_used = np.zeros((len(rest), _MAX_CHUNKS), dtype=np.bool_)
    is_open = np.ones(len(rest), dtype=np.bool_)
    for number in range(_MAX_CHUNKS):
        digit = rest & (2**_CHUNK_BITS - 1)
        rest = rest >> _CHUNK_BITS
        is_used[:, number] = is_open
        # A number ends when all remaining bits equal the high bit of its last digit, which is the sign.
        is_open = is_open & np.where(digit & _SIGN, rest != -1, rest != 0)
        digits[:, number] = digit + _CONTINUES * is_open + _FIRST_CHARACTER
        if not is_open.any():
            break
    text = digits[is_used].tobytes().decode("ascii")
    stops = np.cumsum(is_used.sum(axis=1))[ends - 1].tolist()
    return [text[start:end] for start, end in zip([0, *stops[:-1]], stops, strict=True)]
