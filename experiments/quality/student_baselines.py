"""Baselines without training that a student must beat: a random proposed mask, and CLIP's choice in three ways.

All choose among the masks that a run proposed for the image, so that none knows the true masks. `Ceiling` alone reads
the truth: it answers with the best of them. They are evaluated on the same expressions by the same evaluator as a
student: `pseudoris.training.learning.evaluator.evaluate`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from experiments.quality.place_words import Place, read_place
from pseudoris.schemas.config import ComputeConfig, FilterConfig
from pseudoris.training.learning.evaluator import ImageQuestion
from pseudoris.workers.counter_rng import draw_below, key_of
from pseudoris.workers.crops.crops import make_crops
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.masks import rle

# Of what one CLIP sees of a mask: its box grown by 1.2, as the method's uniqueness does (section 4).
_CONTEXT_SCALE = 1.2


@dataclass(frozen=True, slots=True)
class BaselineMask:
    """A mask that a run proposed.

    Attributes:
        size: (H, W) of the upright image.
        counts: COCO compressed RLE.
        box_xyxy_px: Tight box.
    """

    size: tuple[int, int]
    counts: str
    box_xyxy_px: tuple[int, int, int, int]


class BaselineMasks:
    """Masks by image, in the proposer's order."""

    def __init__(self, of_image: Mapping[str, list[BaselineMask]]) -> None:
        """Take masks by image id."""
        self._of_image = of_image

    def of(self, image_id: str) -> list[BaselineMask]:
        """Return the masks of an image; none where there are none."""
        return self._of_image.get(image_id, [])


class RandomBaseline:
    """Answers with any of the proposed masks, each as likely as the others."""

    def __init__(self, proposed: BaselineMasks, *, seed: int = 0) -> None:
        """Take the masks; a draw depends on the seed, the image and the text alone."""
        self._proposed, self._seed = proposed, seed

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._proposed.of(question.image_id)
        if not masks:
            return torch.zeros_like(question.masks)
        keys = (key_of("floor", self._seed, question.image_id, text) for text in question.texts)
        return _chosen(masks, [draw_below(key, 0, len(masks)) for key in keys])


class CropScores:
    """The cosines of texts with the crops of the proposed masks, by the CLIP of a run's filter.

    `context` is the box grown by 1.2, `masked` the tight box with all else blanked, `both` the sum of the two cosines.
    An image's crops are seen once.
    """

    def __init__(
        self, proposed: BaselineMasks, filtering: FilterConfig, compute: ComputeConfig, *, crops: str = "both"
    ) -> None:
        """Load the CLIP.

        Raises:
            ConfigError: Its weights are missing.
            ValueError: There are no such crops.
        """
        kinds: dict[str, tuple[float | None, ...]] = {
            "context": (_CONTEXT_SCALE,),
            "masked": (None,),
            "both": (_CONTEXT_SCALE, None),
        }
        if crops not in kinds:
            raise ValueError(f"crops is {crops!r}: give one of {', '.join(kinds)}")
        self.proposed = proposed
        self._scales = kinds[crops]
        self._embedder = ClipEmbedder(filtering, compute)
        self._seen: dict[str, torch.Tensor] = {}

    def __call__(self, question: ImageQuestion, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the score of each text with each mask of the image, (T, N); it has at least one."""
        if question.image_id not in self._seen:
            self._seen[question.image_id] = self._embedded(question)
        found = self._embedder.embed_texts(list(texts)) @ self._seen[question.image_id].T
        return np.asarray(found.cpu().numpy(), np.float32)

    def _embedded(self, question: ImageQuestion) -> torch.Tensor:
        """The sum over crops of a mask's embeddings, (N, D)."""
        masks = self.proposed.of(question.image_id)
        crops = make_crops(
            np.ascontiguousarray(question.image.permute(1, 2, 0).numpy()),
            [mask.box_xyxy_px for mask in masks],
            runs=[rle.runs(mask.counts) for mask in masks],
            scales=self._scales,
            crop_format=self._embedder.crop_format,
            device=self._embedder.device,
        )
        return self._embedder.embed_crops([crops.flatten(0, 1)]).view(len(self._scales), len(masks), -1).sum(0)


class ClipBaseline:
    """Answers with the proposed mask that a CLIP of crops likes best."""

    def __init__(self, scores: CropScores, *, asked: Callable[[str], str] = str) -> None:
        """Take the scores, and what turns an expression into the text that CLIP is asked."""
        self._scores, self._asked = scores, asked

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._scores.proposed.of(question.image_id)
        if not masks:
            return torch.zeros_like(question.masks)
        return _chosen(masks, self.scores(question, question.texts).argmax(1).tolist())

    def scores(self, question: ImageQuestion, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the score of each text with each mask of the image, (T, N)."""
        return self._scores(question, [self._asked(text) for text in texts])


class PlaceRules:
    """The head noun's choice, and where an expression names a place, the end of those masks that may be the noun.

    Hand-written: words of a place, of an order and of a relation. A mask may be the noun if its score is at most
    `margin` below the best.
    """

    def __init__(self, nouns: ClipBaseline, proposed: BaselineMasks, *, margin: float) -> None:
        """Take the head noun's choice and its masks."""
        self._nouns, self._proposed, self._margin = nouns, proposed, margin

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._proposed.of(question.image_id)
        if not masks:
            return torch.zeros_like(question.masks)
        places = [read_place(text) for text in question.texts]
        named = [place.anchor or text for place, text in zip(places, question.texts, strict=True)]
        scores, anchors = (self._nouns.scores(question, texts) for texts in (question.texts, named))
        boxes = np.array([mask.box_xyxy_px for mask in masks], np.float64)
        centres = (boxes[:, :2] + boxes[:, 2:]) / 2
        rows = zip(places, scores, anchors.argmax(1).tolist(), strict=True)
        return _chosen(masks, [self._choose(place, own, centres, anchor) for place, own, anchor in rows])

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

    def __init__(self, proposed: BaselineMasks) -> None:
        """Take the masks."""
        self._proposed = proposed

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return the best mask for each expression, (T, H, W) bool; it reads the masks of the question."""
        masks = self._proposed.of(question.image_id)
        if not masks:
            return torch.zeros_like(question.masks)
        ious = rle.ious(rle.encode(question.masks), [mask.counts for mask in masks], masks[0].size)
        return _chosen(masks, ious.argmax(1).tolist())


def _chosen(masks: Sequence[BaselineMask], choices: Sequence[int]) -> torch.Tensor:
    decoded = rle.decode([mask.counts for mask in masks], masks[0].size)
    return torch.from_numpy(decoded)[list(choices)]
