"""Concepts asked together find what each finds alone; of several that find one object, the best score stays."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pseudoris.schemas.config import PriorConfig, ReductionConfig, WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.openclip import byte_pair_encoder
from pseudoris.workers.masks import ConceptProposer, rle
from pseudoris.workers.masks.concept_proposer import ConceptDetector
from pseudoris.workers.masks.sam2_model import model_input
from tests.builders.promptable_models import save_model, small_model

CONCEPTS = ("dog", "red car on the left", "tree", "wheel", "a cat's tail")


@pytest.fixture(scope="module")
def model():
    return small_model("Sam3Model")


@pytest.fixture
def concepts_config(masks_config, tmp_path):
    """A builder of configs under which noise passes for some masks."""

    def build(*, folder=tmp_path, concepts=CONCEPTS, batch=2, **overrides):
        options = {"concepts": list(concepts), "concepts_per_batch": batch}
        defaults = {"engine": "sam3_concepts", "architecture": None, "weights": WeightsConfig(uri=str(folder))}
        thresholds = {"pred_iou_thresh": 0.2, "stability_score_thresh": 0.2, "stability_score_offset": 0.01}
        return masks_config(**defaults | thresholds | {"options": options} | overrides)

    return build


@torch.inference_mode()
def _alone(model, image, concept, config):
    """Masks (N, H, W) and scores (N,) of one concept, by the class's own forward pass over its tokens alone."""
    encoder = byte_pair_encoder()
    ids = torch.tensor([[encoder.sot_token_id, *encoder.encode(concept), encoder.eot_token_id]])
    pixels = model_input(image, 56, is_sam3=True, device=model.device)
    out = model(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
    scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0]
    logits = F.interpolate(out.pred_masks, image.shape[:2], mode="bilinear", align_corners=False)[0]
    offset = config.stability_score_offset
    stability = (logits > offset).sum((1, 2)) / (logits > -offset).sum((1, 2))
    is_kept = (scores > config.pred_iou_thresh) & (stability >= config.stability_score_thresh)
    is_kept &= (logits > 0).any(2).any(1)
    return (logits > 0)[is_kept].numpy(), scores[is_kept].numpy()


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_concepts_asked_together_find_what_each_finds_alone(model, concepts_config, draw_image, batch):
    config, image = concepts_config(batch=batch), draw_image(50, 80)
    found, numbers = ConceptDetector(model, config)(image)
    assert len(set(numbers)) > 1
    assert len(set(numbers)) < len(found)
    for number, concept in enumerate(CONCEPTS):
        masks, scores = _alone(model, image, concept, config)
        rows = np.flatnonzero(numbers == number)
        np.testing.assert_allclose(found.predicted_iou[rows], scores, rtol=1e-5)
        ours = rle.decode([found.counts[row] for row in rows], found.size)
        assert (ours != masks).sum() <= 2


def test_an_image_is_encoded_once_and_the_concepts_once_a_run(model, concepts_config, draw_image):
    detect = ConceptDetector(model, concepts_config(batch=1))
    seen = []
    handles = [
        each.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
        for each in (model.vision_encoder, model.text_encoder)
    ]
    detect(draw_image(40, 40))
    detect(draw_image(40, 40, 1))
    for handle in handles:
        handle.remove()
    assert seen == ["Sam3VisionModel", "Sam3VisionModel"]


def test_of_masks_that_overlap_the_best_score_stays_with_its_concept(
    concepts_config, compute, draw_image, shard_of, tmp_path
):
    save_model(tmp_path, "Sam3Model")
    config, image = concepts_config(reduction=ReductionConfig(mask_nms_iou=0.4)), draw_image(60, 90)
    (done,) = ConceptProposer(config, compute)(shard_of(image)).images
    proposals, numbers = ConceptDetector(small_model("Sam3Model"), config)(image)
    assert 0 < len(done.masks) < len(proposals)
    kept = {mask.index for mask in done.masks}
    for mask in done.masks:
        assert mask.prior == f"concept:{numbers[mask.index]}"
        assert mask.predicted_iou is None
        assert mask.stability_score >= 0.2
        assert mask.rle_counts == proposals.counts[mask.index]
    for row in set(range(len(proposals))) - kept:
        better = [index for index in kept if proposals.predicted_iou[index] >= proposals.predicted_iou[row]]
        counts = [proposals.counts[index] for index in better]
        assert rle.ious([proposals.counts[row]], counts, proposals.size).max() > 0.4


def test_small_holes_and_islands_go(model, concepts_config, draw_image):
    plain, _ = ConceptDetector(model, concepts_config())(draw_image(50, 50))
    clean, numbers = ConceptDetector(model, concepts_config(min_mask_region_area=30))(draw_image(50, 50))
    assert len(clean) == len(plain) == len(numbers)
    assert clean.counts != plain.counts


def test_where_no_concept_is_found_there_is_no_mask_and_no_failure(
    concepts_config, compute, draw_image, shard_of, tmp_path
):
    save_model(tmp_path, "Sam3Model")
    config = concepts_config(pred_iou_thresh=0.99, min_mask_region_area=5)
    (done,) = ConceptProposer(config, compute)(shard_of(draw_image(50, 50))).images
    assert (done.masks, done.failure) == ((), None)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"concepts": ()}, r"options is not valid .*concepts: .*at least 1 item.*--set 'masks.options.concepts=\["),
        ({"concepts": ("dog", " ")}, "concept 1 is empty"),
        ({"concepts": ("dog", "cat", "dog")}, "'dog' is in the list twice"),
        ({"concepts": ("dog", "very " * 31)}, "'very very .*' takes 33 tokens, and SAM 3 reads at most 32"),
        ({"prior": PriorConfig(kind="unset")}, "the concepts say what the objects are"),
    ],
)
def test_what_cannot_be_asked_is_refused_by_name(concepts_config, overrides, message):
    with pytest.raises(ConfigError, match=message):
        ConceptProposer.weights_digest(concepts_config(**overrides))


def test_thirty_tokens_beside_start_and_end_are_read(concepts_config, tmp_path):
    save_model(tmp_path, "Sam3Model")
    assert ConceptProposer.weights_digest(concepts_config(concepts=("very " * 30,)))
