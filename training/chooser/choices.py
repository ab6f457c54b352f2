"""The chooser's answers, and its threshold for "no mask", fitted to development scenes. For `chooser_training`.

Masks and "none of these" share one probability of 1. An answer without a mask is an empty mask, never a missing row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F

from pseudoris.training.evaluation.held_out import HeldOutExpressions
from pseudoris.training.metrics import ious_of, pixel_counts

# If several masks may be the answer, a further mask needs the first share of the likeliest one's probability. It may
# overlap each mask chosen before by less than the second share of the smaller of the two.
_COMPANION_SHARE, _COMPANION_APART = 0.5, 0.5
# The fit's loss contains the squared coefficients times this. The fit's inputs have a standard deviation of 1.
_RIDGE: Final = 1e-3


@dataclass(frozen=True, slots=True)
class Choice:
    """An answer to T expressions of an image of N candidates, masks (N, H, W) bool.

    Attributes:
        probabilities: (T, N) float32, of each candidate to be what is meant; with that of `none` they add up to 1.
        none: (T,) float32, the probability that no mask is meant; None of a student that never learnt that.
        min_none: From which on that is the answer; None: where it is likelier than every mask.
        is_of_several: Whether masks that are nearly as likely as the likeliest one, and apart from it, are chosen too.
        levels: As of `ChooserInput`, where `none` is; None of an image without candidates.
    """

    probabilities: torch.Tensor
    masks: torch.Tensor
    none: torch.Tensor | None = None
    min_none: float | None = None
    is_of_several: bool = False
    levels: torch.Tensor | None = None

    @property
    def is_absent(self) -> torch.Tensor:
        """Whether the answer is that no mask is meant, (T,) bool."""
        if self.none is None:
            return torch.zeros(len(self.probabilities), dtype=torch.bool)
        if self.min_none is not None:
            return self.none >= self.min_none
        return self.none > F.pad(self.probabilities, (1, 0)).amax(1)

    @property
    def numbers(self) -> list[list[int]]:
        """The candidates chosen, by expression, whether or not `is_absent`; none where there are no candidates."""
        if len(self.masks) and not self.is_of_several:
            return [[number] for number in self.probabilities.argmax(1).tolist()]
        found: list[list[int]] = [[] for _ in self.probabilities]
        for own, numbers in zip(self.probabilities, found, strict=True):
            for number in own.argsort(descending=True).tolist():
                if own[number] < _COMPANION_SHARE * own.max():
                    break
                mask, others = self.masks[number], self.masks[numbers]
                smaller = others.flatten(1).sum(1).clamp(max=mask.sum())
                if ((mask & others).flatten(1).sum(1) < _COMPANION_APART * smaller).all():
                    numbers.append(number)
        return found

    @property
    def likeliest(self) -> torch.Tensor:
        """The masks chosen, whether or not `is_absent`, (T, H, W) bool; empty where there are no candidates."""
        chosen = self.masks.new_zeros(len(self.probabilities), *self.masks.shape[1:])
        for mask, numbers in zip(chosen, self.numbers, strict=True):
            for number in numbers:
                mask |= self.masks[number]
        return chosen

    @property
    def chosen(self) -> torch.Tensor:
        """The answers, (T, H, W) bool; empty where there are no candidates, and where no mask is meant."""
        return self.likeliest & ~self.is_absent[:, None, None]


def trusted_levels(choose: Callable[..., Choice], held_out: HeldOutExpressions) -> torch.Tensor | None:
    """Return what the levels of the cosines, and a constant, shall add to the logit of "none of these", (2 · S + 1,).

    A logistic regression predicts from logit and levels whether an expression has no target. Only their ratio counts:
    the threshold is chosen afterwards. None if all have a target, or none has. 0 where the logit says nothing.
    """
    rows = []
    for question in held_out:
        choice = choose(question.image_key, question.image, question.texts)
        if choice.none is not None and choice.levels is not None:
            logit = choice.none.double().logit(eps=1e-9)[:, None]
            is_absent = ~question.masks.flatten(1).any(1)[:, None]
            rows.append(torch.cat([is_absent.double(), logit, choice.levels.double()], 1))
    found = torch.cat(rows) if rows else torch.zeros(0, 2, dtype=torch.float64)
    is_absent, given = found[:, 0], found[:, 1:]
    if not 0 < is_absent.sum() < len(is_absent):
        return None
    spread, mean = given.std(0).clamp(min=1e-6), given.mean(0)
    scaled = F.pad((given - mean) / spread, (0, 1), value=1.0)
    weights = torch.zeros(scaled.shape[1], dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimiser.zero_grad()
        fit = F.binary_cross_entropy_with_logits(scaled @ weights, is_absent) + _RIDGE * weights.square().sum()
        fit.backward()  # type: ignore[no-untyped-call]
        return fit

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    of_logit, *of_levels = (weights.detach()[:-1] / spread).tolist()
    if of_logit <= 0:
        return torch.zeros(len(of_levels) + 1)
    ratio = torch.tensor(of_levels, dtype=torch.float64) / of_logit
    # The last coefficient, a constant, subtracts what the levels add on average, so that the mean logit stays.
    return torch.cat([ratio, -(ratio @ mean[1:])[None]]).float()


def least_none(choose: Callable[..., Choice], held_out: HeldOutExpressions) -> float | None:
    """Return the probability from which on "none of these" is to be the answer; None if every expression has a target.

    With it the mean IoU over all held-out expressions is highest, GRES's gIoU (`pseudoris.training.metrics`).
    """
    parts = []
    for question in held_out:
        choice = choose(question.image_key, question.image, question.texts)
        rows = pixel_counts(choice.likeliest, question.masks)
        none = np.zeros(len(rows)) if choice.none is None else choice.none.double().numpy()
        parts.append(np.stack([none, np.where(rows[:, 3] > 0, -ious_of(rows), 1.0)], 1))
    # `gained` is what the answer "none of these" gains: 1 for an expression without a target, else minus its IoU.
    none, gained = np.concatenate(parts).T
    if not (gained == 1).any():
        return None
    order = np.argsort(-none, kind="stable")
    none, gained = none[order], np.concatenate(([0.0], np.cumsum(gained[order])))
    # A bound lies between two neighbouring probabilities that differ, or above all probabilities, or below all.
    bounds = np.concatenate(([1.0 + none[0]], none, [0.0]))
    middles = (bounds[:-1] + bounds[1:]) / 2
    return float(middles[np.where(bounds[:-1] > bounds[1:], gained, -np.inf).argmax()])
