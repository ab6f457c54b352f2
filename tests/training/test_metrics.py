from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pseudoris.training.metrics import figures_of, ious_of, pixel_counts


def row(*pixels: int, width: int = 10) -> torch.Tensor:
    """Return a mask (1, width) with these pixels."""
    mask = torch.zeros(1, width, dtype=torch.bool)
    mask[0, list(pixels)] = True
    return mask


def plain_figures(pairs: list[tuple[np.ndarray, np.ndarray]]) -> dict[str, float]:
    """The definitions, pixel by pixel."""
    ious, every, absences, intersections, unions = [], [], [], 0, 0
    for guess, truth in pairs:
        inter = sum(1 for a, b in zip(guess.flat, truth.flat, strict=True) if a and b)
        union = sum(1 for a, b in zip(guess.flat, truth.flat, strict=True) if a or b)
        intersections, unions = intersections + inter, unions + union
        every.append(1.0 if union == 0 else inter / union)
        if truth.any():
            ious.append((every[-1], guess.any()))
        else:
            absences.append(not guess.any())
    of_target = {f"p@{at}": sum(iou > at for iou, _ in ious) for at in (0.3, 0.5, 0.6, 0.7, 0.8, 0.9)}
    of_target |= {"miou": sum(iou for iou, _ in ious), "target_accuracy": sum(is_said for _, is_said in ious)}
    return {
        "oiou": intersections / unions if unions else 1.0,
        "giou": sum(every) / len(every),
        "no_target_accuracy": sum(absences) / len(absences) if absences else math.nan,
        **{name: each / len(ious) if ious else math.nan for name, each in of_target.items()},
    }


def test_hand_values():
    # IoU 2/4, 1/1 and 0/2: one on a threshold, which does not pass it.
    rows = np.concatenate(
        [
            pixel_counts(row(0, 1, 2), row(1, 2, 3)),
            pixel_counts(torch.stack([row(5), row(0)]), torch.stack([row(5), row(9)])),
        ]
    )
    assert ious_of(rows).tolist() == [0.5, 1.0, 0.0]
    figures = figures_of(rows)
    assert math.isnan(figures.pop("no_target_accuracy"))
    precision = {"p@0.3": 2 / 3, "p@0.5": 1 / 3, "p@0.6": 1 / 3, "p@0.7": 1 / 3, "p@0.8": 1 / 3, "p@0.9": 1 / 3}
    assert figures == pytest.approx({"oiou": 3 / 7, "giou": 0.5, "miou": 0.5, **precision, "target_accuracy": 1.0})


def test_nothing_counted_is_no_figure():
    assert all(map(math.isnan, figures_of(np.zeros((0, 4), np.int64)).values()))


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_figures_are_those_of_the_plain_definition_in_any_parts(count, seed):
    rng = np.random.default_rng(seed)
    # With whole masks, and with none at all, among them.
    guess, truth = rng.random((2, count, 3, 4)) < rng.choice([0.0, 0.3, 0.7, 1.0], size=(2, count, 1, 1))
    whole = pixel_counts(torch.from_numpy(guess), torch.from_numpy(truth))
    parts = [pixel_counts(torch.from_numpy(guess[at]), torch.from_numpy(truth[at])) for at in rng.permutation(count)]
    expected = plain_figures(list(zip(guess, truth, strict=True)))
    for rows in (whole, np.concatenate(parts)):
        found = figures_of(rows)
        assert found == pytest.approx(expected, nan_ok=True)


@given(st.integers(1, 6), st.integers(0, 2**32 - 1))
def test_a_missing_answer_is_never_better_than_any_other_and_an_empty_one_never_worse_than_none(count, seed):
    rng = np.random.default_rng(seed)
    # With whole masks, and with none at all, among them.
    shares = rng.choice([0.0, 0.3, 0.7, 1.0], size=(2, count, 1, 1))
    guess, truth = (torch.from_numpy(each) for each in rng.random((2, count, 3, 4)) < shares)
    before, also = rng.random((2, count)) < 0.5
    emptied = guess & ~torch.from_numpy(before | also)[:, None, None]
    missing = figures_of(pixel_counts(emptied, truth, before | also))
    for name, answers in {"any": guess, "empty": emptied}.items():
        answered = figures_of(pixel_counts(answers, truth, before))
        # nan where nothing is counted, which no answer changes.
        assert all(math.isnan(value) or value <= answered[each] for each, value in missing.items()), name


@pytest.mark.parametrize(
    ("guess", "truth", "message"),
    [
        (torch.zeros(2, 2), torch.zeros(2, 2, dtype=torch.bool), "Threshold them to bool"),
        (row().T, row(), r"shape \(10, 1\), the target \(1, 10\)"),
    ],
)
def test_masks_that_cannot_be_compared_are_refused(guess, truth, message):
    with pytest.raises(ValueError, match=message):
        pixel_counts(guess, truth)
