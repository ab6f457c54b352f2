"""SAM's input and decoder equal segment_anything's, images share batches, the stage reduces its masks to objects."""

import copy
import logging
import weakref
from contextlib import nullcontext

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from segment_anything import SamPredictor
from segment_anything.utils.transforms import ResizeLongestSide
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from pseudoris.images.prover import Prover
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import PriorConfig, ReductionConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard, ShardImage, emptied_by
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers import pass_sizes
from pseudoris.workers.checkpoints.sam_architectures import SamArchitecture
from pseudoris.workers.masks import SamProposer, sam_model
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.image_encoder import FusedEncoder
from pseudoris.workers.masks.instances import encode_box
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder
from pseudoris.workers.masks.proposals import Kept, Proposals, mask_records, reduce_proposals
from pseudoris.workers.masks.sam_model import PromptableSam, build_sam, layer_grids, load_sam, resized_size
from tests.builders.images import encode
from tests.oracles.pretended_gpu import pretended_gpu


def test_a_layer_without_points_is_refused(masks_config):
    with pytest.raises(ConfigError, match="downscale_factor=4 leaves crop layer 2 without points"):
        layer_grids(masks_config(points_per_side=8, crop_n_layers=2, crop_n_points_downscale_factor=4))


@given(st.integers(1, 3000), st.integers(1, 3000))
def test_the_resized_size_is_sams_but_never_zero(height, width):
    expected = ResizeLongestSide.get_preprocess_shape(height, width, 256)
    assert resized_size((height, width), 256) == tuple(max(1, side) for side in expected)


@torch.inference_mode()
def encoded(sam, images, dtype=torch.float32):
    return list(sam_model.encode_sam_crops(sam, images, dtype))


def test_crops_of_any_shape_are_encoded_together_as_sam_encodes_each(sam, draw_image):
    images = [draw_image(*size, seed) for seed, size in enumerate([(64, 64), (50, 81), (130, 90), (7, 90)])]
    predictor = SamPredictor(sam)
    for image, crop in zip(images, encoded(sam, images), strict=True):
        predictor.set_image(image)
        torch.testing.assert_close(crop.embedding, predictor.features[0], rtol=1e-5, atol=1e-5)
        assert (crop.size, crop.input_size) == (image.shape[:2], predictor.input_size)


def test_as_many_crops_are_encoded_at_once_as_the_budget_allows(sam, draw_image, monkeypatch):
    images = [draw_image(40, 60, seed) for seed in range(5)]
    seen = []
    handle = sam.image_encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    together = encoded(sam, images)
    # With two heads and 8 x 8 tokens, scores and softmax of two crops fit. A byte is missing for those of a third.
    monkeypatch.setitem(pass_sizes.SAM_ENCODER_BYTES, "cpu", 3 * 2 * 4 * 2 * 64**2 - 1)
    few = encoded(sam, images)
    monkeypatch.setitem(pass_sizes.SAM_ENCODER_BYTES, "cpu", 1)
    encoded(sam, images[:2])
    handle.remove()
    assert seen == [5, 2, 2, 1, 1, 1]
    for one, other in zip(together, few, strict=True):
        torch.testing.assert_close(one.embedding, other.embedding, rtol=1e-5, atol=1e-5)


KEEP_ALL = 0.0
# Two float32 forwards add up in other orders: each is 2e-5 from the one in float64, on logits of up to 30.
ROUNDING = 4e-5


