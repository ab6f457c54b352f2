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
from torch.utils._pytree import tree_leaves


class PretendedGraph(TorchFunctionMode):
    """A recording.

    Attributes:
        num_bytes: Of the results of its operations, which a graph keeps.
    """

    def __init__(self) -> None:
        """Record nothing yet."""
        super().__init__()
        self.num_bytes = 0
        self._calls: list[tuple[Any, tuple[Any, ...], Mapping[str, Any], Any]] = []
        self._is_first = True

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and note it."""
        result = function(*args, **(kwargs or {}))
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor)]
        given = {_address(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        self.num_bytes += sum(leaf.nbytes for leaf in made if _address(leaf) not in given)
        if made or result is None:
            self._calls.append((function, args, kwargs or {}, result))
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
            with _disable_current_modes():
                for old, new in zip(tree_leaves(before), tree_leaves(result), strict=True):
                    if isinstance(old, torch.Tensor) and _address(old) != _address(new):
                        old.copy_(new)


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
