"""The engines, over a prefix tree and in fixed shapes, against the plain definition: token for token, in float64."""

import dataclasses
import gc

import pytest
import torch
import torch.nn.functional as F

from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.measures import BATCH_FILL, CACHE_BYTES, collecting
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions import engine as engine_module
from pseudoris.workers.captions.cached_towers import cached_attention
from pseudoris.workers.captions.captioner import coca_engine, encode_crops
from pseudoris.workers.faults.freed_memory import free_memory
from tests.builders.coca import SPECIAL, VOCABULARY, captions_config, image_crops, small_coca
from tests.oracles.plain_captioner import ReferenceEngine


def static(model, special, config, **named):
    # Few groups a batch: those that are empty are computed too.
    few = config.model_copy(update={"cache_bytes": min(config.cache_bytes, 2**22)})
    return coca_engine(model, special, few, is_static=True, **named)


@pytest.fixture(params=[coca_engine, static], ids=["tree", "static"])
def engine(request):
    return request.param


def captions_of(engine, image, model=None, *, seed=3, special=SPECIAL, **changes):
    return engine(model or small_coca(), special, captions_config(**changes), seed=seed).generate(image)


def assert_equal(captions, expected):
    def apart_from_rounding(caption):
        return dataclasses.replace(caption, sample=dataclasses.replace(caption.sample, log_prob=0.0))

    assert [apart_from_rounding(caption) for caption in captions] == [
        apart_from_rounding(caption) for caption in expected
    ]
    assert [caption.sample.log_prob for caption in captions] == pytest.approx(
        [caption.sample.log_prob for caption in expected], abs=1e-9
    )


def assert_engines_agree(engine, image, model=None, **changes):
    captions = captions_of(engine, image, model, **changes)
    assert_equal(captions, captions_of(ReferenceEngine, image, model, **changes))
    return captions


@pytest.mark.slow
@pytest.mark.parametrize("num_masks", [1, 2, 7])
@pytest.mark.parametrize("above_max_others", ["no_contrast", "nearest"])
@pytest.mark.parametrize("lengths", [(1, 7), (4, 9)], ids=["early_eos", "late_eos"])
def test_every_rule_draws_the_tokens_of_the_plain_definition(engine, num_masks, above_max_others, lengths):
    sampling = {"max_others": 4, "above_max_others": above_max_others}
    min_length, max_length = lengths
    captions = assert_engines_agree(
        engine, image_crops(num_masks=num_masks), sampling=sampling, min_length=min_length, max_length=max_length
    )
    assert len(captions) == 11 * num_masks
    assert {len(caption.tokens) for caption in captions} - {0, max_length - 2, max_length - 1}
    assert all(len(caption.tokens) >= min_length - 1 for caption in captions)


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "counts"), [("base", ("all", 30)), ("paper", ("no_contrast", 0))])
def test_at_31_masks_the_tokens_are_those_of_the_plain_definition(engine, preset, counts):
    model = small_coca(text={"layers": 1}, decoder={"layers": 2})
    bounds = load_config(preset).captions.sampling.model_dump(include={"max_others", "above_max_others"})
    settings = {"sampling": {"top_k": (5, 13), "top_p": (0.4, 0.8), **bounds}, "min_length": 3, "max_length": 6}

    def counted(captions):
        return {
            (caption.sample.others, caption.sample.num_others)
            for caption in captions
            if caption.sample.decoder != "beam"
        }

    captions = assert_engines_agree(engine, image_crops(num_masks=31), model, **settings)
    assert counted(captions) == {counts}
    # 30 masks are not more than 30.
    assert counted(captions_of(engine, image_crops(num_masks=30), model, **settings)) == {("all", 29)}
    assert counted(captions_of(engine, image_crops(num_masks=1), model, **settings)) == {("no_contrast", 0)}


@pytest.mark.parametrize(("eos_bonus", "drawn", "searched"), [(60.0, 4, 4), (-60.0, 28, 29)])
def test_in_paper_eos_may_be_token_6_and_is_token_30_where_sot_is_the_first(engine, eos_bonus, drawn, searched):
    paper = load_config("paper").captions
    # Positions for that many tokens.
    longer = {"context_length": 30}
    model = small_coca(text=longer, decoder=longer, eos_bonus=eos_bonus)
    lengths = {"min_length": paper.min_length, "max_length": paper.max_length}
    captions = assert_engines_agree(engine, image_crops(num_masks=1), model, sampling={"top_p": (0.8,)}, **lengths)
    # A beam goes on to the end without EOS.
    assert [len(caption.tokens) for caption in captions] == [searched, *[drawn] * (len(captions) - 1)]


