"""The stage: shards in, shards with masks out."""

import numpy as np
import pytest

from pseudoris.schemas.config import PriorConfig, ReductionConfig
from pseudoris.workers.masks import SamProposer, rle
from pseudoris.workers.masks.generator import MaskGenerator
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


def test_another_reduction_leaves_the_ids_of_what_stays(proposer_of, draw_image, shard_of):
    shard = shard_of(draw_image(60, 90))
    strict, loose = (
        ReductionConfig(),
        ReductionConfig(mask_nms_iou=1.0, min_inside=1.0, max_part_area=0.0, max_area=1.0),
    )
    few = {mask.mask_id: mask for mask in proposer_of(reduction=strict)(shard).images[0].masks}
    many = {mask.mask_id: mask for mask in proposer_of(reduction=loose)(shard).images[0].masks}
    assert 0 < len(few) < len(many)
    assert few.items() <= many.items()


def test_an_images_masks_do_not_depend_on_its_shard(proposer_of, draw_image, shard_of):
    propose = proposer_of()
    images = [draw_image(60, 90, seed) for seed in range(3)]
    together = propose(shard_of(*images)).images
    for at, image in enumerate(images):
        alone = propose(shard_of(image)).images[0]
        assert [m.rle_counts for m in together[at].masks] == [m.rle_counts for m in alone.masks]


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
