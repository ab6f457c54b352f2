"""A `DataLoader` that can stop and resume in the middle of an epoch, with workers or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, cast

from torch.utils.data import DataLoader, default_collate, get_worker_info

from pseudoris.training.dataset.streamed_dataset import Position, SampleSequence, StreamedDataset, StreamPlace

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
        self._renew_workers()
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
        """Let the next iteration continue after the last batch taken; raises as the dataset's does.

        Raises:
            ConfigError: The state belongs to other settings.
            TransientError: Storage failed.
        """
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

    def _renew_workers(self) -> None:
        # With a loaded state, renew them even if the data was not replaced: if a resumed epoch was abandoned, some
        # workers may have finished and lost the state.
        if self._num_replaced != self.dataset.num_replaced or self.dataset.loaded_state() is not None:
            self._loader = DataLoader(self.dataset, **self._options)
            self._num_replaced = self.dataset.num_replaced


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
