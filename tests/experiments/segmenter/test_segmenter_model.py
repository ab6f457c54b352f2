from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from experiments.segmenter.segmenter_learner import SegmenterLearner
from experiments.segmenter.segmenter_model import KernelDecoder
from pseudoris.schemas.errors import ConfigError
from pseudoris.training.learning.frozen_towers import FrozenTowers
from pseudoris.training.learning.token_layers import word_codes
from tests.experiments.segmenter.builders import small_config

TEXTS = ["the red circle", "left star", "the small dotted boat with a tail"]


@pytest.fixture
def learner(tmp_path):
    config = small_config(tmp_path)
    return SegmenterLearner(config, FrozenTowers(config.towers))


def test_kernels_are_interpolated_bilinearly_between_patches():
    torch.manual_seed(0)
    decoder = KernelDecoder(8, 3, grid=4, mask_size=24)
    patches, pixels, owners = torch.randn(6, 16, 8), torch.randn(3, 3, 24, 24), torch.tensor([0, 1, 0, 2, 1, 0])
    kernels = decoder.kernel(decoder.norm(patches)).transpose(1, 2).unflatten(2, (4, 4))
    plain = (F.interpolate(kernels, size=(24, 24), mode="bilinear", align_corners=False) * pixels[owners]).sum(1)
    torch.testing.assert_close(decoder(patches, pixels, owners), plain, atol=1e-5, rtol=1e-5)


def test_an_expression_is_answered_alike_alone_and_among_others(learner):
    learner.module.eval()
    image = torch.randint(0, 256, (3, 24, 40), dtype=torch.uint8)
    together = learner.logits("a", image, TEXTS)
    assert together.shape == (3, 24, 40)
    for at, text in enumerate(TEXTS):
        torch.testing.assert_close(learner.logits("a", image, [text])[0], together[at], atol=1e-5, rtol=1e-5)
    assert not torch.allclose(together[0], together[1], atol=1e-3)


def test_no_two_tokens_of_the_vocabulary_share_a_code():
    codes = word_codes(torch.arange(49408), 64)
    assert set(codes.unique().tolist()) == {-1.0, 1.0}
    assert len(codes.unique(dim=0)) == 49408
    # Fixed for good: trained weights read them.
    assert word_codes(torch.tensor([320]), 8).tolist() == [[1, -1, 1, 1, -1, 1, 1, -1]]
    assert codes[49407].tolist() == plain_code(49407, 64)


def plain_code(token: int, width: int) -> list[int]:
    """SplitMix64 in Python's whole numbers: + where the highest bit is 0."""
    code = []
    for counter in range(1, width + 1):
        state = (token * 2**20 + counter) * 0x9E3779B97F4A7C15 % 2**64
        state = (state ^ state >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        state = (state ^ state >> 27) * 0x94D049BB133111EB % 2**64
        code.append(1 - 2 * (state >> 63))
    return code


@pytest.mark.parametrize("size", [12, 24, 20])
def test_a_mask_size_that_fits_no_patches_is_refused(tmp_path, size):
    config = small_config(tmp_path, [f"model.mask_size={size}"])
    with pytest.raises(
        ConfigError, match=rf"model.mask_size={size} must divide .* 32 pixels. It must also be a multiple"
    ):
        SegmenterLearner(config, FrozenTowers(config.towers))
