"""Confidence and rank: by a plain definition, and where they are not known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.fitted import (
    CONFIDENCE_COLUMNS,
    ConfidenceConfig,
    Rated,
    confidences,
    features,
    log_odds,
    logistic,
    ranks,
)
from tests.builders.fitted import fitted

WEIGHTS = ConfidenceConfig(bias=-1.0, listener=0.5, truth=2.0, relative_truth=1.0, log_uniqueness=3.0, correctness=0.7)


def rated(groups, texts=None, **values):
    size = len(groups)
    scores = {name: np.array(values.get(name, [1.0] * size), np.float64) for name in CONFIDENCE_COLUMNS}
    return Rated(groups, texts or ["a circle"] * size, scores)


def test_confidence_is_the_logistic_of_the_weighted_features():
    both = rated(["a", "a"], listener=[0.9, 0.5], truth=[-0.5, -0.2], uniqueness=[1.2, 0.8], correctness=[0.7, 0.6])
    odds = -1 + 0.5 * math.log(9) + 2 * -0.5 + 1 * (-0.5 - -0.2) + 3 * math.log(1.2) + 0.7 * 0.7
    other = -1 + 0 + 2 * -0.2 + 0 + 3 * math.log(0.8) + 0.7 * 0.6
    due = [1 / (1 + math.exp(-each)) for each in (odds, other)]
    assert confidences(both, WEIGHTS) == pytest.approx(due, rel=1e-12)
    # Of another mask, its own best truth counts.
    assert features(rated(["a", "b"], truth=[-0.5, -0.2]), 0.0)["relative_truth"].tolist() == [0.0, 0.0]


def test_a_word_counts_by_how_many_of_the_masks_captions_say_it():
    texts = ["a red circle", "a circle", "a large circle", "a large red circle", "a blue star"]
    three = rated(
        ["a"] * 4 + ["b"], texts, count=[5, 3, 1, 1, 2], caption_score=np.log([0.4, 0.4, 0.1, 0.1, 0.2]).tolist()
    )
    found = features(three, 0.0)
    assert np.exp(found["vote"]) == pytest.approx([0.6, 1.0, 0.2, 0.2, 1.0])
    assert np.exp(found["consensus"]) == pytest.approx([0.5, 1.0, 0.2, 0.2, 1.0])
    assert found["num_words"].tolist() == [3, 2, 3, 4, 3]


def test_extremes_are_bounded():
    found = features(rated(["a", "b"], listener=[0.0, 1.0], uniqueness=[1e-9, 99.0], truth=[-1, -1]), 0.0)
    assert found["listener"].tolist() == [-7.0, 7.0]
    assert found["log_uniqueness"].tolist() == [-1.0, 1.0]
    assert confidences(rated(["a"]), ConfidenceConfig(bias=-800.0)).tolist() == [0.0]
    assert confidences(rated(["a"]), ConfidenceConfig(bias=800.0)).tolist() == [1.0]
    hopeless = rated(["a", "a"], ["a", "b"], caption_score=[-1.0, -900.0])
    assert features(hopeless, 0.0)["consensus"].tolist()[1] == -6.0


def test_the_ratios_of_a_mask_alone_in_its_image_count_as_configured():
    alone = rated(["a"], uniqueness=[math.nan], distinctiveness=[math.nan])
    best = ConfidenceConfig(log_uniqueness=2.0, log_distinctiveness=1.0)
    assert confidences(alone, best) == pytest.approx(1 / (1 + math.exp(-3.0)))
    assert confidences(alone, best.model_copy(update={"lone_log_ratio": 0.0})).tolist() == [0.5]


def test_where_nobody_listened_only_what_needs_a_listener_is_unknown():
    nan = [math.nan] * 2
    silent = rated(["a", "a"], listener=nan, truth=nan, caption_score=nan)
    assert np.isnan(confidences(silent, ConfidenceConfig(listener=1.0))).all()
    assert np.isnan(ranks(confidences(silent, ConfidenceConfig(consensus=1.0)), ["a", "a"])).all()
    blind = ConfidenceConfig(bias=1.0, correctness=1.0, vote=1.0)
    assert not blind.needs_listener
    assert np.isfinite(confidences(silent, blind)).all()


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from([0.1, 0.5, 0.9, math.nan])), max_size=12))
def test_ranks_are_places_among_the_masks_own(rows):
    groups = [group for group, _ in rows]
    confidence = np.array([value for _, value in rows], np.float64)
    found = ranks(confidence, groups)
    for row, (group, value) in enumerate(rows):
        if math.isnan(value):
            assert math.isnan(found[row])
            continue
        ahead = [
            other
            for other, (of, its) in enumerate(rows)
            if of == group and (its > value or (its == value and other < row))
        ]
        assert found[row] == len(ahead) + 1


def test_mistakes_are_refused_with_what_is_allowed():
    with pytest.raises(
        ConfigError, match=r"filtering.fitted has weights for a listener's scores, but captions.listening"
    ):
        load_config("tiny", None, [fitted(confidence={"truth": 1})])
    with pytest.raises(
        ConfigError, match=r"listening.crops has 'context_3.0', which is not captioned; choose from masked"
    ):
        load_config("tiny", None, ["captions.listening={crops: [context_3.0]}"])


def test_logistic_is_the_inverse_of_the_log_odds_with_finite_ends_and_what_is_unknown_stays_so():
    values = np.array([0.001, 0.3, 0.5, 0.97])
    assert log_odds(values) == pytest.approx([math.log(each / (1 - each)) for each in values])
    assert logistic(log_odds(values)) == pytest.approx(values, rel=1e-12)
    assert np.isfinite(log_odds(np.array([0.0, 1.0]))).all()
    assert logistic(np.array([-900.0, 900.0])).tolist() == [0.0, 1.0]
    assert np.isnan(logistic(log_odds(np.array([np.nan])))).all()
