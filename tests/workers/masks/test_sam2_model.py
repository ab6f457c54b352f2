"""SAM 2, EdgeTAM and SAM 3 answer points as their own classes do, and SAM 3 answers concepts."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from pseudoris.primitives import rle
from pseudoris.primitives.clip_tokenizer import byte_pair_encoder
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import PriorConfig, ReductionConfig, WeightsConfig
from pseudoris.workers.checkpoints.hf_models import load_model
from pseudoris.workers.masks import ConceptProposer, Sam2Proposer
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.sam2_model import ConceptDetector, PromptableSam2, model_input, open_sam2
from tests.builders.promptable_models import save_model, small_model

GRIDS = {"Sam2Model": "sam2", "EdgeTamModel": "sam2", "Sam3TrackerModel": "sam3"}


@pytest.fixture(scope="module", params=GRIDS)
def class_name(request):
    return request.param


@pytest.fixture(scope="module")
def model(class_name):
    return small_model(class_name)


@pytest.fixture
def folder_config(masks_config):
    """A builder of configs of a model folder, whose thresholds leave some masks of noise."""

    def build(folder, engine, **overrides):
        weights = WeightsConfig(uri=str(folder))
        loose = ReductionConfig(mask_nms_iou=1.0, min_inside=1.0, max_part_area=0.0, max_area=1.0)
        return masks_config(
            **{"engine": engine, "architecture": None, "weights": weights, "stability_score_offset": 0.01}
            | {"stability_score_thresh": 0.2, "reduction": loose}
            | overrides
        )

    return build


@pytest.mark.parametrize(("is_sam3", "name"), [(False, "Sam2ImageProcessor"), (True, "Sam3ImageProcessor")])
@pytest.mark.parametrize("size", [(40, 90), (64, 64), (200, 131)])
def test_the_input_is_that_of_the_classs_own_processor(is_sam3, name, size, draw_image):
    import transformers

    image = draw_image(*size)
    processor = getattr(transformers, name)(size={"height": 64, "width": 64})
    ours = model_input(image, 64, is_sam3=is_sam3, device=torch.device("cpu"))
    torch.testing.assert_close(ours, processor(images=image, return_tensors="pt").pixel_values, rtol=1e-6, atol=1e-6)


@torch.inference_mode()
def test_masks_of_points_are_those_of_the_classs_own_forward_pass(model, draw_image):
    ours, image = PromptableSam2(model), draw_image(50, 80)
    points = torch.rand(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * ours.side
    (crop,) = ours.encode([image])
    low, iou = ours.decode(ours.share(crop), points, min_predicted_iou=0)
    pixels = model_input(image, ours.side, is_sam3="3" in type(model).__name__, device=model.device)
    out = model(pixel_values=pixels, input_points=points.float()[None, :, None], multimask_output=True)
    torch.testing.assert_close(low, out.pred_masks[0].flatten(0, 1))
    torch.testing.assert_close(iou, out.iou_scores[0].flatten())
    for at, point in enumerate(points):
        alone, of_alone = ours.decode(ours.share(crop), point[None], min_predicted_iou=0)
        torch.testing.assert_close(alone, low[3 * at : 3 * at + 3], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(of_alone, iou[3 * at : 3 * at + 3], rtol=1e-5, atol=1e-5)
    bound = float(iou.median())
    few, better = ours.decode(ours.share(crop), points, min_predicted_iou=bound)
    assert torch.equal(few, low[iou > bound])
    assert torch.equal(better, iou[iou > bound])
    assert ours.upsample(low, crop).shape == (18, 50, 80)


def test_half_precision_changes_masks_little(model, draw_image):
    image = draw_image(60, 60)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        ours = PromptableSam2(model, dtype=dtype)
        with torch.inference_mode():
            (crop,) = ours.encode([image])
            found.append(ours.decode(ours.share(crop), torch.full((1, 2), 30.0).double(), min_predicted_iou=0)[0])
    full, half = found
    assert half.dtype == torch.float32
    assert 0 < (half - full).norm() < 0.05 * full.norm()


def test_a_folders_masks_become_records_as_sams_do(
    class_name, model, folder_config, compute, draw_image, shard_of, tmp_path
):
    config = folder_config(save_model(tmp_path, class_name), GRIDS[class_name], crop_n_layers=1)
    image = draw_image(60, 90)
    (done,) = Sam2Proposer(config, compute)(shard_of(image)).images
    proposals = MaskGenerator(PromptableSam2(model), config)(image)
    assert done.masks
    for mask in done.masks:
        assert mask.rle_counts == proposals.counts[mask.index]
        assert mask.predicted_iou == proposals.predicted_iou[mask.index] > config.pred_iou_thresh
        assert mask.area_px == rle.decode([mask.rle_counts], mask.rle_size)[0].sum()


@pytest.mark.parametrize(("video", "engine"), [("Sam2VideoModel", "sam2"), ("Sam3VideoModel", "sam3")])
def test_of_a_published_video_model_the_image_model_is_opened(
    video, engine, folder_config, compute, draw_image, tmp_path
):
    config = folder_config(save_model(tmp_path, video), engine)
    folder, class_name = open_sam2(config)
    model = load_model(folder, class_name, device=torch.device("cpu"), dtype=torch.float32)
    whole = small_model(video).state_dict()
    parts = {"": "", "tracker_model.": "", "tracker_neck.": "vision_encoder.neck.", "detector_model.": ""}
    for name, found in model.state_dict().items():
        names = [of + name.removeprefix(to) for of, to in parts.items() if name.startswith(to)]
        assert any(torch.equal(found, whole[each]) for each in names if each in whole), name
    assert len(MaskGenerator(PromptableSam2(model), config)(draw_image(40, 60)))


def test_the_digest_is_of_the_whole_folder_and_of_the_prior(folder_config, tmp_path):
    config = folder_config(save_model(tmp_path / "model", "Sam2Model"), "sam2")
    first = Sam2Proposer.weights_digest(config)
    table = tmp_path / "table.parquet"
    table.write_bytes(b"one")
    with_table = config.model_copy(update={"prior": PriorConfig(kind="table", path=str(table))})
    assert Sam2Proposer.weights_digest(with_table) != first
    of_folder = config.weights.model_copy(update={"sha256": first})
    assert Sam2Proposer.weights_digest(config.model_copy(update={"weights": of_folder})) == first
    save_model(tmp_path / "model", "Sam2Model", seed=1)
    with pytest.raises(ConfigError, match=rf"has sha256 [0-9a-f]+, expected {first}"):
        Sam2Proposer.weights_digest(config.model_copy(update={"weights": of_folder}))


def test_a_folder_of_another_model_is_refused_with_the_engine_that_opens_it(folder_config, tmp_path):
    config = folder_config(save_model(tmp_path, "Sam3TrackerModel"), "sam2")
    with pytest.raises(ConfigError, match=r"engine=sam2 opens .* of type sam3_tracker: --set masks.engine=sam3"):
        Sam2Proposer.weights_digest(config)


CONCEPTS = ("dog", "red car on the left", "tree", "wheel", "a cat's tail")


@pytest.fixture(scope="module")
def sam3():
    return small_model("Sam3Model")


@pytest.fixture
def concepts_config(folder_config, tmp_path):
    """A builder of configs under which noise passes for some masks."""

    def build(*, concepts=CONCEPTS, batch=2, **overrides):
        options = {"concepts": list(concepts), "concepts_per_batch": batch}
        loose = {"pred_iou_thresh": 0.2, "reduction": ReductionConfig(), "options": options}
        return folder_config(tmp_path, "sam3_concepts", **loose | overrides)

    return build


@torch.inference_mode()
def _alone(sam3, image, concept, config):
    """Masks (N, H, W) and scores (N,) of one concept, by the class's own forward pass over its tokens alone."""
    encoder = byte_pair_encoder()
    ids = torch.tensor([[encoder.sot_token_id, *encoder.encode(concept), encoder.eot_token_id]])
    pixels = model_input(image, 56, is_sam3=True, device=sam3.device)
    out = sam3(pixel_values=pixels, input_ids=ids, attention_mask=torch.ones_like(ids))
    scores = (out.pred_logits.sigmoid() * out.presence_logits.sigmoid())[0]
    logits = F.interpolate(out.pred_masks, image.shape[:2], mode="bilinear", align_corners=False)[0]
    offset = config.stability_score_offset
    stability = (logits > offset).sum((1, 2)) / (logits > -offset).sum((1, 2))
    is_kept = (scores > config.pred_iou_thresh) & (stability >= config.stability_score_thresh)
    is_kept &= (logits > 0).any(2).any(1)
    return (logits > 0)[is_kept].numpy(), scores[is_kept].numpy()


