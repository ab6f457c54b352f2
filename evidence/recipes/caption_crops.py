"""(crop, caption) pairs for the captioner and CLIP: crops cut from rendered scenes, and batches of them.

Crops are made as in annotation, but rounded to one byte a colour: four bytes would not fit in memory. They are cut by
the true masks, and by SAM's own masks, ragged edges included, as annotation cuts them. They are stored in memory-mapped
files. A batch holds whole scenes: a scene's other objects are the hard negatives.
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

from evidence.recipes.caption_styles import Say
from evidence.recipes.scene_shards import RenderedScenes, scene_image, scene_shard
from evidence.recipes.scene_texts import noisy_caption
from pseudoris.primitives import rle
from pseudoris.primitives.rle import match_masks
from pseudoris.primitives.run_lengths import decode_runs
from pseudoris.schemas.config import ComputeConfig, MasksConfig
from pseudoris.synthworld.attributes import Attributes
from pseudoris.synthworld.scenes import Scene
from pseudoris.workers.crops.crops import CropFormat, make_crops
from pseudoris.workers.masks import SamProposer

logger = logging.getLogger(__name__)
CROP_SIZE_PX = 96
CONTEXT_SCALES = (1.0, 1.1, 1.2)
MASKED, CONTEXT = 0, 1
# Colours in [0, 1], not normalised.
_COLOURS = CropFormat(CROP_SIZE_PX, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
_CHUNK = 50


@dataclass(frozen=True)
class CropTask:
    """One object of one scene: its mask (H, W) bool, and the context scale to cut."""

    scene: int
    mask: np.ndarray
    context_scale: float


@dataclass(frozen=True)
class TrainingCrops:
    """pixels (M, 2, 3, 96, 96) uint8 RGB, masked and context crop; scenes (M,) rows; attributes of the M objects."""

    pixels: np.ndarray
    scenes: np.ndarray
    attributes: tuple[Attributes, ...]


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


def proposed_tasks(
    path: Path, data: RenderedScenes, masks: MasksConfig, *, count: int, seed: int
) -> tuple[list[CropTask], list[Attributes]]:
    """Return one task for each of SAM's masks on the first `count` scenes that is an object's (IoU ≥ 0.5, one-to-one).

    The masks are proposed once and kept at `path`. The truth is used only to find the object of a mask, as a web page
    shows which caption belongs to a picture.
    """
    if not path.exists():
        _write_proposals(path, data.scenes[:count], masks)
    rng = np.random.default_rng([seed, 4])
    tasks: list[CropTask] = []
    attributes: list[Attributes] = []
    with np.load(path) as stored:
        columns = (stored["scenes"].tolist(), stored["objects"].tolist(), np.unpackbits(stored["masks"], axis=-1))
        for row, number, mask in zip(*columns, strict=True):
            tasks.append(CropTask(row, mask.astype(bool), float(rng.choice(CONTEXT_SCALES))))
            attributes.append(data.scenes[row].objects[number].attributes)
    return tasks, attributes


def _write_proposals(path: Path, scenes: tuple[Scene, ...], masks: MasksConfig, *, processes: int = 2) -> None:
    """Proposes and matches in child processes; the file takes its name last."""
    logger.info("proposing masks on %d scenes", len(scenes))
    starts = range(0, len(scenes), _CHUNK)
    chunks = [scenes[start : start + _CHUNK] for start in starts]
    with ProcessPoolExecutor(processes) as pool:
        found = pool.map(_matched_masks, chunks, [masks] * len(chunks))
        rows = [
            (start + offset, number, mask)
            for start, chunk in zip(starts, found, strict=True)
            for offset, number, mask in chunk
        ]
    unfinished = path.with_suffix(".unfinished.npz")
    np.savez(
        unfinished,
        scenes=np.array([row for row, _, _ in rows]),
        objects=np.array([number for _, number, _ in rows]),
        masks=np.packbits(np.array([mask for _, _, mask in rows], dtype=bool), axis=-1),
    )
    unfinished.rename(path)


def _matched_masks(scenes: tuple[Scene, ...], masks: MasksConfig) -> list[tuple[int, int, np.ndarray]]:
    """(scene in the chunk, object, mask) of each matched proposal; runs in a child process."""
    proposer = SamProposer(masks, ComputeConfig(device="cpu", threads=1))
    images = [scene_image(scene) for scene in scenes]
    found = []
    for offset, (item, row) in enumerate(zip(images, proposer(scene_shard(images)).images, strict=True)):
        counts, size = [mask.rle_counts for mask in row.masks], item.masks.shape[1:]
        proposed = rle.decode(counts, size)
        pairs = match_masks(rle.ious(counts, rle.encode(torch.from_numpy(item.masks)), size))
        found += [(offset, number, proposed[index]) for index, number in sorted(pairs.items())]
    return found


def cut_crops(
    path: Path, data: RenderedScenes, tasks: Sequence[CropTask], attributes: Sequence[Attributes], *, processes: int = 2
) -> TrainingCrops:
    """Return the crops of all tasks (ordered by scene), cut into the file at `path` unless it exists."""
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
    return TrainingCrops(np.load(path, mmap_mode="r"), scenes, tuple(attributes))


def _cut_chunk(images: np.ndarray, tasks: Sequence[CropTask], first_scene: int) -> np.ndarray:
    torch.set_num_threads(1)
    return np.stack([cut_pair(images[task.scene - first_scene], task) for task in tasks])


def cut_pair(image: np.ndarray, task: CropTask) -> np.ndarray:
    """Return the masked and the context crop (2, 3, 96, 96) uint8 of one object; image (H, W, 3) uint8 RGB."""
    ys, xs = np.nonzero(task.mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    (counts,) = rle.encode(torch.from_numpy(task.mask)[None])
    both = make_crops(
        image,
        [box],
        runs=[decode_runs(counts)],
        scales=(None, task.context_scale),
        crop_format=_COLOURS,
        device=torch.device("cpu"),
    )[:, 0]
    return (both.clamp(0, 1) * 255).round().to(torch.uint8).numpy()


@dataclass(frozen=True)
class CaptionBatch:
    """images (B, 3, 96, 96) float, normalised; captions B texts."""

    images: torch.Tensor
    captions: list[str]


class CaptionSampler:
    """Draws batches from one or several crop sets (true masks, SAM's masks), each set with its share."""

    def __init__(self, sets: list[TrainingCrops], shares: list[float], *, say: Say = noisy_caption) -> None:
        """Indexes the crops by scene; `say` captions an object."""
        self._sets, self._shares, self._say = sets, shares, say
        self._bounds = [_scene_bounds(crops.scenes) for crops in sets]

    def draw(self, num_crops: int, rng: np.random.Generator, *, masked_share: float) -> CaptionBatch:
        """Return at least `num_crops` pairs of whole scenes; each crop mirrored at random, with a fresh caption."""
        pixels: list[torch.Tensor] = []
        captions: list[str] = []
        while len(captions) < num_crops:
            choice = int(rng.choice(len(self._sets), p=self._shares))
            crops, bounds = self._sets[choice], self._bounds[choice]
            for row in range(*bounds[int(rng.integers(len(bounds)))]):
                kind = MASKED if rng.random() < masked_share else CONTEXT
                crop = torch.from_numpy(np.array(crops.pixels[row, kind]))
                pixels.append(crop.flip(-1) if rng.random() < 0.5 else crop)
                captions.append(self._say(crops.attributes[row], rng))
        return CaptionBatch(normalise(torch.stack(pixels)), captions)


def _scene_bounds(scenes: np.ndarray) -> list[tuple[int, int]]:
    starts = np.flatnonzero(np.diff(scenes, prepend=-1))
    return list(zip(starts.tolist(), [*starts[1:].tolist(), len(scenes)], strict=True))


def normalise(pixels: torch.Tensor) -> torch.Tensor:
    """Return (…, 3, 96, 96) uint8 as floats with CLIP's mean and standard deviation."""
    mean = torch.tensor(OPENAI_DATASET_MEAN)[:, None, None]
    std = torch.tensor(OPENAI_DATASET_STD)[:, None, None]
    return (pixels.float() / 255 - mean) / std
