import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.keep_rule import KeepRule, keeps
from pseudoris.workers.filtering.scorer import score_candidates

MIN_COSINE = 1e-4


def scores(context, masked, targets):
    return score_candidates(context, masked, targets=targets, min_cosine=MIN_COSINE)


def test_a_lone_mask_has_correctness_alone():
    got = scores([[0.2, 0.9]], [[0.7, -1.0]], [0, 0])
    assert got.correctness == pytest.approx([0.7, MIN_COSINE])
    assert (got.uniqueness, got.distinctiveness, got.rival) == (None, None, None)
    paper = load_config("paper").filtering
    columns = {"distinctiveness": np.full(2, np.nan), "correctness": got.correctness, "count": np.ones(2)}
    assert keeps(KeepRule(paper.tau, paper.keep, lone_masks=paper.lone_masks), columns, [0, 0]).all()


@pytest.mark.parametrize(
    ("context", "masked", "targets", "message"),
    [
        ([[0.1]], [[0.1, 0.2]], [0], r"got \(1, 1\), \(1, 2\)"),
        ([[0.1]], [[0.1]], [1], r"targets must lie in 0\.\.0, got 1\.\.1"),
        ([[0.1]], [[0.1]], [-1], r"targets must lie in 0\.\.0"),
        ([[float("nan")], [0.1]], [[0.1], [0.1]], [0], "not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(context, masked, targets, message):
    with pytest.raises(ValueError, match=message):
        scores(context, masked, targets)


@st.composite
def problems(draw):
    masks, texts = draw(st.integers(1, 6)), draw(st.integers(0, 8))
    cosine = st.floats(-1, 1, width=32)
    rows = st.lists(st.lists(cosine, min_size=texts, max_size=texts), min_size=masks, max_size=masks)
    targets = st.lists(st.integers(0, masks - 1), min_size=texts, max_size=texts)
    return draw(rows), draw(rows), draw(targets)


@pytest.mark.slow
@given(problems())
def test_scores_equal_a_plain_loop_over_the_definition(problem):
    context, masked, targets = problem
    c = [[max(value, MIN_COSINE) for value in row] for row in context]
    m = [[max(value, MIN_COSINE) for value in row] for row in masked]
    got = score_candidates(context, masked, targets=targets, min_cosine=MIN_COSINE)
    for t, i in enumerate(targets):
        others = [k for k in range(len(c)) if k != i]
        assert got.correctness[t] == m[i][t]
        if not others:
            assert got.uniqueness is None
            continue
        rival = max(others, key=lambda k: c[k][t] * m[k][t])
        assert got.uniqueness[t] == c[i][t] / max(c[k][t] for k in others)
        assert got.distinctiveness[t] == c[i][t] * m[i][t] / (c[rival][t] * m[rival][t])
        assert got.rival[t] == rival
