"""SAM 2, EdgeTAM and SAM 3's tracker answer points as their own classes do, through the generator of SAM 1."""

import pytest
import torch

from pseudoris.schemas.config import PriorConfig, ReductionConfig, WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.checkpoints.hf_models import load_model
from pseudoris.workers.masks import Sam2Proposer, rle
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.sam2_model import PromptableSam2, model_input, open_sam2
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
