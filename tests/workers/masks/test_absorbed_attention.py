"""Absorbed cross attentions, held to segment_anything's `Attention` in float64."""

import pytest
import torch
from segment_anything.modeling.transformer import Attention

from pseudoris.workers.masks.prompt_decoder import CrossAttention

WIDTH, HEADS, TOKENS, PIXELS, PROMPTS = 32, 4, 5, 19, 3


@pytest.fixture
def module():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Attention(WIDTH, HEADS, downsample_rate=2).double().requires_grad_(False)


def draw(*shape, seed):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def placed():
    return draw(PROMPTS, TOKENS, WIDTH, seed=1)


@pytest.fixture
def tokens():
    return draw(PROMPTS, TOKENS, WIDTH, seed=2)


@pytest.fixture
def images():
    return draw(PROMPTS, PIXELS, WIDTH, seed=3)


@pytest.fixture
def position():
    return draw(PIXELS, WIDTH, seed=4)


def handed(attention, ours, tokens):
    return attention.transpose(1, 2) @ ours.token_outputs(tokens)


def test_tokens_read_images_of_their_own(module, placed, images, position):
    ours = CrossAttention(module)
    read = ours.read(placed, images, ours.image_keys(position))
    torch.testing.assert_close(read, module(q=placed, k=images + position, v=images))


def test_tokens_read_one_image(module, placed, images, position):
    ours, image = CrossAttention(module), images[0]
    read = ours.read_shared(placed, ours.image_keys(image + position), ours.image_values(image))
    several = image.expand(PROMPTS, -1, -1)
    torch.testing.assert_close(read, module(q=placed, k=several + position, v=several))


def test_images_of_their_own_take_from_tokens(module, placed, tokens, images, position):
    ours = CrossAttention(module)
    attention = ours.attention_of(placed, images, ours.image_queries(position))
    torch.testing.assert_close(handed(attention, ours, tokens), module(q=images + position, k=placed, v=tokens))


def test_one_image_takes_from_tokens(module, placed, tokens, images, position):
    ours, image = CrossAttention(module), images[0]
    attention = ours.attention_of_shared(placed, ours.image_queries(image + position))
    several = image.expand(PROMPTS, -1, -1)
    torch.testing.assert_close(handed(attention, ours, tokens), module(q=several + position, k=placed, v=tokens))


def test_the_softmax_of_bfloat16_is_computed_in_float32(module, placed, tokens, images, position):
    coarse = CrossAttention(module.bfloat16())
    placed, tokens, images, position = (part.bfloat16() for part in (placed, tokens, images, position))
    attention = coarse.attention_of(placed, images, coarse.image_queries(position))
    assert attention.dtype == torch.bfloat16
    sums = attention.double().view(PROMPTS, HEADS, TOKENS, PIXELS).sum(2)
    # Each of five terms is rounded once, to eight bits.
    assert (sums - 1).abs().max() < TOKENS * 2**-9
