"""Makes samples from a shard's content: tensors, drawn texts. Called by `iterable_dataset.py` and `map_dataset.py`.

The same mask in the same epoch always gives the same sample, whatever was drawn before.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from pseudoris.interchange.dataset.rewording import SOURCE_REWORDED, drawn_forms
from pseudoris.interchange.dataset.sample_spec import RisSample, SampleSpec
from pseudoris.interchange.dataset.shard_reader import ShardContent
from pseudoris.interchange.dataset.torch_names import Tensor, as_tensor
from pseudoris.primitives.counter_rng import draw_texts, draw_texts_by_weight, draw_weighted_texts
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.run_lengths import decode_mask


def build_sample(
    spec: SampleSpec, content: ShardContent, image: int, mask: int, *, epoch: int, pixels: Tensor | None
) -> RisSample:
    """Return the sample of a mask, by its position and that of its image in the shard's index.

    The sample owns `pixels`, (3, H, W) uint8, from here on; None if images were not requested. A mask of another size
    than its image is a ConfigError.
    """
    index, parts = content.index, spec.parts
    sample = RisSample(image_id=index.image_ids[image], mask_id=index.mask_ids[mask])
    if index.targets is not None:
        sample["num_masks"] = len(index.targets[mask])
    if pixels is not None and content.images is not None:
        sample["key"] = content.images.keys[image]
        sample["image"] = pixels
    if "mask" in parts:
        height, width = content.rle_sizes[mask].tolist()
        if pixels is not None and pixels.shape[1:] != (height, width):
            raise ConfigError(
                f"mask {index.mask_ids[mask]} has {height} x {width} pixels, its image "
                f"{tuple(pixels.shape[1:])}. Run `pseudoris verify` to find all damage."
            )
        # The union of the masks that are meant together; all False for none.
        counts = content.counts_of(mask)
        union = decode_mask(counts[0], height, width) if counts else np.zeros((height, width), np.bool_)
        for each in counts[1:]:
            union |= decode_mask(each, height, width)
        sample["mask"] = as_tensor(union)
    if "box" in parts:
        sample["box_xyxy_px"] = as_tensor(content.boxes_xyxy_px[mask].copy())
    if spec.has_expressions:
        _add_expressions(sample, spec, content, image, mask, epoch)
    return sample


def _add_expressions(
    sample: RisSample, spec: SampleSpec, content: ShardContent, image: int, mask: int, epoch: int
) -> None:
    first, end = content.index.first_rows[mask : mask + 2].tolist()
    said, count, by = content.texts[first:end], spec.expressions_per_mask, {"seed": spec.seed, "epoch": epoch}
    if spec.draw == "distinct" or content.draw_weights is None:
        drawn = draw_texts(said, count, **by, mask_id=sample["mask_id"])
    else:
        draw = draw_texts_by_weight if spec.draw == "weighted" else draw_weighted_texts
        drawn = draw(said, content.draw_weights[first:end].tolist(), count, **by, mask_id=sample["mask_id"])
    rows = [first + at for at in drawn]
    if "text" in spec.parts:
        texts, sources = [content.texts[row] for row in rows], [content.sources[row] for row in rows]
        sample["expressions"], sample["sources"] = texts, sources
        if spec.rewording:
            beside = _texts_of_masks(content, image) if sample.get("num_masks") == 0 else None
            said = drawn_forms(texts, sources, **by, mask_id=sample["mask_id"], absent_beside=beside)
            pairs = zip(texts, said, sources, strict=True)
            sample["sources"] = [source if row == form else SOURCE_REWORDED for row, form, source in pairs]
            sample["expressions"], sample["row_texts"] = said, texts
    if "scores" in spec.parts:
        sample["scores"] = {name: as_tensor(column[rows]) for name, column in content.scores.items()}


def _texts_of_masks(content: ShardContent, image: int) -> Sequence[str]:
    """Return the texts of an image's masks, without its absences, which come last."""
    index = content.index
    first, end = index.first_masks[image : image + 2].tolist()
    while end > first and index.targets is not None and not index.targets[end - 1]:
        end -= 1
    return content.texts[index.first_rows[first] : index.first_rows[end]]
