"""The base of iterable datasets, and a `DataLoader` for them, that can stop and resume in the middle of an epoch."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

from torch.utils.data import DataLoader, IterableDataset, default_collate, get_worker_info

from pseudoris.schemas.errors import ConfigError, refuse_other_version
from pseudoris.training.dataset.process_group import SharedNumbers, distributed_rank
from pseudoris.training.dataset.stream_order import Stream

# The position of a stream, as JSON.
Position = dict[str, Any]

STATE_VERSION: Final = 2


# An epoch, and how often its snapshot was replaced before: a position in one sequence is meaningless in another.
SampleSequence = tuple[int, int]


@dataclass(frozen=True, slots=True)
class StreamPlace:
    """The position of a stream, of several of this rank, in a sequence of samples (`StreamedDataset.sequence`)."""

    sequence: SampleSequence
    number: int
    num_streams: int
    position: Position


class StreamedDataset(IterableDataset[Any]):
    """An iterable dataset that is split over ranks and workers, and that can be stopped and resumed.

    `set_epoch` reaches persistent workers, because the number is in shared memory. A loaded state applies only to its
    own epoch.
    """

    def __init__(self, rank: int | None = None, world_size: int | None = None) -> None:
        """Take rank and world size, here and not in a worker, of the process group by default."""
        own_rank, own_size = distributed_rank()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_size if world_size is None else world_size
        if not 0 <= self.rank < self.world_size:
            raise ConfigError(
                f"rank is {self.rank}, world_size {self.world_size}. Give a rank from 0 to world_size - 1."
            )
        self._shared = SharedNumbers()
        self._loaded: dict[str, Any] | None = None
        # How often a refresh or a loaded state replaced the data to read. Copies in workers do not see this.
        self.num_replaced = 0
        self._place: StreamPlace | None = None

    @property
    def epoch(self) -> int:
        """The epoch that the next iteration reads."""
        return self._shared.epoch

    @property
    def sequence(self) -> SampleSequence:
        """Which sequence of samples the next iteration reads: another one after `set_epoch`, a refresh, a loaded state.

        A position in one is meaningless in another: a state that mixed them would skip samples that were never read.
        """
        return self.epoch, self.num_replaced

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch: its shuffle and its draws. Call it on every rank before each iteration."""
        self._shared.epoch = epoch

    @property
    def num_skipped(self) -> int:
        """Masks that were left out since the dataset was made because their image could not be used, by all workers."""
        return self._shared.num_skipped

    def __iter__(self) -> Iterator[Any]:
        """Yield the samples of this worker's stream, from the position of a loaded state of this epoch."""
        worker, num_workers = _own_stream()
        sequence, state = self.sequence, self.loaded_state()
        if state and state["num_workers"] != num_workers:
            raise ConfigError(
                f"The state was saved with {state['num_workers']} stream(s) per rank, but now there are "
                f"{num_workers}. Resume with the same number of loader workers, or start the epoch again."
            )
        number = (worker + (state["first"] if state else 0)) % num_workers
        stream = Stream(self.rank, self.world_size, number, num_workers)
        position: Position = state["streams"].get(str(number), {}) if state else {}
        self._place = StreamPlace(sequence, number, num_workers, position)
        for sample, reached in self._samples(stream, sequence[0], position):
            self._place = StreamPlace(sequence, number, num_workers, reached)
            yield sample
        self.forget_state()

    def state_dict(self) -> dict[str, Any]:
        """Return as JSON the position of this process after the sample it yielded last; in a worker, of its own stream.

        A loader that queries its workers (torchdata's `StatefulDataLoader`) keeps one state a worker; `ResumableLoader`
        combines them. Each rank has its own. Before the first sample it is the loaded state, or the epoch's beginning.
        """
        place, state = self.place(), self.loaded_state()
        if state is not None and place is not self._place:
            streams = {int(number): position for number, position in state["streams"].items()}
            return self.state_of(streams, num_workers=state["num_workers"], first=state["first"])
        return self.state_of({place.number: place.position}, num_workers=place.num_streams)

    def state_of(self, streams: dict[int, Position], *, num_workers: int, first: int = 0) -> dict[str, Any]:
        """Return the state of several streams of this rank; `first` makes the next batch."""
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "rank": self.rank,
            "world_size": self.world_size,
            "num_workers": num_workers,
            "first": first,
            "streams": {str(number): position for number, position in streams.items()},
            "dataset": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was saved: its epoch, its snapshot of the run, its position in each stream.

        Raises:
            ConfigError: It was saved by another dataset, by other settings, or on another rank; the difference is
                named.
        """
        found = state.get("version")
        refuse_other_version("the state of the dataset", found, STATE_VERSION, again="begin the epoch again")
        own = {"rank": self.rank, "world_size": self.world_size, **self._fingerprint()}
        saved = {"rank": state["rank"], "world_size": state["world_size"], **state["dataset"]}
        refuse_another(own, saved, "another sequence of samples")
        self._pin(state["dataset"])
        self.set_epoch(state["epoch"])
        self._loaded = state
        self.num_replaced += 1

    def loaded_state(self) -> dict[str, Any] | None:
        """Return the state that the next iteration continues from; None if it starts at the beginning of the epoch."""
        return self._loaded if self._loaded and self._loaded["epoch"] == self.epoch else None

    def forget_state(self) -> None:
        """Let the next iteration begin at its epoch's beginning."""
        self._loaded = None

    def begin_anew(self) -> None:
        """Start the next iteration at the beginning of its epoch, because the data to read was replaced."""
        self.forget_state()
        self.num_replaced += 1

    def place(self) -> StreamPlace:
        """Return which stream this process reads and its position; a sequence not yet begun is at its beginning."""
        if self._place is not None and self._place.sequence == self.sequence:
            return self._place
        return StreamPlace(self.sequence, *_own_stream(), {})

    def last_place(self) -> StreamPlace:
        """Return the position of the stream that this process reads, even if another epoch was chosen meanwhile."""
        return self._place or self.place()

    def stream_lengths(self, num_streams: int) -> Sequence[int]:
        """Return the samples of an epoch by stream of this rank; a TypeError if they are not known."""
        raise TypeError(f"The number of samples in an epoch of a {type(self).__name__} is not known.")

    @abstractmethod
    def _samples(self, stream: Stream, epoch: int, position: Position) -> Iterator[tuple[Any, Position]]:
        """Yield the samples of a stream from a position on ({}: its beginning), each with the position after it."""

    @abstractmethod
    def _fingerprint(self) -> dict[str, Any]:
        """Return, as JSON, all that decides the sequence of samples; the snapshot under `snapshot`."""

    @abstractmethod
    def _pin(self, fingerprint: dict[str, Any]) -> None:
        """Read the snapshot of a saved fingerprint from now on."""


