"""The masks that SAM proposes for an image, with cached features. Called by `chooser` and `training/evaluation`.

A key stands for one image. The cache folder is named after a digest of all that decides masks and features: candidates
of other settings are never read.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.untrusted import open_regular, parse_json
from pseudoris.schemas.ids import sha256_hex
from pseudoris.schemas.shard import MaskRecord, Shard, ShardImage
from pseudoris.training.chooser.chooser_config import ChooserConfig
from pseudoris.training.learning.frozen_towers import FeatureCache, FrozenTowers, Placement
from pseudoris.workers.checkpoints.weight_files import weights_digest
from pseudoris.workers.crops.crops import mask_crops
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.masks import SamProposer
from pseudoris.workers.stages import clip_digest, sam_digest

# This version must rise when the content of cached files changes. Files of other versions are written again.
_VERSION: Final = 2
# These settings of the filter change the embedding of a crop.
_OF_CROPS: Final = ("architecture", "context_scale", "has_antialiasing", "batch_size")
_META: Final = "candidates"
# A candidate is one of several masks meant if at least the first share of it lies in their union, and if its overlap
# with each one taken before is less than the second share of either.
_MEMBER_INSIDE, _MEMBER_APART = 0.8, 0.5
GEOMETRY_WIDTH, PAIR_WIDTH = 7, 8


@dataclass(frozen=True, slots=True)
class Candidates:
    """The N masks, COCO compressed RLE, of an upright image of `size` (H, W); N may be 0.

    Attributes:
        crops: (N, K, D) float16, normalised embeddings of each kind of crop by the filter's CLIP.
        pooled: (N, C) float16, the towers' patches averaged under each mask: their stages, then the joint space.
        geometry: (N, 7) float32, see `mask_geometry`.
        pairs: (N, N, 8) float32, see `pair_geometry`.
    """

    size: tuple[int, int]
    counts: tuple[str, ...]
    crops: torch.Tensor
    pooled: torch.Tensor
    geometry: torch.Tensor
    pairs: torch.Tensor

    @classmethod
    def of(
        cls, size: tuple[int, int], counts: tuple[str, ...], *, crops: torch.Tensor, pooled: torch.Tensor
    ) -> Candidates:
        """Return them with their geometry."""
        geometry = mask_geometry(counts, size)
        return cls(size, counts, crops, pooled, geometry, pair_geometry(geometry, counts, size))

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors."""
        return sum(each.nbytes for each in (self.crops, self.pooled, self.geometry, self.pairs))

    def ious(self, masks: torch.Tensor) -> NDArray[np.float64]:
        """Return the IoU of masks (M, H, W) bool with every candidate, (M, N)."""
        return rle.ious(rle.encode(masks), self.counts, self.size)

    def member_ious(self, union: torch.Tensor, num_masks: int) -> NDArray[np.float64]:
        """Return how well each candidate fits one of several masks, of which the union (H, W) bool is known, (N,).

        The members are the largest candidates that lie in the union and apart from one another, at most `num_masks`. A
        candidate has its best IoU with a member, times the IoU of all members with the union. Without members it has 0.
        """
        counts, taken = list(self.counts), list[int]()
        inside = rle.shares_inside(counts, rle.encode(union[None]), self.size)[:, 0] if counts else np.zeros(0)
        areas, shares = rle.areas(counts, self.size), rle.shares_inside(counts, counts, self.size)
        for at in np.argsort(-areas, kind="stable").tolist():
            is_apart = all(max(shares[at, other], shares[other, at]) < _MEMBER_APART for other in taken)
            if len(taken) < num_masks and inside[at] >= _MEMBER_INSIDE and is_apart:
                taken.append(at)
        if not taken:
            return np.zeros(len(counts))
        members = [counts[at] for at in taken]
        made = torch.from_numpy(rle.decode(members, self.size).any(0))
        whole = rle.ious(rle.encode(made[None]), rle.encode(union[None]), self.size)[0, 0]
        return np.asarray(rle.ious(counts, members, self.size).max(1) * whole)

    def decoded(self) -> torch.Tensor:
        """Return the masks, (N, H, W) bool."""
        return torch.from_numpy(rle.decode(self.counts, self.size))


