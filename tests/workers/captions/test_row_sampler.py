import numpy as np
import pytest
import torch

from pseudoris.schemas.errors import ImageError
from pseudoris.workers.captions.row_sampler import Sampler, SamplerRows
from pseudoris.workers.captions.vocabulary_logits import Vocabulary

EOS = 2
IDENTITY = Vocabulary(torch.eye(4, dtype=torch.float64), EOS)


def sampler(*, top_k, top_p, uniform, vocabulary=IDENTITY, temperature=1.0):
    rows = SamplerRows(
        target=np.zeros(len(top_k), dtype=np.int64),
        top_k=np.array(top_k),
        top_p=np.array(top_p),
        uniform=np.tile(np.array(uniform)[:, None], (1, 6)),
    )
    return Sampler(rows, vocabulary, eos=EOS, temperature=temperature)


def next_tokens(drawn_by, own, others=None, **changes):
    own = torch.tensor(np.array(own), dtype=torch.float64)
    others = torch.zeros_like(own) if others is None else torch.tensor(np.array(others), dtype=torch.float64)
    number = len(drawn_by._top_k)
    arguments = {"own": own, "others": others, "prefix_length": 1, "is_eos_allowed": True, **changes}
    tokens, log_probs = drawn_by.next_tokens(np.arange(number), np.zeros(number, dtype=np.int64), **arguments)
    return tokens.tolist(), np.exp(log_probs)


def test_a_forbidden_eos_is_gone_before_the_set_is_formed():
    drawn_by = sampler(top_k=[2], top_p=[1.0], uniform=[0.0])
    tokens, found = next_tokens(drawn_by, [np.log([0.2, 0.1, 0.6, 0.1])], is_eos_allowed=False)
    assert tokens == [0]
    # Tokens 1 and 3 tie for the second place: the set has three.
    np.testing.assert_allclose(found, 0.5)


def test_a_nucleus_wider_than_the_head_is_drawn_from_the_whole_vocabulary():
    flat = Vocabulary(torch.full((1, 1000), 0.01, dtype=torch.float64), EOS)
    drawn_by = sampler(top_k=[0, 3], top_p=[0.9, 1.0], uniform=[0.9999, 0.5], vocabulary=flat)
    tokens, found = next_tokens(drawn_by, [[1.0]])
    # 900 equal tokens reach 0.9; a top-3 set of 1000 equal tokens keeps them all.
    assert tokens == [899, 500]
    np.testing.assert_allclose(found, [1 / 900, 1 / 1000])


@pytest.mark.parametrize("wrong", [np.nan, np.inf])
@pytest.mark.parametrize("side", ["own", "others"])
def test_scores_beyond_the_precision_are_an_error_of_the_image_and_never_a_draw(wrong, side):
    drawn_by = sampler(top_k=[2], top_p=[1.0], uniform=[0.5])
    states = {"own": [[0.0, 1.0, 2.0, 3.0]], "others": [[0.0, 1.0, 2.0, 3.0]]}
    states[side][0][1] = wrong
    with pytest.raises(ImageError, match="beyond the range of its precision"):
        next_tokens(drawn_by, states["own"], states["others"])
