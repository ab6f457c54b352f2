"""Captioners' training: vocabulary, other words for the same objects, crops, losses, and a start from weights."""

import math
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from open_clip import get_tokenizer
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from safetensors.torch import load_file

from evidence.recipes.caption_crops import CaptionSampler, CropTask, cut_crops, cut_pair, normalise, truth_tasks
from evidence.recipes.caption_recipe import ClipTrainee, CocaTrainee, caption_loss, contrastive_loss
from evidence.recipes.caption_styles import NAMES, WIDER_NAMES, caption_with_clauses, caption_with_names
from evidence.recipes.caption_vocabulary import FULL_SIZE, MAX_TOKENS, caption_vocabulary, expression_vocabulary
from evidence.recipes.scene_shards import rendered_scenes
from evidence.recipes.scene_texts import noisy_caption
from pseudoris.synthworld.attributes import CATEGORIES, Attributes
from pseudoris.synthworld.renderer import render
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers import checkpoints
from pseudoris.workers.checkpoints.tensor_files import TOKEN_IDS
from pseudoris.workers.crops.crops import CropFormat, make_crops
from tests.builders.crops import runs_of

VOCABULARY = caption_vocabulary()
TINY = Path(checkpoints.__file__).parent / "tiny"


def test_compact_tokens_are_the_tokenizers_renumbered():
    captions = ["a photo of a small dotted red circle with a tail", "the large aqua mushroom"]
    full = get_tokenizer("ViT-B-32")(captions)[:, :MAX_TOKENS]
    assert np.array(VOCABULARY.ids)[VOCABULARY.encode(captions).numpy()].tolist() == full.tolist()


@pytest.mark.parametrize("say", [noisy_caption, caption_with_names, caption_with_clauses])
def test_every_caption_of_a_style_fits_and_is_long_enough_to_end(say):
    rng = np.random.default_rng(0)
    captions = [say(item.attributes, rng) for p in range(400) for item in make_scene(Split.TRAIN, p).objects]
    assert caption_vocabulary(say).encode(captions).shape == (len(captions), MAX_TOKENS)
    assert min(len(caption.split()) for caption in captions) == 4


def test_expressions_have_words_that_captions_lack_and_the_same_tokens_for_the_others():
    expressions = expression_vocabulary()
    assert set(VOCABULARY.ids) < set(expressions.ids)
    for text in ("the left of the two dotted circles", "the second star from the left", "all fish below a red cross"):
        ids = np.array(expressions.ids)[expressions.encode([text]).numpy()]
        assert ids.tolist() == get_tokenizer("ViT-B-32")([text])[:, :MAX_TOKENS].tolist()
        with pytest.raises(ValueError, match="not in the vocabulary"):
            VOCABULARY.encode([text])


def test_the_shipped_captioner_and_clip_know_the_captions_tokens():
    for model in ("coca", "clip"):
        assert tuple(load_file(TINY / f"{model}.safetensors")["token_ids"].tolist()) == VOCABULARY.ids


def captions(say, truth, count=4000):
    rng = np.random.default_rng(0)
    return [say(truth, rng).split() for _ in range(count)]


def test_a_category_has_three_names_of_its_own_and_one_wider_name():
    assert list(NAMES) == list(CATEGORIES)
    every = [name for names in NAMES.values() for name in names] + list(WIDER_NAMES)
    assert len(set(every)) == len(every) == 64
    assert sorted(each for categories in WIDER_NAMES.values() for each in categories) == sorted(CATEGORIES)
    arrow = Attributes("arrow", "red", "plain", "small")
    said = Counter(word for caption in captions(caption_with_names, arrow) for word in caption)
    total = sum(said[name] for name in every)
    for name, share in {"arrow": 0.88 * 0.55, "pointer": 0.88 * 0.27, "dart": 0.88 * 0.18, "symbol": 0.12}.items():
        assert said[name] / total == pytest.approx(0.97 * share, abs=0.02)


