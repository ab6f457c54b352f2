"""Pairs in batches: what the frozen encoders need of each image, and its pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from training.ppt.pairs import JoinedPairs, Pair
from training.ppt.pseudo_labels import PseudoLabelBatch
from training.ppt.pseudo_labels import collate as collate_labels


@dataclass(frozen=True, slots=True)
class PromptedPair:
    """A pair with the image that the encoders need.

    Attributes:
        pair: Text and pseudo-labels.
        image_key: Of the image as it is shown, mirrored or not.
        image: (3, H, W) uint8 RGB, mirrored where the pair is; None where the encoders hold it.
    """

    pair: Pair
    image_key: str
    image: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs.

    Attributes:
        image_keys: (B,).
        images: (B,) of (3, H, W) uint8, None where it is held.
        texts: (B,).
        wanted: Their pseudo-labels.
    """

    image_keys: list[str]
    images: list[torch.Tensor | None]
    texts: list[str]
    wanted: PseudoLabelBatch

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self.texts)


class PromptedPairs(Dataset[PromptedPair]):
    """The pairs of a round of the curriculum, with their images where nobody holds them yet."""

    def __init__(
        self, pairs: JoinedPairs, *, epochs_before: int = 0, is_held: Callable[[str], bool] = lambda key: False
    ) -> None:
        """Take pairs.

        Args:
            pairs: Of all sources of the round.
            epochs_before: Of earlier rounds, so that points and flips are drawn anew.
            is_held: Whether an image, by its key, need not be read any more.
        """
        self._pairs, self._epochs_before, self._is_held = pairs, epochs_before, is_held
        self.set_epoch(0)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._pairs)

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of points and flips."""
        self._pairs.set_epoch(self._epochs_before + epoch)

    def image_keys(self) -> list[str]:
        """Return the image of every pair, mirrored or not."""
        return self._pairs.image_digests()

    def __getitem__(self, index: int) -> PromptedPair:
        """Return a pair.

        Raises:
            ConfigError: Its image cannot be used.
        """
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PromptedPair]:
        """Return the pairs of a batch; an image is decoded at most once."""
        pairs = [self._pairs[index] for index in indices]
        keys = [image_key(pair) for pair in pairs]
        seen: dict[str, torch.Tensor | None] = {}
        for index, pair, key in zip(indices, pairs, keys, strict=True):
            if key not in seen:
                seen[key] = None if self._is_held(key) else self._image(index, pair)
        return [PromptedPair(pair, key, seen[key]) for pair, key in zip(pairs, keys, strict=True)]

    def _image(self, index: int, pair: Pair) -> torch.Tensor:
        image = self._pairs.image(index)
        return image.flip(-1) if pair.is_flipped else image


def image_key(pair: Pair) -> str:
    """Return what tells the image of a pair, as it is shown, from all others."""
    return f"{pair.image_sha256}{'-mirrored' if pair.is_flipped else ''}"


def collate(pairs: Sequence[PromptedPair]) -> PairBatch:
    """Return pairs as a batch."""
    return PairBatch(
        [each.image_key for each in pairs],
        [each.image for each in pairs],
        [each.pair.text for each in pairs],
        collate_labels([each.pair.labels for each in pairs]),
    )
