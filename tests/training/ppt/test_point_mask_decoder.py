"""Points before SAM's frozen decoder."""

import pytest
import torch
from segment_anything.modeling import Sam

from pseudoris.schemas.config_layers import load_config
from pseudoris.training.ppt.point_generator import EncodedImages, PointPrompts
from pseudoris.training.ppt.ppt_config import load_ppt_config
from pseudoris.training.ppt.ppt_model import PointMaskDecoder
from pseudoris.workers.masks.sam_model import load_sam


@pytest.fixture(scope="module")
def sam() -> Sam:
    masks = load_config("tiny").masks
    return load_sam(masks.architecture, masks.weights)


@pytest.fixture
def points() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 5, 2, generator=generator), torch.randn(3, 5, generator=generator)


def test_the_masks_are_those_of_sam_image_by_image(sam: Sam, points: tuple[torch.Tensor, torch.Tensor]) -> None:
    embeddings = torch.randn(2, 64, 16, 16, generator=torch.Generator().manual_seed(1))
    sizes, rows = torch.tensor([[192.0, 192.0], [192.0, 96.0]]), torch.tensor([1, 0, 1])
    decode = PointMaskDecoder(sam)
    assert load_ppt_config("paper").sam.architecture == "vit_b"

    ours = decode(EncodedImages(embeddings, sizes), rows, PointPrompts(points[0], points[1], torch.zeros(3)))

    for place, row in enumerate(rows.tolist()):
        prompt = (points[0][place] * sizes[row], (points[1][place] > 0).long())
        sparse, dense = sam.prompt_encoder(points=(prompt[0][None], prompt[1][None]), boxes=None, masks=None)
        theirs, _ = sam.mask_decoder(
            image_embeddings=embeddings[row : row + 1],
            image_pe=sam.prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=dense,
            multimask_output=False,
        )
        assert torch.allclose(ours[place], theirs[0, 0], atol=1e-3)


def test_gradients_reach_coordinates_and_labels_and_no_weight_of_sam(
    sam: Sam, points: tuple[torch.Tensor, torch.Tensor]
) -> None:
    xy, logits = points[0].clone().requires_grad_(), points[1].clone().requires_grad_()
    images = EncodedImages(torch.randn(1, 64, 16, 16), torch.tensor([[192.0, 192.0]]))

    decoded = PointMaskDecoder(sam)(images, torch.zeros(3, dtype=torch.int64), PointPrompts(xy, logits, torch.zeros(3)))
    decoded.square().mean().backward()

    assert xy.grad is not None
    assert logits.grad is not None
    assert (xy.grad != 0).all()
    assert (logits.grad != 0).all()
    assert all(weight.grad is None for weight in sam.parameters())
