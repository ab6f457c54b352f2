"""Crops of SAM's own masks: what the captioner and CLIP meet at work, ragged edges included."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor

import numpy as np

from schemas.config import ComputeConfig, MasksConfig
from synthworld.attributes import Attributes
from synthworld.matching import iou_table, match_masks
from synthworld.scenes import Scene
from synthworld.shards import scene_image, scene_shard
from synthworld.training.crops import CONTEXT_SCALES, CropTask
from synthworld.training.rendered import RenderedScenes
from workers.masks import SamProposer, rle

logger = logging.getLogger(__name__)
_CHUNK = 100


def proposed_tasks(
    data: RenderedScenes, masks: MasksConfig, *, count: int, seed: int, processes: int = 2
) -> tuple[list[CropTask], list[Attributes]]:
    """Returns one task for each of SAM's masks on the first `count` scenes that is an object's (IoU ≥ 0.5, one-to-one).

    The truth says only which object a mask shows, as a page says which picture a caption stands under.
    """
    scenes = data.scenes[:count]
    chunks = [scenes[start : start + _CHUNK] for start in range(0, count, _CHUNK)]
    logger.info("proposing masks on %d scenes", count)
    tasks: list[CropTask] = []
    attributes: list[Attributes] = []
    rng = np.random.default_rng([seed, 4])
    with ProcessPoolExecutor(processes) as pool:
        found = pool.map(_matched_masks, chunks, [masks] * len(chunks))
        for start, chunk in zip(range(0, count, _CHUNK), found, strict=True):
            for offset, number, mask in chunk:
                tasks.append(CropTask(start + offset, mask, float(rng.choice(CONTEXT_SCALES))))
                attributes.append(scenes[start + offset].objects[number].attributes)
    return tasks, attributes


def _matched_masks(scenes: tuple[Scene, ...], masks: MasksConfig) -> list[tuple[int, int, np.ndarray]]:
    """(scene in the chunk, object, mask) of each matched proposal; runs in a child process."""
    proposer = SamProposer(masks, ComputeConfig(device="cpu", threads=1))
    images = [scene_image(scene) for scene in scenes]
    found = []
    for offset, (item, row) in enumerate(zip(images, proposer(scene_shard(images)).images, strict=True)):
        proposed = rle.decode([m.rle_counts for m in row.masks], item.masks.shape[1:])
        pairs = match_masks(iou_table(proposed, item.masks))
        found += [(offset, number, proposed[index]) for index, number in sorted(pairs.items())]
    return found
