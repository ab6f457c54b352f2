"""Models without training that an evaluation can ask: CLIP among SAM's masks, and CLIP's response that prompts SAM."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import ComputeConfig, FilterConfig, RunConfig
from pseudoris.training.chooser.candidate_masks import propose_masks
from pseudoris.training.learning.evaluator import ImageQuestion
from pseudoris.training.ppt.recipes.grounding import Grounder
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig
from pseudoris.workers.crops.crops import make_crops
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.filtering.noun_phrases import noun_phrases
from pseudoris.workers.masks import SamProposer, rle

# Of what one CLIP sees of a mask: its box grown by 1.2, as the method's uniqueness does (section 4).
_CONTEXT_SCALE = 1.2


@dataclass(frozen=True, slots=True)
class ProposedMask:
    """A mask that SAM proposed.

    Attributes:
        size: (H, W) of the upright image.
        counts: COCO compressed RLE.
        box_xyxy_px: Tight box.
    """

    size: tuple[int, int]
    counts: str
    box_xyxy_px: tuple[int, int, int, int]


# The masks of an image, in the proposer's order.
Proposals = Callable[[ImageQuestion], Sequence[ProposedMask]]


class SamProposals:
    """The masks that a run's SAM proposes; those of an image are proposed once."""

    def __init__(self, config: RunConfig) -> None:
        """Load SAM.

        Raises:
            ConfigError: Its weights are missing, or the device is not there.
        """
        self._proposer = SamProposer(config.masks, config.compute)
        self._held: dict[str, list[ProposedMask]] = {}

    def __call__(self, question: ImageQuestion) -> list[ProposedMask]:
        """Return the masks of an image."""
        if question.image_id not in self._held:
            masks = propose_masks(self._proposer, np.ascontiguousarray(question.image.permute(1, 2, 0).numpy()))
            found = [ProposedMask(mask.rle_size, mask.rle_counts, mask.box_xyxy_px) for mask in masks]
            self._held[question.image_id] = found
        return self._held[question.image_id]


class CropScores:
    """The cosines of texts with the crops of the proposed masks, by the CLIP of a run's filter.

    `context` is the box grown by 1.2, `masked` the tight box with all else blanked, `both` the sum of the two cosines.
    An image's crops are seen once.
    """

    def __init__(
        self, proposals: Proposals, filtering: FilterConfig, compute: ComputeConfig, *, crops: str = "both"
    ) -> None:
        """Load the CLIP.

        Raises:
            ConfigError: Its weights are missing.
            ValueError: There are no such crops.
        """
        kinds: Mapping[str, tuple[float | None, ...]] = {
            "context": (_CONTEXT_SCALE,),
            "masked": (None,),
            "both": (_CONTEXT_SCALE, None),
        }
        if crops not in kinds:
            raise ValueError(f"crops is {crops!r}: give one of {', '.join(kinds)}")
        self.proposals = proposals
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
        masks = self.proposals(question)
        crops = make_crops(
            np.ascontiguousarray(question.image.permute(1, 2, 0).numpy()),
            [mask.box_xyxy_px for mask in masks],
            runs=[rle.runs(mask.counts) for mask in masks],
            scales=self._scales,
            crop_format=self._embedder.crop_format,
            device=self._embedder.device,
        )
        return self._embedder.embed_crops([crops.flatten(0, 1)]).view(len(self._scales), len(masks), -1).sum(0)


class ClipChoice:
    """Answers with the proposed mask whose crops CLIP likes best."""

    def __init__(self, scores: CropScores, *, asked: Callable[[str], str] = str) -> None:
        """Take the scores, and what turns an expression into the text that CLIP is asked."""
        self._scores, self._asked = scores, asked

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._scores.proposals(question)
        if not masks:
            return torch.zeros_like(question.masks)
        return chosen_masks(masks, self.scores(question, question.texts).argmax(1).tolist())

    def scores(self, question: ImageQuestion, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the score of each text with each mask of the image, (T, N)."""
        return self._scores(question, [self._asked(text) for text in texts])


class ClipAndSam:
    """PPT's first row (table 3): CLIP's response to the whole expression prompts SAM."""

    def __init__(self, config: RecipeConfig) -> None:
        """Load both.

        Raises:
            ConfigError: Weights are missing, or the device is not there.
        """
        self._grounder = Grounder(config.grounding, config.run)

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; an empty one where SAM answers with no pixel."""
        image = np.ascontiguousarray(question.image.permute(1, 2, 0).numpy())
        texts = list(dict.fromkeys(question.texts))
        found = {each.phrase: torch.from_numpy(each.mask) for each in self._grounder(image, texts)}
        empty = torch.zeros(question.image.shape[1:], dtype=torch.bool)
        return torch.stack([found.get(text, empty) for text in question.texts])


def first_noun_phrase(text: str) -> str:
    """Return the words of an expression's first noun phrase; all of it where the rules find none."""
    return next(iter(noun_phrases(text)), text)


def chosen_masks(masks: Sequence[ProposedMask], choices: Sequence[int]) -> torch.Tensor:
    """Return some of the masks of an image, (T, H, W) bool."""
    decoded = rle.decode([mask.counts for mask in masks], masks[0].size)
    return torch.from_numpy(decoded)[list(choices)]
