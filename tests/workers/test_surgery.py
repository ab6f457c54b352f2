"""CLIP Surgery's second path, against its plain definition."""

import pytest
import torch

from schemas.errors import ConfigError
from workers.checkpoints.openclip import build_clip
from workers.surgery import surgery_map, value_attention
from workers.towers import read_images

IMAGES = torch.randn(2, 3, 192, 192, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return build_clip("builtin:tiny/scene_clip.json").requires_grad_(False)


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


def test_the_second_path_adds_the_last_blocks_attention_alone(model) -> None:
    visual = model.visual
    before = visual.forward_intermediates(IMAGES, indices=[3], output_fmt="NLC", output_extra_tokens=True)
    tokens = torch.cat([before["image_intermediates_prefix"][0], before["image_intermediates"][0]], 1)
    last = visual.transformer.resblocks[4]
    expected = visual.ln_post((tokens + value_attention(last.attn, last.ln_1(tokens)))[:, 1:]) @ visual.proj

    found = surgery_map(model, IMAGES, num_blocks=1)

    assert found.shape == read_images(model, IMAGES).dense.shape == (2, 128, 16, 16)
    assert torch.allclose(found.flatten(2).transpose(1, 2), expected, atol=1e-5)


def test_more_blocks_than_there_are_before_the_first_are_refused(model) -> None:
    with pytest.raises(ConfigError, match="last 5 blocks of an image tower of 5: give 1 to 4"):
        surgery_map(model, IMAGES, num_blocks=5)
