"""Proves what readers take from the tables of a shard, whole columns at once. Called by `open_run` and by data sets.

A digest proves that bytes are those that were written, and whoever writes a run writes its digests. But ids become
names of files, sizes become memory, and boxes are copied into exports. So all are compared before a row is given.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.run_lengths import are_measured, mask_faults
from pseudoris.schemas.ids import IMAGE_ID_HEX_DIGITS
from pseudoris.schemas.keep_rule import Ints
from pseudoris.schemas.stage_settings import MAX_PIXELS

_IMAGE_ID: Final = f"^[0-9a-f]{{{IMAGE_ID_HEX_DIGITS}}}$"
_MASK_NUMBER: Final = "^-[0-9]{4,9}$"
_RIVALS: Final = ("rival_mask_id", "grounding_rival")
_HEX_DIGITS: Final = {"sha256": 64, "phash": 16, "picture_sha256": 64, "picture_phash": 16}
_OF_TILE: Final = ("picture", "picture_size", "tile_xyxy_px")
_MEASURED: Final = frozenset({"segmentation", "area_px", "box_xyxy_px"})


def prove_rows(images: pa.Table, masks: pa.Table, expressions: pa.Table, *, where: str) -> None:
    """Prove ids, sizes, rivals and masks, as far as the tables of some images have their columns; `where` names them.

    Raises:
        ConfigError: One of them is what no run writes.
    """
    is_id = pc.match_substring_regex(images["image_id"], _IMAGE_ID)
    _require(is_id, images, "image_id", where)
    sizes = None
    if {"height", "width"} <= set(images.column_names):
        # Quarantined images may have no size. They have no masks.
        sides = [pc.fill_null(images[name], 1).to_numpy().astype(np.int64) for name in ("height", "width")]
        sizes = np.stack(sides, axis=1)
        _require(pa.array((sizes > 0).all(axis=1) & (sizes.prod(axis=1) <= MAX_PIXELS)), images, "height", where)
    if set(_OF_TILE) <= set(images.column_names):
        _prove_tiles(images.select(_OF_TILE).filter(pc.is_valid(images["picture"])), where)
    if "mask_id" in masks.column_names:
        ids, images_of = masks["mask_id"], pc.utf8_slice_codeunits(masks["mask_id"], 0, IMAGE_ID_HEX_DIGITS)
        numbers = pc.utf8_slice_codeunits(ids, IMAGE_ID_HEX_DIGITS, None)
        is_id = pc.and_(pc.match_substring_regex(numbers, _MASK_NUMBER), pc.equal(images_of, masks["image_id"]))
        _require(is_id, masks, "mask_id", where)
        for name in _RIVALS:
            if name in expressions.column_names:
                is_known = pc.is_in(expressions[name], value_set=ids.combine_chunks())
                _require(pc.or_(pc.is_null(expressions[name]), is_known), expressions, name, where)
    if set(masks.column_names) >= _MEASURED:
        places = pc.index_in(masks["image_id"], value_set=images["image_id"].combine_chunks())
        prove_masks(masks, None if sizes is None else sizes[places.to_numpy()], where=where)


def _prove_tiles(tiles: pa.Table, where: str) -> None:
    """Prove that each tile is a part of its picture, which is none too large."""
    found = []
    for name, num in (("picture_size", 2), ("tile_xyxy_px", 4)):
        numbers = tiles[name].combine_chunks()
        _require(pc.fill_null(pc.equal(pc.list_value_length(numbers), num), False), tiles, name, where)
        found.append(pc.list_flatten(numbers).to_numpy(zero_copy_only=False).astype(np.float64).reshape(-1, num))
    size, box = found
    _require(pa.array((size > 0).all(axis=1) & (size.prod(axis=1) <= MAX_PIXELS)), tiles, "picture_size", where)
    is_inside = (box[:, :2] >= 0) & (box[:, :2] < box[:, 2:]) & (box[:, 2:] <= size[:, ::-1])
    _require(pa.array(is_inside.all(axis=1)), tiles, "tile_xyxy_px", where)


def prove_hashes(images: pa.Table, *, where: str) -> None:
    """Prove that the digests and perceptual hashes of some images, or some of them, are hexadecimal or null.

    ConfigError as of `prove_rows`.
    """
    for name in _HEX_DIGITS.keys() & set(images.column_names):
        is_hash = pc.match_substring_regex(images[name], f"^[0-9a-f]{{{_HEX_DIGITS[name]}}}$")
        _require(pc.fill_null(is_hash, True), images, name, where)


def prove_masks(masks: pa.Table, sizes: Ints | None, *, where: str) -> None:
    """Prove that masks decode to their areas and boxes, and have `sizes`, (N, 2) int64, if they are given.

    `masks` has `mask_id`, `segmentation`, `area_px` and `box_xyxy_px`. ConfigError as of `prove_rows`.
    """
    segmentation = masks["segmentation"].combine_chunks()
    counts = pc.struct_field(segmentation, "counts").to_pylist()
    claimed, boxes = pc.struct_field(segmentation, "size"), masks["box_xyxy_px"].combine_chunks()
    _require(pc.equal(pc.list_value_length(claimed), 2), masks, "segmentation", where)
    _require(pc.equal(pc.list_value_length(boxes), 4), masks, "box_xyxy_px", where)
    own, edges = (pc.list_flatten(each).to_numpy().astype(np.int64) for each in (claimed, boxes))
    own, due = own.reshape(-1, 2), own.reshape(-1, 2) if sizes is None else sizes
    areas, edges = masks["area_px"].to_numpy(), edges.reshape(-1, 4)
    _require(pa.array((own > 0).all(axis=1) & (own.prod(axis=1) <= MAX_PIXELS)), masks, "segmentation", where)
    if np.array_equal(own, due) and are_measured(counts, due, areas, edges):
        return
    for row, mask_id in enumerate(masks["mask_id"].to_pylist()):
        size, measures = tuple(due[row].tolist()), {"area_px": int(areas[row]), "box_xyxy_px": edges[row].tolist()}
        for _, found in mask_faults(size, own[row].tolist(), counts[row], **measures):
            raise ConfigError(f"mask {mask_id} of {where} {found}. {_REMEDY}")


_REMEDY: Final = "Run `pseudoris verify` to find all damage."


def _require(is_right: pa.Array | pa.ChunkedArray, table: pa.Table, column: str, where: str) -> None:
    """Raise ConfigError for the first row that is not right."""
    if not pc.all(is_right, min_count=0).as_py():
        found = table[column].filter(pc.invert(is_right))[0].as_py()
        raise ConfigError(f"a row of {where} has the {column} {found!r:.80}, which no run writes. {_REMEDY}")
