"""Which query answers for which pseudo-label."""

import itertools

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from training.ppt.config import ObjectiveConfig
from training.ppt.matching import assign, matching_cost
from training.ppt.point_generator import PointPrompts
from training.ppt.pseudo_labels import PseudoLabels, collate
from training.ppt.terms import Points, confidence_loss, mask_loss, point_loss


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


def test_padding_is_never_answered_for() -> None:
    # The padded label would be the cheapest.
    cost = torch.tensor([[[5.0, 0.0], [6.0, 0.0]]])

    pairs = assign(cost, (1,))

    assert (pairs.rows.tolist(), pairs.queries.tolist(), pairs.labels.tolist()) == ([0], [0], [0])


def test_more_labels_than_queries_leave_the_dearest_out() -> None:
    pairs = assign(torch.tensor([[[3.0, 1.0, 2.0]]]), (3,))

    assert (pairs.queries.tolist(), pairs.labels.tolist()) == ([0], [1])


def test_each_entry_of_the_cost_is_equation_4_of_its_pair() -> None:
    generator = torch.Generator().manual_seed(3)
    prompts, wanted = _prompts(2, 3, generator), collate([_labels(1, generator), _labels(2, generator)])
    masks, weights = torch.randn(2, 3, 4, 4, generator=generator), ObjectiveConfig(confidence=0.7)

    cost = matching_cost(prompts, masks, wanted, weights)

    for b, k, e in [(0, 0, 0), (0, 2, 0), (1, 1, 1), (1, 2, 0)]:
        predicted = Points(prompts.points_xy[b, k][None], prompts.label_logits[b, k][None])
        points = Points(wanted.points_xy[b, e][None], wanted.labels[b, e][None])
        alone = mask_loss(masks[b, k][None], wanted.masks[b, e][None], weights) + point_loss(predicted, points, weights)
        alone = alone + 0.7 * confidence_loss(prompts.confidence_logits[b, k], wanted.confidences[b, e])
        assert torch.allclose(cost[b, k, e], alone[0], atol=1e-6)


def test_a_query_that_is_sure_takes_the_referent_from_the_one_with_its_mask_unless_masks_decide() -> None:
    generator = torch.Generator().manual_seed(4)
    wanted = collate([_labels(1, generator)])
    wanted.confidences.fill_(1)
    xy, labels = (each.expand(1, 2, *each.shape[2:]) for each in (wanted.points_xy, 10 * wanted.labels - 5))
    right = 4 * wanted.masks[:, 0] - 2
    # The first is sure, and has the mask wrong.
    prompts, masks = PointPrompts(xy, labels, torch.tensor([[8.0, -2.0]])), torch.stack([-right, right], 1)

    def chosen(share: float) -> list[int]:
        weights = ObjectiveConfig(confidence=3, confidence_in_matching=share)
        return assign(matching_cost(prompts, masks, wanted, weights), (1,)).queries.tolist()

    assert chosen(1.0) == [0]
    assert chosen(0.03) == [1]
