"""Scenes as images: shards for the annotation stages, and memory-mapped files to train on, both with the truth."""

from __future__ import annotations

import io
import logging
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from pseudoris.primitives import rle
from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.shard import MaskRecord, Shard, ShardImage
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import DEFAULT_WORLD, SCENE_SIZE_PX, Scene, Split, make_scene

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SceneImage:
    """A rendered scene as an input image: its truth, masks (N, 192, 192) bool, and PNG bytes."""

    scene: Scene
    masks: np.ndarray
    data: bytes

    @property
    def key(self) -> str:
        """The image's key, which names the scene, and its world where that is not the default one."""
        world = "" if self.scene.world == DEFAULT_WORLD else f"{self.scene.world}-"
        return f"scene-{world}{self.scene.seed}-{self.scene.index:07d}.png"


def scene_image(scene: Scene) -> SceneImage:
    """Return a scene rendered and encoded without loss."""
    rendered = render(scene)
    return SceneImage(scene, rendered.masks, encode_png(rendered.image))


def encode_png(pixels: np.ndarray) -> bytes:
    """Return (H, W, 3) uint8 RGB pixels as a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", compress_level=1)
    return buffer.getvalue()


def scene_shard(images: Sequence[SceneImage], *, with_true_masks: bool = False) -> Shard:
    """Return a shard of scenes, proven, and with the truth's masks where asked, in the scene's order."""
    rows = []
    for position, item in enumerate(images):
        identity = image_id(item.key)
        height, width = item.masks.shape[1:]
        masks = _true_records(identity, item.masks) if with_true_masks else ()
        rows.append(
            ShardImage(
                position=position,
                image_id=identity,
                key=item.key,
                data=item.data,
                sha256=sha256_hex(item.data),
                height=height,
                width=width,
                masks=masks,
            )
        )
    return Shard(0, 0, tuple(rows))


def _true_records(identity: str, masks: np.ndarray) -> tuple[MaskRecord, ...]:
    """The truth's masks as a proposer would return them; a hidden object has none."""
    counts = rle.encode(torch.from_numpy(masks))
    size = (masks.shape[1], masks.shape[2])
    boxes, areas = rle.boxes(counts, size), rle.areas(counts, size)
    return tuple(
        MaskRecord(mask_id(identity, n), n, size, counts[n], boxes[n], int(areas[n]), prior="truth")
        for n in range(len(counts))
        if areas[n] > 0
    )


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
