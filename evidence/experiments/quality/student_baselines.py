"""Baselines without training that a student must beat: a random proposed mask, and CLIP's choice with rules of places.

All choose among the masks that a run proposed for the image, so that none knows the true masks. `Ceiling` alone reads
the truth: it answers with the best of them. They are evaluated on the same expressions by the same evaluator as a
student: `pseudoris.training.evaluation.held_out.evaluate`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.primitives import rle
from pseudoris.primitives.counter_rng import draw_below, key_of
from pseudoris.training.evaluation.answerers import ClipChoice, Proposals, chosen_masks
from pseudoris.training.evaluation.held_out import ImageQuestion

_LEFT, _RIGHT, _UP, _DOWN = (-1.0, 0.0), (1.0, 0.0), (0.0, -1.0), (0.0, 1.0)
_RELATIONS: Final = (
    (r"\b(?:to the )?left of\b", _LEFT),
    (r"\b(?:to the )?right of\b", _RIGHT),
    (r"\b(?:above|over|on top of)\b", _UP),
    (r"\b(?:below|under|beneath|underneath)\b", _DOWN),
)
_ENDS: Final = (
    (r"\b(?:left|leftmost)\b", _LEFT),
    (r"\b(?:right|rightmost)\b", _RIGHT),
    (r"\b(?:top|topmost|upper)\b", _UP),
    (r"\b(?:bottom|bottommost|lower)\b", _DOWN),
)
# "The left of the two stars" orders a row: it relates to no anchor.
_OF_SO_MANY: Final = re.compile(r"\bof the (?:two|three|four|five|six)\b")
# "On the left", "from the top", "in the middle".
_PLACES: Final = re.compile(r"\b(?:on|at|in|from|to) the (?:left|right|top|bottom|middle|center|centre)\b(?: side)?")
_ORDER: Final = re.compile(
    r"\b(?:left|right|top|bottom|upper|lower|middle|leftmost|rightmost|topmost|bottommost|first|second|third|fourth"
    r"|of the (?:two|three|four|five|six))\b"
)
_RANKS: Final = {"second": 1, "third": 2, "fourth": 3}


@dataclass(frozen=True, slots=True)
class Place:
    """What an expression says of where its object is.

    Attributes:
        direction: (x, y) in which the object lies furthest, or lies from the anchor; None if it names no place.
        rank: How many of its kind lie further in that direction.
        anchor: The words of the object that it is related to; None without a relation.
    """

    direction: tuple[float, float] | None = None
    rank: int = 0
    anchor: str | None = None


def read_place(text: str) -> Place:
    """Return the place that an expression names first."""
    if not _OF_SO_MANY.search(text):
        for pattern, direction in _RELATIONS:
            found = re.search(pattern, text)
            if found is not None:
                return Place(direction, anchor=text[found.end() :].strip())
    for pattern, direction in _ENDS:
        if re.search(pattern, text):
            rank = next((rank for word, rank in _RANKS.items() if re.search(rf"\b{word}\b", text)), 0)
            return Place(direction, rank)
    return Place()


def head_phrase(text: str) -> str:
    """Return the words that describe the object itself: without a place, an order, a number or an anchor."""
    if not _OF_SO_MANY.search(text):
        for pattern, _ in _RELATIONS:
            text = re.split(pattern, text, maxsplit=1)[0]
    left = _PLACES.sub(" ", text)
    return " ".join(_ORDER.sub(" ", left).split())


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
