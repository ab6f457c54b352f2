"""Gives the images of a shard's tables other keys, ids and splits, or drops them; all else stays.

Called by `combined_run`; and by what writes new texts of images that have a split.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.ids import IMAGE_ID_HEX_DIGITS, image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.tables import EXPRESSIONS, IMAGES, MASKS

# The columns that name a mask, `<image id>-0007`.
_OF_MASKS: Final = {MASKS: ("mask_id",), EXPRESSIONS: ("target_mask_ids", "rival_mask_id", "grounding_rival")}


def renamed(
    tables: Mapping[str, pa.Table], entries: Sequence[PlanEntry], prefix: str, *, where: str
) -> dict[str, pa.Table]:
    """Return the tables with the `prefix` before their keys, and ids that follow, of the images of `entries` alone.

    Entries are in the order of the table `images`. ConfigError, which names the shard `where`, for other rows.
    """
    planned = {each.image_id for each in entries}
    kept = [image_id(f"{prefix}{key}") in planned for key in tables[IMAGES]["key"].to_pylist()]
    images = tables[IMAGES] if all(kept) else tables[IMAGES].filter(pa.array(kept, pa.bool_()))
    if images.num_rows != len(entries):
        raise ConfigError(f"{where} has {images.num_rows} images, its plan {len(entries)}: run `pseudoris verify`")
    ids = _Ids(images["image_id"].combine_chunks(), pa.array([each.image_id for each in entries], pa.string()), where)
    found = {}
    for name, table in {**tables, IMAGES: images}.items():
        if name != IMAGES and not all(kept):
            table = table.filter(pc.is_in(table["image_id"], value_set=ids.old))
        columns = {"image_id": ids.of_images(table["image_id"].combine_chunks())}
        if name == IMAGES:
            columns["key"] = pa.array([each.key for each in entries], pa.string())
            # A picture is named as the keys are: two runs may have tiles of different pictures of one name.
            named = zip(columns["key"].to_pylist(), table["key"].to_pylist(), table["picture"].to_pylist(), strict=True)
            pictures = [old and f"{key.removesuffix(before)}{old}" for key, before, old in named]
            columns["picture"] = pa.array(pictures, pa.string())
        for column in _OF_MASKS.get(name, ()):
            columns[column] = ids.of_masks(table[column].combine_chunks())
        held = [columns.get(field.name, table[field.name]) for field in table.schema]
        found[name] = pa.table(held, schema=table.schema)
    return found


def with_splits(tables: Mapping[str, pa.Table], splits: Mapping[str, str | None]) -> dict[str, pa.Table]:
    """Return the tables with the split of each image by its id, and of all texts of the image."""
    images = tables[IMAGES]
    held = pa.array([splits.get(each) for each in images["image_id"].to_pylist()], pa.string())
    images = images.set_column(images.schema.get_field_index("split"), images.schema.field("split"), held)
    return {**tables, IMAGES: images, EXPRESSIONS: texts_in_splits(tables[EXPRESSIONS], images)}


def texts_in_splits(texts: pa.Table, images: pa.Table) -> pa.Table:
    """Return texts with the splits of their images, which have some."""
    places = pc.index_in(texts["image_id"], value_set=images["image_id"].combine_chunks())
    at = texts.schema.get_field_index("split")
    return texts.set_column(at, texts.schema.field(at), images["split"].take(places))


class _Ids:
    """The new id of each image, by the old one."""

    def __init__(self, old: pa.Array, new: pa.Array, where: str) -> None:
        self.old, self._new, self._where = old, new, where

    def of_images(self, ids: pa.Array) -> pa.Array:
        """Return the new ids of images; null stays null."""
        found = self._new.take(pc.index_in(ids, value_set=self.old, skip_nulls=True))
        if found.null_count != ids.null_count:
            raise ConfigError(f"{self._where} has rows of no image: run `pseudoris verify`")
        return found

    def of_masks(self, ids: pa.Array) -> pa.Array:
        """Return the new ids of masks, or of lists of them; null stays null."""
        if pa.types.is_list(ids.type):
            values = self.of_masks(ids.flatten())
            ends = pa.array(np.concatenate([[0], np.cumsum(pc.list_value_length(ids).to_numpy())]), pa.int32())
            return pa.ListArray.from_arrays(ends, values, type=ids.type)
        images = self.of_images(pc.utf8_slice_codeunits(ids, 0, IMAGE_ID_HEX_DIGITS))
        return pc.binary_join_element_wise(images, pc.utf8_slice_codeunits(ids, IMAGE_ID_HEX_DIGITS), "")
