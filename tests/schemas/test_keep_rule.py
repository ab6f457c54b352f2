"""The rule of what is kept: how it is written, what it lets pass, and that runs without it are as they were."""

from __future__ import annotations

import math
import operator

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.keep_rule import SCORE_COLUMNS, KeepCondition, KeepRule, keeps, lone_draws, meets

COMPARE = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@pytest.mark.parametrize(
    ("written", "means"),
    [
        ("correctness > 0.2", ("correctness", ">", 0.2)),
        ("count>=2", ("count", ">=", 2.0)),
        ("  log_prob  <=  -1e1 ", ("log_prob", "<=", -10.0)),
        ("uniqueness < .5", ("uniqueness", "<", 0.5)),
    ],
)
def test_a_condition_is_a_column_a_comparison_and_a_number(written, means):
    condition = KeepCondition.model_validate(written)
    assert (condition.column, condition.comparison, condition.bound) == means
    assert KeepCondition.model_validate(str(condition)) == condition
    assert KeepCondition.model_validate_json(condition.model_dump_json()) == condition


@pytest.mark.parametrize(
    "written",
    [
        *("", "correctness", "correctness 0.2", "> 0.2", "correctness > 0.2 or count > 1", "text > 1", "kept > 0"),
        *(
            "correctness == 0.2",
            "correctness > nan",
            "correctness > inf",
            "correctness > count",
            "__import__('os') > 1",
        ),
        *("correctness > 0.2; count > 1", "0.2 < correctness", "correctness >> 1", "correctness > 0x10"),
    ],
)
def test_nothing_else_is_one(written):
    with pytest.raises(ValidationError, match=r"is not a condition such as|finite number|valid number"):
        KeepCondition.model_validate(written)


@given(
    column=st.sampled_from(SCORE_COLUMNS),
    comparison=st.sampled_from(sorted(COMPARE)),
    bound=st.floats(-4, 4),
    values=st.lists(st.one_of(st.floats(-4, 4), st.just(math.nan)), max_size=8),
)
def test_what_meets_a_condition_compares_so_or_has_no_score(column, comparison, bound, values):
    values = [*values, bound]
    condition = KeepCondition(column=column, comparison=comparison, bound=bound)
    met = meets([condition], {column: np.array(values)}, len(values))
    assert met.tolist() == [math.isnan(value) or COMPARE[comparison](value, bound) for value in values]


def test_all_conditions_hold_and_none_ask_nothing():
    scores = {"correctness": np.array([0.1, 0.5, 0.9]), "count": np.array([3.0, 1.0, 3.0])}
    both = [KeepCondition.model_validate(text) for text in ("correctness > 0.2", "count >= 2")]
    assert meets(both, scores, 3).tolist() == [False, False, True]
    paper = load_config("paper")
    assert meets(paper.filtering.keep, {}, 3).tolist() == [True, True, True]
    fitted = paper.filtering.fitted_values
    others = (fitted.confidence, fitted.pair_weight, paper.captions.listening, paper.composing)
    assert others == (None, None, None, None)


def test_tau_is_a_strict_bound_and_lone_masks_pass():
    scores = _scores([0.9, 1.0, 1.01, math.nan])
    assert keeps(KeepRule(load_config("paper").filtering.tau), scores, [*"aabc"]).tolist() == [False, False, True, True]
    assert keeps(KeepRule(99.0), scores, [*"aabc"]).tolist() == [False, False, False, True]
    assert keeps(KeepRule(1.0), _scores([]), []).shape == (0,)


def test_of_a_lone_mask_the_rule_keeps_what_it_names_and_the_conditions_hold_for_it():
    scores = _scores([math.nan, math.nan, math.nan, 2.0], correctness=[0.1, 0.9, 0.5, 0.0])
    condition = KeepCondition.model_validate("correctness > 0.2")
    kept = {
        name: keeps(KeepRule(1.0, lone_masks=name), scores, [7, 7, 7, 8]).tolist()
        for name in ("keep", "drop", "better_half")
    }
    assert kept == {
        "keep": [True, True, True, True],
        "drop": [False, False, False, True],
        "better_half": [False, True, False, True],
    }
    rule = KeepRule(1.0, (condition,))
    assert keeps(rule, scores, [7, 7, 7, 8]).tolist() == [False, True, True, False]
    assert str(rule) == "distinctiveness > 1 and correctness > 0.2"


def _scores(distinctiveness, correctness=None):
    num = len(distinctiveness)
    found = {"correctness": correctness or [0.5] * num, "count": [1] * num}
    return {
        name: np.array(values, np.float64) for name, values in {"distinctiveness": distinctiveness, **found}.items()
    }


def test_one_rule_in_two_orders_is_one_method():
    one = load_config("tiny", None, ["filtering.keep=[count >= 2, correctness > 0.2, count>=2.0]"])
    other = load_config("tiny", None, ["filtering.keep=[correctness > .2, count >= 2]"])
    assert one == other
    assert one.method()["filtering"]["keep"] == ["correctness > 0.2", "count >= 2"]
    assert type(one).model_validate_json(one.model_dump_json()) == one


def test_a_mistake_names_the_key_and_what_is_allowed():
    with pytest.raises(ConfigError, match=r"filtering\.keep\.0: 'corectness > 1' is not a condition .*log_prob, count"):
        load_config("tiny", None, ["filtering.keep=[corectness > 1]"])


def draws(lone_masks, correctness, counts, masks=None):
    masks = [0] * len(counts) if masks is None else masks
    return lone_draws(lone_masks, masks=masks, correctness=np.array(correctness, float), counts=counts).tolist()


@given(counts=st.lists(st.integers(1, 6), min_size=1, max_size=9), seed=st.integers(0, 99))
def test_the_better_half_is_what_the_authors_loader_draws_from(counts, seed):
    if sum(counts) < 2:
        return
    # With equal ones: captions with one head noun have one correctness.
    correctness = np.random.default_rng(seed).integers(0, 4, len(counts)) / 10
    # Its list holds each draw, and it sorts and cuts the list.
    rows = np.repeat(np.arange(len(counts)), counts)
    better = np.argsort(correctness[rows], kind="stable")[::-1][: len(rows) // 2]
    assert draws("better_half", correctness, counts) == np.bincount(rows[better], minlength=len(counts)).tolist()


def test_each_mask_has_a_half_of_its_own_whatever_the_order_of_the_rows():
    masks = ["b", "a", "b", "a", "b", "b"]
    assert draws("better_half", [0.1, 0.9, 0.4, 0.2, 0.3, 0.2], [1] * 6, masks) == [0, 1, 1, 0, 1, 0]


@pytest.mark.parametrize(
    ("correctness", "counts", "kept"),
    [
        ([0.5], [1], [1]),
        ([0.5], [0], [1]),
        ([0.5], [44], [22]),
        ([math.nan, 0.1], [3, 1], [1, 1]),
        ([0.5, 0.5, 0.5, 0.5], [1, 1, 1, 1], [0, 0, 1, 1]),
        ([0.31, 0.31, 0.31, 0.28], [10, 12, 11, 11], [0, 11, 11, 0]),
        ([0.2, 0.9], [20, 24], [0, 22]),
    ],
)
def test_the_half_counts_draws_keeps_one_at_least_and_takes_the_last_of_equals(correctness, counts, kept):
    assert draws("better_half", correctness, counts) == kept
