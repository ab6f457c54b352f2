"""The stage: shards in, shards with masks out; and the reduction by areas, doubles and parts."""

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pseudoris.primitives import rle
from pseudoris.schemas.config import PriorConfig, ReductionConfig
from pseudoris.workers.masks import SamProposer
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.proposals import Kept, Proposals, mask_records, reduce_proposals
from pseudoris.workers.masks.sam_model import PromptableSam


@pytest.fixture
def proposer_of(masks_config, compute):
    return lambda **overrides: SamProposer(masks_config(**overrides), compute)


def test_masks_are_records_of_the_reduced_proposals(proposer_of, masks_config, sam, draw_image, shard_of):
    image = draw_image(60, 90)
    (done,) = proposer_of()(shard_of(image)).images
    proposals = MaskGenerator(PromptableSam(sam), masks_config())(image)
    assert 2 <= len(done.masks) < len(proposals)
    for mask in done.masks:
        assert mask.mask_id == f"{done.image_id}-{mask.index:04d}"
        assert mask.rle_size == (60, 90)
        assert mask.rle_counts == proposals.counts[mask.index]
        (pixels,) = rle.decode([mask.rle_counts], mask.rle_size)
        ys, xs = np.nonzero(pixels)
        assert mask.box_xyxy_px == (xs.min(), ys.min(), xs.max() + 1, ys.max() + 1)
        assert mask.area_px == pixels.sum()
        assert mask.predicted_iou == proposals.predicted_iou[mask.index] > 0.3
        assert mask.stability_score == proposals.stability[mask.index] >= 0.5
        assert mask.prior == "none"


def test_a_broken_image_is_quarantined_and_the_rest_goes_on(proposer_of, draw_image, shard_of):
    broken, fine = proposer_of()(shard_of(b"not an image", draw_image(50, 50))).images
    assert broken.failure is not None
    assert (broken.failure.stage, broken.failure.reason) == ("propose", "not_an_image")
    assert fine.masks


@pytest.mark.parametrize("overrides", [{"pred_iou_thresh": 9.0}, {"stability_score_thresh": 1.1}])
@pytest.mark.parametrize("min_area", [0, 5])
def test_an_image_where_nothing_survives_has_no_masks_and_no_failure(
    proposer_of, draw_image, shard_of, overrides, min_area
):
    propose = proposer_of(**overrides, min_mask_region_area=min_area, crop_n_layers=1)
    (done,) = propose(shard_of(draw_image(40, 50))).images
    assert (done.masks, done.failure) == ((), None)


def test_the_digest_covers_the_priors_file_too(masks_config, tmp_path):
    path = tmp_path / "t.parquet"
    path.write_bytes(b"one")
    config = masks_config(prior=PriorConfig(kind="table", path=str(path)))
    first = SamProposer.weights_digest(config)
    path.write_bytes(b"two")
    assert len({first, SamProposer.weights_digest(config), SamProposer.weights_digest(masks_config())}) == 3


SIZE = (40, 50)


def proposals_of(*boxes, ious=None):
    """Rectangles (x0, y0, x1, y1) as proposals; predicted IoU falls from the first to the last unless given."""
    masks = torch.zeros(len(boxes), *SIZE, dtype=torch.bool)
    for mask, (x0, y0, x1, y1) in zip(masks, boxes, strict=True):
        mask[y0:y1, x0:x1] = True
    counts = tuple(rle.encode(masks))
    scores = np.asarray(ious if ious is not None else np.linspace(0.9, 0.5, len(boxes)), dtype=np.float32)
    areas = rle.areas(counts, SIZE)
    return Proposals(SIZE, counts, tuple(rle.boxes(counts, SIZE)), areas, scores, np.ones(len(boxes), np.float32))


def test_copies_of_a_mask_have_ids_of_their_own_that_no_other_mask_changes():
    proposals = proposals_of((5, 5, 20, 20), (1, 1, 9, 9), (30, 30, 40, 40))
    twins = [Kept(1, "table:0"), Kept(1, "table:4", copy=1), Kept(1, "table:9", copy=2)]
    first, second, third = mask_records("f" * 16, proposals, twins)
    assert [each.index for each in (first, second, third)] == [1, 4, 7]
    assert second.mask_id == "f" * 16 + "-0004"
    assert first.rle_counts == second.rle_counts == third.rle_counts
    beside = mask_records("f" * 16, proposals, [Kept(0, "table:7"), Kept(1, "table:0"), Kept(1, "table:4", copy=1)])
    assert beside[1:] == (first, second)


BOXES = st.tuples(st.integers(0, 9), st.integers(0, 7), st.integers(1, 9), st.integers(1, 7)).map(
    lambda box: (box[0], box[1], box[0] + box[2], box[1] + box[3])
)


def pixels_of(boxes):
    return [{(x, y) for x in range(x0, x1) for y in range(y0, y1)} for x0, y0, x1, y1 in boxes]


def plain(boxes, ious, config):
    """Return the rows that stay by the definition, pixel by pixel."""
    pixels = pixels_of(boxes)
    sized = [row for row, mask in enumerate(pixels) if config.min_area <= len(mask) / 2000 <= config.max_area]
    single, whole = [], []
    for row in sorted(sized, key=lambda row: -ious[row]):
        overlaps = [len(pixels[row] & pixels[one]) / len(pixels[row] | pixels[one]) for one in single]
        single += [row] * (max(overlaps, default=0) <= config.mask_nms_iou)
    for row in sorted(single, key=lambda row: -len(pixels[row])):
        inside = [one for one in whole if len(pixels[row] & pixels[one]) / len(pixels[row]) >= config.min_inside]
        whole += [row] * all(len(pixels[row]) > config.max_part_area * len(pixels[one]) for one in inside)
    return sorted(whole)


@st.composite
def problems(draw):
    """Boxes, scores, and bounds that are often just what a box has."""
    boxes = draw(st.lists(BOXES, min_size=1, max_size=8))
    ious = [draw(st.sampled_from([0.5, 0.75, 1.0])) for _ in boxes]
    pairs = [(one, other) for one in pixels_of(boxes) for other in pixels_of(boxes)]
    shares = {
        "mask_nms_iou": {len(one & other) / len(one | other) for one, other in pairs},
        "min_inside": {len(one & other) / len(one) for one, other in pairs},
        "max_part_area": {len(one) / len(other) for one, other in pairs if len(one) <= len(other)},
    }
    areas = st.sampled_from([0, *(len(one) / 2000 for one, _ in pairs), 1])
    low, high = sorted((draw(areas), draw(areas)))
    bounds = {name: draw(st.sampled_from(sorted(found | {0.5}))) for name, found in shares.items()}
    return boxes, ious, ReductionConfig(min_area=low, max_area=high, **bounds)


# The second doubles the first, and the third the second alone.
CHAIN = [(0, 0, 20, 10), (5, 0, 25, 10), (10, 0, 30, 10)]


@settings(max_examples=300)
@given(problems())
@example((CHAIN, [1.0, 0.75, 0.5], ReductionConfig(mask_nms_iou=0.5, min_area=0, max_area=1)))
def test_what_stays_are_the_separate_objects_of_the_plain_definition(problem):
    boxes, ious, config = problem
    kept = reduce_proposals(proposals_of(*boxes, ious=ious), config)
    assert [each.row for each in kept] == plain(boxes, ious, config)
