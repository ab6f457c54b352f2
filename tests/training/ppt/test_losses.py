"""Equation 4 by hand, and which query is matched to which pseudo-label."""

import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pseudoris.training.ppt.pairs import PseudoLabels, collate_labels
from pseudoris.training.ppt.point_generator import PointPrompts
from pseudoris.training.ppt.ppt_config import ObjectiveConfig, load_ppt_config
from pseudoris.training.ppt.ppt_model import Points, assign, mask_losses, matching_cost, point_loss


def _labels(count: int, generator: torch.Generator) -> PseudoLabels:
    return PseudoLabels(
        torch.rand(count, 4, 4, generator=generator).round(),
        torch.rand(count, 3, 2, generator=generator),
        torch.rand(count, 3, generator=generator).round(),
        torch.rand(count, generator=generator).round(),
    )


def _prompts(batch: int, queries: int, generator: torch.Generator) -> PointPrompts:
    return PointPrompts(
        torch.rand(batch, queries, 3, 2, generator=generator),
        torch.randn(batch, queries, 3, generator=generator),
        torch.randn(batch, queries, generator=generator),
    )


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_the_assignment_is_the_cheapest_of_all(seed: int, count: int) -> None:
    cost = torch.rand(1, 4, 3, generator=torch.Generator().manual_seed(seed))

    pairs = assign(cost, (count,))

    total = sum(cost[0, q, e].item() for q, e in zip(pairs.queries.tolist(), pairs.labels.tolist(), strict=True))
    every = itertools.permutations(range(4), count)
    best = min(sum(cost[0, q, e].item() for e, q in enumerate(queries)) for queries in every)
    assert abs(total - best) < 1e-6
    assert sorted(pairs.labels.tolist()) == list(range(count))
    assert len(set(pairs.queries.tolist())) == count


def test_more_labels_than_queries_leave_the_dearest_out() -> None:
    pairs = assign(torch.tensor([[[3.0, 1.0, 2.0]]]), (3,))

    assert (pairs.queries.tolist(), pairs.labels.tolist()) == ([0], [1])


def test_each_entry_of_the_cost_is_equation_4_of_its_pair() -> None:
    generator = torch.Generator().manual_seed(3)
    prompts, wanted = _prompts(2, 3, generator), collate_labels([_labels(1, generator), _labels(2, generator)])
    masks = torch.randn(2, 3, 4, 4, generator=generator)
    weights = load_ppt_config("paper").objective.model_copy(update={"confidence": 0.7})

    cost = matching_cost(prompts, masks, wanted, weights)

    for b, k, e in [(0, 0, 0), (0, 2, 0), (1, 1, 1), (1, 2, 0)]:
        predicted = Points(prompts.points_xy[b, k][None], prompts.label_logits[b, k][None])
        points = Points(wanted.points_xy[b, e][None], wanted.labels[b, e][None])
        alone = mask_losses(masks[b, k][None, None], wanted.masks[b, e][None, None], weights)[0, 0, 0]
        alone = alone + point_loss(predicted, points, weights)[0]
        asked = F.binary_cross_entropy_with_logits(prompts.confidence_logits[b, k], wanted.confidences[b, e])
        assert torch.allclose(cost[b, k, e], alone + 0.7 * asked, atol=1e-6)


def test_the_point_loss_by_hand_with_and_without_the_assignment() -> None:
    predicted = Points(torch.tensor([[[0.1, 0.1], [0.9, 0.9]]]), torch.tensor([[0.0, 0.0]]))
    wanted = Points(torch.tensor([[[0.8, 0.8], [0.2, 0.2]]]), torch.tensor([[0.0, 1.0]]))
    assigned = ObjectiveConfig(point_l1=1.0, point_label=1.0)
    ordered = ObjectiveConfig(point_l1=1.0, point_label=1.0, point_correspondence="order")

    # Each point is 0.1 off on both axes; in the order drawn 0.7.
    assert point_loss(predicted, wanted, assigned).tolist() == pytest.approx([0.2 + math.log(2)])
    assert point_loss(predicted, wanted, ordered).tolist() == pytest.approx([1.4 + math.log(2)])


def test_masks_are_weighed_in_single_precision_whatever_the_training_computes_in() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = (torch.rand(2, 1, 256, 256, generator=generator) < 0.3).float()
    logits = (2 * masks - 1) * (12 + torch.rand(2, 3, 256, 256, generator=generator))

    single = mask_losses(logits, masks, ObjectiveConfig())
    with torch.autocast("cpu", torch.bfloat16):
        half = mask_losses(logits, masks, ObjectiveConfig())

    assert torch.equal(single, half)
    assert (single >= 0).all()
