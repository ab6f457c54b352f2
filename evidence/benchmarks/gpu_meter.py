"""Counts what work asks of a GPU that is pretended, and models the seconds of cards. For `gpu_limits`."""

from __future__ import annotations

import math
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from evidence.benchmarks.operation_counts import added_product, attention, bytes_moved, memory_bytes
from pseudoris.workers.captions.row_kernels import ROWS_A_PROGRAM

_ATTENTION: Final = "scaled_dot_product_attention"
# One kernel each on CUDA, though a CPU may compose them.
_WHOLE: Final = frozenset({_ATTENTION, "upsample_bicubic2d", "upsample_bilinear2d"})
_HOLLOW: Final = frozenset(
    {"mm", "addmm", "addmm_", "bmm", "baddbmm", "convolution", "native_layer_norm", "gelu", "index_select", _ATTENTION}
    # Of `workers/captions/row_kernels.py`.
    | {"attend_newest", "attend_image", "shifted_norm"}
)
_ADDED_PRODUCTS: Final = frozenset({"addmm_", "baddbmm_"})
_HALVES: Final = {torch.bfloat16, torch.float16}
_POOL: Final = 2**24
_CACHE_BYTES: Final = 64 * 2**20
# Results of at least so many numbers a `PartMeter` leaves undone.
_LARGE: Final = 2**20
# As `Card` says.
_CACHE_GAIN: Final = 1.87
# A logit of a mask that is stable.
_STANDS_FOR: Final = 9.0
# Beside the parts that methods are, those that kernels are.
_PART_OF: Final = {"native_layer_norm": "norms", **dict.fromkeys(("index", "index_select", "repeat"), "gathers")}
# Attention computes tiles of this many queries and keys.
_TILE: Final = 128


@dataclass(frozen=True, slots=True)
class Card:
    """What a card computes and moves a second, as its data sheet has it, and the shares of it that kernels reach.

    Products reach 60 % of `half` and 70 % of `full`, FlashAttention 37 % of `half`, copies 75 % of `memory`. A cache
    gives 1.87 times the bytes of memory: the least of published ratios (H100's 9.0 TB/s over an H200's memory; 7.2 over
    2.0 on an A100, 5 over 1 on a 4090). It holds what fits into half of it: half is what an A100's processor reaches.
    """

    half: float  # dense operations in bfloat16 or float16
    full: float  # operations in float32
    memory: float  # bytes a second
    cache: float  # bytes
    has_bfloat16: bool = True

    def rate(self, dtype: str) -> float:
        """Return the operations a second of products."""
        return {"float32": 0.7 * self.full, "float64": 0.35 * self.full}.get(dtype, 0.6 * self.half)

    def tile_rate(self, dtype: str) -> float:
        """Return the operations a second of attention's tiles."""
        return 0.374 * self.half if dtype in {"bfloat16", "float16"} else self.rate(dtype)

    def kernel_s(
        self, dtype: str, flops: float, tiles: float, moved: float, again: float = 0.0, at: float = 0
    ) -> float:
        """Return the seconds of a kernel: of its operations, its tiles, its bytes, or the shortest there is.

        It reads `again` so many bytes, from the cache if this holds the bytes `at` which programs work at once.
        """
        computing, rate = flops / self.rate(dtype) if flops else 0.0, 0.75 * self.memory
        # What a cache gives runs beside memory.
        is_held = at <= self.cache / 2
        moving = max(moved, (moved + again) / (_CACHE_GAIN if is_held else 1.0)) / rate
        return max(computing, tiles / self.tile_rate(dtype), moving, SHORTEST_S)


CARDS: Final = {
    "H200": Card(989e12, 67e12, 4.8e12, 50e6),
    "A100": Card(312e12, 19.5e12, 2.04e12, 40e6),
    "4090": Card(165e12, 82.6e12, 1.01e12, 72e6),
    "L4": Card(121e12, 30.3e12, 0.3e12, 48e6),
    "T4": Card(65e12, 8.1e12, 0.32e12, 4e6, has_bfloat16=False),
}
# Seconds that the host takes to launch a kernel or a recording, and those of the shortest kernel.
LAUNCH_S, SHORTEST_S = 5e-6, 2.5e-6


