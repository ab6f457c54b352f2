"""The automatic generator equals `SamAutomaticMaskGenerator`; small regions equal a plain flood fill."""

import copy
import inspect
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from PIL import Image
from scipy import ndimage
from segment_anything import SamAutomaticMaskGenerator, SamPredictor

from evidence.recipes.scene_shards import scene_image
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives import rle
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.masks.generator import MaskGenerator, remove_small_regions
from pseudoris.workers.masks.proposals import MaskCandidates, concatenate
from pseudoris.workers.masks.sam_model import EncodedCrop, PromptableSam, load_sam
from tests.oracles.pretended_gpu import pretended_gpu

# Below this a logit's sign is a matter of rounding.
UNCERTAIN_LOGIT = 1e-4
# (H, W) of scenes, and whether crops are looked at too: square, wide, tall, smaller and larger than what SAM sees.
SCENES = [
    *[((192, 192), layers) for layers in (0, 1, 0, 1, 0, 1, 0, 1)],
    *[(size, 0) for size in [(128, 192), (192, 100), (90, 180), (256, 256), (300, 200), (150, 400), (96, 96)]],
    *[(size, 1) for size in [(144, 192), (192, 120), (260, 180), (200, 320), (110, 70)]],
]
# SAM's names of the scores of `Proposals`.
SCORES = {"predicted_iou": "predicted_iou", "stability": "stability_score"}
SHARED = (
    *("points_per_side", "points_per_batch", "pred_iou_thresh", "stability_score_thresh", "stability_score_offset"),
    *("box_nms_thresh", "crop_n_layers", "crop_nms_thresh", "crop_overlap_ratio", "crop_n_points_downscale_factor"),
    "min_mask_region_area",
)


def reference(sam, config, image):
    settings = {name: getattr(config, name) for name in SHARED}
    return SamAutomaticMaskGenerator(sam, **settings).generate(image)


def assert_sams_default_in_paper(*names):
    ours, theirs = load_config("paper").masks, inspect.signature(SamAutomaticMaskGenerator).parameters
    assert [getattr(ours, name) for name in names] == [theirs[name].default for name in names]


def logits_of(sam, image, annotation):
    """The logits (H, W) that an annotation was cut from."""
    x, y, width, height = map(int, annotation["crop_box"])
    predictor = SamPredictor(sam)
    predictor.set_image(image[y : y + height, x : x + width])
    point = np.array(annotation["point_coords"]) - [x, y]
    logits, ious, _ = predictor.predict(point, np.ones(1), return_logits=True)
    full = np.full((3, *image.shape[:2]), -np.inf)
    full[:, y : y + height, x : x + width] = logits
    return full[np.abs(ious - annotation["predicted_iou"]).argmin()]


