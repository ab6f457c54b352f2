"""Reads runs as pairs of image and expression, and batches: the data of PPT (curriculum point prompting).

For `ppt`, experiments and benchmarks. Any run is a source: its rows of an image and a text give the text's
pseudo-masks, with confidence 1 if kept, else 0. An import has one pseudo-mask per text. In an annotated run, a mask
that a text was rejected for is a context.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final, Literal

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset.image_reader import ImageBytes, ShardImages
from pseudoris.interchange.dataset.map_dataset import ConcatIndex
from pseudoris.interchange.dataset.snapshot import Snapshot
from pseudoris.interchange.dataset.torch_names import SharedNumbers
from pseudoris.primitives import rle
from pseudoris.primitives.counter_rng import key_of
from pseudoris.primitives.errors import ConfigError, ImageError
from pseudoris.primitives.uris import place
from pseudoris.store.runs.held_out_pictures import TRAIN
from pseudoris.store.tables.open_run import CommittedShard, OpenRun
from pseudoris.training.evaluation.run_images import CommittedImage, images_of, joined_tables
from pseudoris.training.learning.training_data import moved_of
from pseudoris.training.ppt.ppt_config import PairsDataConfig
from pseudoris.training.ppt.recipes.recipe_texts import names_a_side
from pseudoris.workers.device import to_device
from pseudoris.workers.masks.sam_model import resized_size

logger = logging.getLogger(__name__)
# Maps a key to its image of a batch, mirrored if its pair is. None means that the image cannot be used.
_Seen = dict[str, torch.Tensor | None]
_TENSORS: Final = ("masks", "points_xy", "labels", "confidences")


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
class PseudoLabelBatch(PseudoLabels):
    """The labels of B pairs, with an axis B in front; of the E rows of each `counts` are labels, others padding."""

    counts: tuple[int, ...]

    def to(self, device: torch.device) -> PseudoLabelBatch:
        """Return the batch with its tensors on a device."""
        moved = {name: to_device(getattr(self, name), device) for name in _TENSORS}
        return PseudoLabelBatch(**moved, counts=self.counts)


@dataclass(frozen=True, slots=True)
class LabelFrame:
    """The frame of pseudo-masks: that of SAM's decoder.

    `image_size` is the side of the square that SAM's image encoder sees, the image's longer side filling it; `grid`, a
    divisor of it, the cells per side of the decoder's mask logits.
    """

    image_size: int
    grid: int


def collate_labels(pairs: Sequence[PseudoLabels]) -> PseudoLabelBatch:
    """Return the labels of B pairs, padded with zeros to the largest E."""
    padded = {name: pad_sequence([getattr(pair, name) for pair in pairs], batch_first=True) for name in _TENSORS}
    return PseudoLabelBatch(**padded, counts=tuple(len(pair.confidences) for pair in pairs))


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
    # Points are kept below the end of the box, because floating point may round a draw up to the end.
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
    square = F.pad(inside, (0, frame.image_size - size[1], 0, frame.image_size - size[0]))
    return F.adaptive_avg_pool2d(square, frame.grid)[:, 0]


Which = Literal["all", "decided", "undecided"]
# A pair without a referent is "undecided", a pair with one is "decided".
_DECIDED: Final = ("undecided", "decided")


@dataclass(frozen=True, slots=True)
class PairSpec:
    """Which pairs to read, and how to draw their M points and flips.

    `decided` pairs have a referent (D_sem, D_ref, H_sem), `undecided` ones have none yet (H_ref). With
    `data.is_flipping` pairs are mirrored with probability 1/2, unless their text names a side (section 3.2: "randomly
    applying transformations, such as flipping").
    """

    num_points: int
    frame: LabelFrame
    which: Which = "all"
    seed: int = 0
    max_pseudo_masks: int = 12
    is_empty_allowed: bool = False
    data: PairsDataConfig = field(default_factory=PairsDataConfig)


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of image and expression, with its pseudo-labels {ŷ_e}; `is_flipped` says that both are mirrored.

    `image` is (3, H, W) uint8 RGB as shown, which `image_key` identifies; None where it was not read.
    """

    image_id: str
    image_key: str
    is_flipped: bool
    text: str
    labels: PseudoLabels
    image: torch.Tensor | None = None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs, with the fields of `Pair`."""

    image_keys: list[str]
    images: list[torch.Tensor | None]
    texts: list[str]
    pseudo_labels: PseudoLabelBatch

    def __len__(self) -> int:
        """Return the number of pseudo-labels, each with a query of its own: what the loss is a mean over."""
        return sum(self.pseudo_labels.counts)


@dataclass(frozen=True, slots=True)
class _Row:
    """One pair as the tables have it; confidences (E,) float32, and where among its shard's images its own is."""

    image_id: str
    text: str
    mask_ids: list[str]
    confidences: NDArray[np.float32]
    encoded: tuple[ShardImages, int]

    @property
    def sha256(self) -> str:
        images, at = self.encoded
        return images.sha256[at]


class PairDataset(Dataset[Pair]):
    """The pairs of one run, by index; masks are held in memory as the tables encode them, images are read on demand."""

    def __init__(self, run: str | Path | RunLocation, spec: PairSpec, *, snapshot: Snapshot | None = None) -> None:
        """Read the masks and expressions of a run (folder, url or location); see `RisDataset` for `snapshot`."""
        self._spec, self._location = spec, run if isinstance(run, RunLocation) else RunLocation.open(place(run, "run"))
        commits = (Snapshot.shared(self._location) if snapshot is None else snapshot).commits()
        opened = OpenRun.at(self._location, commits)
        moved = moved_of(spec.data.moved, opened.header)
        self._images = ImageBytes(self._location, opened.header, source=moved, is_random_access=True)
        self._is_split = opened.header.splits is not None
        self._images_bytes = self._num_cut = self.epoch = 0
        self._rows: list[_Row] = []
        self._counts: dict[str, tuple[str, tuple[int, int]]] = {}
        for shard in opened.shards():
            self._read(shard)
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
        return len(self._rows)

    def __getitem__(self, index: int) -> Pair:
        """Return a pair with the points and the flip of this epoch; without its pixels, see `image`."""
        row, spec = self._rows[index], self._spec
        masks = np.stack([rle.decode([self._counts[each][0]], self._counts[each][1])[0] for each in row.mask_ids])
        drawn_by = (spec.seed, self.epoch, row.image_id, row.text)
        is_flipped = spec.data.is_flipping and bool(key_of("flip", *drawn_by) & 1) and not names_a_side(row.text)
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
        key = f"{row.sha256}{'-mirrored' if is_flipped else ''}"
        return Pair(row.image_id, key, is_flipped, row.text, labels)

    def image(self, index: int) -> torch.Tensor | None:
        """Return the image of a pair, (3, H, W) uint8 RGB, upright and not mirrored.

        None if it is missing or is another one and `on_bad_image` is "skip"; with "raise" a ConfigError says so.
        """
        images, at = self._rows[index].encoded
        try:
            return self._images.decode(images, at)
        except ImageError as error:
            if self._spec.data.on_bad_image == "skip":
                return None
            raise self._images.explained(images.keys[at], error) from error

    def image_digests(self) -> list[str]:
        """Return the sha256 of the image of every pair: equal for the same image in any run, (len,)."""
        return [row.sha256 for row in self._rows]

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of points and flips."""
        self.epoch = epoch

    def selected(self, chosen: Sequence[int]) -> PairDataset:
        """Return the same pairs with other referents, -1 for none, a pair each; this data set does not change."""
        other = copy(self)
        other._rows = [
            replace(row, confidences=(np.arange(len(row.confidences)) == at).astype(np.float32))
            for row, at in zip(self._rows, chosen, strict=True)
        ]
        return other

    def unflipped(self) -> PairDataset:
        """Return the same pairs, never mirrored; this data set does not change."""
        other = copy(self)
        other._spec = replace(self._spec, data=self._spec.data.model_copy(update={"is_flipping": False}))
        return other

    def _read(self, shard: CommittedShard) -> None:
        """Take the pairs of a shard, their masks, and where their images are."""
        joined = joined_tables(shard, "target_mask_ids", "text", "kept", "split", images=self._images.columns)
        images = enumerate(images_of(joined))
        found = {place: (image, pairs) for place, image in images if (pairs := self._pairs_of(image))}
        if not found:
            return
        rows, most = joined.images.take(list(found)), self._spec.max_pseudo_masks
        if "bytes" in rows.column_names:
            self._images_bytes += rows["bytes"].nbytes
        max_bytes = self._spec.data.max_memory_bytes
        if self._images_bytes > max_bytes:
            raise ConfigError(
                f"{self._location.root} embeds more than max_memory_bytes={max_bytes:,} of images, and all are held in "
                "memory. Raise max_memory_bytes, or write the run with shards.embed_images=false."
            )
        encoded = self._images.of_shard(shard.receipt.shard, rows)
        for at, (image, pairs) in enumerate(found.values()):
            counts = dict(zip(image.mask_ids, image.mask_counts, strict=True))
            for text, kept in pairs.items():
                self._num_cut += len(kept) > most and not any(kept.values())
                # Kept rows come first, then all others, both in the order of the tables.
                mask_ids = [each for flag in (True, False) for each in kept if kept[each] is flag][:most]
                self._counts.update((mask, (counts[mask], image.size)) for mask in mask_ids)
                confidences = np.array([kept[mask] for mask in mask_ids], np.float32)
                self._rows.append(_Row(image.image_id, text, mask_ids, confidences, (encoded, at)))

    def _pairs_of(self, image: CommittedImage) -> dict[str, dict[str, bool]]:
        """Whether each mask is kept, by text, of the pairs asked for; rows of several masks or none are skipped.

        So are those of other splits than `train`, if the run has splits.
        """
        pairs: defaultdict[str, dict[str, bool]] = defaultdict(dict)
        for row in image.expressions.to_pylist():
            if len(row["target_mask_ids"]) == 1 and (row["split"] == TRAIN or not self._is_split):
                pairs[row["text"]][row["target_mask_ids"][0]] = bool(row["kept"])
        which = self._spec.which
        return {text: kept for text, kept in pairs.items() if which in ("all", _DECIDED[any(kept.values())])}


class PromptedPairs(SharedNumbers, Dataset[Pair]):
    """The pairs of several data sets, one after the other: a union of equations 5 to 7 (section 3.3)."""

    def __init__(
        self,
        parts: Sequence[PairDataset],
        *,
        epochs_before: int = 0,
        is_held: Callable[[str], bool] = lambda key: False,
    ) -> None:
        """Join data sets, at least one.

        `epochs_before` are those of earlier rounds; `is_held` says of which images, by key, pixels are not needed.
        """
        super().__init__()
        self._parts, self._epochs_before, self._is_held = list(parts), epochs_before, is_held
        self._concat = ConcatIndex([len(part) for part in parts])
        self.set_epoch(0)

    def __len__(self) -> int:
        return len(self._concat)

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of points and flips."""
        super().set_epoch(epoch)
        for part in self._parts:
            part.set_epoch(self._epochs_before + epoch)

    def image_keys(self) -> list[str]:
        """Return the image of every pair, mirrored or not."""
        return [each for part in self._parts for each in part.image_digests()]

    def __getitem__(self, index: int) -> Pair:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[Pair]:
        """Return pairs, the next usable ones with `on_bad_image="skip"`; an image is decoded at most once."""
        seen: _Seen = {}
        return [self._usable(index, seen) for index in indices]

    def drawn(self, indices: Sequence[int]) -> list[Pair | None]:
        """Return pairs; with `on_bad_image="skip"`, None for one whose image cannot be used."""
        seen: _Seen = {}
        return [self._draw(index, seen) for index in indices]

    def _usable(self, index: int, seen: _Seen) -> Pair:
        for stand_in in range(len(self)):
            found = self._draw((index + stand_in) % len(self), seen)
            if found is not None:
                return found
            self._count_skipped()
        raise ConfigError(f"No image of the {len(self)} pairs can be used. Put the annotated files back.")

    def _draw(self, index: int, seen: _Seen) -> Pair | None:
        part, at = self._concat.of(index, noun="pair")
        pair = self._parts[part][at]
        if self._is_held(pair.image_key):
            return pair
        if pair.image_key not in seen:
            image = self._parts[part].image(at)
            seen[pair.image_key] = image.flip(-1) if image is not None and pair.is_flipped else image
        found = seen[pair.image_key]
        return None if found is None else replace(pair, image=found)


def collate(pairs: Sequence[Pair]) -> PairBatch:
    """Return pairs as a batch."""
    return PairBatch(
        [each.image_key for each in pairs],
        [each.image for each in pairs],
        [each.text for each in pairs],
        collate_labels([each.labels for each in pairs]),
    )