def refuse_another(own: Mapping[str, Any], saved: Mapping[str, Any], what: str) -> None:
    """Raise what a saved description of a dataset differs in; its snapshot may, for a state brings its own."""
    names = [name for name in dict.fromkeys((*own, *saved)) if name != "snapshot"]
    differing = [name for name in names if own.get(name) != saved.get(name)]
    if differing:
        lines = "; ".join(f"{name}: {saved.get(name)!r} saved, {own.get(name)!r} now" for name in differing)
        raise ConfigError(f"The state belongs to {what} ({lines}). Resume with the saved settings.")


def _own_stream() -> tuple[int, int]:
    """Return the loader worker that this process is, and how many there are; (0, 1) outside of one."""
    info = get_worker_info()
    return (info.id, info.num_workers) if info else (0, 1)


Collate = Callable[[Any], Any]


@dataclass(slots=True)
class _LoaderPosition:
    """The positions of the streams of one sequence of samples, and the stream of the next batch."""

    sequence: SampleSequence
    streams: dict[int, Position]
    first: int


class ResumableLoader:
    """Batches of a `StreamedDataset`, as torch's `DataLoader` gives them, and the state after the last one.

    torch's own loader does not reveal which worker made a batch, and its workers are ahead of the batches taken. Here
    each batch carries the position of its stream, and the state is that of the batches taken. A resumed loader yields
    the batches that an uninterrupted one would have yielded. Persistent workers (`persistent_workers`) are replaced by
    new ones if they could not learn of a loaded state or a refresh.
    """

    def __init__(self, dataset: StreamedDataset, *, collate_fn: Collate = default_collate, **options: Any) -> None:
        """Wire it; `options` go to torch's `DataLoader`, such as `batch_size` and `num_workers`."""
        self.dataset = dataset
        self._num_streams = max(1, options.get("num_workers", 0))
        self._options = {"collate_fn": _PlacingCollate(dataset, collate_fn), **options}
        self._loader: DataLoader[Any] = DataLoader(dataset, **self._options)
        self._num_replaced = dataset.num_replaced
        self._reached: _LoaderPosition | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; call it before each."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the epoch, from the position of a loaded state."""
        # With a loaded state, renew workers even if the data was not replaced: if a resumed epoch was abandoned, some
        # may have finished and lost the state.
        if self._num_replaced != self.dataset.num_replaced or self.dataset.loaded_state() is not None:
            self._loader = DataLoader(self.dataset, **self._options)
            self._num_replaced = self.dataset.num_replaced
        reached = self._reached = self._beginning()
        for place, batch in self._placed_batches():
            reached.streams[place.number] = place.position
            reached.first = (place.number + 1) % self._num_streams
            yield batch
        # Workers forgot it only in their copies.
        self.dataset.forget_state()

    def __len__(self) -> int:
        """Return the batches of an epoch, if the dataset has a length; each worker ends with its own."""
        size = self._loader.batch_size or 1
        lengths = self.dataset.stream_lengths(self._num_streams)
        return sum(length // size if self._loader.drop_last else -(-length // size) for length in lengths)

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON, the state after the batch that was taken last, of the epoch that is set."""
        reached = self._reached
        if reached is None or reached.sequence != self.dataset.sequence:
            reached = self._beginning()
        return self.dataset.state_of(reached.streams, num_workers=self._num_streams, first=reached.first)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration continue after the last batch taken; raises as the dataset's does."""
        self.dataset.load_state_dict(state)

    def _placed_batches(self) -> Iterator[Any]:
        try:
            yield from self._loader
        except Exception as error:  # noqa: BLE001  # whatever a worker raises
            # Torch's frames refer to the error and to its iterator. The garbage collector would end the workers, and
            # wait 5 s for each: by then they cannot be told. The message has the worker's own traceback.
            raise error.with_traceback(None) from None

    def _beginning(self) -> _LoaderPosition:
        """Return where the next iteration begins."""
        state = self.dataset.loaded_state()
        streams = {int(number): place for number, place in state["streams"].items()} if state else {}
        return _LoaderPosition(self.dataset.sequence, streams, state["first"] if state else 0)


class _PlacingCollate:
    """Collates a batch, and returns it with its stream and the stream's position."""

    def __init__(self, dataset: StreamedDataset, collate: Collate) -> None:
        self._dataset = dataset
        self._collate = collate

    def __call__(self, samples: Any) -> tuple[StreamPlace, Any]:
        info = get_worker_info()
        # A worker iterates over its own copy.
        dataset = cast("StreamedDataset", info.dataset) if info else self._dataset
        return dataset.last_place(), self._collate(samples)
