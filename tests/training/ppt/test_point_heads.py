"""The heads of equation 2: regressed points, and points around the peak of an attention."""

import torch

from pseudoris.training.ppt.point_generator import (
    ReferencePatchAttention,
    grid_centres,
)
from pseudoris.training.ppt.ppt_config import PointGeneratorConfig


def _attention(response: torch.Tensor, anchors: list[int], **settings: float) -> tuple[torch.Tensor, torch.Tensor]:
    """The references (K, 2), and log-shares, of queries that find nothing beside responses in five rows of four."""
    attention = ReferencePatchAttention(PointGeneratorConfig(width=32, num_heads=4, **settings))
    for weight in (attention.key.weight, attention.sharpness.weight):
        torch.nn.init.zeros_(weight)
    queries, image = torch.randn(1, len(anchors), 32), torch.randn(1, 20, 32)
    _, log_shares, peaks = attention(queries, image, response[None], torch.tensor([anchors]))
    return (peaks @ grid_centres(5, 4))[0], log_shares[0]


def test_a_query_in_doubt_between_two_objects_looks_at_one_of_them() -> None:
    response = torch.zeros(5, 4)
    response[0, 0], response[4, 3] = 1.0, 0.99

    places, _ = _attention(response, [0], response_gain=60.0, peak_radius=1)

    assert torch.allclose(places, torch.tensor([0.5 / 4, 0.5 / 5]), atol=1e-3)


def test_queries_keep_to_anchors_of_their_own() -> None:
    response = torch.zeros(5, 4)
    response[0, 0], response[4, 3] = 2.0, 1.0

    places, _ = _attention(response, [0, 19], response_gain=10.0, peak_radius=1, anchor_gain=60.0)

    assert torch.allclose(places, torch.tensor([[0.5 / 4, 0.5 / 5], [3.5 / 4, 4.5 / 5]]), atol=1e-3)
