"""Crops by hand-computed values, torchvision and properties; and images that are decoded once for all stages."""

import subprocess
import sys
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import v2

from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.shard import ShardImage
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.crops import shard_pixels
from pseudoris.workers.crops.crop_resampling import CropAccumulator, CropTile, TiledImage, tile_batches, tile_bytes
from pseudoris.workers.crops.crops import FILL_RGB, CropFormat, grow_box, make_crops
from pseudoris.workers.crops.shard_pixels import held_pixels, prefetched_pixels
from pseudoris.workers.faults.freed_memory import free_memory
from pseudoris.workers.faults.tolerant_stages import FaultTolerantStages
from pseudoris.workers.stages import POOL_STAGES
from tests.builders.crops import padded_square, plain_crop, runs_of
from tests.builders.images import encode, random_pixels

CPU = torch.device("cpu")

RAW = CropFormat(size=8, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
CLIP = CropFormat(size=16, mean=(0.48145466, 0.4578275, 0.40821073), std=(0.26862954, 0.26130258, 0.27577711))


@pytest.mark.parametrize(
    ("box", "scale", "expected"),
    [
        ((10, 20, 30, 40), 1.0, (10, 20, 30, 40)),
        ((10, 20, 30, 40), 1.1, (9, 19, 31, 41)),
        ((10, 20, 30, 40), 1.2, (8, 18, 32, 42)),
        # 5 * 1.1 / 2 = 2.75 to each side of 12.5: 9.75 down, 15.25 up.
        ((10, 20, 15, 25), 1.1, (9, 19, 16, 26)),
        # 56 - 100 * 1.1 / 2 is 1, and below 1 in floats.
        ((6, 6, 106, 106), 1.1, (1, 1, 100, 100)),
        ((0, 0, 10, 10), 1.2, (0, 0, 11, 11)),
        ((90, 90, 100, 100), 1.2, (89, 89, 100, 100)),
        ((0, 0, 100, 100), 1.2, (0, 0, 100, 100)),
        ((7, 7, 7, 12), 1.0, (7, 7, 8, 12)),
        ((100, 50, 100, 50), 1.2, (99, 50, 100, 51)),
    ],
)
def test_boxes_grow_about_their_centre_and_are_clipped(box, scale, expected):
    assert grow_box(box, scale=scale, image_size=(100, 100)) == expected


def unresized(square):
    """A square (S, S, 3) uint8 as the crop of its own size."""
    return torch.from_numpy(square).permute(2, 0, 1) / 255


def crops_of(pixels, boxes, masks, *, scales=(None, 1.0, 1.1, 1.2), crop_format=RAW, **options):
    runs = [runs_of(mask) for mask in masks]
    return make_crops(pixels, boxes, runs=runs, scales=scales, crop_format=crop_format, device=CPU, **options)


def test_a_masked_crop_shows_the_mask_and_fills_the_rest():
    pixels = random_pixels(6, 8)
    mask = np.zeros((6, 8), dtype=bool)
    mask[1, 2] = mask[2, 3] = mask[3, 2] = True
    # 3 rows, 2 columns: of the single column of padding, all lies on the right.
    expected = np.empty((3, 3, 3), dtype=np.uint8)
    expected[:] = FILL_RGB
    expected[0, 0], expected[1, 1], expected[2, 0] = pixels[1, 2], pixels[2, 3], pixels[3, 2]
    crop_format = CropFormat(3, RAW.mean, RAW.std)
    crop = crops_of(pixels, [(2, 1, 4, 4)], [mask], scales=(None,), crop_format=crop_format)[0, 0]
    torch.testing.assert_close(crop, unresized(expected), rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [1, 7, 16, 40])
def test_the_plain_definition_is_torchvisions_resize_of_the_padded_square(size):
    region = random_pixels(13, 24)
    mask = np.random.default_rng(2).random((13, 24)) < 0.5
    square = torch.from_numpy(padded_square(region, mask=mask)).permute(2, 0, 1)
    resize = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Resize((size, size), antialias=True)])
    torch.testing.assert_close(plain_crop(region, size, mask=mask), resize(square), rtol=0, atol=1e-6)


def texture(height, width, *, seed):
    """Fine texture, the hardest for a resampler: a checkerboard of single pixels under noise."""
    checks = (np.indices((height, width)).sum(axis=0) % 2 * 200).astype(np.uint8)
    return checks[:, :, None] + np.random.default_rng(seed).integers(0, 56, (height, width, 3), dtype=np.uint8)