def test_training_crops_are_those_of_annotation():
    rendered = render(make_scene(Split.TRAIN, 0))
    mask = rendered.masks[0]
    ys, xs = np.nonzero(mask)
    box = (int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)
    crop_format = CropFormat(96, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD)
    pair = normalise(torch.from_numpy(cut_pair(rendered.image, CropTask(0, mask, 1.2))))
    given = {"runs": [runs_of(mask)], "scales": (None, 1.2), "crop_format": crop_format, "device": torch.device("cpu")}
    masked, context = make_crops(rendered.image, [box], **given)[:, 0]
    # Half a colour step of 255, divided by the standard deviation.
    assert (pair[0] - masked).abs().max() < 0.51 / 255 / 0.26
    assert (pair[1] - context).abs().max() < 0.51 / 255 / 0.26


def test_batches_hold_whole_scenes_and_follow_from_the_generator(tmp_path):
    data = rendered_scenes(tmp_path, Split.TRAIN, 4, seed=0, processes=1)
    tasks, attributes = truth_tasks(data, seed=0)
    crops = cut_crops(tmp_path / "crops.npy", data, tasks, attributes, processes=1)
    assert len(crops.pixels) == sum(len(scene.objects) for scene in data.scenes)
    sampler = CaptionSampler([crops], [1.0])
    one, other = (sampler.draw(8, np.random.default_rng(3), masked_share=0.5) for _ in range(2))
    assert one.captions == other.captions
    assert torch.equal(one.images, other.images)
    assert len(one.captions) == len(one.images) >= 8


def content(*captions):
    return VOCABULARY.content(list(captions))


def test_without_repeated_texts_the_contrast_is_clips_own_loss():
    words = content("a red circle", "a blue star", "a green fish")
    cosines = torch.randn(3, 3).clamp(-1, 1)
    labels = torch.arange(3)
    plain = 0.5 * (F.cross_entropy(cosines * 10, labels) + F.cross_entropy(cosines.T * 10, labels))
    assert contrastive_loss(cosines, torch.tensor(10.0), words).item() == pytest.approx(plain.item(), abs=1e-6)


def test_a_compatible_shorter_caption_is_no_negative():
    words = content("a red circle", "a circle")
    low = contrastive_loss(torch.tensor([[0.9, 0.1], [0.1, 0.9]]), torch.tensor(10.0), words)
    high = contrastive_loss(torch.tensor([[0.9, 0.9], [0.9, 0.9]]), torch.tensor(10.0), words)
    assert low.item() == high.item() == 0.0


def test_the_constant_stands_for_the_unused_rows_of_the_full_vocabulary():
    tokens = VOCABULARY.encode(["a photo of a circle"])
    used = torch.rand(1, tokens.shape[1] - 1, len(VOCABULARY.ids)) + 1
    full = torch.zeros(1, tokens.shape[1] - 1, FULL_SIZE)
    full[..., list(VOCABULARY.ids)] = used
    targets = torch.tensor(VOCABULARY.ids)[tokens[:, 1:]]
    expected = F.cross_entropy(full.flatten(0, 1), targets.flatten(), ignore_index=0)
    loss = caption_loss(used, tokens, unused_logit=VOCABULARY.unused_logit)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-4)
    assert pytest.approx(math.log(FULL_SIZE - len(VOCABULARY.ids))) == VOCABULARY.unused_logit


@pytest.mark.parametrize(("kind", "name"), [(CocaTrainee, "coca_longer"), (ClipTrainee, "clip")])
def test_known_tokens_have_the_finished_weights_and_new_ones_drawn_weights_of_their_size(kind, name):
    vocabulary, path = caption_vocabulary(caption_with_names), TINY / f"{name}.safetensors"
    finished = load_file(path)
    known = finished.pop(TOKEN_IDS).tolist()
    trainee = kind(vocabulary)
    trainee.start_from_weights(path)
    state = trainee.model.state_dict()
    places = [vocabulary.ids.index(token) for token in known]
    new = sorted(set(range(len(vocabulary.ids))) - set(places))
    by_token = 0
    for key, tensor in finished.items():
        own, whole = state[key], tensor.float()
        if own.shape != tensor.shape:
            by_token += 1
            axis = own.shape.index(len(vocabulary.ids))
            drawn, own = own.index_select(axis, torch.tensor(new)), own.index_select(axis, torch.tensor(places))
            assert drawn.std() == pytest.approx(float(whole.std()), rel=0.2)
        assert torch.equal(own, whole)
    assert by_token == (2 if kind is CocaTrainee else 1)
    assert len(new) > 40
