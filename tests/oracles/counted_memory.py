"""The memory that a model's passes take on a GPU, counted without one: tensors have shapes and no values.

Inside `counted_gpu` tensors on `cuda` are torch's fake ones, so that the true widths cost nothing; what is alive of
them at once is counted. Left out are a card's context, workspaces of libraries, and what an allocator cannot reuse.
Operations must not read a value. Automatic casts are left out: what is float32 stays it, which takes more.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of what is alive on the GPU.

    Attributes:
        peak: The most at once, of what was made while it was open.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self._now, self.peak = 0, 0
        self._seen: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run it, and count the storages that it made."""
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if not isinstance(leaf, torch.Tensor) or leaf.device.type != "cuda":
                continue
            storage = leaf.untyped_storage()
            if storage not in self._seen:
                self._seen.add(storage)
                self._now += storage.nbytes()
                self.peak = max(self.peak, self._now)
                weakref.finalize(storage, self._free, storage.nbytes())
        return result

    def _free(self, num_bytes: int) -> None:
        self._now -= num_bytes


def _converted(module: nn.Module, dtype: torch.dtype) -> nn.Module:
    """What `Module.to` does; torch's own cannot exchange fake parameters."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    return module


@contextmanager
def counted_gpu() -> Iterator[None]:
    """Make tensors on `cuda` fake; models must be built inside, under `torch.device("cuda")`."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(nn.Module, "to", _converted))
        stack.enter_context(mock.patch.object(torch, "autocast", return_value=nullcontext()))
        stack.enter_context(mock.patch.object(torch.Tensor, "pin_memory", lambda tensor: tensor))
        stack.enter_context(FakeTensorMode(allow_non_fake_inputs=True))
        yield


def peak_bytes(work: Callable[[], object]) -> int:
    """Return the most bytes that `work` has alive at once, with what it returns, without what was there before."""
    live = LiveBytes()
    with torch.inference_mode(), live:
        work()
    return live.peak
