"""Several small runs as one map-style dataset, and the index that finds an item in one of several parts."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset

from pseudoris.schemas.errors import ConfigError
from pseudoris.training.dataset.map_dataset import Decoded, RisDataset


class ConcatIndex:
    """Finds an item in one of several parts that are joined in order."""

    def __init__(self, lengths: Sequence[int]) -> None:
        """Take the length of each part, at least one."""
        self._ends = np.cumsum(lengths)

    def __len__(self) -> int:
        """Return the number of items."""
        return int(self._ends[-1])

    def of(self, index: int, *, noun: str) -> tuple[int, int]:
        """Return the part of an item, and its index there; a negative index counts from the end.

        Raises:
            IndexError: There is no such item; `noun` names what it is.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"{noun} {index} of {len(self)}")
        at = index % len(self)
        part = int(np.searchsorted(self._ends, at, side="right"))
        return part, at - (int(self._ends[part - 1]) if part else 0)


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
            raise ConfigError("There is no run to join. Give at least one.")
        self._runs = list(runs)
        self._concat = ConcatIndex([len(run) for run in self._runs])

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
        """How often the image of a requested mask could not be used."""
        return sum(run.num_skipped for run in self._runs)

    def __len__(self) -> int:
        """Return the number of masks."""
        return len(self._concat)

    def __getitem__(self, index: int) -> Any:
        """Return a sample of the run that contains the index.

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
            run, at = self._concat.of(index, noun="mask")
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
            raise ConfigError("A joined dataset cannot replace a mask across runs. Give among=None.")
        run, at = self._concat.of(index, noun="mask")
        return self._runs[run].draw(at, epoch)

    def mask_ids(self) -> list[str]:
        """Return the id of every mask, in order; a mask of two runs comes twice."""
        return [mask for run in self._runs for mask in run.mask_ids()]

    def best_weights(self) -> NDArray[np.float64]:
        """Return the largest weight of each mask's expressions, as `RisDataset.best_weights` does."""
        return np.concatenate([run.best_weights() for run in self._runs])

    def image_digests(self) -> list[str]:
        """Return for every mask the sha256 of its image, as `RisDataset.image_digests` does."""
        return [digest for run in self._runs for digest in run.image_digests()]
