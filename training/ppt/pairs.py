"""Reads a run as pairs of image and expression with pseudo-labels: the training data of PPT.

Any run is a source. Its rows of one image and one text give the pseudo-masks of that text. Kept rows have ĉ = 1, the
others 0. So the four data sets of the recipes are read as they were written. An import has one pseudo-mask per text.
In an annotated run, if a text was rejected for a mask of its image, that mask is a context.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS
from pseudoris.store.location import RunLocation
from pseudoris.store.runs.header import require_header
from pseudoris.store.runs.receipts import read_receipts
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.training.dataset.image_reader import ImageBytes, ShardImages
from pseudoris.training.dataset.map_dataset import DEFAULT_MAX_MEMORY_BYTES
from pseudoris.training.dataset.snapshot import Snapshot
from pseudoris.training.ppt.recipes.recipe_texts import names_a_side
from pseudoris.workers.counter_rng import key_of
from pseudoris.workers.device import to_device
from pseudoris.workers.masks import rle
from pseudoris.workers.masks.sam_model import resized_size

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PseudoLabels:
    """ŷ_e = (ŝ_e, P̂_e, ĉ_e) of equation 4, for one pair of E pseudo-masks.

    Attributes:
        masks: (E, h, w) float32 in [0, 1], the share of each cell of the decoder's grid that the mask covers.
        points_xy: (E, M, 2) float32 in [0, 1] of the upright image.
        labels: (E, M) float32, 1 inside the mask, 0 outside.
        confidences: (E,) float32, 1 for the referent, 0 for a context or an undecided pseudo-mask.
    """

    masks: torch.Tensor
    points_xy: torch.Tensor
    labels: torch.Tensor
    confidences: torch.Tensor


@dataclass(frozen=True)
class PseudoLabelBatch:
    """The labels of B pairs: masks (B, E, h, w), points (B, E, M, 2), labels (B, E, M), confidences (B, E).

    `counts` holds how many of the E rows of each pair are labels; the rest is padding.
    """

    masks: torch.Tensor
    points_xy: torch.Tensor
    labels: torch.Tensor
    confidences: torch.Tensor
    counts: tuple[int, ...]

    def to(self, device: torch.device) -> PseudoLabelBatch:
        """Return the batch with its tensors on a device."""
        tensors = (self.masks, self.points_xy, self.labels, self.confidences)
        masks, points_xy, labels, confidences = (to_device(each, device) for each in tensors)
        return PseudoLabelBatch(masks, points_xy, labels, confidences, self.counts)


@dataclass(frozen=True, slots=True)
class LabelFrame:
    """The frame of pseudo-masks: that of SAM's decoder.

    Attributes:
        image_size: Side of the square that SAM's image encoder sees, the image's longer side filling it.
        grid: Cells a side of the decoder's mask logits, a divisor of it.
    """

    image_size: int
    grid: int


def collate_labels(pairs: Sequence[PseudoLabels]) -> PseudoLabelBatch:
    """Return the labels of B pairs, padded with zeros to the largest E."""
    counts = tuple(len(pair.confidences) for pair in pairs)
    most = max(counts)

    def padded(name: str) -> torch.Tensor:
        parts = [getattr(pair, name) for pair in pairs]
        return torch.stack([torch.cat([part, part.new_zeros(most - len(part), *part.shape[1:])]) for part in parts])

    return PseudoLabelBatch(padded("masks"), padded("points_xy"), padded("labels"), padded("confidences"), counts)


def points_in_box(
    mask: NDArray[np.bool_], num_points: int, key: int
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return P̂: points (M, 2) xy in [0, 1] of the image, uniform in the mask's box, and labels (M,), 1 inside, else 0.

    Source: section 3.2. The mask, (H, W) bool, has at least one pixel; `key` decides the draw.
    """
    ys, xs = np.nonzero(mask)
    rng = np.random.Generator(np.random.Philox(key=key))
    low = np.array([xs.min(), ys.min()], np.float64)
    high = np.array([xs.max() + 1, ys.max() + 1], np.float64)
    # Below the box's end, where floating point would round up to it.
    drawn = np.minimum(rng.uniform(low, high, size=(num_points, 2)), high - 1e-6)
    at = np.floor(drawn).astype(np.int64)
    labels = mask[at[:, 1], at[:, 0]].astype(np.float32)
    return (drawn / np.array([mask.shape[1], mask.shape[0]])).astype(np.float32), labels


