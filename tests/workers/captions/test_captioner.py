"""Captions become candidates, the stage on the trained embedded model, and a listener's three scores by definition."""

import dataclasses
from collections import Counter
from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.files.location import RunLocation
from pseudoris.images.pixels import decode_proven
from pseudoris.primitives import rle
from pseudoris.primitives.errors import ImageError
from pseudoris.primitives.measures import BATCH_FILL, CACHE_BYTES, collecting
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.ids import image_id
from pseudoris.schemas.run_records import PlanEntry
from pseudoris.schemas.shard import CaptionSample, MaskRecord, Shard, ShardImage
from pseudoris.schemas.shard_blocks import block_to_shard, shard_to_block
from pseudoris.schemas.stage_settings import ListeningConfig
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.captions import captioner as captioner_module
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.captioner import coca_engine, encode_crops, to_expressions
from pseudoris.workers.captions.decoding_rules import GeneratedCaption
from pseudoris.workers.captions.listener import Listener, TeacherForcing, token_rows
from pseudoris.workers.captions.vocabulary_logits import Vocabulary
from pseudoris.workers.checkpoints.openclip import load_clip
from pseudoris.workers.crops.crops import grow_box
from pseudoris.workers.filtering.clip_embedder import crop_format
from pseudoris.workers.stages import STAGES
from tests.builders.coca import CONTEXT_LENGTH, SPECIAL, captions_config, image_crops, narrow_config, small_coca
from tests.builders.crops import plain_crop
from tests.builders.images import encode
from tests.builders.scene_runs import mask_records
from tests.oracles.pretended_gpu import pretended_gpu
from tests.store.builders import commit_made, start_run

WORDS = {1: "A Red circle . ", 2: "a red circle ", 3: " . ", 4: "a dog "}
MASKS = [MaskRecord(f"00ab-000{n}", n, (4, 4), "", (0, 0, 1, 1), 1) for n in (2, 5)]


def caption(mask_number, token, *, crop="masked", rule=("top_k", 5, None), **changes):
    return GeneratedCaption(mask_number, (token,), CaptionSample(crop, *rule, -1.5, **changes))


def test_equal_captions_of_one_mask_are_one_record_with_all_their_samples_and_an_empty_one_is_none():
    captions = [
        caption(0, 1, rule=("beam", None, None)),
        caption(0, 4),
        caption(0, 3),
        caption(0, 2, crop="context_1.2", rule=("top_p", None, 0.4), others="all", num_others=1),
        caption(1, 2),
    ]
    found = to_expressions(captions, MASKS, lambda tokens: WORDS[tokens[0]])
    said = [(*one.target_mask_ids, one.text) for one in found]
    assert said == [("00ab-0002", "a red circle"), ("00ab-0002", "a dog"), ("00ab-0005", "a red circle")]
    samples = [(s.crop, s.decoder, s.top_k, s.top_p, s.others, s.num_others) for s in found[0].samples]
    assert samples == [("masked", "beam", None, None, "none", 0), ("context_1.2", "top_p", None, 0.4, "all", 1)]
    assert found[0].samples[0].log_prob == -1.5


SIDE = 96


def shard_image(position, *, num_masks=3):
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
    records = mask_records(image_id(key), masks)
    return ShardImage(position, image_id(key), key, encode(pixels), height=SIDE, width=SIDE, masks=records)


@pytest.mark.parametrize(("decoder", "wide"), [("static", 36), ("tree", 0)])
def test_a_receipt_has_the_decisions_of_fixed_shapes_and_how_many_were_wide(tmp_path, decoder, wide):
    on_cpu = ["compute.device=cpu", "placement.fused.num_gpus=0", "captions.max_length=5"]
    config = narrow_config(tmp_path, *on_cpu, f"captions.decoder={decoder}")
    shard = Shard(0, 0, (shard_image(0, num_masks=2), shard_image(1, num_masks=1)))
    location = RunLocation.open(str(tmp_path / "run"))
    entries = [PlanEntry(0, image.position, image.image_id, image.key) for image in shard.images]
    header = start_run(location, entries)
    stage = STAGES[1].build(config)
    first = stage(shard)
    receipt = commit_made(location, header, block_to_shard(shard_to_block(first)))
    # Random weights have flat logits: all three tokens of the top-p rows are wide, of three masks in four crops.
    assert receipt.wide_decisions == wide
    assert (receipt.decisions > wide) == (decoder == "static")
    assert stage(shard).decisions == first.decisions