@pytest.mark.parametrize("batch", [1, 2, 8])
def test_concepts_asked_together_find_what_each_finds_alone(sam3, concepts_config, draw_image, batch):
    config, image = concepts_config(batch=batch), draw_image(50, 80)
    found, numbers = ConceptDetector(sam3, config)(image)
    assert len(set(numbers)) > 1
    assert len(set(numbers)) < len(found)
    for number, concept in enumerate(CONCEPTS):
        masks, scores = _alone(sam3, image, concept, config)
        rows = np.flatnonzero(numbers == number)
        np.testing.assert_allclose(found.predicted_iou[rows], scores, rtol=1e-5)
        ours = rle.decode([found.counts[row] for row in rows], found.size)
        assert (ours != masks).sum() <= 2


def test_an_image_is_encoded_once_and_the_concepts_once_a_run(sam3, concepts_config, draw_image):
    detect = ConceptDetector(sam3, concepts_config(batch=1))
    seen = []
    handles = [
        each.register_forward_hook(lambda module, *_: seen.append(type(module).__name__))
        for each in (sam3.vision_encoder, sam3.text_encoder)
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


def test_small_holes_and_islands_go(sam3, concepts_config, draw_image):
    plain, _ = ConceptDetector(sam3, concepts_config())(draw_image(50, 50))
    clean, numbers = ConceptDetector(sam3, concepts_config(min_mask_region_area=30))(draw_image(50, 50))
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
