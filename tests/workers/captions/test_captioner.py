"""The stage on the trained embedded model: shards in, candidates out."""

import dataclasses
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from open_clip.tokenizer import SimpleTokenizer

from schemas.config_loading import load_config
from schemas.ids import image_id, mask_id
from schemas.shard import Failure, MaskRecord, Shard, ShardImage
from tests.builders.coca import captions_config
from tests.builders.images import encode
from workers.captions import CocaCaptioner
from workers.captions.drafts import ImageCrops
from workers.captions.engine import CachedEngine
from workers.captions.plain import PlainEngine
from workers.captions.vocabulary import SpecialTokens
from workers.checkpoints.models import load_coca
from workers.images import ahead
from workers.images.decoding import decode_proven
from workers.masks import rle

SIDE = 96


def shard_image(position, *, num_masks=3, indices=None):
    """Return an image of coloured discs on a textured ground, a mask a disc."""
    generator = np.random.default_rng(position)
    pixels = generator.integers(180, 210, (SIDE, SIDE, 3), dtype=np.uint8)
    rows, columns = np.ogrid[:SIDE, :SIDE]
    masks = np.zeros((num_masks, SIDE, SIDE), dtype=np.bool_)
    for mask in masks:
        y, x, radius = *generator.integers(15, SIDE - 15, 2), generator.integers(6, 15)
        mask[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] = True
        pixels[mask] = generator.integers(0, 255, 3)
    key = f"{position}.png"
    return ShardImage(
        position=position,
        image_id=image_id(key),
        key=key,
        data=encode(pixels),
        height=SIDE,
        width=SIDE,
        masks=records(image_id(key), masks, indices or range(num_masks)),
    )


def records(image, masks, indices):
    counts = rle.encode(torch.from_numpy(masks))
    boxes, areas = rle.boxes(counts, (SIDE, SIDE)), rle.areas(counts, (SIDE, SIDE))
    return tuple(
        MaskRecord(mask_id(image, index), index, (SIDE, SIDE), counts[n], boxes[n], int(areas[n]))
        for n, index in enumerate(indices)
    )


@pytest.fixture(scope="module")
def run():
    return load_config("tiny")


@pytest.fixture(scope="module")
def captioner(run):
    return CocaCaptioner(run.captions, run.compute)


def test_every_mask_gets_44_samples_in_the_order_of_crops_and_decoders(captioner):
    image = captioner(Shard(0, 0, (shard_image(1),))).images[0]
    assert image.failure is None
    order = ["masked", "context_1.0", "context_1.1", "context_1.2"]
    for mask in image.masks:
        mine = [one for one in image.expressions if one.target_mask_ids == (mask.mask_id,)]
        samples = [sample for one in mine for sample in one.samples]
        assert len(samples) == 44
        assert {sample.others for sample in samples if sample.decoder != "beam"} == {"all"}
        firsts = [order.index(one.samples[0].crop) for one in mine]
        assert firsts == sorted(firsts)
        assert len({one.text for one in mine}) == len(mine) > 10
        assert all(sample.log_prob <= 0 for sample in samples)


def test_an_image_gives_the_same_candidates_alone_and_in_another_order(captioner):
    images = [shard_image(n, num_masks=n + 1) for n in range(3)]
    forward = captioner(Shard(0, 0, tuple(images))).images
    backward = captioner(Shard(1, 0, tuple(reversed(images)))).images
    alone = [captioner(Shard(2, 0, (image,))).images[0] for image in images]
    assert list(forward) == list(reversed(backward)) == alone


def test_another_seed_draws_other_captions_and_the_same_beams(run, captioner):
    shard = Shard(0, 0, (shard_image(1),))
    other = CocaCaptioner(run.captions, run.compute.model_copy(update={"seed": 1}))

    def texts(stage, decoder):
        return {e.text for e in stage(shard).images[0].expressions if any(s.decoder == decoder for s in e.samples)}

    assert texts(captioner, "beam") == texts(other, "beam")
    assert texts(captioner, "top_p") != texts(other, "top_p")


def test_masks_are_never_decoded_to_whole_images(captioner, monkeypatch):
    # Sixty of a photograph at once would take gigabytes: they go as run lengths to where crops are cut.
    monkeypatch.setattr(rle, "decode", lambda counts, size: pytest.fail("a mask was decoded"))
    (image,) = captioner(Shard(0, 0, (shard_image(1),))).images
    assert image.failure is None


