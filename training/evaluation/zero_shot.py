"""Models without training that an evaluation can ask: CLIP among SAM's masks, and CLIP's response that prompts SAM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.shard import MaskRecord
from pseudoris.training.chooser.candidate_masks import propose_masks
from pseudoris.training.learning.evaluator import ImageQuestion
from pseudoris.training.ppt.recipes.grounding import Grounder
from pseudoris.training.ppt.recipes.recipe_config import RecipeConfig
from pseudoris.workers.crops.crops import make_crops
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.filtering.noun_phrases import noun_phrases
from pseudoris.workers.masks import SamProposer, rle

# What CLIP sees of a mask: its box grown by 1.2, as the method's uniqueness does (section 4), and the mask alone.
_SCALES: Final = (1.2, None)
# The masks of an image, in the proposer's order.
Proposals = Callable[[ImageQuestion], Sequence[MaskRecord]]


class SamProposals:
    """The masks that a run's SAM proposes; those of an image are proposed once."""

    def __init__(self, config: RunConfig) -> None:
        """Load SAM.

        Raises:
            ConfigError: Its weights are missing, or the device is not there.
        """
        self._proposer = SamProposer(config.masks, config.compute)
        self._held: dict[str, Sequence[MaskRecord]] = {}

    def __call__(self, question: ImageQuestion) -> Sequence[MaskRecord]:
        """Return the masks of an image."""
        if question.image_id not in self._held:
            self._held[question.image_id] = propose_masks(self._proposer, _pixels(question))
        return self._held[question.image_id]


class ClipChoice:
    """Answers with the proposed mask whose crops the CLIP of a run's filter likes best: the sum of two cosines.

    One is of the box grown by 1.2, the other of the tight box with all else blanked. The crops of the last
    image are kept.
    """

    def __init__(self, proposals: Proposals, config: RunConfig, *, asked: Callable[[str], str] = str) -> None:
        """Load the CLIP; `asked` turns an expression into the text that it is asked.

        Raises:
            ConfigError: Its weights are missing.
        """
        self._proposals, self._asked = proposals, asked
        self._embedder = ClipEmbedder(config.filtering, config.compute)
        # Of the last image.
        self._seen: dict[str, torch.Tensor] = {}

    def answer(self, question: ImageQuestion) -> torch.Tensor:
        """Return a mask for each expression, (T, H, W) bool; empty where none is proposed."""
        masks = self._proposals(question)
        if not masks:
            return torch.zeros_like(question.masks)
        return chosen_masks(masks, self.scores(question, question.texts).argmax(1).tolist())

    def scores(self, question: ImageQuestion, texts: Sequence[str]) -> NDArray[np.float32]:
        """Return the score of each text with each mask of the image, (T, N); it has at least one."""
        if question.image_id not in self._seen:
            self._seen = {question.image_id: self._embedded(question)}
        asked = self._embedder.embed_texts([self._asked(text) for text in texts])
        return np.asarray((asked @ self._seen[question.image_id].T).cpu().numpy(), np.float32)

    def _embedded(self, question: ImageQuestion) -> torch.Tensor:
        """The sum over crops of a mask's embeddings, (N, D)."""
        masks = self._proposals(question)
        crops = make_crops(
            _pixels(question),
            [mask.box_xyxy_px for mask in masks],
            runs=[rle.runs(mask.rle_counts) for mask in masks],
            scales=_SCALES,
            crop_format=self._embedder.crop_format,
            device=self._embedder.device,
        )
        return self._embedder.embed_crops([crops.flatten(0, 1)]).view(len(_SCALES), len(masks), -1).sum(0)


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
        texts = list(dict.fromkeys(question.texts))
        found = {each.phrase: torch.from_numpy(each.mask) for each in self._grounder(_pixels(question), texts)}
        empty = torch.zeros(question.image.shape[1:], dtype=torch.bool)
        return torch.stack([found.get(text, empty) for text in question.texts])


def first_noun_phrase(text: str) -> str:
    """Return the words of an expression's first noun phrase; all of it where the rules find none."""
    return next(iter(noun_phrases(text)), text)


def chosen_masks(masks: Sequence[MaskRecord], choices: Sequence[int]) -> torch.Tensor:
    """Return some of the masks of an image, (T, H, W) bool."""
    decoded = rle.decode([mask.rle_counts for mask in masks], masks[0].rle_size)
    return torch.from_numpy(decoded)[list(choices)]


def _pixels(question: ImageQuestion) -> NDArray[np.uint8]:
    return np.ascontiguousarray(question.image.permute(1, 2, 0).numpy())
