"""A run as pairs of image and expression with pseudo-labels: the training data of PPT.

Any run is a source. Its rows of one image and one text give the pseudo-masks of that text. Kept rows have ĉ = 1, the
others 0. So the four data sets of the recipes are read as they were written. An import has one pseudo-mask per text.
In an annotated run, if a text was rejected for a mask of its image, that mask is a context.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import pyarrow as pa
import torch
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
from pseudoris.training.dataset.snapshot import Snapshot
from pseudoris.training.ppt.pairs import Pair, PairSpec
from pseudoris.training.ppt.pseudo_labels import PseudoLabels, masks_in_frame, points_in_box
from pseudoris.training.ppt.recipes.recipe_texts import names_a_side
from pseudoris.workers.counter_rng import key_of
from pseudoris.workers.masks import rle

logger = logging.getLogger(__name__)

_FLIP: Final = "flip"
_POINTS: Final = "points"


@dataclass(slots=True)
class _Row:
    """One pair as the tables have it; confidences (E,) float32."""

    shard: int
    image_id: str
    text: str
    mask_ids: list[str]
    confidences: NDArray[np.float32]

    def cut(self, max_pseudo_masks: int) -> bool:
        """Keep the first `max_pseudo_masks`, and return whether there were more."""
        has_more = len(self.mask_ids) > max_pseudo_masks
        self.mask_ids, self.confidences = self.mask_ids[:max_pseudo_masks], self.confidences[:max_pseudo_masks]
        return has_more


class PairDataset(Dataset[Pair]):
    """The pairs of one run, by index; masks are held in memory as the tables encode them, images are read on demand."""

    def __init__(self, run: str | RunLocation, spec: PairSpec, *, snapshot: Snapshot | None = None) -> None:
        """Read a run's masks and expressions.

        Args:
            run: Its folder or url.
            spec: Which pairs of it.
            snapshot: Which commits; `Snapshot.shared` by default, so that ranks read the same.

        Raises:
            ConfigError: There is no run, it has no such pair, or its images are too large for memory.
            TransientError: Storage failed.
        """
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
        is_flipped = spec.is_flipping and self._coin(row)
        if is_flipped:
            masks = masks[:, :, ::-1].copy()
        drawn = [self._points(row, mask_id, mask) for mask_id, mask in zip(row.mask_ids, masks, strict=True)]
        labels = PseudoLabels(
            masks_in_frame(torch.from_numpy(masks), spec.frame),
            torch.from_numpy(np.stack([xy for xy, _ in drawn])),
            torch.from_numpy(np.stack([label for _, label in drawn])),
            torch.from_numpy(row.confidences),
        )
        return Pair(row.image_id, self._image_sha256(row), is_flipped, row.text, labels)

    def image(self, index: int) -> torch.Tensor:
        """Return the image of a pair, (3, H, W) uint8 RGB, upright and not mirrored.

        Raises:
            ConfigError: It is missing, or differs from the annotated one.
        """
        try:
            return self._decoded(index)
        except ImageError as error:
            raise self._explained(index, error) from error

    def usable_image(self, index: int) -> torch.Tensor | None:
        """Return the image of a pair, as `image`; None if it cannot be used and `on_bad_image` is "skip".

        Raises:
            ConfigError: It cannot be used, and `on_bad_image` is "raise".
        """
        try:
            return self._decoded(index)
        except ImageError as error:
            if self._spec.on_bad_image == "skip":
                return None
            raise self._explained(index, error) from error

    def image_ids(self) -> list[str]:
        """Return the image of every pair, (len,)."""
        return [row.image_id for row in self._rows]

    def image_digests(self) -> list[str]:
        """Return the sha256 of the image of every pair: equal for the same image in any run, (len,)."""
        return [self._image_sha256(row) for row in self._rows]

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of points and flips."""
        self.epoch = epoch

    def confidences(self, index: int) -> torch.Tensor:
        """Return ĉ (E,) float32 of a pair."""
        return torch.from_numpy(self._rows[index].confidences.copy())

    def selected(self, confidences: Sequence[torch.Tensor]) -> PairDataset:
        """Return the same pairs with other confidences, from `Select`, (E,) a pair; this data set does not change.

        Raises:
            ValueError: There is not one for each pseudo-mask of each pair.
        """
        if len(confidences) != len(self) or any(
            len(given) != len(row.mask_ids) for given, row in zip(confidences, self._rows, strict=False)
        ):
            raise ValueError("Give a confidence for each pseudo-mask of each pair, in the order of the pairs.")
        other = object.__new__(PairDataset)
        other.__dict__.update(self.__dict__)
        other._rows = [
            replace(row, confidences=given.numpy().astype(np.float32))
            for row, given in zip(self._rows, confidences, strict=True)
        ]
        return other

    def unflipped(self) -> PairDataset:
        """Return the same pairs, never mirrored; this data set does not change."""
        other = object.__new__(PairDataset)
        other.__dict__.update(self.__dict__)
        other._spec = replace(self._spec, is_flipping=False)
        return other

    def _read(self, shard: int, receipts: list[Receipt]) -> None:
        """Take the pairs of a shard, their masks, and where their images are."""
        expressions = read_table(
            self._location, EXPRESSIONS, ["image_id", "target_mask_ids", "text", "kept"], receipts
        ).to_pylist()
        rows = [row for row in _grouped(shard, expressions) if self._is_wanted(row)]
        for row in rows:
            self._num_cut += row.cut(self._spec.max_pseudo_masks) and not row.confidences.any()
        if not rows:
            return
        used = {mask for row in rows for mask in row.mask_ids}
        for mask in read_table(self._location, MASKS, ["mask_id", "segmentation"], receipts).to_pylist():
            if mask["mask_id"] in used:
                height, width = mask["segmentation"]["size"]
                self._counts[mask["mask_id"]] = (mask["segmentation"]["counts"], (height, width))
        images = read_table(self._location, IMAGES, self._images.columns, receipts)
        wanted = {row.image_id for row in rows}
        images = images.filter(pa.array([each in wanted for each in images["image_id"].to_pylist()], pa.bool_()))
        self._count_bytes(images)
        ids = images["image_id"].to_pylist()
        self._shards[shard] = (self._images.of_shard(shard, images), {each: at for at, each in enumerate(ids)})
        self._rows += rows

    def _decoded(self, index: int) -> torch.Tensor:
        row = self._rows[index]
        images, places = self._shards[row.shard]
        return self._images.decode(images, places[row.image_id])

    def _explained(self, index: int, error: ImageError) -> ConfigError:
        row = self._rows[index]
        images, places = self._shards[row.shard]
        return self._images.explained(images.keys[places[row.image_id]], error)

    def _count_bytes(self, images: pa.Table) -> None:
        """Refuse to hold more than is allowed, before more is read."""
        if "bytes" in images.column_names:
            self._images_bytes += images["bytes"].nbytes
        if self._images_bytes > self._spec.max_memory_bytes:
            raise ConfigError(
                f"{self._location.root} embeds more than max_memory_bytes={self._spec.max_memory_bytes:,} of images, "
                "and all are held in memory. Raise max_memory_bytes, or write the run with "
                "shards.embed_images=false."
            )

    def _image_sha256(self, row: _Row) -> str:
        images, places = self._shards[row.shard]
        return images.sha256[places[row.image_id]]

    def _is_wanted(self, row: _Row) -> bool:
        return self._spec.which == "all" or bool(row.confidences.any()) == (self._spec.which == "decided")

    def _coin(self, row: _Row) -> bool:
        key = key_of(_FLIP, self._spec.seed, self.epoch, row.image_id, row.text)
        return bool(key & 1) and not names_a_side(row.text)

    def _points(
        self, row: _Row, mask_id: str, mask: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        key = key_of(_POINTS, self._spec.seed, self.epoch, row.image_id, row.text, mask_id)
        return points_in_box(mask, self._spec.num_points, key)


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
