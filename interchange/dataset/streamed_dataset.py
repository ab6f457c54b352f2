"""Base of iterable datasets, and their resumable `DataLoader`. For this folder and users: `ResumableLoader` is public.

A state holds for one sequence of samples. It is refused by another dataset, other settings, or another rank.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, cast

from pseudoris.interchange.dataset.stream_order import Stream
from pseudoris.interchange.dataset.torch_names import (
    DataLoader,
    IterableDataset,
    SharedNumbers,
    default_collate,
    distributed_rank,
    get_worker_info,
)
from pseudoris.primitives.errors import ConfigError, refuse_other_version
from pseudoris.primitives.extras import require_extra

# A position in a stream has JSON values only.
Position = dict[str, Any]

STATE_VERSION: Final = 2


@dataclass(slots=True)
class Reached:
    """How far streams of this rank are in one sequence of samples.

    Attributes:
        sequence: Epoch, and how often the data was replaced before. A position in one sequence is meaningless in
            another.
        positions: By number of the stream, of the rank's `num_streams`; one that is absent is at its beginning.
        first: The stream of the next batch.
    """

    sequence: tuple[int, int]
    num_streams: int
    positions: dict[int, Position]
    first: int = 0


class StreamedDataset(SharedNumbers, IterableDataset[Any]):
    """An iterable dataset that is split over ranks and workers, and that can be stopped and resumed.

    `set_epoch` reaches persistent workers, because the number is in shared memory. A loaded state applies only to its
    own epoch.
    """

    def __init__(self, rank: int | None = None, world_size: int | None = None) -> None:
        """Take rank and world size, here and not in a worker, of the process group by default."""
        own_rank, own_size = distributed_rank()
        self.rank = own_rank if rank is None else rank
        self.world_size = own_size if world_size is None else world_size
        # With another size than the group's, each process would take its rank there, or 0, and read the same share.
        if not 0 <= self.rank < self.world_size or (rank is None and self.world_size != own_size):
            raise ConfigError(f"rank is {rank}, world_size {self.world_size}. Give a rank from 0 to world_size - 1.")
        super().__init__()
        self._loaded: dict[str, Any] | None = None
        # Counts how often a refresh or a loaded state has replaced the data. Copies in workers do not count it.
        self.num_replaced = 0
        # Holds the position after this process's last sample, even if another epoch was chosen since.
        self.reached: Reached | None = None

    @property
    def sequence(self) -> tuple[int, int]:
        """Which sequence the next iteration reads: another one after `set_epoch`, a refresh, a loaded state."""
        return self.epoch, self.num_replaced

    def __iter__(self) -> Iterator[Any]:
        """Yield the samples of this worker's stream, from the position of a loaded state of this epoch."""
        worker, num_workers = _own_stream()
        start = self.beginning(num_workers)
        if start.num_streams != num_workers:
            raise ConfigError(
                f"The state was saved with {start.num_streams} stream(s) per rank, but now there are "
                f"{num_workers}. Resume with the same number of loader workers, or start the epoch again."
            )
        number = (worker + start.first) % num_workers
        stream = Stream(self.rank, self.world_size, number, num_workers)
        position = start.positions.get(number, {})
        self.reached = Reached(start.sequence, num_workers, {number: position})
        for sample, after in self._samples(stream, start.sequence[0], position):
            self.reached = Reached(start.sequence, num_workers, {number: after})
            yield sample
        self.forget_state()

    def beginning(self, num_streams: int) -> Reached:
        """Return where the next iteration begins, in `num_streams` streams if no state was loaded for its epoch."""
        state = self._loaded
        if state is None or state["epoch"] != self.epoch:
            return Reached(self.sequence, num_streams, {})
        positions = {int(number): position for number, position in state["streams"].items()}
        return Reached(self.sequence, state["num_workers"], positions, state["first"])

    @property
    def is_resumed(self) -> bool:
        """Whether the next iteration continues from a loaded state."""
        return self._loaded is not None and self._loaded["epoch"] == self.epoch

    def state_dict(self) -> dict[str, Any]:
        """Return as JSON the position of this process after the sample it yielded last; in a worker, of its own stream.

        A loader that queries its workers (torchdata's `StatefulDataLoader`) keeps one state a worker; `ResumableLoader`
        combines them. Each rank has its own. Before the first sample it is the loaded state, or the epoch's beginning.
        """
        return self.state_of(self.reached, _own_stream()[1])

    def state_of(self, reached: Reached | None, num_streams: int) -> dict[str, Any]:
        """Return the state of streams; the next iteration's beginning if they are of another sequence."""
        if reached is None or reached.sequence != self.sequence:
            reached = self.beginning(num_streams)
        return {
            "version": STATE_VERSION,
            "epoch": self.epoch,
            "rank": self.rank,
            "world_size": self.world_size,
            "num_workers": reached.num_streams,
            "first": reached.first,
            "streams": {str(number): position for number, position in reached.positions.items()},
            "dataset": self._fingerprint(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state` was saved: its epoch, its snapshot of the run, its position in each stream.

        Raises:
            ConfigError: It was saved by another dataset, by other settings, or on another rank; the difference is
                named.
        """
        own = {"rank": self.rank, "world_size": self.world_size, **self._fingerprint()}
        refuse_another(own, state, "another sequence of samples")
        self._pin(state["dataset"])
        self.set_epoch(state["epoch"])
        self._loaded = state
        self.num_replaced += 1

    def forget_state(self) -> None:
        """Let the next iteration begin at its epoch's beginning."""
        self._loaded = None

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


def refuse_another(own: Mapping[str, Any], state: Mapping[str, Any], what: str) -> None:
    """Raise if a saved state differs in its version or its dataset; its snapshot may, for a state brings its own."""
    found = state.get("version")
    refuse_other_version("the state of the dataset", found, STATE_VERSION, again="begin the epoch again")
    saved = {**{name: state[name] for name in ("rank", "world_size") if name in state}, **state["dataset"]}
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


class ResumableLoader:
    """Batches of a `StreamedDataset`, as torch's `DataLoader` gives them, and the state after the last one.

    torch's own loader does not reveal which worker made a batch, and its workers are ahead of the batches taken. Here
    each batch carries the position of its stream, and the state is that of the batches taken. A resumed loader yields
    the batches that an uninterrupted one would have yielded. Persistent workers (`persistent_workers`) are replaced by
    new ones if they could not learn of a loaded state or a refresh.
    """

    def __init__(self, dataset: StreamedDataset, *, collate_fn: Collate | None = None, **options: Any) -> None:
        """Wire it; `options` go to torch's `DataLoader`, such as `batch_size` and `num_workers`."""
        require_extra("run", "ResumableLoader")
        if collate_fn is None:
            from torch.utils.data import default_convert

            # As torch's loader, which stacks no samples that come one by one.
            collate_fn = default_convert if options.get("batch_size", 1) is None else default_collate
        self.dataset = dataset
        self._num_streams = max(1, options.get("num_workers", 0))
        self._options = {"collate_fn": partial(_placed, dataset=dataset, collate=collate_fn), **options}
        self._loader: DataLoader[Any] = DataLoader(dataset, **self._options)
        self._num_replaced = dataset.num_replaced
        self._reached: Reached | None = None

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; call it before each."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the epoch, from the position of a loaded state."""
        # With a loaded state, renew workers even if the data was not replaced: if a resumed epoch was abandoned, some
        # may have finished and lost the state.
        if self._num_replaced != self.dataset.num_replaced or self.dataset.is_resumed:
            self._loader = DataLoader(self.dataset, **self._options)
            self._num_replaced = self.dataset.num_replaced
        reached = self._reached = self.dataset.beginning(self._num_streams)
        try:
            for place, batch in self._loader:
                reached.positions |= place.positions
                reached.first = (max(place.positions) + 1) % self._num_streams
                yield batch
        except Exception as error:  # noqa: BLE001  # whatever a worker raises
            # Torch's frames refer to the error and to its iterator. With them the garbage collector would end the
            # workers, and wait 5 s for each. The message has the worker's own traceback.
            raise error.with_traceback(None) from None
        # This process forgets the loaded state here, because the workers forgot it only in their own copies.
        self.dataset.forget_state()

    def __len__(self) -> int:
        """Return the batches of an epoch, if the dataset has a length; each worker ends with its own."""
        size = self._loader.batch_size or 1
        lengths = self.dataset.stream_lengths(self._num_streams)
        return sum(length // size if self._loader.drop_last else -(-length // size) for length in lengths)

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON, the state after the batch that was taken last, of the epoch that is set."""
        return self.dataset.state_of(self._reached, self._num_streams)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration continue after the last batch taken; raises as the dataset's does."""
        self.dataset.load_state_dict(state)


def _placed(samples: Any, *, dataset: StreamedDataset, collate: Collate) -> tuple[Reached | None, Any]:
    """Collate a batch, and return it behind its stream's position."""
    info = get_worker_info()
    # A worker iterates over its own copy of the dataset, so only this copy has the position.
    own = cast("StreamedDataset", info.dataset) if info else dataset
    return own.reached, collate(samples)
