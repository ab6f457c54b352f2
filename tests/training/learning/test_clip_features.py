"""CLIP Surgery's second path, against its plain definition.

The towers of a CLIP as features: equal to open_clip's own forward, for the shipped scene CLIP and for any ViT.
"""

import pytest
import torch

from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.learning.clip_features import (
    read_images,
    read_texts,
    surgery_map,
    vision_tower,
)
from pseudoris.workers.checkpoints.openclip import ClipTokenizer, build_from_config, load_clip, read_model_config


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_from_config(read_model_config("builtin:tiny/scene_clip.json")).requires_grad_(False)


@pytest.fixture(scope="module")
def images(model):
    return torch.randn(2, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(0))


def test_more_blocks_than_there_are_before_the_first_are_refused(model, images) -> None:
    count = len(model.visual.transformer.resblocks)
    with pytest.raises(
        ConfigError, match=f"last {count} blocks, but the image tower has {count}: give 1 to {count - 1}"
    ):
        surgery_map(model, images, num_blocks=count)


TEXTS = ["a red circle", "the small blue star on the left"]
CUSTOM = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    "custom_text": True,
}


RESNET = {**CUSTOM, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}}


def _random(architecture):
    return load_clip(architecture, WeightsConfig(uri="random:1"))


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(lambda: _random("builtin:tiny/scene_clip.json"), id="scene_clip"),
        pytest.param(lambda: _random("ViT-B-16"), id="ViT-B-16", marks=pytest.mark.slow),
        pytest.param(lambda: build_from_config(CUSTOM), id="custom_text"),
    ],
)
def read(request):
    torch.manual_seed(0)
    model = request.param()
    images = torch.randn(2, 3, *vision_tower(model).image_size)
    tokens = ClipTokenizer(model.context_length)(TEXTS)
    with torch.inference_mode():
        return model, images, tokens, read_images(model, images, layers=(1, -1)), read_texts(model, tokens)


@pytest.mark.slow
def test_embeddings_are_open_clips_own(read):
    model, images, tokens, seen, said = read
    with torch.inference_mode():
        assert torch.allclose(seen.embedding, model.encode_image(images), atol=1e-5)
        assert torch.allclose(said.embedding, model.encode_text(tokens), atol=1e-5)


@pytest.mark.slow
def test_a_stage_is_the_output_of_its_block_on_the_grid_of_patches(read):
    model, images, _, seen, _ = read
    kept = {}
    hook = model.visual.transformer.resblocks[1].register_forward_hook(lambda *args: kept.update(tokens=args[-1]))
    with torch.inference_mode():
        model.encode_image(images)
    hook.remove()
    rows, columns = model.visual.grid_size
    assert seen.stages[0].shape[2:] == (rows, columns)
    assert torch.allclose(seen.stages[0].flatten(2).transpose(1, 2), kept["tokens"][:, 1:], atol=1e-5)
    assert seen.stages[1].shape == seen.stages[0].shape


@pytest.mark.slow
def test_a_patch_is_projected_as_the_pooled_token_would_be(read):
    model, _, _, seen, _ = read
    if model.visual.pool_type == "avg":
        # The mean of the patches is the image's embedding: the projection is linear.
        assert torch.allclose(seen.dense.mean((2, 3)), seen.embedding, atol=1e-4)
    else:
        with torch.inference_mode():
            last = seen.stages[1].permute(0, 2, 3, 1)
            own = model.visual.ln_post(last) @ model.visual.proj
        assert torch.allclose(seen.dense.permute(0, 2, 3, 1), own, atol=1e-5)


def test_words_run_from_the_start_to_the_end_token(read):
    _, _, tokens, _, said = read
    assert said.words.shape[:2] == tokens.shape
    assert said.is_word.sum(1).tolist() == [(row != 0).sum().item() for row in tokens]
    assert torch.equal(said.is_word, tokens != 0)


def test_a_tower_without_patches_in_the_joint_space_is_refused():
    config = {**CUSTOM, "vision_cfg": {**CUSTOM["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2}}
    with pytest.raises(ConfigError, match="a ViT with an attention pooler"):
        read_images(build_from_config(config), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match="the image tower is ModifiedResNet"):
        read_images(build_from_config(RESNET), torch.zeros(1, 3, 32, 32))
