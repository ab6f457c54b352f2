"""A GPU that is pretended on a CPU: it runs what the engines do on CUDA alone, and counts where the CPU would wait.

While `pretended_gpu` is open, torch says that it sees a GPU, and what is sent there becomes a `GpuTensor`: a tensor in
host memory whose device is `cuda`. Like a GPU it refuses to mix tensors of both memories, and to be read by numpy.

The CPU waits for a GPU where a value decides what is done next (`bool`, `int`, `tolist`), where the size of a result is
not known before (`nonzero`, an index of bools, `unique`), and for each copy that is not asynchronous: from the GPU, and
to it from memory that is not pinned. Waits inside torch's own compositions are not seen.
Source: torch 2, ATen/native/cuda/Copy.cpp, Nonzero.cu and Unique.cu; torch.cuda.set_sync_debug_mode on a real one.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, Final
from unittest import mock

import numpy as np
import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map

from tests.oracles.pretended_graph import PretendedGraph, recording, tensors_of

_ROOT: Final = Path(__file__).parents[2].resolve()
# Their callers are what waits.
_PASSED_OVER: Final = frozenset({_ROOT / "workers" / "device.py", Path(__file__).resolve()})
_CUDA, _CPU = torch.device("cuda"), torch.device("cpu")
# What returns a Python value, or a tensor whose size depends on values.
_READS: Final = frozenset(
    {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "__contains__", "__format__", "is_nonzero"}
    | {"equal", "allclose", "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "bincount", "nms"}
)
_MAKES_OF_VALUES: Final = frozenset({"tensor", "as_tensor", "asarray", "new_tensor"})
# What `prepare_device` sets.
_CUDNN_FLAGS: Final = ("benchmark", "deterministic", "allow_tf32")
_MATMUL_FLAGS: Final = (
    "allow_tf32",
    "allow_bf16_reduced_precision_reduction",
    "allow_fp16_reduced_precision_reduction",
)
_REFUSED: Final = frozenset({"numpy", "__array__"})


class GpuTensor(torch.Tensor):
    """A tensor that would be on the GPU; the results of operations on it are there too."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """The GPU."""
        return _CUDA

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """True."""
        return True

    def __deepcopy__(self, memo: dict[int, Any]) -> torch.Tensor:
        """Return a copy on the GPU; torch's own would lose its class."""
        copied = self.detach().clone()
        if isinstance(self, nn.Parameter):
            return nn.Parameter(copied, self.requires_grad)
        return copied.requires_grad_(self.requires_grad)


@dataclass(frozen=True, slots=True)
class Wait:
    """A place where the CPU would wait for the GPU.

    Attributes:
        operation: The name of torch's function.
        place: `file:function` of ours that called it.
    """

    operation: str
    place: str


