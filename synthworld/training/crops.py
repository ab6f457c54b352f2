"""Crops for the captioner and CLIP, cut from rendered scenes and kept in memory-mapped files.

The crops of annotation, rounded to whole colours: a byte a colour fits in memory, four do not.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from synthworld.attributes import Attributes
from synthworld.training.rendered import RenderedScenes
from workers.images.crops import CropFormat, make_crops
from workers.masks import rle

logger = logging.getLogger(__name__)
CROP_SIZE_PX = 96
CONTEXT_SCALES = (1.0, 1.1, 1.2)
MASKED, CONTEXT = 0, 1
# Colours in [0, 1], not normalised.
_COLOURS = CropFormat(CROP_SIZE_PX, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))


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
    """Return the masked and the context crop (2, 3, 96, 96) uint8 of one object; image (H, W, 3) uint8 RGB."""
    ys, xs = np.nonzero(task.mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    (counts,) = rle.encode(torch.from_numpy(task.mask)[None])
    both = make_crops(
        image,
        [box],
        runs=[rle.runs(counts)],
        scales=(None, task.context_scale),
        crop_format=_COLOURS,
        device=torch.device("cpu"),
    )[:, 0]
    return (both.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Return (…, 3, 96, 96) uint8 as floats with CLIP's mean and standard deviation."""
    mean = torch.tensor(OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD)[:, None, None]
    return (pixels.float() / 255 - mean) / std


def _cut_chunk(images: np.ndarray, tasks: Sequence[CropTask], first_scene: int) -> np.ndarray:
    """Crops of a few scenes; runs in a child process with one thread."""
    torch.set_num_threads(1)
    return np.stack([cut_pair(images[task.scene - first_scene], task) for task in tasks])


def cut_crops(
    path: Path, data: RenderedScenes, tasks: Sequence[CropTask], attributes: Sequence[Attributes], *, processes: int = 2
) -> CropSet:
    """Return the crops of all tasks (ordered by scene), cut into the file at `path` unless it stands already."""
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
    """Return one task for each object, cut with its true visible mask at a random context scale."""
    rng = np.random.default_rng([seed, 1])
    tasks, attributes = [], []
    for row, scene in enumerate(data.scenes):
        for number, item in enumerate(scene.objects):
            mask = data.mask(row, number)
            if mask.any():
                tasks.append(CropTask(row, mask, float(rng.choice(CONTEXT_SCALES))))
                attributes.append(item.attributes)
    return tasks, attributes
