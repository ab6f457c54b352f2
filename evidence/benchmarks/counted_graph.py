"""Recordings that are counted once, for `gpu_limits`: of a replay only what decides something is computed.

All replays of a recording have the same shapes. So they ask for the same kernels, operations and bytes, but for those
kernels of which numbers decide how much they read: these are counted anew. What random numbers stand for stays as it
is, and an operation whose inputs are those of the replay before is not computed again. All figures are those of
replays that are counted whole.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

import torch
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves

from evidence.benchmarks.gpu_meter import Asked, Meter
from tests.oracles.pretended_graph import PretendedGraph

# Kernels that read what their whole numbers name.
_BY_NUMBERS: Final = frozenset({"attend_newest", "attend_image"})
_IN_PLACE: Final = frozenset({"__setitem__", "__iadd__", "__isub__", "__imul__", "__idiv__", "__itruediv__"})
_OVERWRITES: Final = frozenset({"copy_", "fill_", "zero_"})


class Contents:
    """What memory holds, by its address: equal numbers stand for equal contents."""

    def __init__(self, meter: Meter) -> None:
        """Know nothing."""
        self._meter, self._numbers, self._num_asked = meter, count(), -1
        self.held = defaultdict[int, int](self.new)
        # By kernel and shapes: of which contents it was counted last, and what it asked for.
        self.counted: dict[Any, tuple[list[int], Asked]] = {}

    def new(self) -> int:
        """Return a number that nothing has."""
        return next(self._numbers)

    def begin(self) -> None:
        """Forget all where something was asked beside replays."""
        if self._meter.counts["aten"] != self._num_asked:
            self.held.clear()

    def end(self) -> None:
        """Expect that nothing is asked until the next replay."""
        self._num_asked = self._meter.counts["aten"]


@dataclass(slots=True)
class _Call:
    """An operation of a recording, and what it did at the last replay."""

    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    results: list[torch.Tensor]
    target: torch.Tensor | None  # what it writes in place
    reads: list[int]
    writes: list[int]
    is_written_later: bool = False
    given: list[int] | None = None
    made: int = -1
    kept: list[torch.Tensor] = field(default_factory=list)

    def again(self, contents: Contents) -> None:
        """Compute it, if anything that it reads has changed."""
        given = [contents.held[each] for each in self.reads]
        is_same, is_held = given == self.given, all(contents.held[each] == self.made for each in self.writes)
        if is_same and is_held:
            return
        with torch._C.DisableTorchFunction(), _disable_current_modes():
            if is_same and self.kept:
                self._put(self.kept)
            elif self._changes(is_held) and not is_same:
                self.made = contents.new()
        self.given = given
        for each in self.writes:
            contents.held[each] = self.made

    def _changes(self, is_held: bool) -> bool:
        found = _tensors(self.function(*self.args, **self.kwargs))
        if self.target is not None:
            return True
        before = self.kept or (self.results if is_held else [])
        is_equal = bool(before) and all(map(torch.equal, before, found))
        if not (is_equal and is_held):
            self._put(found)
        if self.is_written_later and not is_equal:
            self.kept = [each.clone() for each in found]
        return not is_equal

    def _put(self, found: list[torch.Tensor]) -> None:
        for old, new in zip(self.results, found, strict=True):
            old.copy_(new)


class CountedGraph(PretendedGraph):
    """A recording of work whose large operations `meter` leaves undone."""

    def __init__(self, meter: Meter, contents: Contents) -> None:
        """Record nothing yet."""
        super().__init__()
        self._meter, self._contents = meter, contents
        self._asked = Asked()
        self._computed = list[_Call | tuple[Any, Any]]()

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Run a function of torch, and note what it asks for."""
        num_undone, ask = self._meter.num_undone, super().__torch_function__
        with self._meter.recorded():
            asked, result = self._meter.asked_by(lambda: ask(function, types, args, kwargs))
        if _name(function) in _BY_NUMBERS:
            self._computed.append((function, args))
            return result
        self._asked.add(asked)
        if self._meter.num_undone == num_undone:
            self._note(function, args, kwargs or {}, result)
        return result

    def _note(self, function: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> None:
        name, results, read = _name(function), _tensors(result), _tensors((args, kwargs))
        target = kwargs.get("out", args[0] if _is_in_place(name) else None)
        reads = {_address(each) for each in read}
        if target is None:
            writes = {_address(each) for each in results}
            if writes <= reads:
                return
        else:
            writes, whole = {_address(target)}, target.untyped_storage().nbytes()
            if (name in _OVERWRITES or "out" in kwargs) and target.nbytes == whole:
                reads = {_address(each) for each in read if each is not target}
        here = {key: torch.device("cpu") if key == "device" else value for key, value in kwargs.items()}
        for call in self._computed if target is not None else ():
            if isinstance(call, _Call) and call.target is None and writes & set(call.writes):
                call.is_written_later = True
        self._computed.append(_Call(function, args, here, results, target, sorted(reads), sorted(writes)))

    def ask_again(self) -> None:
        """Compute what decides something, and count all."""
        contents = self._contents
        contents.begin()
        with self._meter.recorded():
            for call in self._computed:
                if isinstance(call, _Call):
                    call.again(contents)
                else:
                    self._count_by_numbers(*call)
        self._meter.asked.add(self._asked)
        contents.end()

    def _count_by_numbers(self, function: Any, args: tuple[Any, ...]) -> None:
        given = [each for each in args if isinstance(each, torch.Tensor)]
        key = _name(function), *((each.shape, each.dtype) for each in given)
        numbers = [self._contents.held[_address(each)] for each in given if not each.is_floating_point()]
        known = self._contents.counted.get(key)
        if known and known[0] == numbers:
            self._meter.asked.add(known[1])
        else:
            asked, _ = self._meter.asked_by(lambda: function(*args))
            self._contents.counted[key] = numbers, asked


def _name(function: Any) -> str:
    return getattr(function, "__name__", "").partition(".")[0]


def _is_in_place(name: str) -> bool:
    return name in _IN_PLACE or (name.endswith("_") and not name.endswith("__"))


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]


def _address(tensor: torch.Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
