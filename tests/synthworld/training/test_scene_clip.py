"""The scene CLIP's training: what captions tell of scenes, what windows teach, and a start and a restart that hold."""

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from schemas.config import WeightsConfig
from schemas.config_loading import load_config
from synthworld.scenes import Split
from synthworld.training.crops import normalise
from synthworld.training.rendered import rendered_scenes
from synthworld.training.sam_start import start_from_sam
from synthworld.training.scene_batches import caption_relations, draw_close_ups, draw_scenes
from synthworld.training.scene_clip import SceneClipTrainee, SceneRecipe, _step_losses, train_scene_clip
from synthworld.training.scene_losses import pooled_scores, scene_contrast
from synthworld.training.vocabulary import expression_vocabulary, word_ids
from workers.checkpoints.models import load_clip, load_sam
from workers.towers import read_images

VOCABULARY = expression_vocabulary()
SHORT = SceneRecipe(
    steps=4, close_up_steps=2, close_ups_a_step=4, scenes_a_step=3, close_ups_beside=2, checkpoint_every=2
)


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered_scenes(tmp_path_factory.mktemp("scenes"), Split.TRAIN, 6, seed=3, processes=1)


@pytest.fixture(scope="module")
def start():
    masks = load_config("tiny").masks
    clip = load_clip("builtin:tiny/clip.json", WeightsConfig(uri="builtin:tiny/clip.safetensors"))
    return clip, load_sam(masks.architecture, masks.weights)


def test_captions_tell_what_fits_and_what_nobody_knows():
    captions = ["a photo of a circle", "a red circle", "a photo of a star", "a red dotted circle"]
    fits, unsettled = caption_relations(VOCABULARY.content(captions), torch.tensor([0, 1, 1, 2]), 3)
    assert fits.tolist() == [
        [True, True, True],  # each scene is said to hold a circle
        [False, True, True],
        [False, True, False],
        [False, False, True],
    ]
    assert unsettled.tolist() == [
        [False, False, False],
        [True, False, False],  # the circle there may be red
        [False, False, False],
        [True, True, False],
    ]


def test_each_scene_comes_with_a_caption_an_object(data):
    batch = draw_scenes(data, 4, np.random.default_rng(0))
    assert batch.images.shape == (4, 3, 192, 192)
    assert len(batch.captions) == len(batch.owners)
    counts = sorted(torch.bincount(batch.owners).tolist())
    assert set(counts) <= {len(scene.objects) for scene in data.scenes}
    assert len(draw_scenes(data, 99, np.random.default_rng(0)).images) == 6


def test_a_close_up_is_a_part_of_a_scene_at_its_own_scale(data):
    batch = draw_close_ups(data, 5, np.random.default_rng(1))
    assert batch.images.shape == (5, 3, 72, 72)
    assert len(batch.captions) == 5
    scenes = draw_scenes(data, 6, np.random.default_rng(0)).images
    both = torch.cat((scenes, scenes.flip(-1)))
    for frame in batch.images:
        corner = frame[:, :4, :4]
        places = both.unfold(2, 4, 1).unfold(3, 4, 1)
        assert bool((places == corner[None, :, None, None]).all(-1).all(-1).all(1).any())


def test_a_close_up_is_read_as_the_scene_is_at_the_same_place(data):
    torch.manual_seed(0)
    trainee = SceneClipTrainee(VOCABULARY).eval()
    images = draw_scenes(data, 2, np.random.default_rng(0)).images
    with torch.no_grad():
        # A close-up as large as a scene has one place on the grid.
        whole = trainee._read_close_ups(images, np.random.default_rng(0)) @ trainee.model.visual.proj
        dense = read_images(trainee.model, images).dense.flatten(2).transpose(1, 2)
        assert torch.allclose(whole, dense, atol=1e-4)
        part = trainee._read_close_ups(images[..., :72, :72], np.random.default_rng(0))
    assert part.shape == (2, 36, 144)


def test_an_images_score_is_that_of_its_best_patches():
    text = F.normalize(torch.tensor([[1.0, 0.0]]))
    dense = F.normalize(torch.tensor([[0.0, 1.0], [0.1, 1.0], [1.0, 0.1], [0.0, 1.0]]), dim=-1).T.reshape(1, 2, 2, 2)
    cosines = torch.einsum("td,bdhw->tbhw", text, dense)
    score = float(pooled_scores(dense, text))
    assert float(cosines.mean()) < score <= float(cosines.max())
    assert score > 0.9


def test_the_contrast_asks_nothing_of_unsettled_pairs():
    fits = torch.tensor([[True, False], [False, True]])
    unsettled = torch.tensor([[False, True], [False, False]])
    scores = torch.tensor([[0.5, -0.3], [0.1, 0.2]], requires_grad=True)
    scene_contrast(scores, torch.tensor(10.0), fits, unsettled).backward()
    assert float(scores.grad[0, 1]) == 0.0
    assert float(scores.grad[1, 0]) > 0.0
    assert float(scores.grad[1, 1]) < 0.0


def test_the_image_tower_starts_as_sams_encoder(data, start):
    trainee, sam = SceneClipTrainee(VOCABULARY), start[1]
    start_from_sam(trainee.model.visual, sam)
    pixels = torch.from_numpy(np.array(data.images[:2])).permute(0, 3, 1, 2)
    with torch.no_grad():
        seen = sam.image_encoder.patch_embed((pixels - sam.pixel_mean) / sam.pixel_std) + sam.image_encoder.pos_embed
        for block in sam.image_encoder.blocks[:3]:
            seen = block(seen)
        stage = read_images(trainee.model, normalise(pixels), layers=(2,)).stages[0].permute(0, 2, 3, 1)
    # The class token, which SAM has not, takes a little of each patch's attention.
    assert float(F.cosine_similarity(seen, stage, dim=-1).min()) > 0.97


def test_it_starts_from_its_teachers_text_tower_with_words_of_its_own(start):
    torch.manual_seed(0)
    trainee = SceneClipTrainee(VOCABULARY)
    clip = start[0]
    trainee.start_from(*start)
    compact = VOCABULARY.encode(["a photo of a small red circle", "the star with a hat"])
    full = F.pad(torch.tensor(VOCABULARY.ids)[compact], (0, clip.context_length - compact.shape[1]))
    with torch.no_grad():
        assert torch.allclose(trainee._embed(compact), clip.encode_text(full), atol=1e-5)
    rows = trainee.model.token_embedding.weight.detach()
    left, right = (rows[VOCABULARY.ids.index(word_ids(word)[0])] for word in ("left", "right"))
    assert float(F.cosine_similarity(left, right, dim=0)) < 0.5


def test_an_interrupted_training_ends_as_one_that_was_not(tmp_path, data, start):
    torch.set_num_threads(1)
    whole = train_scene_clip(VOCABULARY, data, SHORT, seed=1, checkpoint=tmp_path / "whole.pt", start=start)
    half = replace(SHORT, checkpoint_every=3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("synthworld.training.scene_clip._step_losses", _failing_at(3))
        with pytest.raises(KeyboardInterrupt):
            train_scene_clip(VOCABULARY, data, half, seed=1, checkpoint=tmp_path / "half.pt", start=start)
    again = train_scene_clip(VOCABULARY, data, half, seed=1, checkpoint=tmp_path / "half.pt", start=start)
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def _failing_at(step):
    def losses(*arguments):
        if arguments[-1] == step:
            raise KeyboardInterrupt
        return _step_losses(*arguments)

    return losses
