"""Several small runs as one map-style dataset."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from schemas.errors import ConfigError
from training.dataset.mapped import Decoded, RisDataset
from training.dataset.places import Places


class JoinedDataset(Dataset[Any]):
    """All masks of several runs, one run after the other.

    The same image in two runs gives items from each: with other masks, other expressions, or both.
    """

    def __init__(self, runs: Sequence[RisDataset]) -> None:
        """Join datasets, at least one.

        Raises:
            ConfigError: There is none.
        """
        if not runs:
            raise ConfigError("there is no run to join: name at least one")
        self._runs = list(runs)
        self._places = Places([len(run) for run in self._runs])

    @property
    def epoch(self) -> int:
        """Which draw of expressions is given."""
        return self._runs[0].epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the draw of expressions."""
        for run in self._runs:
            run.set_epoch(epoch)

    @property
    def num_skipped(self) -> int:
        """How often a mask was asked for whose image cannot be used."""
        return sum(run.num_skipped for run in self._runs)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._places)

    def __getitem__(self, index: int) -> Any:
        """Return a sample of the run that the index lies in.

        Raises:
            IndexError: There is no such mask.
            ConfigError: Its image cannot be used.
        """
        return self.draw(index, self.epoch)

    def __getitems__(self, indices: Sequence[int]) -> list[Any]:
        """Return the samples of a batch, as `[]` does; an image is decoded once for all of its masks in the batch."""
        decoded: defaultdict[int, Decoded] = defaultdict(dict)
        samples = []
        for index in indices:
            run, at = self._places.of(index, noun="mask")
            samples.append(self._runs[run].draw(at, self.epoch, decoded[run]))
        return samples

    def draw(
        self, index: int, epoch: int, decoded: Decoded | None = None, *, among: NDArray[np.int64] | None = None
    ) -> Any:
        """Return the sample of a mask with the expressions of an epoch, as `RisDataset.draw` does.

        `decoded` is not used: places in it are of one run. `among` is refused for the same reason.

        Raises:
            IndexError: There is no such mask.
            ConfigError: Its image cannot be used.
        """
        del decoded
        if among is not None:
            raise ConfigError("a joined dataset has no masks to stand in across runs: give among=None")
        run, at = self._places.of(index, noun="mask")
        return self._runs[run].draw(at, epoch)

    def mask_ids(self) -> list[str]:
        """Return the id of every mask, in order; a mask of two runs comes twice."""
        return [mask for run in self._runs for mask in run.mask_ids()]

    def image_digests(self) -> list[str]:
        """Return for every mask the sha256 of its image, as `RisDataset.image_digests` does."""
        return [digest for run in self._runs for digest in run.image_digests()]