@pytest.fixture(scope="module")
def run():
    return load_config("tiny")


@pytest.fixture(scope="module")
def captioner(run):
    return CocaCaptioner(run.captions, run.compute)


@pytest.fixture(scope="module")
def of_paper(run):
    """The captioner of tiny with the crops and the rules of paper."""
    paper = load_config("paper").captions
    names = ("has_masked_crop", "context_scales", "has_antialiasing", "beam", "sampling")
    changes = {name: getattr(paper, name) for name in names}
    return CocaCaptioner(run.captions.model_copy(update=changes), run.compute)


def test_in_paper_the_captioner_sees_the_mask_and_the_image_around_it_at_three_scales(of_paper):
    image = shard_image(1)
    pixels = decode_proven(image.data)
    found = of_paper.image_crops(image, pixels)
    assert found.kinds == ("masked", "context_1.0", "context_1.1", "context_1.2")
    mean, std = (torch.tensor(each).view(3, 1, 1) for each in (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD))
    for number, record in enumerate(image.masks):
        (mask,) = rle.decode([record.rle_counts], record.rle_size)
        for kind, scale in enumerate((None, 1.0, 1.1, 1.2)):
            x0, y0, x1, y1 = grow_box(record.box_xyxy_px, scale=scale or 1.0, image_size=(SIDE, SIDE))
            at = (slice(y0, y1), slice(x0, x1))
            kept = None if scale else mask[at]
            plain = plain_crop(pixels[at], found.pixels.shape[-1], mask=kept, has_antialiasing=False)
            torch.testing.assert_close(found.pixels[kind, number], (plain - mean) / std, rtol=0, atol=1e-4)


def test_in_paper_a_crop_gets_one_caption_of_each_of_the_eleven_rules(of_paper):
    rules = [("beam", None, None), *(("top_k", k, None) for k in (5, 7, 9, 11, 13))]
    rules += [("top_p", None, p) for p in (0.4, 0.5, 0.6, 0.7, 0.8)]
    kinds = ("masked", "context_1.0", "context_1.1", "context_1.2")
    image = of_paper(Shard(0, 0, (shard_image(1),))).images[0]
    for mask in image.masks:
        mine = [one for one in image.expressions if one.target_mask_ids == (mask.mask_id,)]
        found = Counter((s.crop, s.decoder, s.top_k, s.top_p) for one in mine for s in one.samples)
        assert found == Counter((kind, *rule) for kind, rule in product(kinds, rules))


def test_both_models_see_colours_normalised_by_clips_mean_and_deviation(captioner):
    black = captioner.image_crops(shard_image(1), np.zeros((SIDE, SIDE, 3), dtype=np.uint8)).pixels
    seen = -torch.tensor(OPENAI_DATASET_MEAN) / torch.tensor(OPENAI_DATASET_STD)
    # The middle of the tightest crop without a mask.
    torch.testing.assert_close(black[1, 0, :, 48, 48], seen, rtol=0, atol=1e-5)
    clip = load_clip("builtin:tiny/clip.json", WeightsConfig(uri="random:0"))
    clip = crop_format(clip, load_config("paper").filtering.weights)
    assert (clip.mean, clip.std) == (OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)


def test_a_mask_of_one_pixel_and_one_at_the_border_are_captioned(captioner):
    image = shard_image(4)
    masks = np.zeros((2, SIDE, SIDE), dtype=np.bool_)
    masks[0, 40, 40] = True
    masks[1, :, SIDE - 1] = True
    image = dataclasses.replace(image, masks=mask_records(image.image_id, masks))
    out = captioner(Shard(0, 0, (image,))).images[0]
    assert {one.target_mask_ids[0] for one in out.expressions} == {mask.mask_id for mask in image.masks}


