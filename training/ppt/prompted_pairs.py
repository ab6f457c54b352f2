"""The pairs that a round of PPT trains on, as batches of images, texts and pseudo-labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch.utils.data import Dataset

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.dataset.map_dataset import ConcatIndex
from pseudoris.training.dataset.process_group import SharedNumbers
from pseudoris.training.ppt.pairs import Pair, PairDataset, PseudoLabelBatch, collate_labels

# Images of a batch by key, mirrored where their pairs are; None where one cannot be used.
_ImagesByKey = dict[str, torch.Tensor | None]


@dataclass(frozen=True, slots=True)
class PromptedPair:
    """A pair with the image that the encoders need.

    Attributes:
        pair: Text and pseudo-labels.
        image_key: Identifies the image as shown, mirrored or not.
        image: (3, H, W) uint8 RGB, mirrored where the pair is; None where the encoders hold it.
    """

    pair: Pair
    image_key: str
    image: torch.Tensor | None


@dataclass(frozen=True, slots=True)
class PairBatch:
    """B pairs; images (3, H, W) uint8, None where it is held."""

    image_keys: list[str]
    images: list[torch.Tensor | None]
    texts: list[str]
    pseudo_labels: PseudoLabelBatch

    def __len__(self) -> int:
        """Return the number of pseudo-labels, each with a query of its own: what the loss is a mean over."""
        return sum(self.pseudo_labels.counts)


class PromptedPairs(Dataset[PromptedPair]):
    """The pairs of several data sets, one after the other: a union of equations 5 to 7 (section 3.3)."""

    def __init__(
        self,
        parts: Sequence[PairDataset],
        *,
        epochs_before: int = 0,
        is_held: Callable[[str], bool] = lambda key: False,
    ) -> None:
        """Join data sets, at least one.

        `epochs_before` are those of earlier rounds, so that points and flips are drawn afresh. `is_held` says whether
        an image, by its key, need not be read any more.
        """
        if not parts:
            raise ConfigError("There is no run to join. Give at least one.")
        self._parts, self._epochs_before, self._is_held = list(parts), epochs_before, is_held
        self._concat = ConcatIndex([len(part) for part in parts])
        self._shared = SharedNumbers()
        self.set_epoch(0)

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._concat)

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of points and flips."""
        for part in self._parts:
            part.set_epoch(self._epochs_before + epoch)

    def image_keys(self) -> list[str]:
        """Return the image of every pair, mirrored or not."""
        return [each for part in self._parts for each in part.image_digests()]

    @property
    def num_skipped(self) -> int:
        """How often another pair was returned because the image of the requested one cannot be used."""
        return self._shared.num_skipped

    def __getitem__(self, index: int) -> PromptedPair:
        """Return a pair; the next usable one in its place with `on_bad_image="skip"`."""
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[PromptedPair]:
        """Return the pairs of a batch, as `[]` does; an image is decoded at most once."""
        seen = _ImagesByKey()
        return [self._usable(index, seen) for index in indices]

    def drawn(self, indices: Sequence[int]) -> list[PromptedPair | None]:
        """Return pairs; with `on_bad_image="skip"`, None for one whose image cannot be used."""
        seen = _ImagesByKey()
        return [self._draw(index, seen) for index in indices]

    def _usable(self, index: int, seen: _ImagesByKey) -> PromptedPair:
        for stand_in in range(len(self)):
            found = self._draw((index + stand_in) % len(self), seen)
            if found is not None:
                return found
            self._shared.count_skipped()
        raise ConfigError(f"No image of the {len(self)} pairs can be used. Put the annotated files back.")

    def _draw(self, index: int, seen: _ImagesByKey) -> PromptedPair | None:
        part, at = self._concat.of(index, noun="pair")
        pair = self._parts[part][at]
        key = f"{pair.image_sha256}{'-mirrored' if pair.is_flipped else ''}"
        if self._is_held(key):
            return PromptedPair(pair, key, None)
        if key not in seen:
            image = self._parts[part].image(at)
            seen[key] = image.flip(-1) if image is not None and pair.is_flipped else image
        return None if seen[key] is None else PromptedPair(pair, key, seen[key])


def collate(pairs: Sequence[PromptedPair]) -> PairBatch:
    """Return pairs as a batch."""
    return PairBatch(
        [each.image_key for each in pairs],
        [each.image for each in pairs],
        [each.pair.text for each in pairs],
        collate_labels([each.pair.labels for each in pairs]),
    )