def masks_in_frame(masks: torch.Tensor, frame: LabelFrame) -> torch.Tensor:
    """Return how much of each cell of the decoder's grid the masks cover, (E, grid, grid) float32, of (E, H, W) bool.

    The image's longer side fills the square, from its top left corner, and the rest is padding, as SAM pads.
    """
    size = resized_size((masks.shape[1], masks.shape[2]), frame.image_size)
    inside = F.interpolate(masks[:, None].float(), size, mode="area")
    padding = (0, frame.image_size - size[1], 0, frame.image_size - size[0])
    square = F.pad(inside, padding)
    return F.adaptive_avg_pool2d(square, frame.grid)[:, 0]


Which = Literal["all", "decided", "undecided"]


@dataclass(frozen=True, slots=True)
class PairSpec:
    """Which pairs to read, and how to draw points and flips.

    Attributes:
        num_points: M.
        which: `decided` pairs have a referent (D_sem, D_ref, H_sem), `undecided` ones have none yet (H_ref).
        is_flipping: Whether pairs are mirrored with probability 1/2, unless their text names a side (section 3.2:
            "randomly applying transformations, such as flipping").
        max_pseudo_masks: Of more pseudo-masks the last ones are left out: a run with many masks has many contexts. If
            the referent is undecided, it may be among them, so a warning counts such texts.
        on_bad_image: If an image is missing from SOURCE or differs from the annotated one: `raise`, or `skip` its
            pairs.
        source: Where the images are now, if they moved after the annotation; see `SampleSpec`.
        max_memory_bytes: A run with more bytes of embedded images is refused.
    """

    num_points: int
    frame: LabelFrame
    which: Which = "all"
    seed: int = 0
    is_flipping: bool = True
    max_pseudo_masks: int = 12
    is_empty_allowed: bool = False
    on_bad_image: Literal["raise", "skip"] = "raise"
    source: str | Mapping[str, str] | None = None
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of image and expression, with its pseudo-labels {ŷ_e}; `is_flipped` says that both are mirrored."""

    image_id: str
    image_sha256: str
    is_flipped: bool
    text: str
    labels: PseudoLabels


@dataclass(frozen=True, slots=True)
class _Row:
    """One pair as the tables have it; confidences (E,) float32."""

    shard: int
    image_id: str
    text: str
    mask_ids: list[str]
    confidences: NDArray[np.float32]

    @property
    def is_decided(self) -> bool:
        return bool(self.confidences.any())


class PairDataset(Dataset[Pair]):
    """The pairs of one run, by index; masks are held in memory as the tables encode them, images are read on demand."""

    def __init__(self, run: str | RunLocation, spec: PairSpec, *, snapshot: Snapshot | None = None) -> None:
        """Read the masks and expressions of a run (folder, url or location); see `RisDataset` for `snapshot`."""
        self._location = run if isinstance(run, RunLocation) else RunLocation.open(run)
        self._spec = spec
        header = require_header(self._location)
        self._images = ImageBytes(self._location, header, source=spec.source, is_random_access=True)
        self._images_bytes = 0
        self._num_cut = 0
        self._rows: list[_Row] = []
        self._counts: dict[str, tuple[str, tuple[int, int]]] = {}
        self._shards: dict[int, tuple[ShardImages, dict[str, int]]] = {}
        self.epoch = 0
        commits = (Snapshot.shared(self._location) if snapshot is None else snapshot).commits()
        for receipt in read_receipts(self._location, commits):
            self._read(receipt.shard, [receipt])
        if self._num_cut:
            logger.warning(
                "%s: %d texts without a referent have more pseudo-masks than the first %d, which are used. Raise "
                "generator.num_queries and data.max_candidates to use all.",
                *(self._location.root, self._num_cut, spec.max_pseudo_masks),
            )
        if not self._rows and not spec.is_empty_allowed:
            raise ConfigError(
                f"{self._location.root} has no pair of image and expression ({spec.which}). Give another run."
            )

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._rows)

    def __getitem__(self, index: int) -> Pair:
        """Return a pair with the points and the flip of this epoch; without its pixels, see `image`."""
        row, spec = self._rows[index], self._spec
        masks = np.stack([rle.decode([self._counts[each][0]], self._counts[each][1])[0] for each in row.mask_ids])
        drawn_by = (spec.seed, self.epoch, row.image_id, row.text)
        is_flipped = spec.is_flipping and bool(key_of("flip", *drawn_by) & 1) and not names_a_side(row.text)
        if is_flipped:
            masks = masks[:, :, ::-1].copy()
        drawn = [
            points_in_box(mask, spec.num_points, key_of("points", *drawn_by, mask_id))
            for mask_id, mask in zip(row.mask_ids, masks, strict=True)
        ]
        labels = PseudoLabels(
            masks_in_frame(torch.from_numpy(masks), spec.frame),
            torch.from_numpy(np.stack([xy for xy, _ in drawn])),
            torch.from_numpy(np.stack([label for _, label in drawn])),
            torch.from_numpy(row.confidences),
        )
        return Pair(row.image_id, self._image_sha256(row), is_flipped, row.text, labels)

    def image(self, index: int) -> torch.Tensor | None:
        """Return the image of a pair, (3, H, W) uint8 RGB, upright and not mirrored.

        None if it is missing or differs from the annotated one, and `on_bad_image` is "skip"; with "raise" a
        ConfigError says so.
        """
        row = self._rows[index]
        images, places = self._shards[row.shard]
        at = places[row.image_id]
        try:
            return self._images.decode(images, at)
        except ImageError as error:
            if self._spec.on_bad_image == "skip":
                return None
            raise self._images.explained(images.keys[at], error) from error

    def image_ids(self) -> list[str]:
        """Return the image of every pair, (len,)."""
        return [row.image_id for row in self._rows]

    def image_digests(self) -> list[str]:
        """Return the sha256 of the image of every pair: equal for the same image in any run, (len,)."""
        return [self._image_sha256(row) for row in self._rows]

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of points and flips."""
        self.epoch = epoch

    def selected(self, chosen: Sequence[int]) -> PairDataset:
        """Return the same pairs with other referents, -1 for none, a pair each; this data set does not change."""
        other = copy(self)
        other._rows = []
        for row, at in zip(self._rows, chosen, strict=True):
            confidences = np.zeros_like(row.confidences)
            if at >= 0:
                confidences[at] = 1.0
            other._rows.append(replace(row, confidences=confidences))
        return other

    def unflipped(self) -> PairDataset:
        """Return the same pairs, never mirrored; this data set does not change."""
        other = copy(self)
        other._spec = replace(self._spec, is_flipping=False)
        return other

    def _read(self, shard: int, receipts: list[Receipt]) -> None:
        """Take the pairs of a shard, their masks, and where their images are."""
        expressions = read_table(
            self._location, EXPRESSIONS, ["image_id", "target_mask_ids", "text", "kept"], receipts
        ).to_pylist()
        which, most = self._spec.which, self._spec.max_pseudo_masks
        rows = [row for row in _grouped(shard, expressions) if which == "all" or row.is_decided == (which == "decided")]
        if not rows:
            return
        self._num_cut += sum(len(row.mask_ids) > most and not row.is_decided for row in rows)
        rows = [replace(row, mask_ids=row.mask_ids[:most], confidences=row.confidences[:most]) for row in rows]
        used = {mask for row in rows for mask in row.mask_ids}
        for mask in read_table(self._location, MASKS, ["mask_id", "segmentation"], receipts).to_pylist():
            if mask["mask_id"] in used:
                height, width = mask["segmentation"]["size"]
                self._counts[mask["mask_id"]] = (mask["segmentation"]["counts"], (height, width))
        images = read_table(self._location, IMAGES, self._images.columns, receipts)
        wanted = {row.image_id for row in rows}
        images = images.filter(pa.array([each in wanted for each in images["image_id"].to_pylist()], pa.bool_()))
        if "bytes" in images.column_names:
            self._images_bytes += images["bytes"].nbytes
        if self._images_bytes > self._spec.max_memory_bytes:
            raise ConfigError(
                f"{self._location.root} embeds more than max_memory_bytes={self._spec.max_memory_bytes:,} of images, "
                "and all are held in memory. Raise max_memory_bytes, or write the run with "
                "shards.embed_images=false."
            )
        ids = images["image_id"].to_pylist()
        self._shards[shard] = (self._images.of_shard(shard, images), {each: at for at, each in enumerate(ids)})
        self._rows += rows

    def _image_sha256(self, row: _Row) -> str:
        images, places = self._shards[row.shard]
        return images.sha256[places[row.image_id]]


def _grouped(shard: int, rows: Sequence[dict[str, Any]]) -> list[_Row]:
    """The rows of a shard by image and text, kept rows first; rows with several masks or none are skipped."""
    groups: defaultdict[tuple[str, str], dict[str, bool]] = defaultdict(dict)
    for row in rows:
        if len(row["target_mask_ids"]) == 1:
            groups[row["image_id"], row["text"]][row["target_mask_ids"][0]] = bool(row["kept"])
    made = []
    for (image_id, text), is_kept in groups.items():
        # Python's sort is stable: kept rows come first, otherwise in the tables' order.
        mask_ids = sorted(is_kept, key=lambda mask: not is_kept[mask])
        confidences = np.array([is_kept[mask] for mask in mask_ids], np.float32)
        made.append(_Row(shard, image_id, text, mask_ids, confidences))
    return made
