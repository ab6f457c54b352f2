"""CUDA graphs of the pretended GPU: what torch is asked while one records is asked again, at the same addresses.

A real recording runs nothing. This one does, so its first replay is the recording itself.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes


class PretendedGraph(TorchFunctionMode):
    """A recording.

    Attributes:
        num_bytes: Of the results of its operations, which a graph keeps.
    """

    def __init__(self) -> None:
        """Record nothing yet."""
        super().__init__()
        self.num_bytes = 0
        self._calls: list[tuple[Any, tuple[Any, ...], Mapping[str, Any], list[tuple[torch.Tensor, int]]]] = []
        self._is_first = True

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and note it."""
        result = function(*args, **(kwargs or {}))
        with torch._C.DisableTorchFunction():
            made = [(leaf, _address(leaf)) for leaf in tensors_of(result)]
            given = {_address(leaf) for leaf in tensors_of((args, kwargs))}
            self.num_bytes += sum(leaf.nbytes for leaf, address in made if address not in given)
        if made or result is None:
            self._calls.append((function, args, kwargs or {}, made))
        return result

    def replay(self) -> None:
        """Ask all again; what a recorded operation returned gets the new values, where it is."""
        if self._is_first:
            self._is_first = False
        else:
            self.ask_again()

    def ask_again(self) -> None:
        """Ask all that is recorded."""
        for function, args, kwargs, before in self._calls:
            result = function(*args, **kwargs)
            # A GPU computes in place, so no meter may see these copies.
            with torch._C.DisableTorchFunction(), _disable_current_modes():
                for (old, address), new in zip(before, tensors_of(result), strict=True):
                    if address != _address(new):
                        old.copy_(new)


def tensors_of(value: Any) -> list[torch.Tensor]:
    """Return the tensors in a value of tuples, lists and mappings, as torch's `tree_leaves` finds them, but sooner."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, Mapping):
        value = value.values()
    elif not isinstance(value, (tuple, list)):
        return []
    return [leaf for each in value for leaf in tensors_of(each)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()


@contextmanager
def recording(gpu: Any, graph: PretendedGraph, pool: Any = None) -> Iterator[None]:
    """`torch.cuda.graph` of a pretended GPU; as there, the CPU must not wait inside."""
    first = len(gpu.waits)
    with graph:
        yield
    if len(gpu.waits) > first:
        raise RuntimeError(f"operation not permitted when a stream is recorded: {gpu.waits[first]}")
    gpu.num_recordings += 1