class PretendedGpu(TorchFunctionMode):
    """Counts what a GPU would be asked.

    Attributes:
        waits: In time.
        num_copies: Asynchronous copies, in both directions.
        num_recordings: CUDA graphs that were recorded to their end.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()
        self.waits: list[Wait] = []
        self.num_copies = self.num_recordings = 0

    def wait(self, operation: str) -> None:
        """Count a wait, at the innermost of our functions that is running."""
        self.waits.append(Wait(operation, _place()))

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch in host memory, after what a GPU would do differently."""
        kwargs = kwargs or {}
        name = getattr(function, "__name__", "")
        if name in _SPECIAL:
            return _SPECIAL[name](self, function, args, kwargs)
        self._check(name, args, kwargs)
        if _asks_for_gpu(kwargs):
            if name in _MAKES_OF_VALUES:
                self.wait(name)
            return _on_gpu(function(*args, **{**kwargs, "device": _CPU}))
        return function(*args, **kwargs)

    def _check(self, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Count a wait, or refuse what a GPU refuses."""
        tensors = tensors_of((args, kwargs))
        if not any(isinstance(tensor, GpuTensor) for tensor in tensors):
            return
        if name in _REFUSED:
            raise TypeError("can't convert cuda:0 device type tensor to numpy. Copy it to host memory first.")
        if any(not isinstance(tensor, GpuTensor) and tensor.dim() for tensor in tensors):
            raise RuntimeError(f"{name}: expected all tensors to be on the same device, but found some on cuda and cpu")
        if name in _READS or name in _MAKES_OF_VALUES or (name == "where" and len(args) + len(kwargs) == 1):
            self.wait(name)
        if name == "repeat_interleave" and _is_sized_by_values(args, kwargs):
            self.wait(name)

    def move(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`to`, `cpu` and `cuda`: a copy from one memory to the other."""
        tensor, *rest = args
        is_here = isinstance(tensor, GpuTensor)
        target = _target(function.__name__, [*rest, *kwargs.values()])
        is_to_gpu = is_here if target is None else target.type == "cuda"
        source = _in_host(tensor)
        given, named = tree_map(_in_host_terms, (tuple(rest), dict(kwargs)))
        moved = source.cpu() if function.__name__ == "cuda" else function(source, *given, **named)
        if is_here != is_to_gpu:
            is_asynchronous = any(each is True for each in [*rest, kwargs.get("non_blocking")])
            self._copied(tensor, is_to_gpu=is_to_gpu, is_blocking=not is_asynchronous)
            moved = moved.clone() if moved is source else moved
        return _on_gpu(moved) if is_to_gpu else moved

    def _copied(self, tensor: torch.Tensor, *, is_to_gpu: bool, is_blocking: bool) -> None:
        is_pinned = not is_to_gpu or getattr(tensor, "is_pretended_pinned", False)
        if is_blocking or not is_pinned:
            self.wait("copy to the GPU" if is_to_gpu else "copy from the GPU")
        else:
            self.num_copies += 1

    def pin(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`pin_memory`: a copy in host memory."""
        pinned = args[0].clone()
        pinned.is_pretended_pinned = True
        return pinned

    def read_item(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`__getitem__`."""
        if isinstance(args[0], GpuTensor):
            self._index(function.__name__, args[1])
        return function(*args)

    def write_item(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        """`__setitem__`: a number is filled in on the GPU where the index is a slice or bools, else it is copied."""
        tensor, index, value = args
        if isinstance(tensor, GpuTensor):
            is_number = not isinstance(value, torch.Tensor)
            leaves = [leaf for leaf in tree_leaves(index) if isinstance(leaf, torch.Tensor)]
            if is_number and any(leaf.dtype != torch.bool for leaf in leaves):
                self.wait("__setitem__ of a number")
            elif not is_number and not isinstance(value, GpuTensor) and value.dim():
                self.wait("copy to the GPU")
            if not is_number:
                self._index("__setitem__", index)
        return function(*args)

    def _index(self, name: str, index: Any) -> None:
        for leaf in tree_leaves(index):
            is_tensor = isinstance(leaf, torch.Tensor) and leaf.dim()
            if is_tensor and leaf.dtype == torch.bool:
                self.wait(f"{name} by bools")
            elif isinstance(leaf, np.ndarray) or (is_tensor and not isinstance(leaf, GpuTensor)):
                self.wait(f"{name} by an index in host memory")
        if isinstance(index, list):
            self.wait(f"{name} by a list")


_Handler = Callable[[PretendedGpu, Any, tuple[Any, ...], Mapping[str, Any]], Any]


def _copy_into(gpu: PretendedGpu, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    if isinstance(args[0], GpuTensor) != isinstance(args[1], GpuTensor):
        gpu.wait("copy_")
    return function(*args, **kwargs)


def _cumsum(gpu: PretendedGpu, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """Refuse floats of one row, which a GPU adds up by blocks that do not wait for each other's turn.

    Source: torch 2.11, ATen/native/cuda/ScanUtils.cuh; measured on an H200: 30 of 30 calls differ.
    """
    dim = args[1] if len(args) > 1 else kwargs["dim"]
    if isinstance(args[0], GpuTensor) and args[0].is_floating_point() and args[0].numel() == args[0].shape[dim]:
        raise RuntimeError("cumsum over one row: its bits depend on timing on a GPU; add up two rows")
    return function(*args, **kwargs)


def _attribute(gpu: PretendedGpu, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    found = function(*args, **kwargs)
    # torch returns gradients as plain tensors.
    return _on_gpu(found) if isinstance(found, torch.Tensor) and isinstance(args[0], GpuTensor) else found


def _pass(gpu: PretendedGpu, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    return function(*args, **kwargs)


_SPECIAL: Final[dict[str, _Handler]] = {
    "to": PretendedGpu.move,
    "cpu": PretendedGpu.move,
    "cuda": PretendedGpu.move,
    "pin_memory": PretendedGpu.pin,
    "__getitem__": PretendedGpu.read_item,
    "__setitem__": PretendedGpu.write_item,
    "copy_": _copy_into,
    "cumsum": _cumsum,
    # What a module asks that moves.
    "_parse_to": _pass,
    "_has_compatible_shallow_copy_type": _pass,
    "__get__": _attribute,
    "__set__": _pass,
}


def _autocast(autocast: type[torch.autocast], device_type: str, **settings: Any) -> torch.autocast:
    return autocast("cpu" if device_type == "cuda" else device_type, **settings)


class _Stream:
    def __init__(self, gpu: PretendedGpu) -> None:
        self._gpu = gpu

    def synchronize(self) -> None:
        self._gpu.wait("synchronize")

    def is_capturing(self) -> bool:
        """What an optimiser asks."""
        return False


@contextmanager
def pretended_gpu() -> Iterator[PretendedGpu]:
    """Yield the counts of a GPU that torch pretends to see; models and inputs must be made while it is open."""
    gpu = PretendedGpu()
    cudnn, matmul = torch.backends.cudnn, torch.backends.cuda.matmul
    num_threads = torch.get_num_threads()
    before = [
        (module, name, getattr(module, name))
        for module, names in ((cudnn, _CUDNN_FLAGS), (matmul, _MATMUL_FLAGS))
        for name in names
    ]
    has_cudnn_attention = torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]
    was_overwriting = torch.__future__.get_overwrite_module_params_on_conversion()
    with ExitStack() as stack:
        # Operations are those of a CPU, which casts by its own list.
        stack.enter_context(mock.patch.object(torch, "autocast", partial(_autocast, torch.autocast)))
        for module, name, answer in (
            (torch.cuda, "is_available", True),
            # What names a pool of memory: a process, and a number.
            (torch.cuda, "graph_pool_handle", (0, 1)),
            (torch.cuda, "synchronize", None),
            (torch.cuda, "current_stream", _Stream(gpu)),
            (torch.accelerator, "current_stream", _Stream(gpu)),
        ):
            stack.enter_context(mock.patch.object(module, name, return_value=answer))
        stack.enter_context(mock.patch.object(torch.cuda, "CUDAGraph", PretendedGraph))
        stack.enter_context(mock.patch.object(torch.cuda, "graph", partial(recording, gpu)))
        stack.enter_context(gpu)
        # Else a module keeps its parameters, which are of another class, and takes over the data alone.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            yield gpu
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(was_overwriting)
            torch.backends.cuda.enable_cudnn_sdp(has_cudnn_attention)
            for flags, name, value in before:
                setattr(flags, name, value)
            torch.set_num_threads(num_threads)


@contextmanager
def waits_of(gpu: PretendedGpu, owner: type | ModuleType, method: str) -> Iterator[list[list[Wait]]]:
    """Yield a list that gets the waits of each call of a method or function of `owner`, once it returns."""
    found: list[list[Wait]] = []
    original = getattr(owner, method)

    def watched(*args: Any, **kwargs: Any) -> Any:
        first = len(gpu.waits)
        result = original(*args, **kwargs)
        found.append(gpu.waits[first:])
        return result

    with mock.patch.object(owner, method, watched):
        yield found


def _on_gpu(made: Any) -> Any:
    return tree_map(lambda leaf: leaf.as_subclass(GpuTensor) if isinstance(leaf, torch.Tensor) else leaf, made)


def _in_host(tensor: torch.Tensor) -> torch.Tensor:
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


def _in_host_terms(leaf: Any) -> Any:
    """Return an argument of `to` without the GPU."""
    if isinstance(leaf, torch.Tensor):
        return _in_host(leaf)
    return _CPU if _is_gpu(leaf) else leaf


def _target(name: str, given: list[Any]) -> torch.device | None:
    """Return the device that `to`, `cpu` or `cuda` names; None where it names another dtype alone."""
    if name != "to":
        return torch.device(name)
    for leaf in given:
        if isinstance(leaf, torch.Tensor):
            return leaf.device
        if isinstance(leaf, str | torch.device):
            return torch.device(leaf)
    return None


def _is_gpu(leaf: Any) -> bool:
    return isinstance(leaf, str | torch.device) and torch.device(leaf).type == "cuda"


def _asks_for_gpu(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("device") is not None and _is_gpu(kwargs["device"])


def _is_sized_by_values(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> bool:
    """Return whether `repeat_interleave` must read its counts to know the size of its result."""
    counts = args[1] if len(args) > 1 else kwargs.get("repeats", args[0])
    return isinstance(counts, torch.Tensor) and kwargs.get("output_size") is None


def _place() -> str:
    frame = sys._getframe(1)
    while frame is not None:
        if file := _file_of_ours(frame.f_code.co_filename):
            return f"{file}:{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


@cache
def _file_of_ours(name: str) -> Path | None:
    """Return a file of ours below the root; a wait has tens of frames, and links take long to follow."""
    path = Path(name).resolve()
    is_ours = path.is_relative_to(_ROOT) and path not in _PASSED_OVER and ".venv" not in path.parts
    return path.relative_to(_ROOT) if is_ours else None