@pytest.mark.slow
def test_another_seed_draws_other_captions_and_the_same_beams(run, captioner):
    shard = Shard(0, 0, (shard_image(1),))
    other = CocaCaptioner(run.captions, run.compute.model_copy(update={"seed": 1}))

    def texts(stage, decoder):
        return {e.text for e in stage(shard).images[0].expressions if any(s.decoder == decoder for s in e.samples)}

    assert texts(captioner, "beam") == texts(other, "beam")
    assert texts(captioner, "top_p") != texts(other, "top_p")


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_gives_captions_too(run, precision):
    half = CocaCaptioner(run.captions, run.compute.model_copy(update={"precision": precision}))
    out = half(Shard(0, 0, (shard_image(1),))).images[0]
    assert out.failure is None
    assert len(out.expressions) > 10


@pytest.fixture
def fixed(run, monkeypatch):
    """Return what builds the captioner of a GPU, whose image tower is `encode`, in bfloat16."""

    def build(encode):
        monkeypatch.setattr(captioner_module, "encode_crops", encode)
        # Few steps: a CPU is slow in two bytes.
        short = run.captions.model_copy(update={"max_length": 8, "decoder": "static"})
        return CocaCaptioner(short, run.compute.model_copy(update={"precision": "bfloat16"}))

    return build


def all_expressions(shard):
    return [image.expressions for image in shard.images]


@pytest.mark.slow
@pytest.mark.long
def test_a_gpu_without_memory_for_all_crops_takes_fewer_images_together_and_equal_bits(fixed, run, caplog):
    shard, most = Shard(0, 0, tuple(shard_image(n, num_masks=2) for n in range(5))), [10**6]

    def encode(model, crops, **named):
        if len(crops) > most[0]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return encode_crops(model, crops, **named)

    with collecting() as measures:
        expected = all_expressions(fixed(encode)(shard))
    all_cached = measures[CACHE_BYTES, ""][-1]
    kinds = len(run.captions.crop_kinds())
    most[0] = 4 * kinds
    captioner = fixed(encode)
    with collecting() as measures:
        assert all_expressions(captioner(shard)) == expected
    # Caches are for what fits, too, and not for all that went together before.
    assert measures[CACHE_BYTES, ""][-1] < all_cached
    assert "lower captions.cache_bytes (now 268435456) when the run goes on" in caplog.text
    caplog.clear()
    # It has learnt.
    assert all_expressions(captioner(shard)) == expected
    assert caplog.text == ""
    most[0] = kinds
    with pytest.raises(torch.OutOfMemoryError):
        captioner(shard)


def test_a_gpu_that_leaves_fixed_shapes_to_its_processes_captions_each_image_alone_in_the_tree(tmp_path):
    # Triton has no compiler here, so `auto` is the tree.
    config = narrow_config(tmp_path, "captions.crops_together=640", "captions.max_length=5")
    shard = Shard(0, 0, tuple(shard_image(n, num_masks=1) for n in range(2)))
    with pretended_gpu(), collecting() as measures:
        CocaCaptioner(config.captions, config.compute)(shard)
    assert len(measures[BATCH_FILL, "caption crops"]) == 2


@pytest.mark.slow
@pytest.mark.long
def test_an_image_that_raises_in_fixed_shapes_costs_itself_alone(fixed, run):
    shard = Shard(0, 0, tuple(shard_image(n, num_masks=n + 1) for n in range(3)))
    kinds = len(run.captions.crop_kinds())

    def encode(model, crops, **named):
        embeddings, tokens = encode_crops(model, crops, **named)
        # The second image, together with the others and alone: a sum that leaves the range of half precision.
        if len(crops) in {6 * kinds, 2 * kinds}:
            tokens[kinds if len(crops) > 2 * kinds else 0] = torch.inf
        return embeddings, tokens

    expected = fixed(encode_crops)(shard)
    found = fixed(encode)(shard)
    assert [image.failure and image.failure.reason for image in found.images] == [None, "not_finite", None]
    assert all_expressions(found)[::2] == all_expressions(expected)[::2]


# Equal texts, shared prefixes, an empty text, and the padding token inside a prefix.
TEXTS = ["gh", "ghi", "k", "lmn", "gh", "op", "", "k`l`m"]
TARGETS = np.array([0, 0, 1, 1, 2, 2, 0, 1])


def letters(text):
    """Return token ids as a tokenizer of characters would: the small CoCa has no words."""
    return [ord(letter) - ord("a") + 1 for letter in text]


