"""What becomes of masks that an inner edge of a tile cuts: rivals as all others, and the target of no expression.

Called by `stages.py`: before the captioner masks are marked, whoever proposed them; after the last stage what refers to
a cut one goes. Captioner, scorer and composer see all masks, so a text of a whole one must not fit a cut one either.

A part scores lower than the whole: of two equal circles, one cut, CLIP kept "a large plain circle" for the other with a
distinctiveness of 1.39. So a candidate whose rival is cut goes too, but where a fitted confidence decides what is kept.
"""

from __future__ import annotations

from dataclasses import replace

from pseudoris.images.tiles import is_cut
from pseudoris.schemas.shard import Shard, ShardImage


def with_cuts(shard: Shard) -> Shard:
    """Return the shard with `is_cut` set on the masks of its tiles, and counted; beside tiles all masks count."""
    has_tiles = any(image.picture_size for image in shard.images)
    return shard.with_images(tuple(map(_marked, shard.images))) if has_tiles else shard


def _marked(image: ShardImage) -> ShardImage:
    if image.failure is not None or not (image.picture_size or image.masks_left):
        return image
    masks = image.masks
    if image.picture_size:
        (left, top, right, bottom), (height, width) = image.tile_xyxy_px, image.picture_size
        tile, size = (left, top, right, bottom), (height, width)
        masks = tuple(replace(mask, is_cut=is_cut(mask.box_xyxy_px, tile, size)) for mask in masks)
    num_whole = sum(not mask.is_cut for mask in masks)
    return replace(image, masks=masks, masks_left={**(image.masks_left or {}), "cut_edges": num_whole})


def without_cut_targets(shard: Shard) -> Shard:
    """Return the shard without expressions of a cut mask, alone or with others, and without those it may fit too."""
    return shard.with_images(tuple(map(_of_whole_masks, shard.images)))


def _of_whole_masks(image: ShardImage) -> ShardImage:
    cut = {mask.mask_id for mask in image.masks if mask.is_cut}
    if not cut:
        return image
    whole = (each for each in image.expressions if cut.isdisjoint(each.target_mask_ids))
    kept = tuple(each for each in whole if each.confidence is not None or each.rival_mask_id not in cut)
    return replace(image, expressions=kept)
