"""A listener's three scores by their definition, that its stage adds nothing else, and the log-probabilities below."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.stage_settings import ListeningConfig
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.captioner import coca_engine, encode_crops
from pseudoris.workers.captions.listener import Listener, TeacherForcing, token_rows
from pseudoris.workers.captions.vocabulary_logits import Vocabulary
from tests.builders.coca import CONTEXT_LENGTH, SPECIAL, captions_config, image_crops, small_coca

# Equal texts, shared prefixes, an empty text, and the padding token inside a prefix.
TEXTS = ["gh", "ghi", "k", "lmn", "gh", "op", "", "k`l`m"]
TARGETS = np.array([0, 0, 1, 1, 2, 2, 0, 1])


def encode(text):
    """Return token ids as a tokenizer of characters would: the small CoCa has no words."""
    return [ord(letter) - ord("a") + 1 for letter in text]


def heard_scores(image, *, model=None, is_static=False, **changes):
    listening = ListeningConfig(**{"crops": ("masked",), **changes})
    model = model or small_coca()
    config = captions_config()
    engine = coca_engine(model, SPECIAL, config, seed=0, is_static=is_static)
    listener = Listener(engine, config, listening, encode)
    return listener.scores(image, engine.encode([image])[0], TARGETS, TEXTS)


def plain_scores(image, kind, model):
    """Return log p(t | crop k), (R, N), by the forward of open_clip."""
    return np.array([[plain_sum(model, crop, encode(text)) for crop in image.pixels[kind]] for text in TEXTS])


@pytest.mark.parametrize("is_static", [False, True], ids=["tree", "fixed shapes"])
@pytest.mark.parametrize("num_dead", [0, 20])
def test_the_scores_are_those_of_their_definition(is_static, num_dead):
    image, model = image_crops(num_masks=3, num_kinds=2), small_coca(num_dead=num_dead)
    heard = heard_scores(image, model=model, crops=("masked", "context_1"), is_static=is_static)
    scores = (plain_scores(image, 0, model) + plain_scores(image, 1, model)) / 2
    rows, lengths = np.arange(len(TEXTS)), np.array([len(text) + 1 for text in TEXTS])
    share = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    assert heard.caption_score == pytest.approx(scores[rows, TARGETS], abs=1e-9)
    assert heard.truth == pytest.approx(scores[rows, TARGETS] / lengths, abs=1e-9)
    assert heard.listener == pytest.approx(share[rows, TARGETS], abs=1e-9)


def test_only_the_most_similar_masks_are_asked():
    image, model = image_crops(num_masks=3), small_coca()
    features = torch.nn.functional.normalize(model(image.pixels[0])["image_features"], dim=-1)
    cosines = (features @ features.t()).fill_diagonal_(-2)
    scores, nearest = plain_scores(image, 0, model), cosines.argmax(dim=1).numpy()[TARGETS]
    rows = np.arange(len(TEXTS))
    due = 1 / (1 + np.exp(scores[rows, nearest] - scores[rows, TARGETS]))
    assert heard_scores(image, max_others=1).listener == pytest.approx(due, abs=1e-9)


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
    vocabulary = Vocabulary(model.text_decoder.text_projection.detach(), SPECIAL.eos)
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
    model, crops, texts = small_coca(), image_crops(num_masks=3).pixels[0], [encode(text) for text in TEXTS]
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
