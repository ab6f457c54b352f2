"""Compares all crops of one image in a batch with Pillow's, one after another; both sides decode the masks.

    python -m evidence.benchmarks.crops [--masks 4 8 16] [--size 224] [--image 480x640] [--device cpu|cuda]
    [--threads 1] [--repeats 5] [--json FILE]

The image is fine texture, the hardest for a resampler. Timed only where both sides agree: the batched crops with the
definition to rounding, and with Pillow's whole colours within 1/255 on average. `filter` and `chain_sides` cut the
other side's crops by `one_by_one`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from PIL import Image
from torchvision.transforms import v2

from evidence.benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report, wait_for
from pseudoris.primitives import rle
from pseudoris.primitives.run_lengths import decode_runs
from pseudoris.schemas.shard import Box
from pseudoris.workers.crops.crops import FILL_RGB, CropFormat, grow_box, make_crops

SCALES: tuple[float | None, ...] = (None, 1.0, 1.1, 1.2)
MAX_DIFFERENCE = 1 / 255
MAX_ROUNDING = 1e-6


@dataclass(frozen=True, slots=True)
class Case:
    """One decoded image (H, W, 3) uint8 RGB, and its masks as the tables hold them."""

    pixels: NDArray[np.uint8]
    counts: list[str]
    boxes: list[Box]


def build_case(num_masks: int, *, height: int, width: int) -> Case:
    """Return a checkerboard of single pixels under noise, with ellipses of an eighth to a half of it as masks."""
    generator = np.random.default_rng(0)
    checks = (np.indices((height, width)).sum(axis=0) % 2 * 200).astype(np.uint8)
    pixels = checks[:, :, None] + generator.integers(0, 56, (height, width, 3), dtype=np.uint8)
    rows, columns = np.ogrid[:height, :width]
    masks = []
    for _ in range(num_masks):
        centre = generator.random(2) * (height, width)
        radii = np.maximum(generator.uniform(1 / 16, 1 / 4, 2) * (height, width), 2.0)
        masks.append(((rows - centre[0]) / radii[0]) ** 2 + ((columns - centre[1]) / radii[1]) ** 2 < 1)
    counts = rle.encode(torch.from_numpy(np.stack(masks)))
    return Case(pixels, counts, rle.boxes(counts, (height, width)))


def batched(case: Case, crop_format: CropFormat, device: torch.device) -> torch.Tensor:
    """Return (4, N, 3, S, S) as the stages cut them."""
    crops = make_crops(
        case.pixels,
        case.boxes,
        runs=[decode_runs(counts) for counts in case.counts],
        scales=SCALES,
        crop_format=crop_format,
        device=device,
    )
    wait_for(device)
    return crops


def one_by_one(
    case: Case,
    crop_format: CropFormat,
    resize: Callable[[NDArray[np.uint8], int], torch.Tensor],
    *,
    scales: Sequence[float | None] = SCALES,
) -> torch.Tensor:
    """Return (K, N, 3, S, S): each crop filled, padded, resized by `resize` and normalised on its own."""
    height, width = case.pixels.shape[:2]
    masks = rle.decode(case.counts, (height, width))
    mean, std = (torch.tensor(rgb).view(3, 1, 1) for rgb in (crop_format.mean, crop_format.std))
    crops = []
    for scale in scales:
        for box, mask in zip(case.boxes, masks, strict=True):
            x0, y0, x1, y1 = grow_box(box, scale=scale or 1.0, image_size=(height, width))
            region = case.pixels[y0:y1, x0:x1]
            if scale is None:
                region = np.where(mask[y0:y1, x0:x1, None], region, np.array(FILL_RGB, np.uint8))
            crops.append((resize(_padded(region), crop_format.size) - mean) / std)
    return torch.stack(crops).view(len(scales), len(case.boxes), *crops[0].shape)


def by_pillow(square: NDArray[np.uint8], size: int) -> torch.Tensor:
    """Return (3, size, size) float32 in [0, 1], resized in whole colours as most pipelines do."""
    resized = Image.fromarray(square).resize((size, size), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(resized)).permute(2, 0, 1).float().div_(255)


def in_float32(square: NDArray[np.uint8], size: int, *, has_antialiasing: bool = True) -> torch.Tensor:
    """Return (3, size, size) float32 in [0, 1]: the method page's definition, by torchvision."""
    steps = [v2.ToDtype(torch.float32, scale=True), v2.Resize((size, size), antialias=has_antialiasing)]
    resized: torch.Tensor = v2.Compose(steps)(torch.from_numpy(square).permute(2, 0, 1))
    return resized


def in_float64(square: NDArray[np.uint8], size: int) -> torch.Tensor:
    """Return the same in float64.

    In float32 torchvision rounds the filter's weights: fine texture is up to 2.4e-5 off its own in float64.
    """
    resized: torch.Tensor = v2.Resize((size, size), antialias=True)(
        torch.from_numpy(square).permute(2, 0, 1).double() / 255
    )
    return resized


def measure(case: Case, *, size: int, device: torch.device, repeats: int) -> Row:
    """Return the row of one image; raises ValueError where the two sides differ by more than they may."""
    crop_format = CropFormat(size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    ours = batched(case, crop_format, device).cpu()
    exact = _difference(ours, one_by_one(case, crop_format, in_float64), crop_format)
    rounded = _difference(ours, one_by_one(case, crop_format, by_pillow), crop_format)
    if exact.max() > MAX_ROUNDING or rounded.mean() > MAX_DIFFERENCE:
        raise ValueError(f"crops differ by {exact.max():g} at most, from Pillow's by {rounded.mean():g} on average")
    baseline_s = median_seconds(lambda: one_by_one(case, crop_format, by_pillow), repeats=repeats)
    ours_s = median_seconds(lambda: batched(case, crop_format, device), repeats=repeats)
    height, width = case.pixels.shape[:2]
    note = (
        f"{4 * len(case.boxes) / ours_s:.0f} crops/s; from the definition max {exact.max():.0e}; from Pillow "
        f"mean {rounded.mean() * 255:.2f}/255, max {rounded.max() * 255:.2f}/255"
    )
    label = f"crops, {device.type}, {height}x{width} to {size}, {len(case.boxes)} masks, 4 kinds"
    return Row(label, baseline_s, ours_s, peak_rss_bytes(), note)


def _padded(region: NDArray[np.uint8]) -> NDArray[np.uint8]:
    height, width = region.shape[:2]
    side = max(height, width)
    square = np.empty((side, side, 3), dtype=np.uint8)
    square[:] = FILL_RGB
    top, left = (side - height) // 2, (side - width) // 2
    square[top : top + height, left : left + width] = region
    return square


def _difference(crops: torch.Tensor, others: torch.Tensor, crop_format: CropFormat) -> torch.Tensor:
    """Return the absolute difference in colours of [0, 1], before normalisation."""
    return (crops - others).abs() * torch.tensor(crop_format.std).view(3, 1, 1)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    torch.set_num_threads(given.threads)
    height, width = (int(side) for side in given.image.split("x"))
    cases = [build_case(num_masks, height=height, width=width) for num_masks in given.masks]
    device = torch.device(given.device)
    rows = [measure(case, size=given.size, device=device, repeats=given.repeats) for case in cases]
    report("crops: one by one with Pillow against one batch", rows, given.json)


if __name__ == "__main__":
    main()