@pytest.mark.parametrize(
    "changes",
    [
        {"sampling": {"is_distinctive": False}},
        {"sampling": {"others_weight": 0.6, "temperature": 0.7}},
        {"sampling": {"others_weighting": "similar"}},
        {"sampling": {"top_k": (1, 40), "top_p": (0.05, 1.0)}},
        {"sampling": {"top_k": (), "top_p": ()}},
        {"beam": {"beam_score": "logprob", "length_penalty": 0.7}},
        {"beam": {"num_beams": 1, "num_groups": 1}},
        {"beam": {"counts_eos": False}},
        {"beam": {"num_beams": 0}},
    ],
    ids=[
        *("nucleus", "weighted", "hard_distractors", "extreme_sets", "beam_alone", "logprob", "greedy", "authors_beam"),
        "draws_alone",
    ],
)
def test_other_settings_follow_the_plain_definition(engine, changes):
    assert_engines_agree(engine, image_crops(num_masks=4), max_length=7, min_length=2, **changes)


def likes_padding(model):
    """Return the model with a higher logit of token 0, which open_clip's text mask takes for padding."""
    model.text_decoder.text_projection[:, SPECIAL.pad] += 9.0 / 16
    return model


@pytest.mark.parametrize(
    "architecture",
    [
        {"quick_gelu": True},
        {"text": {"ls_init_value": 0.3}, "decoder": {"ls_init_value": 0.5}},
        {"decoder": {"heads": 8, "layers": 3}, "text": {"layers": 1}},
    ],
    ids=["quick_gelu", "layer_scale", "other_depths"],
)
def test_other_architectures_follow_open_clips_forward(engine, architecture):
    rules = {"top_k": (13,), "top_p": (0.8,)}
    assert_engines_agree(engine, image_crops(num_masks=2), small_coca(**architecture), sampling=rules, max_length=7)


def test_a_decoder_of_one_layer_follows_open_clips_forward():
    model = small_coca(decoder={"layers": 1})
    assert_engines_agree(coca_engine, image_crops(num_masks=2), model, max_length=7)


def test_the_corrected_padding_mask_is_followed_too(engine):
    model = likes_padding(small_coca())
    model.text.correct_cls_mask = True
    rules = {"top_k": (13,), "top_p": (0.8,)}
    captions = assert_engines_agree(engine, image_crops(num_masks=3), model, sampling=rules, max_length=8, min_length=5)
    assert any(SPECIAL.pad in caption.tokens[:-1] for caption in captions)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ({"no_causal_mask": True}, "no_causal_mask=true"),
        ({"embed_cls": False}, "embed_cls=false"),
        ({"qk_norm": True}, "custom attention blocks"),
        (None, "the text tower is a Linear"),
    ],
)
def test_a_text_tower_that_cannot_be_decoded_step_by_step_is_refused(engine, text, message):
    model = small_coca(text=text)
    if text is None:
        model.text = torch.nn.Linear(2, VOCABULARY)
    with pytest.raises(ConfigError, match=message):
        engine(model, SPECIAL, captions_config(), seed=0)


def test_in_paper_the_best_beam_has_the_highest_sum_of_raw_logits(engine):
    beam = load_config("paper").captions.beam.model_dump()
    image, lengths = image_crops(num_masks=3), {"max_length": 7, "min_length": 2}
    beams = [
        [caption.tokens for caption in found if caption.sample.decoder == "beam"]
        for found in (
            assert_engines_agree(engine, image, beam=beam, **lengths),
            captions_of(engine, image, beam={**beam, "beam_score": "logprob"}, **lengths),
        )
    ]
    assert beams[0] != beams[1], "the seed tells the two scores not apart"


def test_others_weigh_by_the_cosine_of_open_clips_embeddings_also_below_zero(engine, monkeypatch):
    image, model, chosen, choose = image_crops(num_masks=4), small_coca(), [], engine_module.choose_others
    monkeypatch.setattr(engine_module, "choose_others", lambda *given: chosen.append(choose(*given)) or chosen[-1])

    captions_of(engine, image, model, max_length=5)

    embeddings = model.encode_image(image.pixels[0], normalize=False)
    assert (embeddings.norm(dim=1) - 1).abs().min() > 0.1
    cosines = F.cosine_similarity(embeddings[:, None], embeddings[None], dim=2)
    (others,) = chosen
    torch.testing.assert_close(others.weights, cosines.gather(1, others.indices) / 3)
    assert (others.weights < 0).any()


