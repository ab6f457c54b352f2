"""What a sampler draws and a beam finds, by their definitions and by open_clip's own tokens."""

import hashlib
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from pseudoris.primitives.errors import ImageError
from pseudoris.schemas.config import SamplingConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions import distinctive
from pseudoris.workers.captions.beam_search import BeamSearches, beam_of
from pseudoris.workers.captions.distinctive import Sampler, SamplerRows
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary
from tests.builders.coca import captions_config
from tests.oracles.plain_captioner import group_beam_search
from tests.oracles.pretended_gpu import pretended_gpu

# A few levels only, so that equal logits are common.
rows_of_logits = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 3), st.integers(2, 9)), elements=st.integers(-3, 3).map(float)
)


def in_order(logits):
    """The logits in descending order, and their token ids."""
    return torch.as_tensor(logits, dtype=torch.float64).sort(dim=1, descending=True, stable=True)


def top_k(logits, *k):
    ordered, ids = in_order(logits)
    return kept_ids(ids, distinctive.count_top_k(ordered, torch.tensor(k)))


def top_p(logits, *p):
    ordered, ids = in_order(logits)
    return kept_ids(ids, distinctive.count_top_p(ordered, ordered.logsumexp(1), torch.tensor(p)))


def kept_ids(ids, counts):
    return [sorted(row[:count].tolist()) for row, count in zip(ids, counts.tolist(), strict=True)]


def test_top_k_keeps_every_token_that_ties_with_the_kth():
    logits = [[1.0, 5.0, 3.0, 3.0, 3.0, 0.0]]
    assert top_k(logits * 2, 2, 1) == [[1, 2, 3, 4], [1]]


@pytest.mark.parametrize(("p", "kept"), [(0.4, [1]), (0.49, [1]), (0.51, [1, 2]), (0.8, [1, 2]), (0.82, [0, 1, 2])])
def test_top_p_keeps_the_smallest_set_that_reaches_p_with_the_crossing_token(p, kept):
    assert top_p(np.log([[0.15, 0.5, 0.3125, 0.0375]]), p) == [kept]
    # Two of four reach one half exactly, so no third one is taken.
    assert top_p([[0.0, 0.0, 0.0, 0.0]], 0.5) == [[0, 1]]


@settings(deadline=None, max_examples=60)
@given(rows_of_logits, st.floats(0.05, 0.95))
def test_top_p_reaches_p_and_no_smaller_set_does(logits, p):
    ordered, _ = in_order(logits)
    probabilities = ordered.softmax(dim=1).numpy()
    bounds = torch.full((len(logits),), p, dtype=torch.float64)
    counts = distinctive.count_top_p(ordered, ordered.logsumexp(1), bounds).tolist()
    for row, count in zip(probabilities, counts, strict=True):
        assert count >= 1
        assert row[:count].sum() >= p - 1e-12
        assert row[: count - 1].sum() < p + 1e-12


@settings(deadline=None, max_examples=100)
@given(
    hnp.arrays(np.float64, st.integers(1, 12), elements=st.sampled_from([0.0, 0.0, 1e-3, 0.2, 1.0, 7.0])),
    st.floats(0, 1, exclude_max=True),
)
def test_a_draw_is_the_inverse_of_the_cumulated_weights(weights, uniform):
    if weights.sum() == 0:
        weights[0] = 1.0
    place = int(distinctive.draw(torch.from_numpy(weights)[None], torch.tensor([uniform], dtype=torch.float64))[0])
    cumulated = np.cumsum(weights)
    assert weights[place] > 0
    assert cumulated[place] > uniform * cumulated[-1]
    assert place == 0 or cumulated[place - 1] <= uniform * cumulated[-1]


def weights_of(own, others, *, eos=None, kept=None, temperature=1.0):
    own, others = torch.tensor([own]), torch.tensor([others])
    is_eos = torch.tensor([[place == eos for place in range(own.shape[1])]])
    is_kept = torch.ones_like(is_eos) if kept is None else torch.tensor([kept])
    weights = distinctive.distinctive_weights(own, others, is_kept=is_kept, is_eos=is_eos, temperature=temperature)
    return weights[0].tolist()


def test_the_contrast_is_a_softmax_of_the_difference_over_the_kept_tokens():
    # exp of the differences: 1, 2, 4; the fourth token is not kept.
    own = [math.log(2), math.log(6), math.log(4), 9.0]
    others = [math.log(2), math.log(3), 0.0, 0.0]
    # In paper they are the mean over two masks of 0.5 z and of −0.25 z'.
    chosen = distinctive.choose_others(
        torch.tensor([[1.0, 0.5, -0.25], [0.5, 1.0, 0.0], [-0.25, 0.0, 1.0]]), load_config("paper").captions.sampling
    )
    z = torch.tensor([own, [4 * each + 1 for each in others], [2.0] * 4])
    means = (chosen.weights[0] @ z[chosen.indices[0]]).tolist()
    assert means == pytest.approx(others)
    assert weights_of(own, means, kept=[True, True, True, False]) == pytest.approx([1 / 7, 2 / 7, 4 / 7, 0])


