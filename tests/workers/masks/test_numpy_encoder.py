"""SAM's image encoder without torch: equal to segment_anything's, in windows too."""

import numpy as np
import pytest
import torch

from pseudoris.workers.checkpoints.sam_architectures import SAM_ARCHITECTURES
from pseudoris.workers.domain_scorer import NumpyEncoder
from pseudoris.workers.masks.sam_model import build_sam
from tests.builders.images import random_pixels

TINY = SAM_ARCHITECTURES["tiny"]


@pytest.fixture(params=[(), (1,), (0, 1)], ids=["windows", "both", "global"])
def sam(request):
    """A small SAM with random weights; its grid of 5 x 5 is no multiple of its windows of 3 x 3."""
    small = {"image_size": 40, "patch_size": 8, "encoder_width": 16, "encoder_depth": 2, "encoder_heads": 2}
    windows = {"encoder_global_blocks": request.param, "window_size": 3, "prompt_width": 8, "decoder_mlp_width": 8}
    torch.manual_seed(0)
    built = build_sam(TINY.model_copy(update={**small, **windows, "decoder_heads": 2}))
    for name, weight in built.named_parameters():
        # Made as zeros, which would hide how they are used.
        if "rel_pos" in name or "pos_embed" in name:
            torch.nn.init.normal_(weight, std=0.5)
    return TINY.model_copy(update={**small, **windows, "decoder_heads": 2}), built


def tensors(sam):
    return {name: tensor.numpy() for name, tensor in sam.state_dict().items()}


def test_the_embedding_is_segment_anythings(sam):
    architecture, model = sam
    pixels = random_pixels(40, 40)
    with torch.inference_mode():
        planes = model.preprocess(torch.from_numpy(pixels).permute(2, 0, 1).float()[None])
        expected = model.image_encoder(planes)[0].numpy()
    found = NumpyEncoder(architecture, tensors(model))(pixels)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-5)


def test_an_image_of_another_size_and_weights_of_another_architecture_are_refused(sam):
    architecture, model = sam
    with pytest.raises(ValueError, match=r"expected \(40, 40, 3\)"):
        NumpyEncoder(architecture, tensors(model))(random_pixels(40, 48))
    with pytest.raises(ValueError, match=r"pos_embed is \(1, 5, 5, 16\), expected \(1, 10, 10, 16\)"):
        NumpyEncoder(architecture.model_copy(update={"image_size": 80}), tensors(model))
