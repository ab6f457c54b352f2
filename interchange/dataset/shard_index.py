"""Orders a shard's samples: one mask, several, or none. For `iterable_dataset`, `shard_reader`, `stream_order`.

The order and the names of samples must not change: the number of a sample in a saved training's state refers to them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from pseudoris.interchange.dataset.sample_spec import SampleSpec
from pseudoris.interchange.dataset.snapshot import ShardParts
from pseudoris.primitives.counter_rng import draw_below, key_of, permutation
from pseudoris.primitives.errors import ConfigError

# The name of an image's no-target expressions ends with this word.
_NONE: Final = "none"
# A whole number below this is drawn and divided by it, which gives a number from 0 to 1.
_ROUNDING_STEPS: Final = 2**32

Int64Array = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """The masks of a shard that have an expression left, in the order of the tables, by image.

    With `SampleSpec.groups` or `none`, several masks together, or none, take the place of a mask too.

    Attributes:
        parts: The shard.
        mask_ids: (M,), as of `RisSample`.
        image_ids: (I,), of the images that have such a mask.
        first_masks: (I+1,) int64, where the masks of each image begin.
        first_rows: (M+1,) int64, where the expressions of each mask begin, in `expressions`.
        expressions: The expressions, ordered by mask; the requested columns.
        image_sizes_px: (I, 2) int64, upright height and width; None if no image is requested.
        targets: (M,), the ids of the masks of each; None if each is one mask.
    """

    parts: ShardParts
    mask_ids: Sequence[str]
    image_ids: Sequence[str]
    first_masks: Int64Array
    first_rows: Int64Array
    expressions: pa.Table
    image_sizes_px: Int64Array | None = None
    targets: Sequence[Sequence[str]] | None = None

    @property
    def num_masks(self) -> int:
        """M."""
        return len(self.mask_ids)

    def num_targets(self) -> Int64Array:
        """Return how many masks each of the M stands for, (M,)."""
        if self.targets is None:
            return np.ones(self.num_masks, np.int64)
        return np.fromiter(map(len, self.targets), np.int64, self.num_masks)


def target_names(table: pa.Table, spec: SampleSpec) -> pa.Array | pa.ChunkedArray:
    """Return what each expression refers to, (E,): its mask's id, those of several, or its image."""
    targets = table["target_mask_ids"]
    if spec.is_one_mask_each:
        return pc.list_flatten(targets)
    absent = pc.binary_join_element_wise(table["image_id"], _NONE, "-")
    return pc.if_else(pc.equal(pc.list_value_length(targets), 0), absent, pc.binary_join(targets, "+"))


def index_of(parts: ShardParts, table: pa.Table, spec: SampleSpec) -> ShardIndex:
    """Return the index of expressions, by what they refer to; those of an image's none are together."""
    table = table.combine_chunks()
    of_mask, mask_ids = numbered(target_names(table, spec))
    # The rows are sorted by mask, because nothing here relies on the order in which tables are written.
    order = np.argsort(of_mask, kind="stable")
    first_rows = np.concatenate(([0], np.cumsum(np.bincount(of_mask, minlength=len(mask_ids)))))
    of_image, image_ids = numbered(table["image_id"].take(order[first_rows[:-1]]))
    by_image = np.argsort(of_image, kind="stable")
    if (by_image != np.arange(len(by_image))).any():
        raise ConfigError(
            f"The expressions of shard {parts.shard} are not ordered by image, so pseudoris did not write them."
        )
    return ShardIndex(
        parts,
        mask_ids,
        image_ids,
        np.concatenate(([0], np.cumsum(np.bincount(of_image, minlength=len(image_ids))))),
        first_rows,
        table.take(order),
        targets=None if spec.is_one_mask_each else table["target_mask_ids"].take(order[first_rows[:-1]]).to_pylist(),
    )


def with_share_of_none(index: ShardIndex, spec: SampleSpec) -> ShardIndex:
    """Return the index with so many samples of none as `spec.none` says, each with part of its image's expressions."""
    if index.targets is None:
        return index
    num_targets = index.num_targets()
    (absent,) = np.nonzero(num_targets == 0)
    if not len(absent):
        return index
    key = key_of("none", spec.seed, index.parts.shard)
    # A random number decides whether to round up or down. Rounding to nearest could give 0 in every small shard.
    wanted = (index.num_masks - len(absent)) * spec.none / (1 - spec.none)
    num_wanted = int(wanted + draw_below(key, 0, _ROUNDING_STEPS) / _ROUNDING_STEPS)
    num_texts = np.diff(index.first_rows)[absent]
    of_image = np.repeat(np.arange(len(absent)), num_texts)
    number = np.arange(len(of_image)) - np.repeat(np.cumsum(num_texts) - num_texts, num_texts)
    # Each image comes once, in a random order; then each with its second text, and so on. The order may repeat.
    order = np.lexsort((permutation(key, len(absent))[of_image], number))
    num_samples = np.ones(index.num_masks, np.int64)
    num_samples[absent] = np.bincount(of_image[order[np.arange(num_wanted) % len(order)]], minlength=len(absent))
    of = np.repeat(np.arange(index.num_masks), num_samples)
    part = np.arange(len(of)) - np.repeat(np.cumsum(num_samples) - num_samples, num_samples)
    ids, rows = [], [np.zeros(0, np.int64)]
    for at, turn in zip(of.tolist(), part.tolist(), strict=True):
        own = np.arange(index.first_rows[at], index.first_rows[at + 1])
        is_none = not num_targets[at]
        rows.append(own[turn % len(own) :: max(num_samples[at], 1)] if is_none else own)
        ids.append(f"{index.mask_ids[at]}-{turn}" if is_none else index.mask_ids[at])
    images, position = np.unique(
        np.repeat(np.arange(len(index.image_ids)), np.diff(index.first_masks))[of], return_inverse=True
    )
    return replace(
        index,
        mask_ids=ids,
        image_ids=[index.image_ids[at] for at in images],
        first_masks=np.concatenate(([0], np.cumsum(np.bincount(position, minlength=len(images))))),
        first_rows=np.cumsum([len(each) for each in rows]),
        expressions=index.expressions.take(np.concatenate(rows)),
        targets=[index.targets[at] for at in of.tolist()],
    )


def numbered(column: pa.ChunkedArray | pa.Array) -> tuple[Int64Array, list[str]]:
    """Return the values' numbers by first appearance, and the values by number."""
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    encoded = array.dictionary_encode()
    return encoded.indices.to_numpy(zero_copy_only=False).astype(np.int64), encoded.dictionary.to_pylist()