def test_eos_takes_its_probability_from_the_targets_own_softmax_and_nothing_is_renormalised():
    own = [math.log(1), math.log(3), math.log(4)]
    others = [0.0, math.log(3), 0.0]
    # Own: 1/8, 3/8, 4/8. Contrast: 1/6, 1/6, 4/6. EOS is the last token.
    weights = weights_of(own, others, eos=2)
    assert weights == pytest.approx([1 / 6, 1 / 6, 1 / 2])
    assert sum(weights) == pytest.approx(5 / 6)


def test_the_temperature_divides_the_difference():
    for temperature, difference in ((0.5, 3.0), (load_config("paper").captions.sampling.temperature, 1.5)):
        low, high = weights_of([1.0, 2.0], [0.5, 0.0], temperature=temperature)
        assert (high / low, high + low) == pytest.approx((math.exp(difference), 1))


def test_where_no_weight_is_left_the_own_distribution_stands():
    # The contrast gives EOS everything, the own softmax gives it nothing.
    weights = weights_of([0.0, 0.0, -2000.0], [0.0, 0.0, -9000.0], eos=2)
    assert weights == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("num_masks", "settings_", "how"),
    [
        (1, SamplingConfig(), "no_contrast"),
        (4, SamplingConfig(max_others=3, above_max_others="no_contrast"), "no_contrast"),
        (3, SamplingConfig(max_others=3, above_max_others="no_contrast"), "all"),
        (4, SamplingConfig(max_others=3, above_max_others="nearest"), "all"),
        (4, SamplingConfig(is_distinctive=False), "none"),
    ],
)
def test_the_bound_of_the_paper_counts_masks_and_the_record_says_what_counted(num_masks, settings_, how):
    others = distinctive.choose_others(torch.eye(num_masks), settings_)
    assert others.how == how
    assert others.indices.shape == (num_masks, num_masks - 1 if how == "all" else 0)


