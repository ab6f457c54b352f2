"""Unions of data sets of pairs (section 3.3)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.utils.data import Dataset

from schemas.errors import ConfigError
from training.dataset.places import Places
from training.ppt.pairs import Pair, PairDataset


class JoinedPairs(Dataset[Pair]):
    """The pairs of several data sets one after the other: the unions of equations 5 to 7 (section 3.3)."""

    def __init__(self, parts: Sequence[PairDataset]) -> None:
        """Take at least one data set."""
        if not parts:
            raise ConfigError("no data set to join: give one run at least")
        self._parts = list(parts)
        self._places = Places([len(part) for part in parts])

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._places)

    def __getitem__(self, index: int) -> Pair:
        """Return a pair, see `PairDataset`."""
        part, at = self._places.of(index, noun="pair")
        return self._parts[part][at]

    def usable_image(self, index: int) -> torch.Tensor | None:
        """Return the image of a pair, see `PairDataset`."""
        part, at = self._places.of(index, noun="pair")
        return self._parts[part].usable_image(at)

    def image_ids(self) -> list[str]:
        """Return the image of every pair, (len,)."""
        return [each for part in self._parts for each in part.image_ids()]

    def image_digests(self) -> list[str]:
        """Return the sha256 of the image of every pair, see `PairDataset`."""
        return [each for part in self._parts for each in part.image_digests()]

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of points and flips."""
        for part in self._parts:
            part.set_epoch(epoch)