def assert_equal(sam, image, proposals, annotations):
    """Same order, boxes and masks, pixels of uncertain logits aside; those exist only where rounding differs."""
    assert len(proposals) == len(annotations)
    np.testing.assert_allclose(proposals.predicted_iou, [a["predicted_iou"] for a in annotations], rtol=1e-5)
    np.testing.assert_allclose(proposals.stability, [a["stability_score"] for a in annotations], atol=1e-3)
    masks = rle.decode(proposals.counts, proposals.size)
    for at, annotation in enumerate(annotations):
        differs = masks[at] ^ annotation["segmentation"]
        if differs.any():
            assert np.abs(logits_of(sam, image, annotation)[differs]).max() < UNCERTAIN_LOGIT
            continue
        x, y, width, height = annotation["bbox"]
        # SAM's boxes end on the last pixel, ours behind it.
        assert proposals.boxes_px[at] == (x, y, x + width + 1, y + height + 1)
        assert proposals.areas_px[at] == annotation["area"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("size", "layers", "downscale"),
    [
        *((size, 0, 1) for size in [(64, 64), (70, 150), (150, 71), (33, 200), (24, 17)]),
        *[((150, 100), 1, 1), ((300, 200), 2, 2)],
    ],
)
def test_masks_order_boxes_and_codes_are_sams(sam, masks_config, draw_image, size, layers, downscale):
    assert_sams_default_in_paper("points_per_side", "crop_n_layers", "box_nms_thresh")
    image = draw_image(*size, seed=3 if layers else 0)
    config = masks_config(crop_n_layers=layers, crop_n_points_downscale_factor=downscale)
    annotations = reference(sam, config, image)
    crops = {tuple(annotation["crop_box"]) for annotation in annotations}
    assert len(annotations) >= (30 if layers else 10)
    assert len(crops) > 2 or not layers, "masks of several crops survive, so edge filter and the NMS across them count"
    assert_equal(sam, image, MaskGenerator(PromptableSam(sam), config)(image), annotations)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [{"crop_n_layers": 1}, {"pred_iou_thresh": 0.72}, {"stability_score_thresh": 0.7}, {"pred_iou_thresh": 0}],
)
def test_masks_of_images_that_share_a_batch_on_a_gpu_are_sams(sam, masks_config, draw_image, overrides):
    images, config = [draw_image(64, 64), draw_image(70, 150), draw_image(150, 71)], masks_config(**overrides)
    with pretended_gpu():
        on_gpu = PromptableSam(copy.deepcopy(sam).to("cuda"))
        found = MaskGenerator(on_gpu, config).together(images)
    for image, proposals in zip(images, found, strict=True):
        annotations = reference(sam, config, image)
        assert annotations
        assert_equal(sam, image, proposals, annotations)


@pytest.fixture(scope="module")
def shipped():
    """The trained SAM of the tiny preset, and its config without the removal of small regions."""
    config = load_config("tiny").masks
    sam = load_sam(config.architecture, config.weights).requires_grad_(False)
    # Lower thresholds than the preset's, so that several masks of an object are left to be put in order, and weights
    # that were trained again find some in every image.
    more = {"pred_iou_thresh": 0.3, "stability_score_thresh": 0.5, "box_nms_thresh": 0.8}
    return sam, config.model_copy(update={"min_mask_region_area": 0, **more})


def scene(position, size):
    pixels = decode_proven(scene_image(make_scene(Split.DEMO, position)).data)
    return np.array(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BICUBIC))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("position", "size", "layers"),
    [
        # More scenes of the same size are for `make test-all`.
        pytest.param(at, *case, marks=pytest.mark.long if case in SCENES[:at] else ())
        for at, case in enumerate(SCENES)
    ],
)
def test_trained_masks_of_scenes_are_sams(shipped, position, size, layers):
    sam, config = shipped
    image, config = scene(position, size), config.model_copy(update={"crop_n_layers": layers})
    annotations = reference(sam, config, image)
    assert len(annotations) >= 2
    assert_equal(sam, image, MaskGenerator(PromptableSam(sam), config)(image), annotations)


@pytest.mark.long
@pytest.mark.parametrize(
    ("dtype", "overrides"),
    [
        # Emulated where the processor has no bfloat16, and slow.
        pytest.param(torch.bfloat16, {}, id="bf16"),
        pytest.param(torch.float32, {"points_per_batch": 25}, id="shapes"),
    ],
)
def test_in_another_dtype_or_shape_masks_match_and_are_about_as_many(shipped, dtype, overrides):
    sam, _ = shipped
    # The thresholds that users run: the lower ones let masks pass that no two roundings agree on.
    config = load_config("tiny").masks.model_copy(update={"min_mask_region_area": 0})
    # Every shape, and two of the square ones.
    images = [scene(at, size) for at, (size, _) in enumerate(SCENES) if at >= 6]
    plain = MaskGenerator(PromptableSam(sam), config)
    other = MaskGenerator(PromptableSam(sam, dtype=dtype), config.model_copy(update=overrides))
    pairs = [(plain(image), other(image)) for image in images]
    ious = [rle.ious(one.counts, another.counts, one.size).max(axis=1) for one, another in pairs if len(one)]
    assert np.concatenate(ious).mean() >= 0.99
    num_plain, num_other = (sum(map(len, side)) for side in zip(*pairs, strict=True))
    assert num_plain >= 50
    assert abs(num_plain - num_other) <= 0.02 * num_plain