@st.composite
def images_with_boxes(draw):
    """An image, boxes of which some touch its border and some hold one pixel, and masks inside their boxes."""
    height, width, seed = draw(st.integers(1, 90)), draw(st.integers(1, 90)), draw(st.integers(0, 99))
    boxes, masks = [], []
    for number in range(draw(st.integers(1, 4))):
        x0, y0 = draw(st.integers(0, width - 1)), draw(st.integers(0, height - 1))
        box = (x0, y0, draw(st.integers(x0 + 1, width)), draw(st.integers(y0 + 1, height)))
        noise = np.random.default_rng([seed, number]).random((height, width)) < 0.6
        mask = np.zeros((height, width), bool)
        mask[box[1] : box[3], box[0] : box[2]] = noise[box[1] : box[3], box[0] : box[2]]
        boxes.append(box)
        masks.append(mask)
    return texture(height, width, seed=seed), boxes, masks


@settings(max_examples=40)
@given(case=images_with_boxes(), size=st.sampled_from([1, 7, 16, 40]), has_antialiasing=st.booleans())
def test_all_crops_of_an_image_equal_the_plain_definition_one_by_one(case, size, has_antialiasing):
    pixels, boxes, masks = case
    scales = (None, 1.0, 1.1, 1.2)
    crop_format = CropFormat(size, RAW.mean, RAW.std, has_antialiasing)
    crops = crops_of(pixels, boxes, masks, scales=scales, crop_format=crop_format)
    for kind, scale in enumerate(scales):
        for number, (box, mask) in enumerate(zip(boxes, masks, strict=True)):
            x0, y0, x1, y1 = grow_box(box, scale=scale or 1.0, image_size=pixels.shape[:2])
            kept = mask[y0:y1, x0:x1] if scale is None else None
            plain = plain_crop(pixels[y0:y1, x0:x1], size, mask=kept, has_antialiasing=has_antialiasing)
            torch.testing.assert_close(crops[kind, number], plain, rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(90, 131), (300, 41), (17, 222), (1, 1), (700, 900)])
@pytest.mark.parametrize("size", [8, 96, 224])
def test_in_paper_crops_are_resized_as_torchvision_resizes_a_tensor_without_antialiasing(shape, size):
    # The authors normalise first and resize then; both are linear.
    pixels = texture(*shape, seed=0)
    paper = load_config("paper")
    (has_antialiasing,) = {each.has_antialiasing for each in (paper.captions, paper.filtering)}
    crop_format = CropFormat(size, CLIP.mean, CLIP.std, has_antialiasing)
    box = (0, 0, shape[1], shape[0])
    (crop,) = crops_of(pixels, [box], [np.ones(shape, bool)], scales=(1.0,), crop_format=crop_format)[0]
    square = v2.functional.normalize(unresized(padded_square(pixels)).double(), list(CLIP.mean), list(CLIP.std))
    plain = v2.functional.resize(square, [size, size], v2.InterpolationMode.BILINEAR, antialias=False)
    torch.testing.assert_close(crop.double(), plain, rtol=0, atol=1e-4)
    smooth = v2.functional.resize(square, [size, size], v2.InterpolationMode.BILINEAR, antialias=True)
    if max(shape) > 2 * size:
        assert (smooth - plain).abs().max() > 0.1


@pytest.mark.slow
@settings(max_examples=20)
@given(case=images_with_boxes(), max_bytes=st.sampled_from([30_000, 100_000]))
def test_a_crop_is_the_same_to_the_last_bit_in_any_batch_and_company(case, max_bytes):
    pixels, boxes, masks = case
    together = crops_of(pixels, boxes, masks)
    in_pieces = crops_of(pixels, boxes, masks, max_bytes=max_bytes)
    alone = crops_of(pixels, boxes[-1:], masks[-1:], scales=(1.1, None))
    assert torch.equal(together, in_pieces)
    assert torch.equal(together[[2, 0], -1], alone[:, 0])


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_cuts_the_crops_of_the_cpu_and_as_independently():
    pixels = texture(90, 131, seed=0)
    boxes = [(0, 0, 131, 90), (5, 7, 6, 8), (100, 60, 131, 90)]
    masks = [np.zeros((90, 131), bool) for _ in boxes]
    for (x0, y0, x1, y1), mask in zip(boxes, masks, strict=True):
        mask[y0:y1, x0:x1] = True
    runs = [runs_of(mask) for mask in masks]
    options = {"runs": runs, "scales": (None, 1.0, 1.2), "crop_format": CLIP}
    crops = make_crops(pixels, boxes, **options, device=torch.device("cuda"))
    pieces = make_crops(pixels, boxes, **options, device=torch.device("cuda"), max_bytes=100_000)
    assert torch.equal(crops, pieces)
    torch.testing.assert_close(crops.cpu(), make_crops(pixels, boxes, **options, device=CPU), rtol=0, atol=1e-4)


