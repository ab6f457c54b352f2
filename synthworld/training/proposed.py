"""Crops of SAM's own masks: what the captioner and CLIP meet at work, ragged edges included."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from schemas.config import ComputeConfig, MasksConfig
from synthworld.attributes import Attributes
from synthworld.scenes import Scene
from synthworld.shards import scene_image, scene_shard
from synthworld.training.crops import CONTEXT_SCALES, CropTask
from synthworld.training.rendered import RenderedScenes
from workers.masks import SamProposer, rle
from workers.masks.matching import iou_table, match_masks

logger = logging.getLogger(__name__)
_CHUNK = 50


def proposed_tasks(
    path: Path, data: RenderedScenes, masks: MasksConfig, *, count: int, seed: int
) -> tuple[list[CropTask], list[Attributes]]:
    """Return one task for each of SAM's masks on the first `count` scenes that is an object's (IoU ≥ 0.5, one-to-one).

    The masks are proposed once and kept at `path`. The truth says only which object a mask shows, as a page says which
    picture a caption stands under.
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
        proposed = rle.decode([m.rle_counts for m in row.masks], item.masks.shape[1:])
        pairs = match_masks(iou_table(proposed, item.masks))
        found += [(offset, number, proposed[index]) for index, number in sorted(pairs.items())]
    return found