class White:
    """A model that answers each point with the white pixels of its crop, surer of them in the whole image."""

    side = 64

    def encode(self, crops):
        for pixels in crops:
            logits = torch.from_numpy(np.where(pixels[..., 0] == 255, 9.0, -9.0).astype(np.float32))
            yield EncodedCrop((logits,), logits.shape, logits.shape)

    def share(self, crop):
        return crop.embedding

    def decode(self, shared, points_xy, *, min_predicted_iou):
        found = shared[None][: int((shared > 0).any())]
        return found, torch.full((len(found),), 0.9 if shared.shape == (64, 64) else 0.8)

    def upsample(self, logits, crop):
        return logits


def test_of_an_object_in_two_crops_the_mask_of_the_smaller_crop_stays():
    config = load_config("tiny").masks.model_copy(update={"crop_n_layers": 1, "min_mask_region_area": 0})
    image = np.zeros((64, 64, 3), np.uint8)
    image[2:12, 3:15] = 255
    found = MaskGenerator(White(), config)(image)
    assert found.boxes_px == ((3, 2, 15, 12),)
    np.testing.assert_allclose(found.predicted_iou, [0.8])


@pytest.mark.parametrize("size", [(64, 128), (128, 64)])
def test_a_mask_at_the_border_of_the_image_is_not_cut_off_whatever_the_images_shape(size):
    config = load_config("tiny").masks.model_copy(update={"crop_n_layers": 1, "min_mask_region_area": 0})
    height, width = size
    image = np.zeros((*size, 3), np.uint8)
    image[height - 12 :, width - 14 :] = 255
    found = MaskGenerator(White(), config)(image)
    assert found.boxes_px == ((width - 14, height - 12, width, height),)