def mask_geometry(counts: Sequence[str], size: tuple[int, int]) -> torch.Tensor:
    """Return (N, 7) float32: the box's centre x and y in [-1, 1], share of the area, then sizes as logarithms."""
    height, width = size
    boxes = torch.tensor(rle.boxes(counts, size), dtype=torch.float32).reshape(-1, 4)
    areas = torch.from_numpy(rle.areas(counts, size)).float() / (height * width)
    x = (boxes[:, 0] + boxes[:, 2]) / width - 1
    y = (boxes[:, 1] + boxes[:, 3]) / height - 1
    wide = ((boxes[:, 2] - boxes[:, 0]) / width).clamp(min=1e-3)
    high = ((boxes[:, 3] - boxes[:, 1]) / height).clamp(min=1e-3)
    logarithms = [each.log() / 2 + 1 for each in (wide, high, areas.clamp(min=1e-5))]
    return torch.stack([x, y, areas, *logarithms, (wide / high).log()], 1)


def pair_geometry(geometry: torch.Tensor, counts: Sequence[str], size: tuple[int, int]) -> torch.Tensor:
    """Return (N, N, 8) float32, of the first mask and the second: offsets, distance, sizes, containment both ways.

    A mirrored image has the first of them with the opposite sign.
    """
    offset = geometry[None, :, :2] - geometry[:, None, :2]
    distance = offset.norm(dim=-1, keepdim=True)
    direction = offset / distance.clamp(min=1e-3)
    larger = geometry[None, :, 5:6] - geometry[:, None, 5:6]
    inside = torch.from_numpy(rle.shares_inside(counts, counts, size)).float()[..., None]
    return torch.cat([offset, direction, distance, larger, inside, inside.transpose(0, 1)], -1)


class CandidateStore:
    """Candidates by image: in memory, in a folder, or proposed now. `run` configures a run with the same masks."""

    def __init__(self, config: ChooserConfig, towers: FrozenTowers) -> None:
        """Open the folder; models are loaded when the first image needs them. `towers` are those of `config`."""
        self.towers, self.run = towers, config.candidates.run_config()
        if self.run.masks.engine != "sam":
            raise ConfigError(
                f"candidates: masks.engine is {self.run.masks.engine!r}, but the student proposes masks for new "
                "images too. Give masks.engine=sam."
            )
        method = self.run.method()
        crops = {name: method["filtering"].get(name) for name in _OF_CROPS}
        said = [_VERSION, method["masks"], method["compute"], crops, config.towers.architecture, config.towers.layers]
        weights = [sam_digest(self.run.masks), clip_digest(self.run.filtering), weights_digest(config.towers.weights)]
        self.digest = sha256_hex(json.dumps([said, weights], sort_keys=True).encode())
        cache = config.candidates.cache
        self._folder = None if cache is None else cache / self.digest[:16]
        # Without a cache folder, memory keeps the features of all images, because they are stored nowhere else.
        max_bytes = sys.maxsize if self._folder is None else config.candidates.memory_bytes
        self._held = FeatureCache[Candidates](max_bytes, lambda found: found.nbytes)

    @cached_property
    def clip(self) -> ClipEmbedder:
        """The filter's CLIP."""
        return ClipEmbedder(self.run.filtering, self.run.compute)

    @cached_property
    def _proposer(self) -> SamProposer:
        return SamProposer(self.run.masks, self.run.compute)

    def held(self, image_key: str) -> Candidates | None:
        """Return an image's candidates from memory or the folder; None if they are in neither."""
        found, path = self._held.get(image_key), self._path(image_key)
        if found is None and path is not None and (found := _read(path, self.digest)) is not None:
            self._held.put(image_key, found)
        return found

    def _path(self, image_key: str) -> Path | None:
        name = sha256_hex(image_key.encode())
        return None if self._folder is None else self._folder / name[:2] / f"{name}.safetensors"

    def __getitem__(self, image_key: str) -> Candidates:
        found = self.held(image_key)
        if found is None:
            raise KeyError(f"the candidates of image {image_key} were not prepared")
        return found

    def of(self, image_key: str, image: torch.Tensor) -> Candidates:
        """Return the candidates of an image (3, H, W) uint8, upright RGB, and keep them by its key."""
        if (held := self.held(image_key)) is not None:
            return held
        pixels = np.ascontiguousarray(image.permute(1, 2, 0).numpy())
        size = (pixels.shape[0], pixels.shape[1])
        masks = propose_masks(self._proposer, pixels)
        counts = tuple(mask.rle_counts for mask in masks)
        crops = torch.zeros(0, 2, 0, dtype=torch.float16)
        if masks:
            # `seen[0]` has the crops with context, `seen[1]` the masked crops.
            seen = embedded_masks(self.clip, pixels, masks, (self.run.filtering.context_scale, None))
            crops = seen.transpose(0, 1).contiguous().half()
        found = Candidates.of(size, counts, crops=crops, pooled=self._pooled(image, counts, size))
        self._held.put(image_key, found)
        if (path := self._path(image_key)) is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            meta = json.dumps({"digest": self.digest, "size": size, "counts": counts})
            unfinished = path.with_suffix(f".{os.getpid()}.unfinished")
            with open_regular(unfinished, "wb") as file:
                file.write(save({"crops": crops, "pooled": found.pooled}, metadata={_META: meta}))
            unfinished.rename(path)
        return found

    def _pooled(self, image: torch.Tensor, counts: Sequence[str], size: tuple[int, int]) -> torch.Tensor:
        """Patches (N, C) under each mask; the nearest patch where a mask is smaller than any."""
        form = self.towers.image_format
        placement = Placement.of(size, form.size)
        # The image's patches are not cached, because only the pooled patches of its masks are needed later.
        seen = self.towers.read_images(placement.image(image, form.mean)[None])
        patches = torch.cat([seen.stages.flatten(1, 2), seen.dense], 1)[0]
        if not counts:
            return torch.zeros(0, len(patches), dtype=torch.float16)
        grid = self.towers.widths.grid
        shares = torch.stack([placement.mask(mask, grid) for mask in torch.from_numpy(rle.decode(counts, size))])
        weights = shares.flatten(1)
        weights = weights / weights.sum(1, keepdim=True).clamp(min=1e-6)
        return (weights @ patches.flatten(1).T).half()


