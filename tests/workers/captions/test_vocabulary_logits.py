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
