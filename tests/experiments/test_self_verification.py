"""Cross-fitted self-verification: who may ground what, and a comparison at equal numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from experiments.self_verification import NUM_FOLDS, FoldedStudents, Grounded, compare, fitted, fold_of
from pseudoris.schemas.ids import sha256_hex
from pseudoris.training.chooser.chooser_training import Choice
from pseudoris.training.evaluation.held_out import ImageQuestion

KEYS = [sha256_hex(bytes([number])) for number in range(40)]


class Sure:
    """A student that gives the first of two masks 3 of 4."""

    def choose(self, image_key, image, texts):
        masks = torch.zeros(2, 2, 2, dtype=torch.bool)
        masks[0, 0], masks[1, 1] = True, True
        return Choice(torch.tensor([[0.75, 0.25]] * len(texts)), masks)


def question(image_key, *masks):
    stacked = torch.tensor(masks, dtype=torch.bool)
    return ImageQuestion("id", torch.zeros(3, 2, 2), ["a text"] * len(masks), stacked, ["id-0"] * len(masks), image_key)


def students():
    seen = [frozenset(key for key in KEYS if fold_of(key) != fold) for fold in range(NUM_FOLDS)]
    return FoldedStudents([Sure() for _ in range(NUM_FOLDS)], seen)


def test_a_student_of_another_fold_never_grounds_an_image_that_it_saw() -> None:
    folded = students()
    assert {fold_of(key) for key in KEYS} == set(range(NUM_FOLDS))
    assert all(folded.of(key) is folded.students[fold_of(key)] for key in KEYS)
    leaking = FoldedStudents(folded.students, [frozenset(KEYS)] * NUM_FOLDS)
    with pytest.raises(ValueError, match="has seen image"):
        leaking.covers(question(KEYS[0], [[True, True], [False, False]]))


def test_what_covers_is_the_chosen_mask_and_the_expected_one() -> None:
    top, all_of_it = [[True, True], [False, False]], [[True, True], [True, True]]
    assert students().covers(question(KEYS[0], top, all_of_it)).tolist() == [[1.0, 0.75], [0.5, 0.5]]


def scene(rng: np.random.Generator) -> Grounded:
    right = rng.random(12) < 0.7
    covers = np.where(right, 0.9, 0.1)[:, None].repeat(2, 1) + 0.05 * rng.standard_normal((12, 2))
    composed = rng.random(12) < 0.5
    return Grounded(rng.random(12), composed, covers, right, np.arange(12) // 2, num_masks=6, num_objects=6)


def test_a_feature_that_tells_right_from_wrong_gains_at_an_equal_number() -> None:
    rng = np.random.default_rng(0)
    fit, fresh = ([scene(rng) for _ in range(20)] for _ in range(2))
    rankers = {name: fitted(fit, is_verified=name == "after") for name in ("before", "after")}

    found = compare(fresh, rankers, 1.0)

    assert found["before"]["yield"]["value"] == pytest.approx(found["after"]["yield"]["value"])
    assert found["after"]["accuracy"]["value"] == 1.0
    assert found["gain"]["accuracy"]["low"] > 0
    # Of equal ranks no more are kept than asked for.
    alike = compare(fresh, {"before": rankers["before"], "after": lambda each: np.zeros(12)}, 1.0)
    assert alike["gain"]["yield"]["value"] == 0
    assert compare(fresh, dict.fromkeys(("before", "after"), rankers["before"]), 1.0)["gain"]["accuracy"]["value"] == 0