def test_a_gpu_draws_for_a_row_alone_as_a_cpu_does():
    weights = torch.rand(1, 300, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    logits, p, uniform = weights.log().sort(descending=True).values, torch.tensor([0.5]).double(), weights[:, 0]
    log_total = logits.logsumexp(1)
    with pretended_gpu():
        there = [part.to("cuda") for part in (weights, uniform, logits, log_total, p)]
        drawn = distinctive.draw(*there[:2]).cpu()
        counted = distinctive.count_top_p(*there[2:]).cpu()
    assert torch.equal(drawn, distinctive.draw(weights, uniform))
    assert torch.equal(counted, distinctive.count_top_p(logits, log_total, p))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")
def test_a_gpu_draws_the_same_for_a_row_alone_every_time():
    weights = torch.rand(1, 49408, dtype=torch.float64, device="cuda")
    # Draws next to the bounds between two columns: the last bit of a sum decides them.
    bounds = (weights.cumsum(dim=1) / weights.sum()).flatten()[::100]
    first, again = (torch.cat([distinctive.draw(weights, bound[None]) for bound in bounds]) for _ in range(2))
    assert torch.equal(first, again)


EOS = 2
IDENTITY = Vocabulary(torch.eye(4, dtype=torch.float64), SpecialTokens(0, EOS, 0))


def sampler(*, top_k, top_p, uniform, vocabulary=IDENTITY):
    rows = SamplerRows(
        target=np.zeros(len(top_k), dtype=np.int64),
        top_k=np.array(top_k),
        top_p=np.array(top_p),
        uniform=np.tile(np.array(uniform)[:, None], (1, 6)),
    )
    return Sampler(rows, vocabulary, temperature=1.0)


def next_tokens(drawn_by, own, others=None, **changes):
    own = torch.tensor(np.array(own), dtype=torch.float64)
    others = torch.zeros_like(own) if others is None else torch.tensor(np.array(others), dtype=torch.float64)
    number = len(drawn_by.rows.top_k)
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
    flat = Vocabulary(torch.full((1, 1000), 0.01, dtype=torch.float64), SpecialTokens(0, EOS, 0))
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


SPECIAL = SpecialTokens(sot=10, eos=11, pad=0)

# (seed, bonus of EOS, beams, groups, min_length, max_length), and tokens on the table of logits below: those of
# open_clip 3.3.0's own `CoCa._generate_beamsearch` over transformers 4.56.2, and those of the loop of the authors' CoCa
# over `BeamSearchScorer` of transformers 4.30.2, the last one with which their loop runs: it raises with 4.31.
GOLDEN = [
    ((1, 0, 6, 3, 5, 12), [10, 8, 5, 9, 9, 7, 3, 6], [10, 8, 5, 9, 9, 7, 3, 6]),
    ((2, 0, 6, 3, 5, 12), [10, 4, 4, 7, 8, 7, 9, 3, 10, 5, 3], [10, 4, 4, 7, 8, 5, 1]),
    ((3, 4, 6, 3, 5, 12), [4, 2, 9, 6, 8, 7], [4, 2, 9, 6]),
    ((4, 4, 6, 3, 1, 12), [], []),
    ((5, 2, 4, 1, 3, 10), [3, 10, 2, 5, 6, 2, 9, 8], [3, 1]),
    ((6, -8, 6, 3, 5, 9), [6, 10, 2, 3, 6, 7, 7, 7], [6, 10, 2, 3, 6, 7, 7, 7]),
    ((7, 3, 6, 2, 2, 10), [8, 0], [8]),
    ((8, 1, 2, 1, 4, 8), [7, 6, 0, 3, 4], [7, 6, 0, 3, 4]),
    ((9, 6, 6, 3, 1, 12), [3, 4], []),
    ((10, 5, 3, 3, 2, 12), [1], [1]),
]


def logits_of(seed, eos_bonus, prefix):
    row = []
    for token in range(12):
        text = f"{seed}|{','.join(map(str, prefix))}|{token}"
        word = int.from_bytes(hashlib.blake2b(text.encode(), digest_size=2).digest(), "big")
        row.append(word / 8192 - 4 + (eos_bonus if token == SPECIAL.eos else 0))
    return row


def settings_of(case, **beam):
    _, _, num_beams, num_groups, min_length, max_length = case
    beam = {"num_beams": num_beams, "num_groups": num_groups, **beam}
    return captions_config(beam=beam, min_length=min_length, max_length=max_length)


def all_groups(case, **beam):
    def score(prefixes):
        return torch.tensor([logits_of(*case[:2], prefix) for prefix in prefixes], dtype=torch.float64)

    return group_beam_search(score, settings_of(case, **beam), SPECIAL)


def one_group(case, **beam):
    config = settings_of(case, **beam)
    num_beams = config.beam.num_beams // config.beam.num_groups
    search = BeamSearches((1, num_beams), config, SPECIAL.eos, device=torch.device("cpu"))
    prefixes = [(SPECIAL.sot,)] * num_beams
    for length in range(1, config.max_length):
        logits = torch.tensor([[logits_of(*case[:2], prefix) for prefix in prefixes]], dtype=torch.float64)
        if length < config.min_length:
            logits[..., SPECIAL.eos] = -torch.inf
        log_probs = logits.log_softmax(dim=-1)
        scores = logits if config.beam.beam_score == "logit" else log_probs
        tokens, position = torch.arange(12).expand_as(scores), torch.tensor([length - 1])
        (parents,), (newest,) = search.advance(scores, log_probs, tokens, position, torch.tensor([True]))
        prefixes = [(*prefixes[parent], int(token)) for parent, token in zip(parents, newest, strict=True)]
        if search.is_done:
            break
    return beam_of(search.best()[0].numpy(), SPECIAL.eos)


@pytest.mark.parametrize(("case", "tokens"), [(case, tokens) for case, _, tokens in GOLDEN])
def test_in_paper_a_beam_that_eos_ended_is_divided_as_transformers_4_30_does(case, tokens):
    paper = load_config("paper").captions.beam
    length = {"counts_eos": paper.counts_eos, "length_penalty": paper.length_penalty}
    assert list(all_groups(case, **length)[0]) == tokens
    assert list(one_group(case, **length).tokens) == tokens


@pytest.mark.parametrize("seed", range(40, 80))
def test_without_eos_in_the_length_one_group_finds_what_all_groups_find(seed):
    case = (seed, seed % 7 - 1, 6, 3, 1 + seed % 5, 12)
    found = one_group(case, counts_eos=False)
    assert (found.tokens, pytest.approx(found.log_prob)) == all_groups(case, counts_eos=False)


@pytest.mark.parametrize(("case", "tokens"), [(case, tokens) for case, tokens, _ in GOLDEN])
def test_one_group_finds_what_open_clips_groups_find(case, tokens):
    assert list(one_group(case).tokens) == list(all_groups(case)[0]) == tokens
    if case[2:4] == (6, 3):
        paper = load_config("paper").captions.beam
        assert list(one_group(case, num_beams=paper.num_beams, num_groups=paper.num_groups).tokens) == tokens
