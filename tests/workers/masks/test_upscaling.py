"""Upscaling with channels last, held to the convolutions of SAM's `MaskDecoder`."""

import copy

import pytest
import torch

from workers.masks import upscaling
from workers.masks.upscaling import Upscaling


@pytest.mark.parametrize("step_bytes", [1, 10_000, 2**21])
def test_logits_are_those_of_the_convolutions_however_many_pixels_are_taken_at_once(sam, monkeypatch, step_bytes):
    monkeypatch.setitem(upscaling._STEP_BYTES, "cpu", step_bytes)
    decoder = copy.deepcopy(sam.mask_decoder).double()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(3, 64, 32, dtype=torch.float64, generator=generator)
    weights = torch.randn(3, 2, 4, dtype=torch.float64, generator=generator)
    with torch.no_grad():
        features = decoder.output_upscaling(image.transpose(1, 2).reshape(3, 32, 8, 8))
        logits = Upscaling(decoder)(image, weights)
    assert logits.shape == (3, 2, 32, 32)
    torch.testing.assert_close(logits, torch.einsum("nmc,nchw->nmhw", weights, features))
