"""Crops for the captioner and CLIP, cut from rendered scenes and kept in memory-mapped files.

Equal in definition to the crops of annotation: a tight box grown about its centre and clipped to the image, padded
centrally to a square with the mean colour, resized with antialiased bilinear weights.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from synthworld.attributes import Attributes
from synthworld.training.rendered import RenderedScenes

logger = logging.getLogger(__name__)
CROP_SIZE_PX = 96
# CLIP's mean and standard deviation, RGB in [0, 1]. Source: open_clip.OPENAI_DATASET_MEAN and _STD.
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)
CONTEXT_SCALES = (1.0, 1.1, 1.2)
MASKED, CONTEXT = 0, 1


@dataclass(frozen=True)
class CropTask:
    """One object of one scene: its mask (H, W) bool, and the context scale to cut."""

    scene: int
    mask: np.ndarray
    context_scale: float


@dataclass(frozen=True)
class CropSet:
    """pixels (M, 2, 3, 96, 96) uint8 RGB, masked and context crop; scenes (M,) rows; attributes of the M objects."""

    pixels: np.ndarray
    scenes: np.ndarray
    attributes: tuple[Attributes, ...]


def cut_pair(image: np.ndarray, task: CropTask) -> np.ndarray:
    """Returns the masked and the context crop (2, 3, 96, 96) uint8 of one object; image (H, W, 3) uint8 RGB."""
    ys, xs = np.nonzero(task.mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float() / 255
    mean = torch.tensor(MEAN)[:, None, None]
    inside = torch.from_numpy(np.ascontiguousarray(task.mask))
    masked = _square(torch.where(inside, pixels, mean), box)
    context = _square(pixels, grown_box(box, task.context_scale, width=image.shape[1], height=image.shape[0]))
    both = torch.stack((masked, context))
    return (both.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def grown_box(box: tuple[int, int, int, int], scale: float, *, width: int, height: int) -> tuple[int, int, int, int]:
    """Returns the box grown about its centre, rounded outwards and clipped to the image."""
    x0, y0, x1, y1 = box
    dx, dy = (x1 - x0) * (scale - 1) / 2, (y1 - y0) * (scale - 1) / 2
    return (
        max(int(np.floor(x0 - dx)), 0),
        max(int(np.floor(y0 - dy)), 0),
        min(int(np.ceil(x1 + dx)), width),
        min(int(np.ceil(y1 + dy)), height),
    )


def _square(pixels: torch.Tensor, box: tuple[int, int, int, int]) -> torch.Tensor:
    """Cuts, pads centrally with the mean colour, resizes; (3, H, W) in [0, 1] to (3, 96, 96)."""
    x0, y0, x1, y1 = box
    side = max(x1 - x0, y1 - y0)
    square = torch.tensor(MEAN)[:, None, None].expand(3, side, side).clone()
    left, top = (side - (x1 - x0)) // 2, (side - (y1 - y0)) // 2
    square[:, top : top + y1 - y0, left : left + x1 - x0] = pixels[:, y0:y1, x0:x1]
    size = (CROP_SIZE_PX, CROP_SIZE_PX)
    return F.interpolate(square[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Returns (…, 3, 96, 96) uint8 as floats with CLIP's mean and standard deviation."""
    mean, std = torch.tensor(MEAN)[:, None, None], torch.tensor(STD)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def _cut_chunk(images: np.ndarray, tasks: Sequence[CropTask], first_scene: int) -> np.ndarray:
    """Crops of a few scenes; runs in a child process with one thread."""
    torch.set_num_threads(1)
    return np.stack([cut_pair(images[task.scene - first_scene], task) for task in tasks])


def cut_crops(
    path: Path, data: RenderedScenes, tasks: Sequence[CropTask], attributes: Sequence[Attributes], *, processes: int = 2
) -> CropSet:
    """Returns the crops of all tasks (ordered by scene), cut into the file at `path` unless it stands already."""
    if not path.exists():
        unfinished = path.with_suffix(".unfinished")
        shape = (len(tasks), 2, 3, CROP_SIZE_PX, CROP_SIZE_PX)
        logger.info("cutting %d crop pairs into %s", len(tasks), path)
        pixels = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
        starts = range(0, len(tasks), 500)
        chunks = [tasks[start : start + 500] for start in starts]
        firsts = [chunk[0].scene for chunk in chunks]
        images = [data.images[chunk[0].scene : chunk[-1].scene + 1] for chunk in chunks]
        with ProcessPoolExecutor(processes) as pool:
            for start, cut in zip(starts, pool.map(_cut_chunk, images, chunks, firsts), strict=True):
                pixels[start : start + len(cut)] = cut
        pixels.flush()
        unfinished.rename(path)
    scenes = np.array([task.scene for task in tasks])
    return CropSet(np.load(path, mmap_mode="r"), scenes, tuple(attributes))


def truth_tasks(data: RenderedScenes, *, seed: int) -> tuple[list[CropTask], list[Attributes]]:
    """Returns one task for each object, cut with its true visible mask at a random context scale."""
    rng = np.random.default_rng([seed, 1])
    tasks, attributes = [], []
    for row, scene in enumerate(data.scenes):
        for number, item in enumerate(scene.objects):
            mask = data.mask(row, number)
            if mask.any():
                tasks.append(CropTask(row, mask, float(rng.choice(CONTEXT_SCALES))))
                attributes.append(item.attributes)
    return tasks, attributes