@pytest.mark.parametrize(
    ("name", "bound"),
    [
        ("pred_iou_thresh", 0.72),
        ("pred_iou_thresh", "predicted_iou"),
        ("stability_score_thresh", 0.7),
        ("stability_score_thresh", "stability"),
        ("box_nms_thresh", 0.3),
    ],
)
def test_each_threshold_is_sams(sam, masks_config, draw_image, name, bound):
    assert load_config("paper").masks.pred_iou_thresh == 0.5
    assert_sams_default_in_paper("stability_score_thresh", "stability_score_offset")
    image = draw_image(90, 120, seed=5)
    every = MaskGenerator(PromptableSam(sam), masks_config())(image)
    if isinstance(bound, str):
        # Exactly the score of a mask, of those that rounding leaves alone.
        theirs = {each[SCORES[bound]] for each in reference(sam, masks_config(), image)}
        equal = sorted(theirs & set(getattr(every, bound).tolist()))
        bound = equal[len(equal) // 2]
    config = masks_config(**{name: bound})
    annotations = reference(sam, config, image)
    assert 0 < len(annotations) < len(every), "the threshold drops some, not all"
    assert_equal(sam, image, MaskGenerator(PromptableSam(sam), config)(image), annotations)


def components(mask, connectivity):
    """OpenCV's connectedComponentsWithStats by scipy: labels, and areas in the last column."""
    assert connectivity == 8
    labels, count = ndimage.label(mask, structure=np.ones((3, 3)))
    return count + 1, labels, np.bincount(labels.ravel(), minlength=count + 1)[:, None], None


def test_small_regions_are_removed_as_sam_does(sam, masks_config, draw_image, monkeypatch):
    monkeypatch.setitem(sys.modules, "cv2", SimpleNamespace(connectedComponentsWithStats=components))
    image = draw_image(70, 150)
    # High enough for changed masks, and for doubles that the second NMS finds among them.
    config = masks_config(min_mask_region_area=60, crop_nms_thresh=0.6, box_nms_thresh=0.6)
    annotations = reference(sam, config, image)
    ours = MaskGenerator(PromptableSam(sam), config)(image)
    left = config.model_copy(update={"min_mask_region_area": load_config("paper").masks.min_mask_region_area})
    plain = MaskGenerator(PromptableSam(sam), left)(image)
    assert len(annotations) >= 10
    assert set(ours.counts) - set(plain.counts), "at least one mask was changed"
    assert_equal(sam, image, ours, annotations)
    assert_equal(sam, image, plain, reference(sam, config.model_copy(update={"min_mask_region_area": 0}), image))


def test_masks_of_a_photograph_are_unpacked_one_at_a_time():
    found = MaskCandidates((1, 1), *[torch.arange(5)[:, None]] * 4)
    for size, parts in (((6000, 6000), [1] * 5), ((6000, 2000), [2, 2, 1]), ((100, 100), [5])):
        chunks = list(found.chunks(size))
        assert [len(each.bits) for each in chunks] == parts
        assert torch.equal(concatenate(chunks).bits, found.bits)


@pytest.mark.parametrize("size", [(1, 1), (1, 5000), (5000, 1), (2, 3)])
@pytest.mark.parametrize("layers", [0, 2])
def test_an_image_of_any_shape_gives_masks_of_its_size(sam, masks_config, draw_image, size, layers):
    config = masks_config(crop_n_layers=layers, pred_iou_thresh=-9, stability_score_thresh=0.01)
    proposals = MaskGenerator(PromptableSam(sam), config)(draw_image(*size))
    assert proposals.size == size
    assert len(proposals) > 0
    masks = rle.decode(proposals.counts, size)
    assert [int(mask.sum()) for mask in masks] == proposals.areas_px.tolist()
    assert rle.boxes(proposals.counts, size) == list(proposals.boxes_px)


def test_empty_masks_are_left_out_where_no_stability_is_asked_for(sam, masks_config, draw_image):
    config = masks_config(pred_iou_thresh=0.0, stability_score_thresh=0.0, box_nms_thresh=1.0)
    with torch.inference_mode():
        proposals = MaskGenerator(PromptableSam(sam), config)(draw_image(64, 64))
    assert len(proposals) > 100
    assert proposals.areas_px.min() >= 1


def regions_of(mask):
    """Eight-connected regions as sets of pixels, in reading order of their first pixel."""
    left = {(int(y), int(x)) for y, x in np.argwhere(mask)}
    found = []
    for pixel in sorted(left):
        if pixel not in left:
            continue
        left.discard(pixel)
        region, stack = {pixel}, [pixel]
        while stack:
            y, x = stack.pop()
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            region |= around
            stack += around
        found.append(region)
    return found


def plain(mask, min_area_px):
    out = mask.copy()
    for hole in regions_of(~mask):
        if len(hole) < min_area_px:
            out[tuple(zip(*hole, strict=True))] = True
    islands = regions_of(out)
    large = [island for island in islands if len(island) >= min_area_px] or sorted(islands, key=len, reverse=True)[:1]
    result = np.zeros_like(mask)
    for island in large:
        result[tuple(zip(*island, strict=True))] = True
    return result


MASKS = npst.arrays(np.bool_, npst.array_shapes(min_dims=2, max_dims=2, min_side=1, max_side=12))


@given(MASKS, st.integers(1, 30))
def test_cleaning_equals_a_plain_flood_fill(mask, min_area_px):
    cleaned, has_changed = remove_small_regions(mask, min_area_px)
    np.testing.assert_array_equal(cleaned, plain(mask, min_area_px))
    if not has_changed:
        np.testing.assert_array_equal(cleaned, mask)
