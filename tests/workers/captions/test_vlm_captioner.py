from dataclasses import replace

import numpy as np
import pytest
import torch

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.shard import MaskRecord, Shard, ShardImage
from pseudoris.workers.captions import VlmCaptioner
from pseudoris.workers.crops.crops import outlined
from pseudoris.workers.masks import rle
from pseudoris.workers.stages import STAGES
from tests.builders.images import encode
from tests.builders.vlms import small_vlm

SIDE = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("models") / "llava"
    model, processor = small_vlm("llava", dtype=torch.float32)
    model.save_pretrained(path)
    processor.save_pretrained(path)
    return path


def run_config(folder, *words, **options):
    shown = ", ".join(f"{name}: {value}" for name, value in {"prompt": "say", "crop_size": 28, **options}.items())
    settings = [
        *("captions.engine=vlm", "captions.architecture=null", f"captions.weights.uri={folder}"),
        *("captions.beam.num_beams=0", "captions.sampling={top_k: [3], top_p: [0.5, 0.9], max_others: 6}"),
        *("captions.max_length=8", "captions.min_length=3", f"captions.options={{{shown}}}"),
    ]
    return load_config("tiny", assignments=[*settings, *words])


def shard_of(*, num_masks=3):
    pixels = np.random.default_rng(0).integers(0, 255, (SIDE, SIDE, 3), dtype=np.uint8)
    masks = np.zeros((num_masks, SIDE, SIDE), dtype=np.bool_)
    for number in range(num_masks):
        masks[number, 4 + 6 * number : 20 + 6 * number, 2 + 14 * number : 14 + 14 * number] = True
    counts = rle.encode(torch.from_numpy(masks))
    records = []
    for number, mask in enumerate(masks):
        rows, columns = np.nonzero(mask)
        box = (int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1)
        records.append(MaskRecord(f"00ab-{number:04}", number, (SIDE, SIDE), counts[number], box, int(mask.sum())))
    image = ShardImage(0, "00ab", "a.png", encode(pixels), height=SIDE, width=SIDE, masks=tuple(records))
    return Shard(0, 0, (image,))


def captioned(config, shard):
    return STAGES[1].build(config)(shard).images[0].expressions


def test_every_mask_has_candidates_of_every_crop_kind_and_rule_and_a_listener_scores_them(folder):
    config = run_config(folder, "captions.listening={}", has_marked_crop=True)
    found = captioned(config, shard_of())
    drawn = [sample for each in found for sample in each.samples]
    assert len(drawn) == 3 * 5 * 3
    assert {sample.crop for sample in drawn} == {
        *("masked", "context_1.0", "context_1.1", "context_1.2"),
        "marked",
    }
    assert {(sample.others, sample.num_others) for sample in drawn} == {("all", 2)}
    assert all(each.listener is not None and 0 <= each.listener <= 1 for each in found)
    assert captioned(config, shard_of()) == found


def test_the_similarity_of_the_runs_filter_weighs_the_contrast(folder):
    alike, by_clip = (captioned(run_config(folder, similarity=name), shard_of()) for name in ("one", "clip"))
    assert [each.text for each in alike] != [each.text for each in by_clip]
    # Without contrast neither is asked.
    own = "captions.sampling.is_distinctive=false"
    alike, by_clip = (captioned(run_config(folder, own, similarity=name), shard_of()) for name in ("one", "clip"))
    assert alike == by_clip


def test_a_text_longer_than_the_filters_context_is_no_candidate(folder):
    config = run_config(folder, "captions.max_length=40", "captions.min_length=38")
    done = STAGES[1].build(config)(shard_of(num_masks=1))
    assert done.images[0].expressions == ()
    # Four crop kinds, three rules.
    assert done.long_texts == 12
    captioner = VlmCaptioner(config.captions, config.compute)
    # CLIP's own context is longer than that of tiny.
    assert captioner(shard_of(num_masks=1)).images[0].expressions


def test_captions_longer_than_the_models_positions_are_refused_before_anything_is_loaded(folder):
    config = run_config(folder, "captions.max_length=300")
    with pytest.raises(ConfigError, match=r"needs 299 positions, but .*llava has 222: --set captions.max_length=223"):
        STAGES[1].weights_digest(config)


def test_a_marked_crop_shows_the_whole_image_with_one_mask_outlined(folder):
    config = run_config(folder, has_marked_crop=True)
    image = shard_of().images[0]
    white = np.full((SIDE, SIDE, 3), 255, dtype=np.uint8)
    crops = VlmCaptioner(config.captions, config.compute).image_crops(image, white)
    assert crops.kinds[-1] == "marked"
    red = (crops.pixels[-1, :, 0] - crops.pixels[-1, :, 1]).clamp(min=0)
    for number, mask in enumerate(image.masks):
        x, y, _, _ = (edge * 28 // SIDE for edge in mask.box_xyxy_px)
        rows, columns = np.nonzero(red[number].numpy() > 0.2)
        assert abs(rows.min() - y) <= 1
        assert abs(columns.min() - x) <= 1


def test_the_outline_of_a_mask_lies_outside_of_it_where_there_is_room():
    grey = np.full((300, 400, 3), 90, dtype=np.uint8)
    mask = np.zeros((300, 400), dtype=np.bool_)
    mask[100:150, 200:260] = True
    marked = outlined(grey, mask)
    assert (marked[mask] == 90).all()
    assert ((marked == (255, 0, 0)).all(axis=2).sum()) > 2 * (50 + 60)
    whole = outlined(grey, np.ones_like(mask))
    assert (whole[0, 0] == (255, 0, 0)).all()
    assert (whole[150, 200] == 90).all()


def test_masks_that_are_equal_crops_and_images_without_masks_pass(folder):
    shard = shard_of(num_masks=2)
    image = shard.images[0]
    twins = replace(image, masks=(image.masks[0], replace(image.masks[0], mask_id="00ab-0001", index=1)))
    bare = replace(image, position=1, image_id="00ac", masks=())
    found = STAGES[1].build(run_config(folder))(shard.with_images((twins, bare)))
    assert found.images[0].expressions
    assert found.images[1].expressions == ()