def test_any_box_gives_a_crop_also_one_without_pixels_or_beside_the_image_and_no_box_none():
    pixels = random_pixels(12, 9)
    whole = np.ones((12, 9), bool)
    for box in [(4, 4, 4, 4), (9, 12, 9, 12), (0, 3, 0, 7)]:
        crops = crops_of(pixels, [box], [whole])
        assert torch.isfinite(crops).all()
    assert crops_of(random_pixels(), [], []).shape == (4, 0, 3, 8, 8)


def test_masks_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"mask 0 has 9 pixels, the image 768"):
        crops_of(random_pixels(), [(0, 0, 2, 2)], [np.ones((3, 3), bool)])
    with pytest.raises(ValueError, match="got 2 masks and 1 boxes"):
        crops_of(random_pixels(), [(0, 0, 2, 2)], np.ones((2, 24, 32), bool))


def test_pieces_give_the_bits_of_the_whole_also_those_that_see_padding_alone():
    image = TiledImage(random_pixels(50, 70), [runs_of(np.ones((50, 70), bool))], fill_rgb=FILL_RGB, device=CPU)

    def scaled(tiles):
        sums = CropAccumulator(1, 20, CPU)
        sums.add(image, tiles)
        return sums.scaled(torch.full((3,), 1 / 255), torch.tensor(FILL_RGB) / 255)

    # Wide: the first and last rows of outputs are padding.
    whole = CropTile(crop=0, mask=0, is_masked=False, box=(0, 20, 70, 27), rows=(0, 20), columns=(0, 20))
    corners = [(top, left) for top in range(0, 20, 5) for left in (0, 10)]
    pieces = [replace(whole, rows=(top, top + 5), columns=(left, left + 10)) for top, left in corners]
    assert torch.equal(scaled(pieces), scaled([whole]))


@pytest.mark.parametrize("box", [(0, 0, 3, 2_000_000), (0, 0, 2_000_000, 3), (0, 0, 9000, 9000), (0, 0, 1, 1)])
def test_no_batch_of_tiles_takes_more_than_its_bound(box):
    tile = CropTile(crop=0, mask=0, is_masked=False, box=box, rows=(0, 224), columns=(0, 224))
    for batch in tile_batches([tile] * 3, size=224, max_bytes=64 * 2**20):
        assert sum(tile_bytes(each, size=224) for each in batch) <= 64 * 2**20


