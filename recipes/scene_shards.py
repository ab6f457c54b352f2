"""Scenes as shards: the input of the annotation stages, together with the truth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from pseudoris.schemas.ids import image_id, mask_id, sha256_hex
from pseudoris.schemas.shard import MaskRecord, Shard, ShardImage
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Scene
from pseudoris.synthworld.worlds import DEFAULT_WORLD
from pseudoris.workers.masks import rle


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


def scene_shard(images: Sequence[SceneImage], *, number: int = 0, with_true_masks: bool = False) -> Shard:
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
    return Shard(number, 0, tuple(rows))


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