def heard_scores(image, *, model=None, is_static=False, **changes):
    listening = ListeningConfig(**{"crops": ("masked",), **changes})
    model = model or small_coca()
    config = captions_config()
    engine = coca_engine(model, SPECIAL, config, seed=0, is_static=is_static)
    listener = Listener(engine, config, listening, letters)
    return listener.scores(image, engine.encode([image])[0], TARGETS, TEXTS)


def plain_scores(image, kind, model):
    """Return log p(t | crop k), (R, N), by the forward of open_clip."""
    return np.array([[plain_sum(model, crop, letters(text)) for crop in image.pixels[kind]] for text in TEXTS])


@pytest.mark.parametrize("is_static", [False, True], ids=["tree", "fixed shapes"])
@pytest.mark.parametrize("num_dead", [0, 20])
def test_the_scores_are_those_of_their_definition(is_static, num_dead):
    image, model = image_crops(num_masks=3, num_kinds=2), small_coca(num_dead=num_dead)
    heard = heard_scores(image, model=model, crops=("masked", "context_1"), is_static=is_static)
    scores = (plain_scores(image, 0, model) + plain_scores(image, 1, model)) / 2
    rows, lengths = np.arange(len(TEXTS)), np.array([len(text) + 1 for text in TEXTS])
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert heard["caption_score"] == pytest.approx(scores[rows, TARGETS], abs=1e-9)
    assert heard["truth"] == pytest.approx(scores[rows, TARGETS] / lengths, abs=1e-9)
    assert heard["listener"] == pytest.approx(share[rows, TARGETS], abs=1e-9)


def test_only_the_most_similar_masks_are_asked():
    image, model = image_crops(num_masks=3), small_coca()
    features = torch.nn.functional.normalize(model(image.pixels[0])["image_features"], dim=-1)
    cosines = (features @ features.t()).fill_diagonal_(-2)
    scores, nearest = plain_scores(image, 0, model), cosines.argmax(dim=1).numpy()[TARGETS]
    rows = np.arange(len(TEXTS))
    due = 1 / (1 + np.exp(scores[rows, nearest] - scores[rows, TARGETS]))
    assert heard_scores(image, max_others=1)["listener"] == pytest.approx(due, abs=1e-9)


@pytest.fixture(scope="module")
def scenes():
    images = [scene_image(make_scene(Split.DEVELOPMENT, number, seed=0)) for number in (3, 4)]
    return scene_shard(images, with_true_masks=True)


def captioned(shard, *settings):
    config = load_config("tiny", None, ["captions.sampling={top_k: [2], top_p: [0.6]}", *settings])
    return CocaCaptioner(config.captions, config.compute)(shard)


@pytest.mark.slow
def test_the_shipped_captioner_listens_without_changing_what_it_says(scenes):
    silent = captioned(scenes)
    heard = captioned(scenes, "captions.listening={}")
    again = captioned(scenes, "captions.listening={}", "captions.cache_bytes=4194304")
    everything = [each for image in heard.images for each in image.expressions]
    assert all(0 <= each.listener <= 1 and each.caption_score < each.truth < 0 for each in everything)
    unheard = {"caption_score": None, "listener": None, "truth": None}
    for image, before in zip(heard.images, silent.images, strict=True):
        assert replace(image, expressions=tuple(replace(each, **unheard) for each in image.expressions)) == before
    others = [each for image in again.images for each in image.expressions]
    assert [each.text for each in others] == [each.text for each in everything]
    assert [each.listener for each in others] == pytest.approx([each.listener for each in everything], abs=1e-4)


def test_a_mask_alone_has_nobody_to_be_confused_with(scenes):
    image = scenes.images[0]
    alone = replace(image, masks=image.masks[:1])
    found = captioned(scenes.with_images((alone,)), "captions.listening={}").images[0].expressions
    assert found
    assert {each.listener for each in found} == {1.0}


def forcing_of(model, crops, *, budget_bytes=2**30):
    decoder = CachedCocaTowers(model)
    decoder.attend_to(encode_crops(model, crops)[1])
    vocabulary = Vocabulary(model.text_decoder.text_projection.detach(), SPECIAL)
    return TeacherForcing(decoder, vocabulary, SPECIAL, budget_bytes=budget_bytes)


