"""Shares and scores become probabilities: of nouns, of words, of there being an object."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pseudoris.schemas.composer_settings import PosteriorConfig
from pseudoris.workers.composing.evidence import Evidence
from pseudoris.workers.composing.language import NounPhrase
from pseudoris.workers.composing.posterior import Posterior, is_object, nouns_of, object_features, words_of
from tests.workers.composing.builders import make_mask

PLAIN = PosteriorConfig(noun_share=1.0, noun_correctness=0.0, word_bias=0.0, word_against=1.0, word_share=0.0)
STAR, RED_STAR = NounPhrase("star", "star", frozenset()), NounPhrase("red star", "star", frozenset({"red"}))


def evidence(nouns, words=(), correctness=()):
    return Evidence(dict(nouns), {**dict.fromkeys(dict(nouns), 0.0), **dict(correctness)}, dict(words), ())


def test_nouns_are_a_softmax_of_shares_and_correctness():
    said = evidence({"star": 0.6, "heart": 0.4}, correctness={"star": 0.5, "heart": 0.7})
    assert nouns_of(said, PLAIN) == pytest.approx({"star": 0.6, "heart": 0.4}, abs=1e-3)
    looks = nouns_of(said, PLAIN.model_copy(update={"noun_correctness": 10.0}))
    # 0.4 · e² against 0.6.
    assert looks["heart"] == pytest.approx(0.4 * math.e**2 / (0.4 * math.e**2 + 0.6), abs=1e-3)
    assert nouns_of(evidence({}), PLAIN) == {}


def test_a_word_is_held_against_what_replaces_it():
    said = evidence({"star": 1.0}, {"red": 0.3, "blue": 0.1, "small": 0.2})
    found = words_of(said, {"red": frozenset({"blue"}), "blue": frozenset({"red", "green"})}, PLAIN)
    # Log-odds of 0.3 / 0.1, of 0.1 / 0.3, and of 0.2 against nothing.
    assert found["red"] == pytest.approx(0.75, abs=0.01)
    assert found["blue"] == pytest.approx(0.25, abs=0.01)
    assert found["small"] > 0.99


def test_a_phrase_fits_by_its_noun_and_all_its_words():
    config = PLAIN.model_copy(update={"unsaid_noun": 0.01, "unsaid_word": 0.02, "silent_word": 0.1})
    star = evidence({"star": 1.0}, {"red": 0.5, "blue": 0.5})
    phrases = tuple(NounPhrase(f"{word} star", "star", frozenset({word})) for word in ("red", "blue"))
    blue = evidence({"star": 1.0}, {"blue": 0.5})
    found = Posterior(
        config,
        [replace(star, phrases=phrases), blue, evidence({"star": 1.0}), evidence({"heart": 1.0}), evidence({})],
        np.ones(5),
    )
    assert found.fits(STAR) == pytest.approx([1.0, 1.0, 1.0, 0.01, 0.01], abs=1e-3)
    # Half of the draws say red of the first; blue replaces red of the second; of the third nobody said a colour.
    assert found.fits(RED_STAR)[:3] == pytest.approx([0.5, 0.02, 0.1], abs=0.01)
    assert [found.noun(mask) for mask in range(5)] == ["star", "star", "star", "heart", None]


def test_a_mask_inside_another_one_or_of_poor_scores_is_less_likely_an_object():
    good = {"predicted_iou": 0.9, "stability_score": 0.9}
    alone, whole, part = (make_mask(n, *at) for n, at in enumerate((((80, 80),), ((30, 30), 40), ((30, 30), 10))))
    masks = [replace(mask, **good) for mask in (alone, whole, part)]
    poor = replace(alone, predicted_iou=0.6, stability_score=0.9)
    assert object_features(masks)[:, 2].tolist() == [0.0, 10 * 10 / (40 * 40), 0.5]
    likely = is_object([*masks[:3]], PosteriorConfig())
    assert likely[0] > likely[1] > likely[2]
    assert is_object([poor], PosteriorConfig())[0] < likely[0]
    # Given, not proposed: nobody doubts it.
    assert is_object([alone], PosteriorConfig()).tolist() == [1.0]
    assert is_object([], PosteriorConfig()).shape == (0,)
    # A score of 1, or one that numbers above 1, has log-odds all the same.
    assert np.isfinite(object_features([replace(alone, predicted_iou=1.02, stability_score=1.0)])).all()
