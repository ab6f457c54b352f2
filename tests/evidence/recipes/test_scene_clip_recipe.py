"""The scene CLIP's training: what captions tell of scenes, what windows teach, and a start and a restart that hold."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from evidence.recipes.caption_crops import normalise
from evidence.recipes.caption_vocabulary import expression_vocabulary, word_ids
from evidence.recipes.scene_clip_recipe import (
    SHIFT_PX,
    SceneClipTrainee,
    draw_scenes,
    patches_at,
    patches_near,
    start_from_sam,
)
from evidence.recipes.scene_shards import rendered_scenes
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.synthworld.scenes import Split
from pseudoris.training.learning.clip_features import read_images
from pseudoris.workers.checkpoints.openclip import load_clip
from pseudoris.workers.masks.sam_model import load_sam

VOCABULARY = expression_vocabulary()


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return rendered_scenes(tmp_path_factory.mktemp("scenes"), Split.TRAIN, 6, seed=3, processes=1)


@pytest.fixture(scope="module")
def start():
    masks = load_config("tiny").masks
    clip = load_clip("builtin:tiny/clip.json", WeightsConfig(uri="builtin:tiny/clip.safetensors"))
    return clip, load_sam(masks.architecture, masks.weights)


def test_a_caption_comes_with_the_middle_of_its_object_wherever_its_scene_was_mirrored_and_moved(data):
    batches = [draw_scenes(data, 6, np.random.default_rng(seed)) for seed in range(12)]
    ways = [_way_of(batch, place, data) for batch in batches for place in range(6)]
    assert {is_mirrored for is_mirrored, _, _ in ways} == {False, True}
    assert {right for _, right, _ in ways} == {down for _, _, down in ways} == set(range(-SHIFT_PX, SHIFT_PX + 1))


def _way_of(batch, place, data):
    """Whether a scene of a batch was mirrored, and how far it was moved; its pixels and points say the same."""
    points = batch.points[batch.owners == place].double().numpy()
    for image, scene in zip(data.images, data.scenes, strict=True):
        middles = np.array([item.centre_xy_px for item in scene.objects])
        for is_mirrored in (False, True):
            own = np.stack([192 - middles[:, 0], middles[:, 1]], 1) if is_mirrored else middles
            if own.shape == points.shape and np.ptp(points - own, axis=0).max() < 1e-3:
                right, down = np.rint((points - own)[0]).astype(int).tolist()
                _assert_moved(batch.images[place], image[:, ::-1] if is_mirrored else image, right, down)
                return is_mirrored, right, down
    raise AssertionError("no scene has these middles")


def _assert_moved(drawn, image, right, down):
    pixels = normalise(torch.from_numpy(image.copy()).permute(2, 0, 1)[None])[0]
    inner = slice(SHIFT_PX, 192 - SHIFT_PX)
    rows, columns = (slice(inner.start + way, inner.stop + way) for way in (down, right))
    assert torch.equal(drawn[:, rows, columns], pixels[:, inner, inner])
    if right > 0:
        assert torch.equal(drawn[:, rows, :right], pixels[:, inner, :1].expand(-1, -1, right))


@given(st.floats(0, 192), st.floats(0, 192))
def test_the_four_patches_at_a_point_are_those_around_the_nearest_corner(x, y):
    point = torch.tensor([[x, y]])
    (own,) = patches_at(point, patch_size=12, grid=16).tolist()
    middles = [((each % 16 + 0.5) * 12, (each // 16 + 0.5) * 12) for each in own]
    corner = np.mean(middles, axis=0)
    inside = np.clip((x, y), 12, 180)
    assert np.abs(corner - inside).max() <= 6 + 1e-4
    assert len(set(own)) == 4
    near = patches_near(point, patch_size=12, grid=16)[0]
    assert bool(near[own].all())
    far = [at for at in range(256) if np.hypot((at % 16 + 0.5) * 12 - x, (at // 16 + 0.5) * 12 - y) > 36.1]
    assert not bool(near[far].any())


def test_its_patches_are_those_that_readers_of_its_weights_get(data):
    torch.manual_seed(0)
    trainee = SceneClipTrainee(VOCABULARY).eval()
    images = draw_scenes(data, 2, np.random.default_rng(0)).images
    with torch.no_grad():
        own = trainee._read_patches(images) @ trainee.model.visual.proj
        dense = read_images(trainee.model, images).dense.flatten(2).transpose(1, 2)
    assert torch.allclose(own, dense, atol=1e-4)


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
