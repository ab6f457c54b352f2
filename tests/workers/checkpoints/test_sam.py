import torch
from segment_anything import sam_model_registry

from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.checkpoints.sam import build_sam


def test_the_base_preset_builds_the_published_vit_b():
    ours = build_sam(load_config("base").masks.architecture).state_dict()
    published = sam_model_registry["vit_b"]().state_dict()
    assert {name: tensor.shape for name, tensor in ours.items()} == {n: t.shape for n, t in published.items()}


def test_the_tiny_sam_answers_a_point_with_three_masks():
    sam = build_sam(load_config("tiny").masks.architecture)
    with torch.no_grad():
        answer = sam(
            [
                {
                    "image": torch.zeros(3, 192, 192),
                    "original_size": (192, 192),
                    "point_coords": torch.tensor([[[96.0, 96.0]]]),
                    "point_labels": torch.tensor([[1]]),
                }
            ],
            multimask_output=True,
        )[0]
    assert answer["masks"].shape == (1, 3, 192, 192)
    assert answer["iou_predictions"].shape == (1, 3)