@pytest.mark.long
def test_memory_follows_the_image_and_not_the_squares_of_its_crops():
    # The squares would take up to 48 TB. A process of its own: its high-water mark starts low.
    code = """
import resource, numpy as np, torch
from pseudoris.workers.crops.crops import CropFormat, make_crops
torch.set_num_threads(1)
peaks = []
sizes = (9, 9, 1), (1, 60_000, 1), (60_000, 1, 1), (3, 2_000_000, 1), (2_000_000, 3, 1), (4000, 6000, 1)
for height, width, num_masks in (*sizes, (1500, 2000, 9)):
    pixels, runs = np.full((height, width, 3), 200, np.uint8), [np.array([0, height * width])] * num_masks
    form = CropFormat(224, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    boxes = [(0, 0, width, height)] * num_masks
    make_crops(pixels, boxes, runs=runs, scales=(None, 1.0), crop_format=form, device=torch.device("cpu"))
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
print(*(peak - peaks[0] for peak in peaks))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240)
    assert int(done.stdout.split()[-1]) * 1024 < 256 * 2**20, done.stdout


CUDA = torch.device("cuda")
IMAGE_BYTES = 4 * 5 * 3
BROKEN = ShardImage(position=50, image_id=image_id("b.png"), key="b.png", data=b"no image")


def images(count):
    pixels = [np.full((4, 5, 3), 20 * number, dtype=np.uint8) for number in range(count)]
    listed = [encode(one, "PNG") for one in pixels]
    return [
        ShardImage(number, image_id(f"{number}.png"), f"{number}.png", data, height=4, width=5)
        for number, data in enumerate(listed)
    ]


def use_in_stages(shard, device):
    """What each stage gets of each image."""
    with held_pixels():
        for _ in range(3):
            with prefetched_pixels(shard, device) as decode:
                for image in shard:
                    yield image, decode(image)


class Decoder:
    """What was decoded and by which thread, and the most bytes of pixels that were alive at once."""

    def __init__(self):
        self.calls, self.alive, self.peak, self._lock = [], 0, 0, threading.Lock()

    def __call__(self, data, levels=None):
        with self._lock:
            self.calls.append((data, threading.current_thread()))
            self.alive += IMAGE_BYTES
            self.peak = max(self.peak, self.alive)
        pixels = decode_proven(data, levels)
        weakref.finalize(pixels, self._freed)
        return pixels

    def _freed(self):
        self.alive -= IMAGE_BYTES

    def counts(self, shard):
        return [sum(data == image.data for data, _ in self.calls) for image in shard]


@pytest.fixture
def decoded(monkeypatch):
    decoder = Decoder()
    monkeypatch.setattr(shard_pixels, "decode_proven", decoder)
    return decoder


@pytest.mark.parametrize("device", [CPU, CUDA], ids=str)
def test_all_stages_get_an_images_own_pixels_from_one_decode(decoded, device):
    shard = images(9)
    for image, pixels in use_in_stages(shard, device):
        np.testing.assert_array_equal(pixels, decode_proven(image.data))
    assert decoded.counts(shard) == [1] * 9


def test_what_the_bounds_leave_out_is_decoded_again_and_memory_stays_within_them(decoded, monkeypatch):
    monkeypatch.setattr(shard_pixels, "HELD_BYTES", 5 * IMAGE_BYTES)
    monkeypatch.setattr(shard_pixels, "AHEAD_BYTES", 2 * IMAGE_BYTES)
    shard = images(12)
    for image, pixels in use_in_stages(shard, CUDA):
        np.testing.assert_array_equal(pixels, decode_proven(image.data))
    assert decoded.counts(shard) == [1] * 5 + [3] * 7
    # What is held and what is ahead; beside them the image that the caller has, and the one before it.
    assert decoded.peak <= (5 + 2 + 2) * IMAGE_BYTES
    del pixels
    assert decoded.alive == 0


def test_on_a_gpu_all_but_the_first_are_decoded_beside_the_work(decoded):
    shard = images(3)
    with prefetched_pixels(shard, CUDA) as decode:
        for image in shard:
            decode(image)
    main = threading.main_thread()
    assert {data for data, thread in decoded.calls if thread is main} == {shard[0].data}


def test_on_a_cpu_nothing_is_decoded_before_it_is_asked_for(decoded):
    shard = images(3)
    with prefetched_pixels(shard, CPU) as decode:
        decode(shard[0])
    assert len(decoded.calls) == 1


def test_an_image_that_fails_raises_where_it_is_asked_for_and_again_when_asked_again():
    good, last = images(2)
    shard = [good, BROKEN, last]
    with prefetched_pixels(shard, CUDA) as decode:
        decode(good)
        for _ in range(2):
            with pytest.raises(ImageError, match="no decoder recognises the bytes"):
                decode(BROKEN)
        assert decode(last).shape == (4, 5, 3)


def test_where_memory_runs_out_what_is_held_is_freed_and_decoded_again(decoded):
    shard = images(2)
    for at, _ in enumerate(use_in_stages(shard, CPU)):
        if at == 2:
            free_memory()
    assert decoded.counts(shard) == [2, 2]


@pytest.mark.slow
def test_a_process_with_three_stages_decodes_each_image_once_and_one_that_fails_costs_itself_alone(monkeypatch):
    decoder = Decoder()
    config = load_config("tiny", assignments=["captions.max_length=8"])
    scenes = scene_shard([scene_image(make_scene(Split.DEMO, position)) for position in range(2)])
    stages = FaultTolerantStages(POOL_STAGES["fused"], config)
    undisturbed = stages(scenes)
    monkeypatch.setattr(shard_pixels, "decode_proven", decoder)
    first, second = scenes.images
    done = stages(scenes.with_images((first, replace(BROKEN, position=1), replace(second, position=2))))
    assert decoder.counts(scenes.images) == [1, 1]
    assert done.images[1].failure.reason == "not_an_image"
    assert [image.masks for image in done.images[::2]] == [image.masks for image in undisturbed.images]
    assert all(image.expressions for image in done.images[::2])
