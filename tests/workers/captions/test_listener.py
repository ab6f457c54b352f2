"""What a listener says of candidates: its three scores by their definition, and that it is all its stage adds."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from pseudoris.schemas.caption_settings import ListeningConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scene_shards import scene_image, scene_shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.captions.listener import Listener
from tests.builders.coca import SPECIAL, captions_config, image_crops, small_coca

# As a tokenizer of characters would: the small CoCa has no words.
TEXTS = ["gh", "ghi", "k", "lmn", "gh", "op"]
TARGETS = np.array([0, 0, 1, 1, 2, 2])


def encode(text):
    return [ord(letter) - ord("a") + 1 for letter in text]


def heard_scores(image, *, model=None, **changes):
    listening = ListeningConfig(**{"crops": ("masked",), **changes})
    model = model or small_coca()
    config = captions_config()
    engine = CachedEngine(model, SPECIAL, config, seed=0)
    listener = Listener(engine, config, listening, encode)
    return listener.scores(image, engine.encode([image])[0], TARGETS, TEXTS)


def plain_scores(image, kind):
    """Return log p(t | crop k), (R, N), by the forward of open_clip."""
    model = small_coca()
    tokens = model(image.pixels[kind])["image_embs"]
    rows = []
    for text in TEXTS:
        ids = [*encode(text), SPECIAL.eos]
        prefix = torch.tensor([[SPECIAL.sot, *ids[:-1]]] * len(tokens))
        logits = model.text_decoder(tokens, model._encode_text(prefix)[1]).log_softmax(dim=2)
        rows.append([float(logits[k, range(len(ids)), ids].sum()) for k in range(len(tokens))])
    return np.array(rows)


def test_the_scores_are_those_of_their_definition():
    image = image_crops(num_masks=3, num_kinds=2)
    crops = ("masked", "context_1")
    heard = heard_scores(image, crops=crops, temperature=2.0)
    scores = (plain_scores(image, 0) + plain_scores(image, 1)) / 2
    rows, lengths = np.arange(len(TEXTS)), np.array([len(text) + 1 for text in TEXTS])
    share = np.exp(scores / 2.0) / np.exp(scores / 2.0).sum(axis=1, keepdims=True)
    assert heard.caption_score == pytest.approx(scores[rows, TARGETS], abs=1e-9)
    assert heard.truth == pytest.approx(scores[rows, TARGETS] / lengths, abs=1e-9)
    assert heard.listener == pytest.approx(share[rows, TARGETS], abs=1e-9)


def test_only_the_most_similar_masks_are_asked():
    image = image_crops(num_masks=3)
    features = torch.nn.functional.normalize(small_coca()(image.pixels[0])["image_features"], dim=-1)
    cosines = (features @ features.t()).fill_diagonal_(-2)
    scores, nearest = plain_scores(image, 0), cosines.argmax(dim=1).numpy()[TARGETS]
    rows = np.arange(len(TEXTS))
    due = 1 / (1 + np.exp(scores[rows, nearest] - scores[rows, TARGETS]))
    assert heard_scores(image, max_others=1).listener == pytest.approx(due, abs=1e-9)


def test_below_the_least_truth_no_other_mask_is_asked_and_the_truth_stands():
    image = image_crops(num_masks=3)
    whole = heard_scores(image)
    bound = float(np.median(whole.truth))
    heard = heard_scores(image, min_truth=bound)
    assert heard.truth == pytest.approx(whole.truth, abs=1e-9)
    assert heard.listener == pytest.approx(np.where(whole.truth > bound, whole.listener, 0.0), abs=1e-9)


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
    forgotten = [
        replace(image, expressions=tuple(_forgotten(each) for each in image.expressions)) for image in heard.images
    ]
    assert forgotten == list(silent.images)
    others = [each for image in again.images for each in image.expressions]
    assert [each.text for each in others] == [each.text for each in everything]
    assert [each.listener for each in others] == pytest.approx([each.listener for each in everything], abs=1e-4)


def test_a_mask_alone_has_nobody_to_be_confused_with(scenes):
    image = scenes.images[0]
    alone = replace(image, masks=image.masks[:1])
    found = captioned(scenes.with_images((alone,)), "captions.listening={}").images[0].expressions
    assert found
    assert {each.listener for each in found} == {1.0}


def _forgotten(expression):
    return replace(expression, caption_score=None, listener=None, truth=None)