class TorchClock(TorchFunctionMode):
    """While it is open, adds up the CPU seconds of this thread inside torch, and inside what is pretended."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds, self._num_calls, self._is_inside = 0.0, 0, False
        self._probe = torch.zeros(1, device="cuda")

    def outside(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return the CPU seconds of a call outside torch, without those that counting takes, and what it returned."""

        def calls() -> None:
            for _ in range(1000):
                self._probe.dim()

        (a_thousand, num, _), (seconds, num_calls, result) = (self._outside(run) for run in (calls, work))
        return max(seconds - a_thousand * num_calls / num, 0.0), result

    def _outside(self, work: Callable[[], Any]) -> tuple[float, int, Any]:
        before = time.thread_time(), self._seconds, self._num_calls
        with self:
            result = work()
        return time.thread_time() - before[0] - self._seconds + before[1], self._num_calls - before[2], result

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch."""
        return self.timed(function, *args, **(kwargs or {}))

    def timed(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Run a function, and count its seconds once."""
        if self._is_inside:
            return function(*given, **named)
        self._is_inside, started = True, time.thread_time()
        try:
            return function(*given, **named)
        finally:
            self._is_inside, self._num_calls = False, self._num_calls + 1
            self._seconds += time.thread_time() - started


@dataclass(frozen=True, slots=True)
class Words:
    """A vocabulary of which few tokens are live: what has that many columns is counted as if it had them all."""

    live: int
    whole: int

    def stretch(self, shape: Sequence[int]) -> float:
        """Return by how much a tensor of `shape` would be larger."""
        return self.whole / self.live if self.live in shape else 1.0


