"""Batches by number from any map-style dataset: shuffled by a seed, split over ranks, resumable in mid-epoch."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final, Protocol

from torch.utils.data import DataLoader

from pseudoris.schemas.errors import ConfigError
from pseudoris.workers.counter_rng import draw_below, key_of, permutation

_CHANCE_STEPS: Final = 2**32


class EpochDataset(Protocol):
    """A map-style dataset whose items have epochs."""

    def __len__(self) -> int:
        """Return the number of items."""
        ...

    def __getitem__(self, index: int) -> Any:
        """Return an item."""
        ...

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch's items."""
        ...

    def image_keys(self) -> list[str]:
        """Return the image of every item of the epoch."""
        ...


class ResumableFeed:
    """Batches of units, a unit being a few masks of one image: features of an image are then computed once.

    An epoch holds every item once, each image's masks in units of at most `masks_per_unit`; with `chances` each item
    with its probability. The last batch of an epoch is filled up with its first units, so that all batches and ranks
    are even.
    """

    def __init__(
        self,
        dataset: EpochDataset,
        collate: Callable[[list[Any]], Any],
        *,
        units_per_batch: int,
        masks_per_unit: int,
        seed: int,
        rank: int = 0,
        world_size: int = 1,
        num_workers: int = 0,
        chances: Sequence[float] | None = None,
    ) -> None:
        """Take a dataset.

        Args:
            dataset: Items are drawn from it.
            collate: Makes a batch of items.
            units_per_batch: Units of all ranks together, so that the number of ranks does not change the batches.
            masks_per_unit: The most masks in a unit.
            seed: Seed of the order.
            rank: Rank of this process.
            world_size: Number of processes.
            num_workers: Processes that draw ahead.
            chances: Probability that an epoch has an item, (N,), the same in every epoch; None takes all.

        Raises:
            ConfigError: The batch cannot be split evenly.
        """
        if units_per_batch % world_size:
            raise ConfigError(
                f"A batch of {units_per_batch} images cannot be split over {world_size} processes. Make it a "
                f"multiple of {world_size}."
            )
        self._dataset = dataset
        self._collate = collate
        self._units_per_batch = units_per_batch
        self._masks_per_unit = masks_per_unit
        self._seed = seed
        self._rank, self._world_size = rank, world_size
        self._num_workers = num_workers
        self._limits = None if chances is None else [round(each * _CHANCE_STEPS) for each in chances]

    def num_batches(self, epoch: int = 0) -> int:
        """Return the batches of an epoch."""
        return len(self._epoch(epoch))

    def batches(self, first: int) -> Iterator[Any]:
        """Yield batch `first`, `first` + 1, … of this rank, without end."""
        epoch = 0
        while True:
            # The epoch also decides the human masks of a mixed dataset, so its units are known only now.
            self._dataset.set_epoch(epoch)
            own = self._epoch(epoch)
            if first < len(own):
                # mypy: torch needs only a dataset's items, not its class.
                loader: DataLoader[Any] = DataLoader(
                    self._dataset,  # type: ignore[arg-type]
                    batch_sampler=own[first:],
                    collate_fn=self._collate,
                    num_workers=self._num_workers,
                )
                yield from loader
            first = max(first - len(own), 0)
            epoch += 1

    def _epoch(self, epoch: int) -> list[list[int]]:
        """Return the items of each batch of this rank."""
        units = self._units(epoch)
        order = permutation(key_of("units", self._seed, epoch), len(units)).tolist()
        size = self._units_per_batch
        num_missing = -len(order) % size
        order += [order[at % len(order)] for at in range(num_missing)]
        return [
            [item for unit in order[at + self._rank : at + size : self._world_size] for item in units[unit]]
            for at in range(0, len(order), size)
        ]

    def _units(self, epoch: int) -> list[Sequence[int]]:
        by_image: defaultdict[str, list[int]] = defaultdict(list)
        for item, image in enumerate(self._dataset.image_keys()):
            if self._is_taken(item, epoch):
                by_image[image].append(item)
        units: list[Sequence[int]] = []
        for image, items in by_image.items():
            order = permutation(key_of("masks", self._seed, epoch, image), len(items)).tolist()
            shuffled = [items[at] for at in order]
            units += [shuffled[at : at + self._masks_per_unit] for at in range(0, len(items), self._masks_per_unit)]
        return units

    def _is_taken(self, item: int, epoch: int) -> bool:
        if self._limits is None:
            return True
        return draw_below(key_of("chance", self._seed, epoch), item, _CHANCE_STEPS) < self._limits[item]
