import pytest
import torch

from pseudoris.workers.captions import distinctive
from pseudoris.workers.captions.vocabulary_logits import Vocabulary

EOS = 7


def projection(*, size=300, num_dead=0, seed=0):
    weights = torch.randn(6, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    if num_dead:
        weights[:, size - num_dead :] = 0
    return weights


def hidden(rows=5, seed=1, scale=1.0):
    return scale * torch.randn(rows, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("num_dead", [0, 100, 290])
@pytest.mark.parametrize("is_eos_allowed", [True, False])
def test_heads_are_the_likeliest_tokens_of_the_whole_vocabulary(num_dead, is_eos_allowed):
    weights, states = projection(num_dead=num_dead), hidden()
    logits = states @ weights
    if not is_eos_allowed:
        logits[:, EOS] = -torch.inf
    top = Vocabulary(weights, EOS).top_logits(states, is_eos_allowed=is_eos_allowed)
    torch.testing.assert_close(top.log_total, logits.logsumexp(dim=1))
    values, ids = logits.sort(dim=1, descending=True, stable=True)
    for row in range(len(states)):
        certain = int((top.logits[row] > top.max_outside[row]).sum())
        assert top.ids[row, :certain].tolist() == ids[row, :certain].tolist()
        torch.testing.assert_close(top.logits[row, :certain], values[row, :certain])
        outside = torch.ones(300, dtype=torch.bool)
        outside[top.ids[row, :certain]] = False
        assert logits[row, outside].max() <= top.max_outside[row].clamp(min=float(top.logits[row, certain - 1])) + 1e-12


def test_a_set_that_may_reach_beyond_the_head_is_not_taken_for_settled():
    flat = Vocabulary(projection(), EOS).top_logits(hidden(scale=1e-3), is_eos_allowed=True)
    wide = distinctive.count_top_p(flat.logits, flat.log_total, torch.full((5,), 0.8, dtype=torch.float64))
    assert not flat.contains_kept_set(wide).any()
    assert flat.contains_kept_set(distinctive.count_top_k(flat.logits, torch.full((5,), 5))).all()


def test_a_set_that_reaches_down_to_dead_tokens_is_not_taken_for_settled():
    weights = projection(size=40, num_dead=30)
    top = Vocabulary(weights, EOS).top_logits(hidden(), is_eos_allowed=True)
    num_positive = (hidden() @ weights > 0).sum(dim=1)
    assert top.contains_kept_set(num_positive.clamp(min=1)).tolist() == (num_positive > 0).tolist()
    assert not top.contains_kept_set(num_positive + 1).any()


def test_a_head_whose_only_spare_token_is_forbidden_is_not_taken_for_settled():
    # Four live tokens, EOS among them and forbidden: a top-5 goes on among the dead ones.
    weights = torch.zeros(1, 30, dtype=torch.float64)
    weights[0, [1, 2, 3, EOS]] = 1.0
    top = Vocabulary(weights, EOS).top_logits(torch.ones(1, 1, dtype=torch.float64), is_eos_allowed=False)
    assert not top.contains_kept_set(distinctive.count_top_k(top.logits, torch.tensor([5]))).any()
    assert top.contains_kept_set(torch.tensor([2])).all()


def test_ties_across_the_heads_edge_are_not_taken_for_settled():
    weights = torch.ones(1, 100, dtype=torch.float64)
    top = Vocabulary(weights, EOS).top_logits(torch.ones(1, 1, dtype=torch.float64), is_eos_allowed=True)
    assert not top.contains_kept_set(distinctive.count_top_k(top.logits, torch.tensor([3]))).any()


@pytest.mark.parametrize("width", [3, 290])
def test_logits_at_reads_the_same_numbers_as_the_projection(width):
    weights, states = projection(num_dead=50), hidden()
    ids = torch.stack([torch.randperm(300, generator=torch.Generator().manual_seed(row))[:width] for row in range(5)])
    found = Vocabulary(weights, EOS).logits_at(states, ids)
    torch.testing.assert_close(found, (states @ weights).gather(1, ids))
