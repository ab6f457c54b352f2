"""A compass for speed that needs no GPU: what each stage asks of one, the seconds that this models, and the limit.

    python -m evidence.benchmarks.gpu_limits [--preset base] [--images 16] [--masks 10]
    [--stages masks|captions|filter …] [--precision bfloat16|float16|float32] [--set KEY=VALUE …] [--json FILE]

Counted on the pretended GPU (`tests.oracles.pretended_gpu`) at true depth, width and vocabulary, an image, with random
weights. `kernels` write memory; `reads` wait for a value, a size, or memory that is not pinned; `decodes` are those of
an actor, beside the prover's one; `useful` is what attention needs, `tiles` what FlashAttention computes. `host_s` are
CPU seconds of the actor's thread outside torch, without what counting takes a call: at most what a GPU's host spends
there, because Python that only pretends counts. `launch_s`, `gpu_s` and `limit_s` are modelled for an H200, as
docs/records/performance.md says: nothing here was timed on a GPU.

In half precision products, attention, norms and gathers of captions and filter are counted by their shapes, and random
numbers stand for their results: the vocabulary, in float32, decides what is drawn. Masks are computed, ten minutes for
four images of `base`, and so is all of `tiny`.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any, Final
from unittest import mock

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.flop_counter import flop_registry

from evidence.benchmarks.captioner import scenes_with
from evidence.benchmarks.gpu_session_work import engine_of
from evidence.benchmarks.measurement import options, print_table, random_weights, write_json
from evidence.benchmarks.operation_counts import added_product, attention, bytes_moved
from pseudoris.images.pixels import decode_proven
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.crops import shard_pixels
from pseudoris.workers.crops.shard_pixels import held_pixels
from tests.oracles.pretended_gpu import PretendedGpu, pretended_gpu
from tests.oracles.pretended_graph import PretendedGraph

# An H200. Source: its data sheet, and what products and copies reach of it; seconds of a launch and of the shortest
# kernel; operations a second of FlashAttention's tiles, which are 128 x 128.
_PEAKS: Final = {"bfloat16": 0.6 * 989e12, "float16": 0.6 * 989e12, "float32": 0.7 * 67e12, "float64": 0.5 * 34e12}
_BYTES_A_S, _LAUNCH_S, _SHORTEST_S, _TILES_A_S, _TILE = 0.75 * 4.8e12, 5e-6, 2.5e-6, 370e12, 128
_ATTENTION: Final = "scaled_dot_product_attention"
# One kernel each on CUDA, though a CPU may compose them.
_WHOLE: Final = frozenset({_ATTENTION, "upsample_bicubic2d", "upsample_bilinear2d"})
_HOLLOW: Final = frozenset(
    {"mm", "addmm", "bmm", "baddbmm", "convolution", "native_layer_norm", "gelu", "index_select", _ATTENTION}
    # Of `workers/captions/row_kernels.py`.
    | {"attend_newest", "add_norm"}
)
_HALVES: Final = {torch.bfloat16, torch.float16}
_POOL: Final = 2**24
_COUNTED: Final = ("aten", "kernels", "copies", "reads", "decodes", "bytes", "useful", "tiles")
_STAGES: Final = ("masks", "captions", "filter")
_CACHE_BYTES: Final = 64 * 2**20


class TorchClock(TorchFunctionMode):
    """While it is open, adds up the CPU seconds of this thread inside torch, and inside what is pretended."""

    def __init__(self) -> None:
        super().__init__()
        self._seconds, self._num_calls, self._is_inside = 0.0, 0, False

    def outside(self, work: Callable[[], Any]) -> tuple[float, Any]:
        """Return the CPU seconds of a call outside torch, without those that counting takes, and what it returned."""
        probe = torch.zeros(1, device="cuda")

        def calls() -> None:
            for _ in range(1000):
                probe.dim()

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


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """While it is open, counts what operations ask for; a hollow one does not compute the large ones."""

    def __init__(self, *, is_hollow: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.clear()
        numbers = torch.randn(_POOL, generator=torch.Generator().manual_seed(0))
        self._pools = {dtype: numbers.to(dtype) for dtype in _HALVES} if is_hollow else {}
        self._memory = {pool.data_ptr() for pool in self._pools.values()}

    def clear(self) -> None:
        """Begin again with nothing counted."""
        self.counts, self.flops, self.gpu_s = Counter[str](), Counter[str](), 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run or replace an operation, and count it."""
        name, kwargs = function.overloadpacket.__name__, kwargs or {}
        is_composed = torch._C._dispatch_has_kernel_for_dispatch_key(function.name(), "CompositeImplicitAutograd")
        if is_composed and name not in _WHOLE:
            with self:
                if name == "einsum":
                    # What autocast does, which a mode below it does not see.
                    half = next((x.dtype for x in args[1] if x.dtype in _HALVES), args[1][0].dtype)
                    args = (args[0], [x.to(half) for x in args[1]])
                result = function.decompose(*args, **kwargs)
            if result is not NotImplemented:
                return result
        first: Any = args[0] if args else None
        is_half = isinstance(first, torch.Tensor) and first.dtype in self._pools
        given = tree_map(self._shape_of, (args, kwargs)) if self._pools else (args, kwargs)
        is_kept = is_half and name.endswith("_") and self._stays(name, first)
        # Caches, which a machine without a GPU may not hold.
        is_hollow = is_half and (name in _HOLLOW or (name == "new_empty" and math.prod(args[1]) > _POOL))
        made = () if is_kept else function(*tree_map(_on_meta, args) if is_hollow else args, **kwargs)
        self.counts["aten"] += 1
        leaves = tree_leaves(made)
        is_view = bool(leaves) and all(isinstance(leaf, torch.Tensor) and self._is_pooled(leaf) for leaf in leaves)
        if not is_view and (moved := bytes_moved(function, given, made)):
            self._count(function, args, made, moved)
        if is_kept:
            return first
        return tree_map(self._filled, made) if is_hollow else made

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

    def _count(self, function: Any, args: Any, result: Any, moved: int) -> None:
        packet, name = function.overloadpacket, function.overloadpacket.__name__
        tensor = next((x for x in args if isinstance(x, torch.Tensor)), None)
        dtype = str(tensor.dtype)[6:] if tensor is not None else "float32"
        flops, seconds = 0.0, 0.0
        if name == _ATTENTION:
            (*batch, queries, width), keys = args[0].shape, args[1].shape[-2]
            flops = attention(*(x.shape for x in args[:3]))
            tiles = math.prod(batch) * math.ceil(queries / _TILE) * math.ceil(keys / _TILE) * 4 * _TILE**2 * width
            self.counts["useful"], self.counts["tiles"] = self.counts["useful"] + flops, self.counts["tiles"] + tiles
            seconds = tiles / _TILES_A_S if dtype in {"bfloat16", "float16"} else flops / _PEAKS[dtype]
        elif name == "attend_newest":
            # No tile is wasted: a program has one query.
            flops = 4 * args[1][0].numel()
            self.counts["useful"], self.counts["tiles"] = self.counts["useful"] + flops, self.counts["tiles"] + flops
            seconds = flops / _PEAKS["float64" if dtype == "float64" else "float32"]
        elif name == "project":
            flops = 2 * result.numel() * args[0].shape[1]
            seconds = flops / _PEAKS[dtype]
        elif packet in flop_registry or name == "baddbmm_":
            is_in_place = name == "baddbmm_"
            shapes = [x.shape for x in args[:3]] if is_in_place else args
            flops = added_product(*shapes) if is_in_place else flop_registry[packet](*shapes, out_val=result)
            seconds = flops / _PEAKS[dtype]
        self.flops[dtype] += int(flops)
        self.counts["kernels"] += 1
        self.counts["bytes"] += moved
        self.gpu_s += max(seconds, moved / _BYTES_A_S, _SHORTEST_S)