def points(number):
    return 64 * torch.rand(number, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def embedding(sam):
    pixels = 255 * torch.rand(1, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        return sam.image_encoder(sam.preprocess(torch.nn.functional.interpolate(pixels, (64, 64))))[0]


@torch.no_grad()
def expected(sam, embedding, xy, dtype=torch.float32):
    """Logits (3P, h, w) and predicted IoU (3P,) of SAM's modules, the decoder in `dtype`."""
    labels = torch.ones(len(xy), 1, dtype=torch.int)
    sparse, dense = sam.prompt_encoder(points=(xy[:, None], labels), boxes=None, masks=None)
    given = (embedding[None], sam.prompt_encoder.get_dense_pe(), sparse, dense)
    logits, iou = copy.deepcopy(sam.mask_decoder).to(dtype)(*(part.to(dtype) for part in given), True)
    return logits.flatten(0, 1), iou.flatten()


@torch.no_grad()
def decoded(sam, embedding, xy, min_predicted_iou=KEEP_ALL, dtype=torch.float32):
    decode = SamPromptDecoder(sam, dtype=dtype)
    return decode(decode.share(embedding), xy, min_predicted_iou=min_predicted_iou)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_in_float64_logits_and_predicted_iou_are_sams_own(sam, embedding, device):
    fine = copy.deepcopy(sam)
    fine.mask_decoder.double()
    theirs = expected(sam, embedding, points(40), torch.float64)
    with pretended_gpu() if device == "cuda" else nullcontext():
        given = fine.to(device), embedding.double().to(device), points(40).to(device)
        ours = [each.cpu() for each in decoded(*given, dtype=torch.float64)]
    for each, value in zip(ours, theirs, strict=True):
        torch.testing.assert_close(each, value, rtol=1e-10, atol=1e-10)


def test_in_float64_encodings_by_one_kernel_a_block_are_sams_own():
    # Windows of 3 fill a grid of 4 up to 6. Behind 4 channels of a head stand 2 x 3 or 2 x 4 places, and spare ones.
    widths = {"encoder_width": 8, "prompt_width": 8, "decoder_mlp_width": 8, "iou_head_width": 8}
    heads = {"encoder_heads": 2, "decoder_heads": 1, "encoder_depth": 2, "encoder_global_blocks": (1,)}
    numbers = SamArchitecture(image_size=32, patch_size=8, window_size=3, **widths, **heads)
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(0)
        encoder = build_sam(numbers).image_encoder.double()
        for parameter in encoder.parameters():
            parameter.normal_()
        planes = torch.randn(2, 3, 32, 32, dtype=torch.float64)
        found, without_places = FusedEncoder(encoder, torch.float64)(planes), copy.deepcopy(encoder)
        for block in without_places.blocks:
            block.attn.rel_pos_h.zero_()
        torch.testing.assert_close(found, encoder(planes), rtol=1e-10, atol=1e-10)
        assert not torch.allclose(found, without_places(planes), rtol=1e-2)


def test_predicted_iou_drops_before_upscaling_what_it_would_drop_after(sam, embedding):
    low, iou = expected(sam, embedding, points(40))
    threshold = float(iou.quantile(0.9))
    num_flops = []
    for bound in (9.0, KEEP_ALL, threshold):
        with FlopCounterMode(display=False) as counted:
            ours_low, ours_iou = decoded(sam, embedding, points(40), min_predicted_iou=bound)
        num_flops.append(counted.get_total_flops())
    none, every, few = num_flops
    is_kept = iou > threshold
    assert 1 < is_kept.sum() < len(iou) / 4
    assert 0 < 40 * (few - none) == is_kept.view(40, 3).any(1).sum() * (every - none)
    torch.testing.assert_close(ours_iou, iou[is_kept], rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(ours_low, low[is_kept], rtol=1e-5, atol=ROUNDING)


@pytest.mark.parametrize("num_bytes", [1, 300_000])
def test_the_prompts_of_a_pass_are_bounded_by_bytes_and_decide_no_result(sam, embedding, monkeypatch, num_bytes):
    whole = decoded(sam, embedding, points(23))
    monkeypatch.setitem(pass_sizes.PROMPT_BYTES, "cpu", num_bytes)
    sizes = []
    # Each pass asks the head once.
    hook = sam.mask_decoder.iou_prediction_head.register_forward_hook(lambda _, given, __: sizes.append(len(given[0])))
    in_passes = decoded(sam, embedding, points(23))
    hook.remove()
    # The image has 8 x 8 tokens of width 32. Each of two heads has seven tokens of a prompt.
    assert max(sizes) == max(1, num_bytes // (4 * 64 * (3 * 32 + 2 * 2 * 7)))
    assert (sum(sizes), len(sizes) > 1) == (23, True)
    for one, other in zip(in_passes, whole, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=2e-5)


# Each image has several crops, and none has the size that SAM sees.
SIZES = [(60, 90), (90, 60), (130, 75), (33, 200), (64, 64)]


@pytest.fixture
def gpu():
    with pretended_gpu() as pretended:
        yield pretended


@pytest.fixture
def generator_of(gpu, sam, masks_config):
    def build(bytes_a_point=None):
        model = PromptableSam(copy.deepcopy(sam).to("cuda"))
        model.bytes_a_point = bytes_a_point or model.bytes_a_point
        return MaskGenerator(model, masks_config(crop_n_layers=1))

    return build


@pytest.fixture
def images(draw_image):
    return [draw_image(*size, seed) for seed, size in enumerate(SIZES)]


def values(proposals):
    return proposals.size, proposals.counts, proposals.predicted_iou.tobytes(), proposals.stability.tobytes()


@pytest.fixture
def shipped(gpu):
    """A builder of generators over the trained SAM: its products are wide enough for bits to depend on their rows."""
    config = load_config("tiny").masks
    sam = load_sam(config.architecture, config.weights).to("cuda")
    # Few points, so that those of an image do not fill a pass, and an encoder of four crops.
    update = {"points_per_side": 5, "points_per_batch": 64, "crop_n_layers": 0}

    def build(dtype, min_area):
        changed = config.model_copy(update={**update, "min_mask_region_area": min_area})
        return MaskGenerator(PromptableSam(sam, dtype=dtype), changed)

    return build


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "min_area"), [(torch.float32, 0), (torch.bfloat16, 30)])
def test_an_image_has_the_same_bits_alone_beside_others_and_in_another_order(shipped, dtype, min_area):
    generate = shipped(dtype, min_area)
    scenes = [render(make_scene(Split.DEMO, position)).image for position in range(3)]
    images = [
        np.array(Image.fromarray(pixels).resize(size))
        for pixels, size in zip(scenes, [(192, 192), (256, 160), (90, 130)], strict=True)
    ]
    alone = [values(generate(image)) for image in images]
    assert all(counts for _, counts, *_ in alone)
    assert [values(each) for each in generate.together(images)] == alone
    assert [values(each) for each in generate.together(images[::-1])] == alone[::-1]


def test_a_gpu_encodes_each_crop_in_a_pass_of_its_own_and_fills_none_up(gpu, sam, draw_image):
    model, seen = PromptableSam(copy.deepcopy(sam).to("cuda"), dtype=torch.bfloat16), []
    model.fused.register_forward_pre_hook(lambda _, given: seen.append(len(given[0])))
    assert len(list(model.encode([draw_image(40, 60, seed) for seed in range(3)]))) == 3
    assert seen == [1, 1, 1]


def test_if_the_crops_of_an_image_do_not_fit_together_predictions_are_read_more_often_and_masks_are_equal(
    gpu, generator_of, images
):
    (expected,), generate = generator_of().together(images[:1]), generator_of(bytes_a_point=2**40)
    before = len(gpu.waits)
    (found,) = generate.together(images[:1])
    # Each mask is upscaled alone too.
    assert found.counts == expected.counts
    # The image has five crops.
    assert len(gpu.waits) - before == 5 + 2


@pytest.mark.parametrize("images_together", [1, 5])
def test_the_cpu_waits_three_times_a_batch_whatever_it_holds(gpu, generator_of, images, images_together):
    generate = generator_of()
    before = len(gpu.waits)
    generate.together(images[:images_together])
    assert len(gpu.waits) - before <= 3, gpu.waits[before:]


class SmallMemory(TorchFunctionMode):
    """A GPU without room for the images of many prompts, of which each layer of the decoder ends with a norm."""

    def __init__(self, max_bytes):
        super().__init__()
        self.max_bytes, self.made = max_bytes, []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.__name__ == "layer_norm" and result.dim() == 3:
            self.made = [each for each in self.made if each() is not None] + [weakref.ref(result)]
            if sum(each().nbytes for each in self.made) > self.max_bytes:
                raise torch.OutOfMemoryError("CUDA out of memory")
        return result


def test_without_memory_for_all_images_it_goes_on_with_fewer_says_so_once_and_fails_without_memory_for_one(
    generator_of, images, caplog
):
    generate = generator_of()
    expected = [values(each) for each in generate.together(images)]
    # Of each of its points a crop has an image of 8 x 8 tokens, and an image has five crops.
    of_crop = 4 * 32 * 8 * 8 * 64
    with SmallMemory(13 * of_crop), caplog.at_level(logging.WARNING):
        found = [values(each) for each in generate.together(images)]
        generate.together(images[: generate.images_together])
    assert found == expected
    (record,) = caplog.records
    assert record.getMessage() == (
        "5 images do not fit into the GPU's memory together: continuing with 2, which changes no result; to make room, "
        "lower masks.points_per_batch (now 24) in a new run"
    )
    with SmallMemory(0), pytest.raises(torch.OutOfMemoryError):
        generate.together(images)


def test_an_image_that_raises_costs_itself_alone(gpu, masks_config, shard_of, draw_image):
    config = load_config("tiny", assignments=["compute.device=cuda", "placement.fused.num_gpus=1"])
    propose, (first, second) = SamProposer(masks_config(), config.compute), (draw_image(60, 90), draw_image(90, 40))
    fine = propose(shard_of(first, second)).images
    *found, broken = propose(shard_of(first, second, b"not an image")).images
    assert broken.failure.reason == "not_an_image"
    assert [image.masks for image in found] == [image.masks for image in fine]
    assert all(image.masks for image in fine)


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


@pytest.mark.slow
@pytest.mark.parametrize("bits", [10, 12])
def test_grey_of_few_bits_in_16_has_the_masks_of_its_8_bits_and_none_if_all_16_are_stored(bits):
    config = load_config("tiny")
    grey = np.asarray(Image.fromarray(render(make_scene(Split.DEMO, 0)).image).convert("L"))
    deep = np.round(grey * ((2**bits - 1) / 255)).astype(np.uint16)

    def masks(samples, settings):
        data = encode(samples)
        with Prover(settings) as prover:
            proof = prover.prove(data)
        image = ShardImage(0, "f" * 16, "a.png", data, height=proof.size[0], width=proof.size[1], levels=proof.levels)
        (done,) = SamProposer(config.masks, config.compute)(Shard(0, 0, (image,))).images
        return done.masks

    expected = masks(grey, config.images)
    assert len(expected) >= 3
    assert masks(deep, config.images) == expected
    assert masks(deep, config.images.model_copy(update={"bits": "stored"})) == ()


def test_a_broken_image_is_quarantined_and_the_rest_goes_on(proposer_of, draw_image, shard_of):
    broken, fine = proposer_of()(shard_of(b"not an image", draw_image(50, 50))).images
    assert broken.failure is not None
    assert (broken.failure.stage, broken.failure.reason) == ("propose", "not_an_image")
    assert fine.masks


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_the_masks_that_each_rule_leaves_are_counted_as_many_as_without_the_later_rules(
    gpu, sam, masks_config, images, device
):
    model = PromptableSam(copy.deepcopy(sam).to(device))

    def found_by(**changed):
        return MaskGenerator(model, masks_config(**changed)).together(images[:2])

    # With every box its own, what is stable stays; of what is not, some masks are empty, which no proposal is.
    predicted = found_by(box_nms_thresh=1.0, stability_score_thresh=1e-9)
    # What a SAM finds stable differs by the CPU on which it was trained.
    bound = min(float(np.median(image.stability)) for image in predicted)
    stable = found_by(box_nms_thresh=1.0, stability_score_thresh=bound)
    found, looser = found_by(stability_score_thresh=bound), (stable, predicted)
    for image, *without in zip(found, *looser, strict=True):
        numbers = [image.left[name] for name in ("box_doubles", "stability", "predicted_iou")]
        assert numbers == [len(image), *map(len, without)]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize(
    ("overrides", "rule"),
    [
        ({"pred_iou_thresh": 9.0}, "predicted_iou"),
        ({"stability_score_thresh": 1.1}, "stability"),
        ({"reduction": ReductionConfig(min_area=1.0)}, "min_area"),
        ({"reduction": ReductionConfig(max_area=0.0, min_area=0.0)}, "max_area"),
    ],
)
@pytest.mark.parametrize("min_area", [0, 5])
def test_an_image_where_nothing_survives_has_no_masks_no_failure_and_the_rule_that_took_the_last(
    proposer_of, draw_image, shard_of, overrides, rule, min_area
):
    propose = proposer_of(**overrides, min_mask_region_area=min_area, crop_n_layers=1)
    (done,) = propose(shard_of(draw_image(40, 50))).images
    assert (done.masks, done.failure, emptied_by(done.masks_left)) == ((), None, rule)


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
    counts = tuple(encode_box(box, SIZE) for box in boxes)
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
    found = reduce_proposals(proposals_of(*boxes, ious=ious), config)
    assert [each.row for each in found.kept] == plain(boxes, ious, config)
