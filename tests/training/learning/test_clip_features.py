"""The towers of a CLIP as features: equal to open_clip's own forward, and kept as long as there is room for them."""

import pytest
import torch

from pseudoris.primitives.clip_tokenizer import ClipTokenizer
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import WeightsConfig
from pseudoris.training.learning.clip_features import read_images, read_texts, surgery_map, vision_tower
from pseudoris.training.learning.frozen_towers import FeatureCache
from pseudoris.workers.checkpoints.openclip import build_from_config, load_clip

TEXTS = ["a red circle", "the small blue star on the left"]
CUSTOM = {
    "embed_dim": 24,
    "vision_cfg": {"image_size": 32, "layers": 3, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
    "custom_text": True,
}


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


def test_more_blocks_than_there_are_before_the_first_are_refused() -> None:
    with pytest.raises(ConfigError, match="last 3 blocks, but the image tower has 3: give 1 to 2"):
        surgery_map(build_from_config(CUSTOM), torch.zeros(1, 3, 32, 32), num_blocks=3)


def test_a_tower_without_patches_in_the_joint_space_is_refused():
    pooler = {**CUSTOM, "vision_cfg": {**CUSTOM["vision_cfg"], "attentional_pool": True, "attn_pooler_heads": 2}}
    resnet = {**CUSTOM, "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 16}}
    with pytest.raises(ConfigError, match="a ViT with an attention pooler"):
        read_images(build_from_config(pooler), torch.zeros(1, 3, 32, 32))
    with pytest.raises(ConfigError, match="the image tower is ModifiedResNet"):
        read_images(build_from_config(resnet), torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    ("max_bytes", "steps", "due"),
    [
        # What was not asked for the longest goes first: `a` is asked for in between.
        (6, ["a=12", "b=34", "c=56", "a", "d=78"], {"a": "12", "b": None, "c": "56", "d": "78"}),
        # A value in the place of another counts alone.
        (6, ["a=1234", "a=12", "a=123456"], {"a": "123456"}),
        # What there is never room for is not kept, and leaves none to others.
        (3, ["a=12", "b=1234"], {"a": None, "b": None}),
    ],
)
def test_as_much_is_kept_as_there_is_room_for(max_bytes, steps, due) -> None:
    kept = FeatureCache[str](max_bytes, len)
    for step in steps:
        key, is_put, value = step.partition("=")
        kept.put(key, value) if is_put else kept.get(key)
    assert {key: kept.get(key) for key in due} == due
