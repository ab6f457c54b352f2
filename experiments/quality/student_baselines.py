"""Baselines without training that a student must beat: a random proposed mask, and CLIP's choice with rules of places.

All choose among the masks that a run proposed for the image, so that none knows the true masks. `Ceiling` alone reads
the truth: it answers with the best of them. They are evaluated on the same expressions by the same evaluator as a
student: `pseudoris.training.evaluation.held_out.evaluate`.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.quality.place_words import Place, read_place
from pseudoris.training.evaluation.answerers import ClipChoice, Proposals, chosen_masks
from pseudoris.training.evaluation.held_out import ImageQuestion
from pseudoris.workers.counter_rng import draw_below, key_of
from pseudoris.workers.masks import rle


class RandomBaseline:
    """Answers with any of the proposed masks, each as likely as the others."""

    def __init__(self, proposals: Proposals, *, seed: int = 0) -> None:
        """Take the masks; a draw depends on the seed, the image and the text alone."""
        self._proposals, self._seed = proposals, seed

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._proposals(question)
        if not masks:
            return torch.zeros_like(question.masks)
        keys = (key_of("floor", self._seed, question.image_id, text) for text in question.texts)
        return chosen_masks(masks, [draw_below(key, 0, len(masks)) for key in keys])


class PlaceRules:
    """The head noun's choice, and where an expression names a place, the end of those masks that may be the noun.

    Hand-written: words of a place, of an order and of a relation. A mask may be the noun if its score is at most
    `margin` below the best.
    """

    def __init__(self, nouns: ClipChoice, proposals: Proposals, *, margin: float) -> None:
        """Take the head noun's choice and its masks."""
        self._nouns, self._proposals, self._margin = nouns, proposals, margin

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._proposals(question)
        if not masks:
            return torch.zeros_like(question.masks)
        places = [read_place(text) for text in question.texts]
        named = [place.anchor or text for place, text in zip(places, question.texts, strict=True)]
        scores, anchors = (self._nouns.scores(question, texts) for texts in (question.texts, named))
        boxes = np.array([mask.box_xyxy_px for mask in masks], np.float64)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        rows = zip(places, scores, anchors.argmax(1).tolist(), strict=True)
        return chosen_masks(masks, [self._choose(place, own, centres, anchor) for place, own, anchor in rows])

    def _choose(self, place: Place, scores: NDArray[np.float32], centres: NDArray[np.float64], anchor: int) -> int:
        if place.direction is None:
            return int(scores.argmax())
        along = centres @ np.array(place.direction)
        may_be = np.flatnonzero(scores >= scores.max() - self._margin)
        if place.anchor is not None:
            beyond = may_be[along[may_be] > along[anchor]]
            among = beyond if len(beyond) else may_be
            return int(among[scores[among].argmax()])
        in_order = may_be[np.argsort(-along[may_be], kind="stable")]
        return int(in_order[min(place.rank, len(in_order) - 1)])


class Ceiling:
    """Answers with the proposed mask that is nearest to the truth: what no choice among them can exceed."""

    def __init__(self, proposals: Proposals) -> None:
        """Take the masks."""
        self._proposals = proposals

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return the best mask for each expression, (T, H, W) bool; it reads the masks of the question."""
        masks = self._proposals(question)
        if not masks:
            return torch.zeros_like(question.masks)
        ious = rle.ious(rle.encode(question.masks), [mask.rle_counts for mask in masks], masks[0].rle_size)
        return chosen_masks(masks, ious.argmax(1).tolist())
