"""Rendered training scenes on disk, memory-mapped, made once by a few processes."""

from __future__ import annotations

import logging
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import SCENE_SIZE_PX, Scene, Split, make_scene

logger = logging.getLogger(__name__)
NOBODY = 255
_CHUNK = 100


@dataclass(frozen=True)
class RenderedScenes:
    """images (S, 192, 192, 3) uint8 RGB; owners (S, 192, 192) uint8, an object's number or 255; the S scenes."""

    images: np.ndarray
    owners: np.ndarray
    scenes: tuple[Scene, ...]

    def mask(self, scene: int, number: int) -> np.ndarray:
        """Return the visible mask (192, 192) bool of one object."""
        return np.asarray(self.owners[scene] == number)


def _render_chunk(split: Split, positions: range, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Images and owners of a few scenes; runs in a child process."""
    images = np.empty((len(positions), SCENE_SIZE_PX, SCENE_SIZE_PX, 3), dtype=np.uint8)
    owners = np.full(images.shape[:3], NOBODY, dtype=np.uint8)
    for row, position in enumerate(positions):
        rendered = render(make_scene(split, position, seed=seed))
        images[row] = rendered.image
        for number, mask in enumerate(rendered.masks):
            owners[row][mask] = number
    return images, owners


def rendered_scenes(folder: Path, split: Split, count: int, *, seed: int, processes: int = 2) -> RenderedScenes:
    """Return the first `count` scenes of a split, rendered into `folder` unless it has them already."""
    stem = folder / f"{split}-{seed}-{count}"
    image_path, owner_path = stem.with_suffix(".images.npy"), stem.with_suffix(".owners.npy")
    if not owner_path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        logger.info("rendering %d scenes with %d processes", count, processes)
        chunks = [range(start, min(start + _CHUNK, count)) for start in range(0, count, _CHUNK)]
        shape = (count, SCENE_SIZE_PX, SCENE_SIZE_PX)
        # The owners' file takes its name last, so that half a cache is never read.
        unfinished = owner_path.with_suffix(".unfinished")
        images = np.lib.format.open_memmap(image_path, mode="w+", dtype=np.uint8, shape=(*shape, 3))
        owners = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=shape)
        with ProcessPoolExecutor(processes) as pool:
            painted = pool.map(partial(_render_chunk, split, seed=seed), chunks)
            for chunk, (chunk_images, chunk_owners) in zip(chunks, painted, strict=True):
                images[chunk.start : chunk.stop] = chunk_images
                owners[chunk.start : chunk.stop] = chunk_owners
        images.flush()
        owners.flush()
        unfinished.rename(owner_path)
    scenes = tuple(make_scene(split, position, seed=seed) for position in range(count))
    return RenderedScenes(np.load(image_path, mmap_mode="r"), np.load(owner_path, mmap_mode="r"), scenes)
