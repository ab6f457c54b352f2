"""What a model is asked in an evaluation: the kept expressions of a run or an import, image by image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch

from pseudoris.schemas.errors import ConfigError, ImageError
from pseudoris.schemas.run_records import Receipt
from pseudoris.schemas.tables import IMAGES
from pseudoris.store.runs.manifest import cached_receipts
from pseudoris.store.tables.committed_tables import read_table
from pseudoris.training.dataset import SampleSpec
from pseudoris.training.dataset.image_reader import ShardImages
from pseudoris.training.dataset.opened_run import OpenedRun
from pseudoris.training.evaluation.run_images import check_masks, image_masks, read_shard
from pseudoris.training.learning.evaluator import ImageQuestion
from pseudoris.workers.masks import rle

_COLUMNS = ("text", "target_mask_ids", "kind", "kept", "split")


@dataclass(frozen=True, slots=True)
class AskedImage:
    """An image and the T expressions that are asked of it.

    Attributes:
        image_id: Its id.
        key: Its key in SOURCE.
        size: (H, W) upright.
        texts: (T).
        targets: (T), the masks of each as COCO compressed RLE: none, one or several.
        kinds: (T), as in the expressions table.
        splits: (T), "" where the truth has none.
        place: Its position among the encoded images of its shard.
    """

    image_id: str
    key: str
    size: tuple[int, int]
    texts: list[str]
    targets: list[list[str]]
    kinds: list[str]
    splits: list[str]
    place: tuple[ShardImages, int]

    def masks(self) -> torch.Tensor:
        """Return the union of the masks of each expression, (T, H, W) bool; empty of one without a target."""
        found = np.zeros((len(self.texts), *self.size), np.bool_)
        for row, counts in enumerate(self.targets):
            if counts:
                found[row] = rle.decode(counts, self.size).any(0)
        return torch.from_numpy(found)


class Questions:
    """The kept expressions of a run or an import, those of several masks and of none among them; tables in memory."""

    def __init__(self, truth: str, splits: Sequence[str] = (), *, reads_images: bool = True) -> None:
        """Read a truth.

        Args:
            truth: Folder or url of a run or an import.
            splits: Expressions of which splits; all by default.
            reads_images: Whether a question has its image.

        Raises:
            ConfigError: There is no run, nothing of it is kept, it lacks a split, or a part is damaged.
            TransientError: Storage failed.
        """
        self._run = OpenedRun.open(truth, SampleSpec(parts=("image",)), is_random_access=True)
        self._reads_images = reads_images
        read = [image for receipt in cached_receipts(self._run.location) for image in self._read(receipt)]
        there = Counter(split for image in read for split in image.splits)
        absent = [split for split in splits if split not in there]
        if absent:
            named = ", ".join(f"{name or 'no split'} ({count:,})" for name, count in sorted(there.items())) or "none"
            raise ConfigError(
                f"The truth {self.root} has no expression of split {absent[0]!r}. It has {named}. Import the split "
                "(`pseudoris import --split`), or leave it out."
            )
        chosen = [_of_splits(image, frozenset(splits)) for image in read] if splits else read
        self.images = [image for image in chosen if image.texts]
        if not self.images:
            raise ConfigError(f"The truth {self.root} has no kept expression, so there is nothing to ask.")

    @property
    def root(self) -> str:
        """Where the truth lives."""
        return self._run.location.root

    @cached_property
    def splits(self) -> list[str]:
        """The splits of the expressions, in the order of the alphabet; "" is no split."""
        return sorted({split for image in self.images for split in image.splits})

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.images)

    def of(self, image: AskedImage) -> ImageQuestion:
        """Return the question of an image; its pixels are (3, 0, 0) if they are not read.

        Raises:
            ConfigError: The image cannot be used: figures over fewer expressions would not be comparable.
        """
        images, at = image.place
        pixels = self.pixels(image) if self._reads_images else torch.zeros((3, 0, 0), dtype=torch.uint8)
        return ImageQuestion(image.image_id, pixels, image.texts, image.masks(), [], images.sha256[at])

    def pixels(self, image: AskedImage) -> torch.Tensor:
        """Return an image, (3, H, W) uint8.

        Raises:
            ConfigError: It cannot be used.
        """
        images, at = image.place
        if self._run.images is None:
            raise ValueError("the run was opened without images")
        try:
            return self._run.images.decode(images, at)
        except ImageError as error:
            raise self._run.images.explained(image.key, error) from error

    def _read(self, receipt: Receipt) -> list[AskedImage]:
        if self._run.images is None:
            return []
        location = self._run.location
        tables = read_shard(location, receipt, *_COLUMNS)
        encoded = self._run.images.of_shard(
            receipt.shard, read_table(location, IMAGES, self._run.images.columns, [receipt])
        )
        rows, found = tables.expressions.to_pylist(), []
        for number, row in enumerate(tables.images.to_pylist()):
            start, stop = tables.expression_starts[number : number + 2].tolist()
            kept = [each for each in rows[start:stop] if each["kept"]]
            if not kept:
                continue
            size = (row["height"], row["width"])
            mask_ids, counts = image_masks(tables, number)
            check_masks(counts, size, where=row["key"])
            by_id = dict(zip(mask_ids, counts, strict=True))
            found.append(
                AskedImage(
                    row["image_id"],
                    row["key"],
                    size,
                    [each["text"] for each in kept],
                    [[by_id[target] for target in each["target_mask_ids"]] for each in kept],
                    [each["kind"] for each in kept],
                    [each["split"] or "" for each in kept],
                    (encoded, number),
                )
            )
        return found


def _of_splits(image: AskedImage, splits: frozenset[str]) -> AskedImage:
    """Return an image with the expressions of some splits."""
    at = [row for row, split in enumerate(image.splits) if split in splits]
    return replace(
        image,
        texts=[image.texts[row] for row in at],
        targets=[image.targets[row] for row in at],
        kinds=[image.kinds[row] for row in at],
        splits=[image.splits[row] for row in at],
    )