def embedded_masks(
    clip: ClipEmbedder, pixels: NDArray[np.uint8], masks: Sequence[MaskRecord], scales: Sequence[float | None]
) -> torch.Tensor:
    """Return embeddings (K, N, D) of crops at K scales, as `mask_crops` has them, of an image's N masks."""
    crops = mask_crops(pixels, masks, scales, clip.crop_format, clip.device)
    return clip.embed_crops([crops.flatten(0, 1)]).view(len(scales), len(masks), -1)


def propose_masks(proposer: SamProposer, pixels: NDArray[np.uint8]) -> tuple[MaskRecord, ...]:
    """Return the masks of an image (H, W, 3) uint8, upright RGB."""
    data = io.BytesIO()
    # The PNG is not compressed, because it is read only once.
    Image.fromarray(pixels).save(data, format="PNG", compress_level=0)
    (height, width, _), encoded = pixels.shape, data.getvalue()
    given = ShardImage(0, "0" * 16, "", encoded, sha256=sha256_hex(encoded), height=height, width=width)
    (done,) = proposer(Shard(0, 0, (given,))).images
    if done.failure is not None:
        raise ConfigError(f"no masks can be proposed for an image: {done.failure.message}")
    return done.masks


def _read(path: Path, digest: str) -> Candidates | None:
    """Return what a file holds; None if there is none, or it is damaged or of another digest."""
    try:
        # `open_regular` refuses a pipe. safetensors alone would wait forever for the other end of a pipe.
        with open_regular(path), safe_open(path, framework="pt") as file:
            meta = parse_json((file.metadata() or {}).get(_META, "{}"))
            if meta.get("digest") != digest:
                return None
            size, counts = (meta["size"][0], meta["size"][1]), tuple(meta["counts"])
            return Candidates.of(size, counts, crops=file.get_tensor("crops"), pooled=file.get_tensor("pooled"))
    except (OSError, SafetensorError, json.JSONDecodeError):
        return None
