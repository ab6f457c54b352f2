"""Operations and bytes of whatever torch runs, counted as it runs."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

# A multiplication and an addition.
_PER_MULTIPLY = 2
# These move nothing: they give a tensor another shape over the same memory.
_VIEWS = frozenset(
    {"view", "_unsafe_view", "t", "transpose", "permute", "expand", "slice", "select", "unsqueeze"}
    | {"squeeze", "split", "split_with_sizes", "chunk", "detach", "as_strided", "alias", "_reshape_alias", "unbind"}
)


class Traffic(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is open, adds up what each operation reads and writes, as if nothing stayed in a cache.

    Attributes:
        num_bytes: Of the tensors that go into an operation, and of those that come out.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.num_bytes = 0

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what it moved."""
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket.__name__ not in _VIEWS:
            tensors = [leaf for leaf in tree_leaves((args, kwargs, result)) if isinstance(leaf, torch.Tensor)]
            self.num_bytes += sum(map(_size, tensors))
        return result


def _size(tensor: torch.Tensor) -> int:
    # oneDNN's own layouts are of float32 and know no element size.
    return 4 * tensor.numel() if str(tensor.layout) == "torch._mkldnn" else tensor.numel() * tensor.element_size()


def _packed_linear(x: torch.Size, *_: Any, out_shape: torch.Size, **__: Any) -> int:
    return _PER_MULTIPLY * math.prod(out_shape) * x[-1]


def _attention(queries: torch.Size, keys: torch.Size, values: torch.Size, *_: Any, **__: Any) -> int:
    pairs = math.prod(queries[:-1]) * keys[-2]
    return _PER_MULTIPLY * pairs * (queries[-1] + values[-1])


def count(work: Callable[[], object]) -> tuple[int, int]:
    """Return floating-point operations and bytes of one call of `work`."""
    unknown_to_torch = {
        torch.ops.mkldnn._linear_pointwise: _packed_linear,
        torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    }
    with FlopCounterMode(display=False, custom_mapping=unknown_to_torch) as operations, Traffic() as traffic:
        work()
    return int(operations.get_total_flops()), traffic.num_bytes
