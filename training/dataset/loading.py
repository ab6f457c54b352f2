"""A `DataLoader` that can be stopped and taken up again in the middle of an epoch, with workers or without."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, cast

from torch.utils.data import DataLoader, default_collate, get_worker_info

from training.dataset.streaming import Position, StreamedDataset

Collate = Callable[[Any], Any]


class ResumableLoader:
    """Batches of a `StreamedDataset`, as torch's `DataLoader` gives them, and the state after the last one.

    torch's own loader does not tell which worker a batch came from, and its workers are ahead of what was taken. Here
    each batch carries where its stream stood, and the state is that of the batches taken. Resumed, the batches that
    follow are those that would have followed.
    """

    def __init__(self, dataset: StreamedDataset, *, collate_fn: Collate = default_collate, **options: Any) -> None:
        """Wire it; `options` are those of torch's `DataLoader`, `batch_size` and `num_workers` among them."""
        self.dataset = dataset
        self._num_streams = max(1, options.get("num_workers", 0))
        self._loader = DataLoader(dataset, collate_fn=_Marking(dataset, collate_fn), **options)
        self._streams: dict[int, Position] = {}
        self._next = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; call it before each."""
        self.dataset.set_epoch(epoch)

    def __iter__(self) -> Iterator[Any]:
        """Yield the batches of the epoch, from where a loaded state stands."""
        state = self.dataset.loaded_state()
        self._streams = {int(number): place for number, place in state["streams"].items()} if state else {}
        self._next = state["first"] if state else 0
        for number, position, batch in self._loader:
            self._streams[number] = position
            self._next = (number + 1) % self._num_streams
            yield batch
        # Workers have forgotten it in their copies alone.
        self.dataset.forget_state()

    def __len__(self) -> int:
        """Return the batches of an epoch, where the dataset knows its length."""
        return len(self._loader)

    def state_dict(self) -> dict[str, Any]:
        """Return, as JSON, the state after the batch that was taken last."""
        return self.dataset.state_of(self._streams, num_workers=self._num_streams, first=self._next)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Let the next iteration go on after the batch that was taken last; raises as the dataset's does.

        Raises:
            ConfigError: The state belongs to other settings.
            TransientError: Storage failed.
        """
        self.dataset.load_state_dict(state)
        self._streams = {int(number): place for number, place in state["streams"].items()}
        self._next = state["first"]


class _Marking:
    """Collates, and says which stream the batch came from and where that stands."""

    def __init__(self, dataset: StreamedDataset, collate: Collate) -> None:
        self._dataset = dataset
        self._collate = collate

    def __call__(self, samples: Any) -> tuple[int, Position, Any]:
        info = get_worker_info()
        # A worker iterates over its own copy.
        dataset = cast("StreamedDataset", info.dataset) if info else self._dataset
        number, _, position = dataset.position()
        return number, position, self._collate(samples)
