"""Draws become shares, and shares and scores probabilities: of nouns, of words, of there being an object."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pseudoris.schemas.fitted import NounRelations
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord
from pseudoris.workers.composing.posterior import (
    Evidence,
    Posterior,
    by_names,
    evidence_of,
    is_object,
    nested_shares,
    nouns_of,
    object_features,
    substitutes,
    words_of,
)
from pseudoris.workers.noun_phrases import NounPhrase
from tests.builders.fitted import POSTERIOR
from tests.workers.composing.builders import make_mask

PLAIN = POSTERIOR.model_copy(
    update={"noun_share": 1.0, "noun_correctness": 0.0, "word_bias": 0.0, "word_against": 1.0, "word_share": 0.0}
)
STAR, RED_STAR = NounPhrase("star"), NounPhrase("star", ("red",))


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
    star = evidence({"star": 1.0}, {"red": 0.5, "blue": 0.5})
    phrases = tuple(NounPhrase("star", (word,)) for word in ("red", "blue"))
    blue = evidence({"star": 1.0}, {"blue": 0.5})
    found = Posterior(
        PLAIN,
        [replace(star, phrases=phrases), blue, evidence({"star": 1.0}), evidence({"heart": 1.0}), evidence({})],
        np.ones(5),
    )
    assert found.fits(STAR) == pytest.approx([1.0, 1.0, 1.0, 0.006, 0.006], abs=1e-4)
    # Half of the draws say red of the first; blue replaces red of the second; of the third nobody said a colour.
    assert found.fits(RED_STAR)[:3] == pytest.approx([0.5, 0.01, 0.1], abs=1e-3)
    assert [found.noun(mask) for mask in range(5)] == ["star", "star", "star", "heart", None]


def test_a_mask_inside_another_one_or_of_poor_scores_is_less_likely_an_object():
    good = {"predicted_iou": 0.9, "stability_score": 0.9}
    alone, whole, part = (make_mask(n, *at) for n, at in enumerate((((80, 80),), ((30, 30), 40), ((30, 30), 10))))
    masks = [replace(mask, **good) for mask in (alone, whole, part)]
    poor = replace(alone, predicted_iou=0.6, stability_score=0.9)
    assert object_features(masks)[:, 2].tolist() == [0.0, 10 * 10 / (40 * 40), 0.5]
    likely = is_object([*masks[:3]], POSTERIOR)
    assert likely[0] > likely[1] > likely[2]
    assert is_object([poor], POSTERIOR)[0] < likely[0]
    # Given, not proposed: nobody doubts it.
    assert is_object([alone], POSTERIOR).tolist() == [1.0]
    assert is_object([], POSTERIOR).shape == (0,)
    # A score of 1, or one that numbers above 1, has log-odds all the same.
    assert np.isfinite(object_features([replace(alone, predicted_iou=1.02, stability_score=1.0)])).all()


def test_a_part_of_a_mask_of_another_noun_stays_an_object():
    good = {"predicted_iou": 0.9, "stability_score": 0.9}
    whole, part, twin = (replace(make_mask(n, (30, 30), size), **good) for n, size in enumerate((40, 10, 40)))
    weights = POSTERIOR.model_copy(update={"object_overlap": 0.0, "object_nested": 1.0})
    star, heart = evidence({"star": 1.0}), evidence({"heart": 1.0})
    assert nested_shares([whole, part, twin], [star, star, star]).tolist() == [0.0, 1.0, 1.0]
    both, own = (is_object([whole, part], weights, [star, each]) for each in (star, heart))
    assert both[0] == own[0] == own[1] > 0.9
    assert both[1] < 0.01


NAMES = NounRelations(same=(("man", "guy"), ("person", "someone")), wider={"person": ("man", "woman")})


def test_names_of_one_thing_support_each_other_and_a_wider_name_is_true_of_all():
    said = evidence({"man": 0.3, "guy": 0.3, "person": 0.1, "someone": 0.1, "dog": 0.2})
    phrases = (NounPhrase("person", ("tall",)), NounPhrase("guy", ("tall",)), NounPhrase("dog"))
    found = by_names(replace(said, phrases=(*phrases, NounPhrase("someone", ("old",)))), NAMES)
    assert found.nouns == pytest.approx({"man": 0.75, "dog": 0.25})
    assert found.phrases == (NounPhrase("man", ("tall",)), NounPhrase("dog"), NounPhrase("man", ("old",)))
    weights = PLAIN.model_copy(update={"names": NAMES})
    both = [by_names(each, NAMES) for each in (said, evidence({"woman": 1.0}), evidence({"person": 1.0}))]
    view = Posterior(weights, both, np.ones(3))
    person, guy, woman = (view.fits(NounPhrase(noun)) for noun in ("person", "guy", "woman"))
    assert person[1] == person[2] == pytest.approx(1.0)
    assert guy == pytest.approx(view.fits(NounPhrase("man")))
    # Who is a "person" alone may be a woman: she is neither there nor absent.
    assert 0.4 < woman[2] < 0.6


def test_a_stray_narrower_noun_names_no_mask_that_has_a_wider_name():
    said = evidence({"person": 0.95, "man": 0.03, "woman": 0.02})
    assert by_names(said, NAMES).nouns == pytest.approx(said.nouns)
    view = Posterior(PLAIN.model_copy(update={"names": NAMES}), [by_names(said, NAMES)], np.ones(1))
    person, man = (view.fits(NounPhrase(noun))[0] for noun in ("person", "man"))
    assert person == pytest.approx(1.0)
    assert man < 0.6


DRAW = CaptionSample("masked", "top_p", None, 0.9, -2.0)


def said(text, count, noun=None, *, score=None, correctness=None):
    return ExpressionRecord(("m",), text, (DRAW,) * count, head_noun=noun, caption_score=score, correctness=correctness)


def phrase(text):
    *words, noun = text.split()
    return NounPhrase(noun, tuple(words))


def test_nouns_are_shares_of_what_names_one_and_words_of_what_is_a_noun_phrase():
    found = evidence_of(
        [
            said("red dog", 6, "dog", correctness=0.8),
            said("cat", 2, "cat"),
            said("dog is running", 2, "dog", correctness=0.8),
            said("it", 9),
        ],
        "draws",
    )
    assert found.nouns == {"cat": 0.2, "dog": 0.8}
    assert found.words == {"red": 0.6, "running": 0.2}
    assert found.correctness == {"dog": 0.8, "cat": 0.0}
    assert [each.text for each in found.phrases] == ["red dog", "cat", "running dog"]


def test_what_is_said_of_several_is_evidence_and_names_no_mask():
    found = evidence_of([said("two red dogs", 4, "dogs"), said("dogs", 1, "dogs")], "draws")
    assert (found.words, found.phrases) == ({"red": 0.8}, ())


def test_probabilities_count_in_place_of_draws():
    rows = [said("dog", 1, "dog", score=math.log(0.3)), said("cat", 9, "cat", score=math.log(0.1))]
    assert evidence_of(rows, "probability").nouns == pytest.approx({"cat": 0.25, "dog": 0.75})
    assert evidence_of(rows, "draws").nouns == pytest.approx({"cat": 0.9, "dog": 0.1})
    # A score far below what a float's exponential holds is a share of the likeliest all the same.
    low = [said("dog", 1, "dog", score=-900.0), said("cat", 1, "cat", score=-900.0)]
    assert evidence_of(low, "probability").nouns == {"cat": 0.5, "dog": 0.5}


def test_words_said_in_one_place_and_never_together_replace_each_other():
    found = substitutes(map(phrase, ["red star", "blue star", "dotted star", "red dotted star", "small heart", "star"]))
    # Dotted is said with red, so it is no other colour; nobody said blue and dotted of one thing.
    assert found == {"red": {"blue"}, "blue": {"red", "dotted"}, "dotted": {"blue"}}
    more = substitutes(map(phrase, ["red star", "blue star", "dotted star", "red dotted star", "dotted blue star"]))
    assert more == {"red": {"blue"}, "blue": {"red"}}


def test_a_word_does_not_replace_one_that_says_more():
    shirts = [NounPhrase("man", (), (each,)) for each in ("in red", "in a red shirt", "with a hat", "without a hat")]
    found = substitutes(shirts)
    assert "red shirt" not in found["red"]
    assert "without hat" in found["hat"]


def test_words_of_different_nouns_do_not_replace_each_other():
    assert substitutes(map(phrase, ["red star", "blue heart"])) == {}
    # But in the same place of longer phrases.
    assert substitutes(map(phrase, ["small red star", "small blue star"])) == {"red": {"blue"}, "blue": {"red"}}
