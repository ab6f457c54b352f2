"""A pair of image and expression with its pseudo-labels, which pairs a data set has, and unions of data sets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import torch
from torch.utils.data import Dataset

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.dataset.joined_dataset import ConcatIndex
from pseudoris.training.dataset.map_dataset import DEFAULT_MAX_MEMORY_BYTES
from pseudoris.training.ppt.pseudo_labels import LabelFrame, PseudoLabels

if TYPE_CHECKING:
    from pseudoris.training.ppt.pair_dataset import PairDataset

Which = Literal["all", "decided", "undecided"]


@dataclass(frozen=True, slots=True)
class PairSpec:
    """Which pairs to read, and how to draw points and flips.

    Attributes:
        num_points: M.
        frame: Frame of the pseudo-masks.
        which: `decided` pairs have a referent (D_sem, D_ref, H_sem), `undecided` ones have none yet (H_ref).
        seed: Seed of points and flips.
        is_flipping: Whether pairs are mirrored with probability 1/2, unless their text names a side (section 3.2:
            "randomly applying transformations, such as flipping").
        max_pseudo_masks: Of more pseudo-masks the last ones are left out: a run with many masks has many contexts. If
            the referent is undecided, it may be among them, so a warning counts such texts.
        is_empty_allowed: Whether a run without such a pair is allowed.
        on_bad_image: If an image is missing from SOURCE or differs from the annotated one: `raise`, or `skip` its
            pairs.
        source: Where the images are now, if they moved after the annotation; see `SampleSpec`.
        max_memory_bytes: A run with more bytes of embedded images is refused.
    """

    num_points: int
    frame: LabelFrame
    which: Which = "all"
    seed: int = 0
    is_flipping: bool = True
    max_pseudo_masks: int = 12
    is_empty_allowed: bool = False
    on_bad_image: Literal["raise", "skip"] = "raise"
    source: str | Mapping[str, str] | None = None
    max_memory_bytes: int = DEFAULT_MAX_MEMORY_BYTES


@dataclass(frozen=True, slots=True)
class Pair:
    """One pair of image and expression, with its pseudo-labels.

    Attributes:
        image_id: Id of its image in its run.
        image_sha256: sha256 of the image's bytes: equal for the same image in any run.
        is_flipped: Whether image and labels are mirrored.
        text: The expression.
        labels: {ŷ_e}.
    """

    image_id: str
    image_sha256: str
    is_flipped: bool
    text: str
    labels: PseudoLabels


class JoinedPairs(Dataset[Pair]):
    """The pairs of several data sets one after the other: the unions of equations 5 to 7 (section 3.3)."""

    def __init__(self, parts: Sequence[PairDataset]) -> None:
        """Take at least one data set."""
        if not parts:
            raise ConfigError("There is no run to join. Give at least one.")
        self._parts = list(parts)
        self._concat = ConcatIndex([len(part) for part in parts])

    def __len__(self) -> int:
        """Return the number of pairs."""
        return len(self._concat)

    def __getitem__(self, index: int) -> Pair:
        """Return a pair, see `PairDataset`."""
        part, at = self._concat.of(index, noun="pair")
        return self._parts[part][at]

    def usable_image(self, index: int) -> torch.Tensor | None:
        """Return the image of a pair, see `PairDataset`."""
        part, at = self._concat.of(index, noun="pair")
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