def _on_meta(leaf: Any) -> Any:
    return torch.empty(leaf.shape, dtype=leaf.dtype, device="meta") if isinstance(leaf, torch.Tensor) else leaf


def limits_of(
    stage: str, work: Callable[[], Any], gpu: PretendedGpu, meter: Meter, *, images: int
) -> tuple[dict[str, Any], Any]:
    """Return what a call of `work` asks for an image, and what it returned."""
    clock, decoded = TorchClock(), list[None]()
    meter.clear()

    def decode(data: bytes) -> Any:
        decoded.append(None)
        return decode_proven(data)

    before = len(gpu.waits), gpu.num_copies
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(shard_pixels, "decode_proven", decode))
        for name in ("replay", "__torch_function__"):
            stack.enter_context(mock.patch.object(PretendedGraph, name, _clocked(clock, getattr(PretendedGraph, name))))
        stack.enter_context(meter)
        host_s, result = clock.outside(work)
    counts, flops = meter.counts, {dtype: each / images for dtype, each in meter.flops.items() if each}
    launch_s, gpu_s, host_s = counts["kernels"] * _LAUNCH_S / images, meter.gpu_s / images, host_s / images
    modelled_s, limit_s = max(launch_s, gpu_s) + host_s, sum(each / _PEAKS[dtype] for dtype, each in flops.items())
    counts["copies"], counts["reads"] = gpu.num_copies - before[1], len(gpu.waits) - before[0]
    counts["decodes"] = len(decoded)
    counted = {name: counts[name] / images for name in _COUNTED}
    modelled = {"launch_s": launch_s, "gpu_s": gpu_s, "modelled_s": modelled_s, "limit_s": limit_s}
    row = {"stage": stage, **counted, "host_s": host_s, "flops": flops, **modelled, "ratio": modelled_s / limit_s}
    return row, result


