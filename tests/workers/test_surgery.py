"""CLIP Surgery's second path, against its plain definition."""

import pytest
import torch

from schemas.errors import ConfigError
from workers.checkpoints.openclip import build_clip
from workers.surgery import surgery_map, value_attention
from workers.towers import read_images


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_clip("builtin:tiny/scene_clip.json").requires_grad_(False)


@pytest.fixture(scope="module")
def images(model):
    return torch.randn(2, 3, *model.visual.image_size, generator=torch.Generator().manual_seed(0))


def test_values_attend_to_values(model) -> None:
    attention = model.visual.transformer.resblocks[0].attn
    tokens = torch.randn(2, 5, attention.embed_dim, generator=torch.Generator().manual_seed(1))
    width, heads = attention.embed_dim, attention.num_heads
    values = tokens @ attention.in_proj_weight[2 * width :].T + attention.in_proj_bias[2 * width :]
    parts = []
    for head in values.split(width // heads, -1):
        scores = head @ head.transpose(1, 2) * (width // heads) ** -0.5
        parts.append(scores.softmax(-1) @ head)

    assert torch.allclose(value_attention(attention, tokens), attention.out_proj(torch.cat(parts, -1)), atol=1e-5)


def test_the_second_path_adds_the_last_blocks_attention_alone(model, images) -> None:
    visual = model.visual
    number = len(visual.transformer.resblocks) - 1
    before = visual.forward_intermediates(images, indices=[number - 1], output_fmt="NLC", output_extra_tokens=True)
    tokens = torch.cat([before["image_intermediates_prefix"][0], before["image_intermediates"][0]], 1)
    last = visual.transformer.resblocks[number]
    expected = visual.ln_post((tokens + value_attention(last.attn, last.ln_1(tokens)))[:, 1:]) @ visual.proj

    found = surgery_map(model, images, num_blocks=1)

    assert found.shape == read_images(model, images).dense.shape
    assert torch.allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-5)


def test_more_blocks_than_there_are_before_the_first_are_refused(model, images) -> None:
    count = len(model.visual.transformer.resblocks)
    with pytest.raises(ConfigError, match=f"last {count} blocks of an image tower of {count}: give 1 to {count - 1}"):
        surgery_map(model, images, num_blocks=count)
