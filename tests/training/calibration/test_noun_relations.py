"""Names of one thing and wider names are learnt from what is drawn together, and confused names are not merged."""

import numpy as np
import pytest

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


def flat(*names, mark=0.0):
    return dict.fromkeys(names, mark)


MARKS = flat("circle", "moon", mark=0.55)
# Masks, pairs of names that are one, and the names that a wider one covers.
CASES = {
    "names that the scorer tells apart are confused: each circle is called a ring now and then": (
        [
            (30, {"circle": 0.85, "ring": 0.15}, {"circle": 0.7, "ring": 0.55}),
            (30, {"ring": 0.85, "circle": 0.15}, {"circle": 0.55, "ring": 0.7}),
        ],
        (),
        {},
    ),
    "names that meet only where a mask is unclear": (
        [
            (30, {"boat": 1.0}, {"boat": 0.6}),
            (30, {"moon": 1.0}, {"moon": 0.6}),
            (6, {"boat": 0.5, "moon": 0.5}, {"boat": 0.6, "moon": 0.6}),
        ],
        (),
        {},
    ),
    "a wrong noun that is drawn for every mask of another, without a scorer": (
        [
            (40, {"man": 0.65, "guy": 0.24, "boy": 0.06, "person": 0.05}, flat("man", "guy", "boy", "person")),
            (6, {"boy": 0.85, "man": 0.1, "person": 0.05}, flat("boy", "man", "person")),
            (20, {"girl": 0.95, "person": 0.05}, flat("girl", "person")),
        ],
        (("man", "guy"),),
        {"person": {"man", "boy", "girl"}},
    ),
    "a name that the scorer prefers where it is drawn more is confused with two things, and not wider": (
        [
            (30, {"circle": 0.8, "ring": 0.2}, {"circle": 0.7, "ring": 0.55}),
            (30, {"moon": 0.8, "ring": 0.2}, {"moon": 0.7, "ring": 0.55}),
            (30, {"ring": 0.8, "circle": 0.1, "moon": 0.1}, {"ring": 0.7, **MARKS}),
        ],
        (),
        {},
    ),
    "a name that is drawn beside two things is wider than the more frequent one": (
        [
            (40, {"girl": 0.7, "kid": 0.3}, flat("girl", "kid", mark=0.6)),
            (8, {"boy": 0.7, "kid": 0.3}, flat("boy", "kid", mark=0.6)),
        ],
        (),
        {"kid": {"boy", "girl"}},
    ),
    "two names of one thing are one, and a wider name covers what it is drawn beside": (
        [
            (30, {"man": 0.6, "guy": 0.25, "person": 0.15}, {"man": 0.7, "guy": 0.69, "person": 0.68}),
            (30, {"woman": 0.8, "person": 0.2}, {"woman": 0.7, "person": 0.68}),
            (30, {"dog": 1.0}, {"dog": 0.5}),
        ],
        (("man", "guy"),),
        {"person": {"man", "woman"}},
    ),
    "a name beside one thing alone is not wider": (
        [(30, {"dog": 0.85, "tail": 0.15}, {"dog": 0.7, "tail": 0.69}), (30, {"tail": 1.0}, {"tail": 0.69})],
        (),
        {},
    ),
    "few masks": ([(4, {"man": 0.6, "guy": 0.4}, {"man": 0.7, "guy": 0.7})], (), {}),
    "none": ([], (), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_names_are_one_or_wider(case):
    masks, same, wider = CASES[case]
    found = noun_relations([each for given in masks for each in masks_of(*given)])
    assert (found.same, {name: set(names) for name, names in found.wider.items()}) == (same, wider)
    # What is drawn of a thing is as true of a name that covers it.
    for name, names in wider.items():
        assert found.truth[name] == dict.fromkeys((*names, name), 1.0)