def test_an_image_is_decoded_once_for_all_of_its_crops(captioner, monkeypatch):
    calls = []
    monkeypatch.setattr(ahead, "decode_proven", lambda data: calls.append(data) or decode_proven(data))
    images = [shard_image(number, num_masks=1) for number in range(2)]
    captioner(Shard(0, 0, tuple(images)))
    assert calls == [image.data for image in images]


def test_images_without_masks_and_quarantined_ones_pass_through(captioner):
    empty = dataclasses.replace(shard_image(0), masks=())
    broken = shard_image(1).quarantined(Failure("read", "corrupt", "cut short"))
    out = captioner(Shard(0, 0, (empty, broken)))
    assert out.images == (empty, broken)
    assert out.seconds["caption"] > 0


def test_a_mask_of_one_pixel_and_one_at_the_border_are_captioned(captioner):
    image = shard_image(4)
    masks = np.zeros((2, SIDE, SIDE), dtype=np.bool_)
    masks[0, 40, 40] = True
    masks[1, :, SIDE - 1] = True
    image = dataclasses.replace(image, masks=records(image.image_id, masks, (0, 7)))
    out = captioner(Shard(0, 0, (image,))).images[0]
    assert {one.target_mask_ids[0] for one in out.expressions} == {mask.mask_id for mask in image.masks}


def test_the_digest_is_that_of_the_weights_file(run):
    digest = CocaCaptioner.weights_digest(run.captions)
    assert len(digest) == 64
    other = run.captions.model_copy(update={"weights": run.captions.weights.model_copy(update={"uri": "random:1"})})
    assert CocaCaptioner.weights_digest(other) != digest


def test_crop_kinds_are_named_by_their_scale_with_the_masked_crop_first():
    assert captions_config().crop_kinds() == {
        "masked": None,
        "context_1.0": 1.0,
        "context_1.1": 1.1,
        "context_1.2": 1.2,
    }
    assert captions_config(has_masked_crop=False, context_scales=(1.5,)).crop_kinds() == {"context_1.5": 1.5}


def test_the_trained_model_is_decoded_token_for_token_as_open_clips_forward_would(run):
    model = load_coca(run.captions.architecture, run.captions.weights).double().requires_grad_(False)
    tokenizer = SimpleTokenizer()
    special = SpecialTokens(tokenizer.sot_token_id, tokenizer.eot_token_id, model.text.pad_id)
    config = run.captions.model_copy(
        update={"sampling": run.captions.sampling.model_copy(update={"top_k": (5,), "top_p": (0.4, 0.8)})}
    )
    pixels = torch.randn(1, 2, 3, 96, 96, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    image = ImageCrops("00ab", ("masked",), (0, 1), pixels)
    cached = CachedEngine(model, special, config, seed=0).drafts(image)
    plain = PlainEngine(model, special, config, seed=0).drafts(image)
    assert [draft.tokens for draft in cached] == [draft.tokens for draft in plain]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_captions_too(run, precision):
    half = CocaCaptioner(run.captions, run.compute.model_copy(update={"precision": precision}))
    out = half(Shard(0, 0, (shard_image(1),))).images[0]
    assert out.failure is None
    assert len(out.expressions) > 10


def test_transformers_is_no_dependency():
    project = tomllib.loads((Path(__file__).parents[3] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [name for names in project["optional-dependencies"].values() for name in names]
    assert not [name for name in [*project["dependencies"], *extras] if name.startswith("transformers")]


def test_images_that_are_captioned_together_get_the_captions_they_get_alone():
    # Rounding aside, which may flip a draw: here it flips none.
    config = load_config("tiny")
    together = config.captions.model_copy(update={"crops_together": 64})
    shard = Shard(0, 0, tuple(shard_image(n, num_masks=n + 1) for n in range(3)))
    alone = CocaCaptioner(config.captions, config.compute)(shard).images
    found = CocaCaptioner(together, config.compute)(shard).images
    texts = [[expression.text for expression in image.expressions] for image in alone]
    assert all(texts)
    assert [[expression.text for expression in image.expressions] for image in found] == texts