def _clocked(clock: TorchClock, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *given, **named: clock.timed(function, *given, **named)


def measure(
    preset: str, stages: Sequence[str], words: Sequence[str], *, images: int, masks: int
) -> Iterator[dict[str, Any]]:
    """Yield the row of each stage."""
    words = ["captions.decoder=static", *words, "compute.device=cuda", "placement.fused.num_gpus=1"]
    words += (random := random_weights(preset, ("masks", "captions", "filtering")))
    config, scenes = load_config(preset, assignments=words), scenes_with(masks, images + 1)
    shard, first = scenes.with_images(scenes.images[:-1]), scenes.with_images(scenes.images[-1:])
    with pretended_gpu() as gpu, held_pixels():
        for stage in _STAGES:
            # The filter needs what was captioned.
            if stage in stages or (stage == "captions" and "filter" in stages):
                engine = engine_of(stage, config)
                meter = Meter(is_hollow=bool(random) and stage != "masks")
                # What a process does once is no part of a shard's host seconds.
                with meter:
                    warmed = engine(first)
                row, found = limits_of(stage, partial(engine, shard), gpu, meter, images=images)
                if stage == "captions":
                    shard, first = found, warmed
                if stage in stages:
                    yield row


def main(arguments: Sequence[str] | None = None) -> None:
    """Count what the command line asks for, print the table, write the JSON."""
    given, rows = options(__doc__, arguments), []
    words = [f"compute.precision={given.precision}", *given.assignments]
    for row in measure(given.preset, given.stages or list(_STAGES), words, images=given.images, masks=given.masks):
        rows.append(row)
        write_json(rows, given.json)
    cells = [
        {"an image": name, **{row["stage"]: _cell(row[name]) for row in rows}} for name in rows[0] if name != "stage"
    ]
    print_table(
        f"{given.preset}, {given.masks} masks, of {given.images} an image; seconds are modelled", cells, width=240
    )


def _cell(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {each:.3g}" for name, each in value.items())
    return f"{value:,.0f}" if 100 <= value < 1e6 else f"{value:.3g}"


if __name__ == "__main__":
    main()