def test_in_paper_a_drawn_token_0_ends_a_caption_as_the_plain_definition_ends_it(engine):
    image, model = image_crops(num_masks=3), likes_padding(small_coca())
    settings = {"max_length": 8, "min_length": 5}
    rules = {"top_k": (13,), "top_p": (0.8,)}
    free = captions_of(engine, image, model, sampling=rules, **settings)
    drawn = [caption for caption in free if caption.sample.decoder != "beam" and SPECIAL.pad in caption.tokens]
    assert drawn, "no caption draws token 0: the seed shows nothing"
    paper = {"pad_ends_caption": load_config("paper").captions.sampling.pad_ends_caption}
    ended = assert_engines_agree(engine, image, model, sampling={**rules, **paper}, **settings)
    for before, after in zip(free, ended, strict=True):
        # The same draws up to there, also below the least length; the token itself is no word. Beams go on.
        end = before.tokens.index(SPECIAL.pad) if before in drawn else len(before.tokens)
        assert after.tokens == before.tokens[:end]


def test_no_rule_draws_a_forbidden_token_or_a_second_eos_and_captions_end_at_any(engine):
    image, settings = image_crops(num_masks=3), {"max_length": 8, "min_length": 2}
    free = captions_of(engine, image, **settings)
    drawn = [token for caption in free for token in caption.tokens]
    ends, forbidden = drawn[0], next(token for token in drawn if token != drawn[0])
    special = dataclasses.replace(SPECIAL, further_eos=(ends,), forbidden=(forbidden,))
    found = assert_engines_agree(engine, image, special=special, **settings)
    assert not {ends, forbidden} & {token for caption in found for token in caption.tokens}
    assert sum(len(each.tokens) for each in found) < sum(len(each.tokens) for each in free)


@pytest.mark.slow
def test_several_crop_kinds_keep_to_their_own_others(engine):
    captions = assert_engines_agree(engine, image_crops(num_masks=3, num_kinds=3), max_length=6)
    assert [caption.sample.crop for caption in captions[:33:11]] == ["masked", "context_1", "context_2"]
    assert [caption.mask_number for caption in captions[::33]] == [0, 1, 2]


@pytest.mark.parametrize("num_dead", [20, 33])
def test_a_vocabulary_with_dead_tokens_is_sampled_as_if_they_were_multiplied(engine, num_dead):
    captions = assert_engines_agree(engine, image_crops(num_masks=3), small_coca(num_dead=num_dead), max_length=8)
    dead = set(range(5, 5 + num_dead))
    assert any(dead & set(caption.tokens) for caption in captions)


def test_in_single_precision_the_engine_draws_what_double_precision_draws(engine):
    # Near ties aside: the share that rounding flips is below one in a hundred.
    model, image = small_coca(), image_crops(num_masks=5, num_kinds=2)
    double = captions_of(engine, image, model)
    single = captions_of(
        coca_engine, image_crops(num_masks=5, num_kinds=2, dtype=torch.float32), small_coca(dtype=torch.float32)
    )
    different = sum(one.tokens != other.tokens for one, other in zip(single, double, strict=True))
    assert different <= len(double) // 100


@pytest.mark.slow
def test_images_that_come_together_keep_to_their_own_others(engine):
    # Ragged: of 1, 5 and 3 masks, of which one set has more than max_others allows.
    images = [
        image_crops(num_masks=num_masks, num_kinds=2, seed=num_masks, image_id=f"{num_masks:04}")
        for num_masks in (1, 5, 3)
    ]
    config = captions_config(sampling={"max_others": 2}, max_length=7)
    together = engine(small_coca(), SPECIAL, config, seed=3).generate_together(images)
    plain = ReferenceEngine(small_coca(), SPECIAL, config, seed=3)
    for captions, image in zip(together, images, strict=True):
        assert_equal(captions, plain.generate(image))


@pytest.mark.slow
def test_equal_crops_are_decoded_once_and_change_no_caption(engine):
    image = image_crops(num_masks=4, num_kinds=3)
    pixels = image.pixels.clone()
    pixels[2, 1], pixels[1, 3], pixels[2, 2] = pixels[1, 1], pixels[1, 1], pixels[0, 2]
    # An equal sum makes no equal crop.
    pixels[0, 3], pixels[1, 0] = 0, 0
    pixels[0, 3, 0, 0, 0] = pixels[1, 0, 0, 0, 1] = 1
    assert_engines_agree(engine, dataclasses.replace(image, pixels=pixels), max_length=7)


