"""A run of any size as a stream of samples: shard after shard, each image decoded once for all its masks.

Called by users' trainings, who depend on its arguments, and by `mixed_dataset.py`; our own learners read the map-style
`RisDataset`. A resumed epoch gives the samples of an uninterrupted one, on every rank and in every worker.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from pseudoris.files.location import RunLocation
from pseudoris.interchange.dataset.sample_builder import build_sample
from pseudoris.interchange.dataset.sample_spec import SampleSpec, Transform
from pseudoris.interchange.dataset.shard_index import Int64Array
from pseudoris.interchange.dataset.shard_reader import DatasetRun
from pseudoris.interchange.dataset.snapshot import Snapshot
from pseudoris.interchange.dataset.stream_order import (
    ShardIterator,
    ShardSlice,
    Stream,
    StreamOrder,
    equal_slices,
    in_order,
    interleaved,
    samples_per_rank,
    whole_shards,
    worker_ends,
)
from pseudoris.interchange.dataset.streamed_dataset import Position, StreamedDataset
from pseudoris.primitives.counter_rng import key_of, permutation
from pseudoris.primitives.errors import ConfigError

logger = logging.getLogger(__name__)

# This object takes the place of a sample that is left out. None cannot, because a transform may return None.
_NO_SAMPLE: Final = object()


class RisIterableDataset(StreamedDataset):
    """A run's masks with their expressions, in an order that depends only on seed, epoch, ranks and workers.

    Memory of a worker: two shards' encoded images and tables, and the buffer's decoded images.
    """

    def __init__(
        self,
        run: str | Path | RunLocation,
        spec: SampleSpec | None = None,
        *,
        order: StreamOrder | None = None,
        snapshot: Snapshot | None = None,
        transform: Transform | None = None,
        endpoint_url: str | None = None,
    ) -> None:
        """Open a run, finished or still growing.

        Args:
            run: Its folder or url, or its location.
            spec: Which samples and what of them; everything that was kept by default.
            order: Shuffle, split.
            snapshot: The commits to read; `Snapshot.shared` by default, so that all ranks read the same.
            transform: Applied to each sample last, in the worker; its result is yielded. It must pickle where workers
                are spawned.
            endpoint_url: Address of an S3 store other than AWS; None reads AWS_ENDPOINT_URL.

        Raises:
            ConfigError: There is no run, nothing of it is committed, or, with `drop` and `pad`, the filter keeps too
                few masks for the ranks.
        """
        self._order = order or StreamOrder()
        super().__init__(self._order.rank, self._order.world_size)
        self._endpoint_url = endpoint_url
        self._transform = transform
        # Counts the refreshes that were given no snapshot: the number is in the key under which ranks agree on one.
        self._turn = 0
        self._take_stock(DatasetRun.open(run, spec or SampleSpec(), snapshot, endpoint_url=endpoint_url))
        if self._counts is None and self.world_size > 1 and self.rank == 0:
            logger.warning(
                "Ranks have different numbers of samples. A collective call after the shortest rank has ended would "
                "wait forever. Give StreamOrder(uneven='drop') or 'pad', or train under torch's Join."
            )

    @property
    def snapshot(self) -> Snapshot:
        """Which commits are read."""
        return self._run.snapshot

    def refresh(self, snapshot: Snapshot | None = None) -> Snapshot:
        """Read new commits between two epochs, and return the snapshot.

        Call it equally often on every rank. All ranks of a process group then read the same (see `Snapshot.shared`).
        `ResumableLoader` passes it to persistent workers; torch's own loader must be created again.
        """
        if snapshot is None:
            self._turn += 1
            # The turn includes the present snapshot, so that a refresh never returns an older one that another dataset
            # found.
            snapshot = Snapshot.shared(self._run.location, f"{self._turn} after {self._run.snapshot.digest}")
        self._reopen(snapshot)
        self.forget_state()
        self.num_replaced += 1
        return self._run.snapshot

    def count(self) -> int:
        """Return the samples of an epoch over all ranks, before any is dropped or repeated."""
        return int((self._run.count_samples() if self._counts is None else self._counts).sum())

    def __len__(self) -> int:
        """Return the number of samples of this rank, with `drop` and `pad`; it is unknown with `keep`."""
        if self._counts is None or self._order.uneven == "keep":
            raise TypeError(
                "With uneven='keep' the number of samples per rank is not known. count() returns that of all ranks."
            )
        return samples_per_rank(int(self._counts.sum()), self.world_size, self._order.uneven)

    def stream_lengths(self, num_streams: int) -> Sequence[int]:
        """Return the samples of each of this rank's streams, with `drop` and `pad`; raises as `len` does."""
        return np.diff(worker_ends(len(self), num_streams), prepend=0).tolist()

    def _samples(self, stream: Stream, epoch: int, position: Position) -> Iterator[tuple[Any, Position]]:
        """Yield the samples; the position counts the masks drawn, those of bad images included, and those yielded."""
        num_shards, uneven = len(self._run.snapshot), self._order.uneven
        is_shuffled, quota = self._order.is_shuffled, None
        order = permutation(self._key("shards", epoch), num_shards) if is_shuffled else np.arange(num_shards)
        if self._counts is None or uneven == "keep":
            slices = whole_shards(order, stream)
        else:
            slices = equal_slices(order, self._counts, stream, uneven)
            quota = sum((each.stop or 0) - each.start for each in slices)
        start, num_yielded = position.get("drawn", 0), position.get("yielded", 0)
        drawn = 0
        while quota is None or num_yielded < quota:
            before = num_yielded
            first_drawn = drawn
            for sample in self._lap(slices, stream, epoch, start - drawn):
                drawn += 1
                if drawn <= start:
                    continue
                if sample is _NO_SAMPLE:
                    self._count_skipped()
                    continue
                num_yielded += 1
                yield sample, {"drawn": drawn, "yielded": num_yielded}
                if num_yielded == quota:
                    return
            if quota is None:
                if not drawn and slices:
                    logger.warning(
                        "No expression in the %d shards of worker %d, rank %d passes the filter. If other workers say "
                        "the same, loosen the filter (%s).",
                        *(len(slices), stream.worker, stream.rank, self._run.spec.where.as_json()),
                    )
                return
            # A rank that skipped images reads its stream again. That would never end if no image can be used.
            if num_yielded == before and drawn > start and first_drawn >= start:
                raise ConfigError("No image of this rank can be used. The log names the first ones.")

    def _lap(self, slices: Sequence[ShardSlice], stream: Stream, epoch: int, num_passed: int) -> Iterator[Any]:
        """Yield the stream's samples; `_NO_SAMPLE` for the first `num_passed`, unread, and for bad images."""
        iterator = ShardIterator(self._run, slices, self._key("images", epoch) if self._order.is_shuffled else None)
        iterator.is_skipping = num_passed > 0
        masks = in_order(iterator)
        if self._order.is_shuffled:
            key = self._key("buffer", epoch, stream.rank, stream.world_size, stream.worker, stream.num_workers)
            masks = interleaved(iterator, self._order, key)
        for number, (image, mask, is_last) in enumerate(masks, 1):
            iterator.is_skipping = number < num_passed
            pixels = None if number <= num_passed else image.pixels(is_last=is_last)
            if number <= num_passed or (pixels is None and self._run.images is not None):
                yield _NO_SAMPLE
                continue
            content, at = image.shard.content(), image.first_mask + mask
            sample = build_sample(self._run.spec, content, image.at, at, epoch=epoch, pixels=pixels)
            yield sample if self._transform is None else self._transform(sample)

    def _key(self, purpose: str, *numbers: int) -> int:
        return key_of(purpose, self._run.spec.seed, *numbers)

    def _fingerprint(self) -> dict[str, Any]:
        return self._described

    def _pin(self, fingerprint: dict[str, Any]) -> None:
        if fingerprint["snapshot"]["digest"] != self._run.snapshot.digest:
            self._reopen(Snapshot.from_state(self._run.location, fingerprint["snapshot"]))

    def _reopen(self, snapshot: Snapshot) -> None:
        location, spec = self._run.location, self._run.spec
        self._take_stock(DatasetRun.open(location, spec, snapshot, endpoint_url=self._endpoint_url))

    def _take_stock(self, run: DatasetRun) -> None:
        """Start to read a snapshot: count its samples if needed, and describe what decides the sequence."""
        order, spec = self._order, run.spec
        counts: Int64Array | None = None
        if order.uneven != "keep":
            counts = run.count_samples()
            total = int(counts.sum())
            if not total:
                raise run.nothing_passes()
            if order.uneven == "drop" and total < self.world_size:
                raise ConfigError(
                    f"{total} samples for {self.world_size} ranks: uneven='drop' would drop all of them. Give 'pad', "
                    "fewer ranks, or a filter that keeps more."
                )
        self._run, self._counts = run, counts
        self._described = {
            "snapshot": run.snapshot.state(),
            "has_images": run.images is not None,
            **spec.as_json(),
            **{name: getattr(order, name) for name in ("is_shuffled", "buffer_images", "buffer_bytes", "uneven")},
        }