class Asked:
    """What operations ask for.

    Attributes:
        counts: Of all kernels.
        flops: By dtype.
        bytes_by: Bytes by kernel.
        card_s: Modelled seconds of the kernels, by card.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self.counts, self.flops = Counter[str](), Counter[str]()
        self.bytes_by, self.card_s = Counter[str](), defaultdict[str, float](float)

    def add(self, more: Asked, times: int = 1) -> None:
        """Add what others ask for, so many times; -1 takes it away."""
        for name in ("counts", "flops", "bytes_by", "card_s"):
            own = getattr(self, name)
            for key, value in getattr(more, name).items():
                if value:
                    own[key] += times * value


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is open, counts what operations ask for; a hollow one does not compute the large ones.

    Attributes:
        counts, flops, bytes_by, card_s: As of `Asked`.
        is_recorded: Whether a CUDA graph asks: its kernels are launched by the host as one.
        num_undone: How many operations were left undone.
    """

    def __init__(self, hollow: Collection[torch.dtype] = (), words: Words | None = None) -> None:
        """Leave the large operations of the dtypes `hollow` undone, but for those over the columns of `words`."""
        super().__init__()  # type: ignore[no-untyped-call]
        self.clear()
        self.is_recorded, self.num_undone, self._words = False, 0, words or Words(-1, -1)
        numbers = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
        self._pools = {dtype: numbers.to(dtype) for dtype in hollow}
        self._memory = {pool.data_ptr() for pool in self._pools.values()}

    def clear(self) -> None:
        """Begin again with nothing counted."""
        self.asked = Asked()
        self.counts, self.flops = self.asked.counts, self.asked.flops
        self.bytes_by, self.card_s = self.asked.bytes_by, self.asked.card_s

    @contextmanager
    def recorded(self) -> Iterator[None]:
        """Count as kernels of a recording."""
        before, self.is_recorded = self.is_recorded, True
        try:
            yield
        finally:
            self.is_recorded = before

    def asked_by(self, work: Callable[[], Any]) -> tuple[Asked, Any]:
        """Return what a call of `work` asks for, and what it returned."""
        found = Asked()
        found.add(self.asked, -1)
        result = work()
        found.add(self.asked)
        return found, result

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run or replace an operation, and count it."""
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        if _is_composed(function) and name not in _WHOLE:
            with self:
                if name == "einsum":
                    # What autocast does, which a mode below it does not see.
                    half = next((x.dtype for x in args[1] if x.dtype in _HALVES), args[1][0].dtype)
                    args = (args[0], [x.to(half) for x in args[1]])
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        first: Any = args[0] if args else None
        is_ours = isinstance(first, torch.Tensor) and first.dtype in self._pools and not self._has_words(args)
        given = tree_map(self._shape_of, (args, kwargs)) if self._pools else (args, kwargs)
        is_kept = is_ours and name.endswith("_") and self._stays(name, first)
        # Caches, which a machine without a GPU may not hold.
        is_large = name in _HOLLOW or (name == "new_empty" and math.prod(args[1]) > _POOL)
        is_hollow = is_ours and is_large and "out" not in kwargs
        made = () if is_kept else function(*tree_map(_on_meta, args) if is_hollow else args, **kwargs)
        self.counts["aten"] += 1
        self.num_undone += is_kept or is_hollow
        leaves = tree_leaves(made)
        is_view = bool(leaves) and all(isinstance(leaf, torch.Tensor) and self._is_pooled(leaf) for leaf in leaves)
        if not is_view and (moved := bytes_moved(function, given, made, self._size)):
            self._count(function, args, made, moved)
        if is_kept:
            return first
        return tree_map(self._filled, made) if is_hollow else made

    def _has_words(self, args: Any) -> bool:
        return any(isinstance(each, torch.Tensor) and self._words.live in each.shape for each in args)

    def _size(self, tensor: torch.Tensor) -> float:
        return memory_bytes(tensor) * self._words.stretch(tensor.shape)

    def _stays(self, name: str, target: torch.Tensor) -> bool:
        """Return whether what is written in place need not be: random numbers, and caches, which gathers read."""
        is_cache = name == "copy_" and target.untyped_storage().nbytes() > _CACHE_BYTES
        return is_cache or self._is_pooled(target)

    def _shape_of(self, leaf: Any) -> Any:
        """Return a stand-in that knows how many bytes random numbers stand for."""
        return _on_meta(leaf) if isinstance(leaf, torch.Tensor) and self._is_pooled(leaf) else leaf

    def _is_pooled(self, tensor: torch.Tensor) -> bool:
        is_in_host = not tensor.is_meta and tensor.layout == torch.strided
        return is_in_host and tensor.untyped_storage().data_ptr() in self._memory

    def _filled(self, like: Any) -> Any:
        """Return random numbers of a shape; those of leading axes repeat where they are many."""
        if not isinstance(like, torch.Tensor):
            return like
        shape, pool = like.shape, self._pools.get(like.dtype)
        if pool is None:
            return torch.zeros(shape, dtype=like.dtype)
        kept = next(at for at in range(len(shape) + 1) if math.prod(shape[at:]) <= _POOL // 2)
        size = math.prod(shape[kept:])
        start = (7919 * self.counts["aten"]) % (_POOL - size)
        return pool[start : start + size].view(shape[kept:]).expand(shape)

    def _count(self, function: Any, args: Any, result: Any, moved: float) -> None:
        packet, name = function.overloadpacket, function.overloadpacket.__name__
        tensor = next((x for x in args if isinstance(x, torch.Tensor)), None)
        dtype = str(tensor.dtype)[6:] if tensor is not None else "float32"
        flops, tiles, again, at = 0.0, 0.0, 0.0, 0.0
        if name == _ATTENTION:
            (*batch, queries, width), keys = args[0].shape, args[1].shape[-2]
            flops = attention(*(x.shape for x in args[:3]))
            tiles = math.prod(batch) * math.ceil(queries / _TILE) * math.ceil(keys / _TILE) * 4 * _TILE**2 * width
            self.counts["useful"], self.counts["tiles"] = self.counts["useful"] + flops, self.counts["tiles"] + tiles
            if dtype not in {"bfloat16", "float16"}:
                tiles = flops
        elif name == "attend_newest":
            # A row reads no position behind its newest one. No tile is wasted: a program has one query.
            cache, position = args[1], args[2]
            read = (int(position.sum()) + len(position)) * cache.shape[2] * cache.shape[4]
            flops, moved = 4 * read, moved - 2 * (cache[0].numel() - read) * cache.element_size()
            self.counts["useful"], self.counts["tiles"] = self.counts["useful"] + flops, self.counts["tiles"] + flops
            # It sums in float32 at least.
            dtype = "float64" if dtype == "float64" else "float32"
        elif name == "attend_image":
            # A program of Triton's reads each crop of its rows once, and computes all its rows under it. Programs of
            # one head run side by side, in the order of crops: a crop that several read comes from memory once. A
            # product of these sums in float32 has the rate of its operands.
            queries, cache, crops, by_crop = args
            programs = torch.arange(len(by_crop)) // ROWS_A_PROGRAM
            num_read = len(torch.unique(programs * cache.shape[1] + crops[by_crop]))
            num_crops, of_crop = len(torch.unique(crops)), cache[:, 0].numel() * cache.element_size()
            moved += (num_crops - cache.shape[1]) * of_crop
            again, at = (num_read - num_crops) * of_crop, num_crops * of_crop / cache.shape[2]
            flops = 4 * queries.numel() * cache.shape[3]
            tiles = 2 * num_read * ROWS_A_PROGRAM * cache[:, 0].numel()
            self.counts["useful"], self.counts["tiles"] = self.counts["useful"] + flops, self.counts["tiles"] + tiles
        elif name == "project":
            flops = 2 * result.numel() * args[0].shape[1] * self._words.stretch(result.shape)
        elif packet in flop_registry or name in _ADDED_PRODUCTS:
            is_in_place = name in _ADDED_PRODUCTS
            shapes = [x.shape for x in args[:3]] if is_in_place else args
            flops = added_product(*shapes) if is_in_place else flop_registry[packet](*shapes, out_val=result)
            flops *= max((self._words.stretch(leaf.shape) for leaf in tree_leaves(result)), default=1.0)
        self.flops[dtype] += int(flops)
        self.counts["kernels"] += 1
        self.counts["launches"] += not self.is_recorded
        self.counts["bytes"] += int(moved)
        self.bytes_by[name] += int(moved)
        for card, of_card in CARDS.items():
            self.card_s[card] += of_card.kernel_s(dtype, 0.0 if tiles else flops, tiles, moved, again=again, at=at)


class PartMeter(Meter):  # type: ignore[no-untyped-call]
    """Counts by part of the work too, and leaves large results of all floating dtypes undone.

    Memory that nothing writes stands for them, but for the first of a batch, which is `_STANDS_FOR`: so of many masks
    the first has pixels. Nothing large may decide what is done next.

    Attributes:
        parts: Bytes by part: that which `part` names while it is, else by kernel, as `_PART_OF` has it.
        part: Empty, or the part that is running.
    """

    def clear(self) -> None:
        """Begin again with nothing counted."""
        super().clear()
        self.parts, self.part = Counter[str](), ""

    @contextmanager
    def within(self, owner: Any, method: str, part: str) -> Iterator[None]:
        """While it is open, count a method's calls as `part`, where they are not of another one."""
        original = getattr(owner, method)

        def counted(*given: Any, **named: Any) -> Any:
            before, self.part = self.part, self.part or part
            try:
                return original(*given, **named)
            finally:
                self.part = before

        with mock.patch.object(owner, method, counted):
            yield

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Leave an operation undone whose results are large, or run it, and count it."""
        kwargs = kwargs or {}
        first = next((leaf for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)), None)
        made = self._made(function, args, kwargs) if first is not None and first.is_floating_point() else None
        if made is None:
            return super().__torch_dispatch__(function, types, args, kwargs)
        self.counts["aten"] += 1
        if moved := bytes_moved(function, (args, kwargs), made):
            self._count(function, args, made, moved)
        return made

    def _made(self, function: Any, args: Any, kwargs: Mapping[str, Any]) -> Any:
        """Return what stands for the results of an operation, if they are large; else None."""
        name, aliases = function.overloadpacket.__name__, [each.alias_info for each in function._schema.returns]
        if name == "_unsafe_view" or (_is_composed(function) and name not in _WHOLE):
            return None
        if any(aliases):
            is_written = aliases[0].is_write and args[0].numel() >= _LARGE
            return args[0] if is_written else None
        if max(leaf.numel() for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)) < _LARGE // 64:
            return None
        on_meta = {"device": "meta"} if kwargs.get("device") else {}
        shapes = function(*tree_map(_on_meta, args), **{**tree_map(_on_meta, kwargs), **on_meta})
        leaves = tree_leaves(shapes)
        if not all(leaf.is_floating_point() for leaf in leaves) or leaves[0].numel() < _LARGE:
            return None
        return tree_map(_unwritten, shapes)

    def _count(self, function: Any, args: Any, result: Any, moved: float) -> None:
        super()._count(function, args, result, moved)
        self.parts[self.part or _PART_OF.get(function.overloadpacket.__name__, "rest")] += int(moved)


def _is_composed(function: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")


def _unwritten(like: torch.Tensor) -> torch.Tensor:
    made = torch.empty_strided(like.shape, like.stride(), dtype=like.dtype)
    made[0] = _STANDS_FOR
    return made


def _on_meta(leaf: Any) -> Any:
    return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") if isinstance(leaf, torch.Tensor) else leaf
