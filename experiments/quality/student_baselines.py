"""Two baselines without training that a student must beat: a random proposed mask, and CLIP's choice.

Both choose among the masks that a run proposed for the image, so that neither knows the true masks. They are evaluated
on the same expressions by the same evaluator as a student: `pseudoris.training.learning.evaluator.evaluate`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from pseudoris.schemas.config import ComputeConfig, FilterConfig
from pseudoris.training.learning.evaluator import ImageQuestion
from pseudoris.workers.counter_rng import draw_below, key_of
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.images.crops import make_crops
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


class ClipBaseline:
    """Answers with the proposed mask that a CLIP of crops likes best.

    The score is the cosine of the text with a mask's crop: `context` is the box grown by 1.2, `masked` the tight box
    with all else blanked, `both` their sum.
    """

    def __init__(
        self, proposed: BaselineMasks, filtering: FilterConfig, compute: ComputeConfig, *, crops: str = "both"
    ) -> None:
        """Load the CLIP of a run's filter.

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
        self._scales = kinds[crops]
        self._proposed = proposed
        self._embedder = ClipEmbedder(filtering, compute)

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._proposed.of(question.image_id)
        if not masks:
            return torch.zeros_like(question.masks)
        crops = make_crops(
            np.ascontiguousarray(question.image.permute(1, 2, 0).numpy()),
            [mask.box_xyxy_px for mask in masks],
            runs=[rle.runs(mask.counts) for mask in masks],
            scales=self._scales,
            crop_format=self._embedder.crop_format,
            device=self._embedder.device,
        )
        seen = self._embedder.embed_crops([crops.flatten(0, 1)]).view(len(self._scales), len(masks), -1)
        scores = self._embedder.embed_texts(question.texts) @ seen.sum(0).T
        return _chosen(masks, scores.argmax(1).tolist())


def _chosen(masks: Sequence[BaselineMask], choices: Sequence[int]) -> torch.Tensor:
    decoded = rle.decode([mask.counts for mask in masks], masks[0].size)
    return torch.from_numpy(decoded)[list(choices)]