def read(forcing, texts, num_unique_crops, *, asked=None):
    rows = token_rows(texts, eos=SPECIAL.eos, max_prefix_length=CONTEXT_LENGTH)
    return forcing.read(rows, np.ones((len(texts), num_unique_crops), bool) if asked is None else asked)


def plain_sum(model, crop, text):
    """Return Σ log softmax at each token, from one forward of the whole text."""
    image = model(crop[None])["image_embs"]
    prefix = torch.tensor([[SPECIAL.sot, *text]])
    _, states = model._encode_text(prefix)
    logits = model.text_decoder(image, states)[0].log_softmax(dim=1)
    return float(sum(logits[place, token] for place, token in enumerate([*text, SPECIAL.eos])))


def test_a_small_budget_gives_the_same_and_crops_that_are_not_asked_give_nothing():
    model, crops, texts = small_coca(), image_crops(num_masks=3).pixels[0], [letters(text) for text in TEXTS]
    asked = np.eye(3, dtype=bool)[[0, 1, 2, 0, 1, 2, 0, 1]]
    asked[:, 2] = True
    whole = read(forcing_of(model, crops), texts, 3)
    narrow = read(forcing_of(model, crops, budget_bytes=1), texts, 3, asked=asked)
    assert narrow == pytest.approx(np.where(asked, whole, 0.0), abs=1e-9)


def test_a_text_longer_than_the_context_is_cut_and_ends_there():
    long = [7] * 40
    rows = token_rows([long, [7]], eos=SPECIAL.eos, max_prefix_length=CONTEXT_LENGTH)
    assert [len(row) for row in rows] == [CONTEXT_LENGTH, 2]
    model, crops = small_coca(), image_crops(num_masks=1).pixels[0]
    sums = read(forcing_of(model, crops), [long], 1)
    assert sums[0, 0] == pytest.approx(plain_sum(model, crops[0], [7] * (CONTEXT_LENGTH - 1)), abs=1e-9)


def test_scores_beyond_the_precision_are_the_images_fault():
    model, crops = small_coca(), image_crops(num_masks=1).pixels[0]
    with pytest.raises(ImageError, match="beyond the range of its precision"):
        read(forcing_of(model, crops * torch.nan), [[7, 8]], 1)


@pytest.mark.parametrize("decoder", ["tree", pytest.param("static", marks=pytest.mark.long)])
def test_captions_of_the_whole_picture_are_drawn_beside_those_of_masks_and_are_the_same_again(tmp_path, decoder):
    words = ["compute.device=cpu", "placement.fused.num_gpus=0", f"captions.decoder={decoder}", "captions.listening={}"]
    config = narrow_config(tmp_path, *words, "captions.max_length=9")
    bare = ShardImage(2, image_id("2.png"), "2.png", shard_image(2).data, height=SIDE, width=SIDE)
    shard = Shard(0, 0, (shard_image(0), shard_image(1, num_masks=1), bare))
    without = STAGES[1].build(config)(shard)
    assert [image.whole_picture for image in without.images] == [(), (), ()]
    # Two sampling rules, so three draws need two crops.
    asked = config.model_copy(update={"captions": config.captions.model_copy(update={"whole_picture": 3})})
    done, alone = (STAGES[1].build(asked)(each) for each in (shard, shard.with_images(shard.images[:1])))
    assert [len(image.whole_picture) for image in done.images] == [3, 3, 0]
    assert len({*done.images[0].whole_picture}) == 3
    assert done.images[0].whole_picture == alone.images[0].whole_picture != done.images[1].whole_picture
    assert [each.expressions for each in done.images] == [each.expressions for each in without.images]


def test_a_caption_of_the_whole_picture_is_that_of_a_mask_that_fills_it(captioner, run):
    image = shard_image(3)
    whole = np.ones((1, SIDE, SIDE), dtype=np.bool_)
    filled = replace(image, masks=mask_records(image.image_id, whole))
    pixels = decode_proven(image.data)
    asked = CocaCaptioner(run.captions.model_copy(update={"whole_picture": 1}), run.compute)
    crops = asked.whole_crops(image, pixels)
    assert torch.equal(crops.pixels[0], captioner.image_crops(filled, pixels).pixels[-1])
