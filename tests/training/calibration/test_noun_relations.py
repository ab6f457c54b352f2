"""Names of one thing and wider names are learnt from what is drawn together, and confused names are not merged."""

import numpy as np

from pseudoris.training.calibration.noun_relations import noun_relations
from pseudoris.workers.composing.posterior import Evidence

RNG = np.random.default_rng(0)


def masks_of(number, shares, correctness):
    """Masks of one thing: the shares of its names, jittered, and the scorer's mark of each."""
    for _ in range(number):
        drawn = {name: share * RNG.uniform(0.7, 1.3) for name, share in shares.items()}
        total = sum(drawn.values())
        marks = {name: correctness[name] + RNG.normal(0.0, 0.01) for name in drawn}
        yield Evidence({name: share / total for name, share in drawn.items()}, marks, {}, ())


def test_two_names_of_one_thing_are_one_and_a_wider_name_covers_what_it_is_drawn_beside():
    found = noun_relations(
        [
            *masks_of(30, {"man": 0.6, "guy": 0.25, "person": 0.15}, {"man": 0.7, "guy": 0.69, "person": 0.68}),
            *masks_of(30, {"woman": 0.8, "person": 0.2}, {"woman": 0.7, "person": 0.68}),
            *masks_of(30, {"dog": 1.0}, {"dog": 0.5}),
        ]
    )
    assert found.same == (("man", "guy"),)
    assert {name: set(names) for name, names in found.wider.items()} == {"person": {"man", "woman"}}
    assert found.truth["person"] == dict.fromkeys(("man", "woman", "person"), 1.0)


def test_names_that_the_scorer_tells_apart_are_confused_and_not_one():
    # Each circle is called a ring now and then, and each ring a circle.
    found = noun_relations(
        [
            *masks_of(30, {"circle": 0.85, "ring": 0.15}, {"circle": 0.7, "ring": 0.55}),
            *masks_of(30, {"ring": 0.85, "circle": 0.15}, {"circle": 0.55, "ring": 0.7}),
        ]
    )
    assert (found.same, dict(found.wider)) == ((), {})


def test_names_that_meet_only_where_a_mask_is_unclear_are_not_one():
    found = noun_relations(
        [
            *masks_of(30, {"boat": 1.0}, {"boat": 0.6}),
            *masks_of(30, {"moon": 1.0}, {"moon": 0.6}),
            *masks_of(6, {"boat": 0.5, "moon": 0.5}, {"boat": 0.6, "moon": 0.6}),
        ]
    )
    assert (found.same, dict(found.wider)) == ((), {})


def test_few_masks_and_a_name_beside_one_thing_alone_say_nothing():
    few = noun_relations(list(masks_of(4, {"man": 0.6, "guy": 0.4}, {"man": 0.7, "guy": 0.7})))
    alone = masks_of(30, {"tail": 1.0}, {"tail": 0.69})
    part = noun_relations([*masks_of(30, {"dog": 0.85, "tail": 0.15}, {"dog": 0.7, "tail": 0.69}), *alone])
    assert (few.same, few.wider) == ((), {})
    assert part.wider == {}
    assert noun_relations([]).same == ()


def test_a_wrong_noun_that_is_drawn_for_every_mask_of_another_is_not_one_with_it_even_without_a_scorer():
    flat = dict.fromkeys(("man", "guy", "boy", "girl", "person"), 0.0)
    found = noun_relations(
        [
            *masks_of(40, {"man": 0.65, "guy": 0.24, "boy": 0.06, "person": 0.05}, flat),
            *masks_of(6, {"boy": 0.85, "man": 0.1, "person": 0.05}, flat),
            *masks_of(20, {"girl": 0.95, "person": 0.05}, flat),
        ]
    )
    assert found.same == (("man", "guy"),)
    assert {name: set(names) for name, names in found.wider.items()} == {"person": {"man", "boy", "girl"}}


def test_a_name_that_the_scorer_prefers_where_it_is_drawn_more_is_confused_with_two_things_and_not_wider():
    marks = dict.fromkeys(("circle", "moon"), 0.55)
    found = noun_relations(
        [
            *masks_of(30, {"circle": 0.8, "ring": 0.2}, {"circle": 0.7, "ring": 0.55}),
            *masks_of(30, {"moon": 0.8, "ring": 0.2}, {"moon": 0.7, "ring": 0.55}),
            *masks_of(30, {"ring": 0.8, "circle": 0.1, "moon": 0.1}, {"ring": 0.7, **marks}),
        ]
    )
    assert (found.same, found.wider) == ((), {})


def test_a_name_that_is_drawn_beside_two_things_is_wider_than_the_more_frequent_one():
    flat = dict.fromkeys(("boy", "girl", "kid"), 0.6)
    found = noun_relations(
        [*masks_of(40, {"girl": 0.7, "kid": 0.3}, flat), *masks_of(8, {"boy": 0.7, "kid": 0.3}, flat)]
    )
    assert (found.same, {name: set(each) for name, each in found.wider.items()}) == ((), {"kid": {"boy", "girl"}})