def test_the_nearest_others_are_named_by_their_indices(engine):
    image = dataclasses.replace(image_crops(num_masks=4), mask_indices=(0, 2, 3, 7))
    captions = assert_engines_agree(engine, image, max_length=5, sampling={"max_others": 2})
    beam, *sampled = captions[:11]
    assert beam.sample.other_masks == ()
    assert {caption.sample.other_masks for caption in sampled} <= {(2, 3), (2, 7), (3, 7)}
    assert not any(caption.sample.other_masks for caption in captions_of(engine, image, max_length=5))


def test_an_image_gives_the_same_captions_after_any_other(engine):
    engine = engine(small_coca(dtype=torch.float32), SPECIAL, captions_config(), seed=3)
    image = image_crops(num_masks=4, dtype=torch.float32)
    alone = engine.generate(image)
    engine.generate(image_crops(num_masks=6, seed=9, dtype=torch.float32, image_id="ffff"))
    assert engine.generate(image) == alone


def test_draws_are_keyed_by_the_masks_index_and_not_by_its_place(engine):
    image = image_crops(num_masks=2)
    moved = dataclasses.replace(image, mask_indices=(0, 5))
    before, after = captions_of(engine, image), captions_of(engine, moved)
    assert [caption.tokens for caption in before[:11]] == [caption.tokens for caption in after[:11]]
    assert [caption.tokens for caption in before[11:]] != [caption.tokens for caption in after[11:]]


def test_a_small_budget_splits_the_tree_and_changes_no_caption(engine):
    image = image_crops(num_masks=9, num_kinds=2)
    assert_equal(captions_of(engine, image, cache_bytes=2**20), captions_of(engine, image, cache_bytes=2**26))


def test_where_memory_runs_out_the_trees_caches_are_freed_and_captions_stay():
    engine = coca_engine(small_coca(), SPECIAL, captions_config(), seed=3)
    image = image_crops(num_masks=3)
    before, expected = held_bytes(), engine.generate(image)
    assert held_bytes() > before + 2**17
    free_memory()
    assert held_bytes() <= before
    assert engine.generate(image) == expected


def held_bytes():
    """Return the bytes of all tensors that live."""
    gc.collect()
    return sum(each.nbytes for each in gc.get_objects() if type(each) is torch.Tensor)


def test_the_trees_caches_stay_below_their_budget():
    peaks = []
    for cache_bytes in (2**20, 2**26):
        with collecting() as measures:
            captions_of(coca_engine, image_crops(num_masks=9, num_kinds=2), cache_bytes=cache_bytes)
        peaks.append(max(measures[CACHE_BYTES, ""]))
    assert peaks[0] <= 2**20 < peaks[1]


def test_the_peak_of_the_caches_and_the_fill_of_passes_are_recorded(engine):
    engine = engine(small_coca(), SPECIAL, captions_config(), seed=3)
    with collecting() as measures:
        engine.generate(image_crops(num_masks=2))
    # At least the keys and values of the image tokens of the one tree, and some of prefixes.
    assert min(measures[CACHE_BYTES, ""]) > engine.towers.image_bytes([torch.empty(1, 16)] * 2) > 0
    assert all(0 < fill <= 1 for fill in measures[BATCH_FILL, "caption crops"])


def test_an_architecture_with_too_few_positions_is_refused_with_the_remedy(engine):
    with pytest.raises(ConfigError, match=r"set captions\.max_length=13"):
        engine(small_coca(), SPECIAL, captions_config(max_length=14), seed=0)


def test_crops_of_more_than_a_pass_keep_their_own_embeddings():
    model, pixels = small_coca(), image_crops(num_masks=70).pixels[0]
    embeddings, tokens = encode_crops(model, pixels)
    torch.testing.assert_close(embeddings.norm(dim=1), torch.ones(70, dtype=torch.float64))
    torch.testing.assert_close(tokens[66:68], encode_crops(model, pixels[66:68])[1])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
@pytest.mark.parametrize("is_hiding", [True, False])
def test_on_a_gpu_attention_is_what_it_is_on_a_cpu(is_hiding):
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, 300, length, 16, generator=generator) for length in (1, 9, 9))
    is_hidden = (torch.arange(9) == 3).expand(300, 9)[None, :, None] if is_hiding else None
    on_gpu = cached_attention(q.cuda(), k.cuda(), v.cuda(), None if is_hidden is None else is_hidden.cuda())
    torch.testing.assert_close(on_gpu.cpu(), cached_attention(q, k, v, is_hidden), rtol=1e-4, atol=1e-4)
