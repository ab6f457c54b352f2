"""What a process of `gpu_session` measures; each public function is a case, and returns its figures."""

from __future__ import annotations

import ctypes
import gc
import json
import signal
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, cast

import torch
from torch.profiler import ProfilerActivity, profile

from evidence.benchmarks.captioner import mixed_counts, scenes_with
from evidence.benchmarks.gpu_agreement import caption_sides, check_captions, check_embeddings, sure_captioner
from evidence.benchmarks.mask_sides import Side, Sides
from evidence.benchmarks.measurement import digest_of, median_seconds, random_weights, wait_for
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.workers.captions import row_kernels
from pseudoris.workers.captions.cached_towers import cached_attention
from pseudoris.workers.captions.static_proof import fault_of_fixed_shapes
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary
from pseudoris.workers.device import prepare_device
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.masks import SamProposer
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.instances import build_prior
from pseudoris.workers.stages import decided_here
from tests.oracles.pretended_gpu import PretendedGpu, pretended_gpu

_STAGES: Final = ("masks", "captions", "filter")
_TOGETHER: Final = "captions.crops_together=2048"
_MOST_CACHE_BYTES: Final = 32 * 2**30
# Of larger shards one image warms up. A window is what each of several processes works for.
_SMALL_SHARD, _TIMED_S, _WINDOW_S, _PATIENCE_S, _NUM_TOPS = 4, 3.0, 6.0, 60, 25
# What a case may raise; anything else ends the process.
_REFUSALS: Final = (ImportError, OSError, RuntimeError, ValueError)
_GPU: Final = torch.device("cuda")

Figures = dict[str, Any]
Gpu = PretendedGpu | None


def _config(preset: str, *, is_together: int = 0, is_full: int = 0, is_tree: int = 0) -> RunConfig:
    decoder = f"captions.decoder={'tree' if is_tree else 'static'}"
    words = ["compute.device=cuda", "placement.fused.num_gpus=1", *random_weights(preset, (*_STAGES[:2], "filtering"))]
    words.append(f"compute.precision={'float32' if is_full else 'bfloat16'}")
    if is_together:
        # Half of a card is for weights and what a step makes; a pretended one has no memory to ask for.
        half = _MOST_CACHE_BYTES if preset == "tiny" else min(torch.cuda.mem_get_info()[1] // 2, _MOST_CACHE_BYTES)
        words += [_TOGETHER, f"captions.cache_bytes={half}"]
    little = ["captions.max_length=8", "captions.cache_bytes=4194304"] if preset == "tiny" else []
    config = load_config(preset, assignments=[*words, decoder, *little])
    return config if preset == "tiny" else decided_here(config)[0]


class _SmoothProposer(SamProposer):
    """The stage that proposes masks; if weights are random they are smooth, and thresholds leave masks."""

    def __init__(self, config: RunConfig) -> None:
        sides = Sides(config, num_images=1, kept_share=0.4, is_remembering=False)
        self._device, self._generate = (
            prepare_device(config.compute),
            cast(MaskGenerator, sides.generator("ours, coarse")),
        )
        self._prior = build_prior(config.masks, self._device)


def engine_of(stage: str, config: RunConfig, **sure: Any) -> Callable[[Shard], Shard]:
    """Return a stage on random weights, which raises where an image fails: a failure is no work done.

    `sure` is for captions, as of `sure_captioner`.
    """
    builders: dict[str, Callable[[RunConfig], Callable[[Shard], Shard]]] = {
        "masks": _SmoothProposer,
        "captions": partial(sure_captioner, **sure),
        "filter": lambda config: ClipScorer(config.filtering, config.compute),
    }
    return raising(builders[stage](config))


def raising(run: Callable[[Shard], Shard]) -> Callable[[Shard], Shard]:
    """Return a stage that raises where an image fails."""

    def checked(shard: Shard) -> Shard:
        done = run(shard)
        if failures := [image.failure for image in done.images if image.failure]:
            raise RuntimeError(f"{len(failures)} images failed, the first by {failures[0]}")
        return done

    return checked


def stage(
    gpu: Gpu,
    preset: str,
    stage: str,
    images: int = 1,
    masks: int = 10,
    has_trace: int = 0,
    **given: int,
) -> Figures:
    """Measure a stage on scenes with so many masks."""
    # Cycles keep the engine of the case before, which would count as memory of this one.
    gc.collect()
    config, shard = _config(preset, **given), _scenes(masks, images)
    if stage == "filter":
        shard = engine_of("captions", config)(shard)
    engine = engine_of(stage, config)
    # Of equal images one warms up all shapes, of mixed ones each brings its own.
    engine(shard if images <= _SMALL_SHARD or not masks else shard.with_images(shard.images[:1]))
    if not gpu:
        torch.cuda.reset_peak_memory_stats()
    host_s: list[float] = []

    def timed() -> None:
        started = time.process_time()
        engine(shard)
        host_s.append(time.process_time() - started)
        wait_for(_GPU)

    wall_s = median_seconds(timed, repeats=3, warm_ups=0, limit_s=_TIMED_S)
    figures: Figures = {"images_per_s": images / wall_s, "wall_s": wall_s, "host_s": sorted(host_s)[len(host_s) // 2]}
    figures["peak_bytes"] = None if gpu else torch.cuda.max_memory_allocated()
    figures["different_masks"] = sum(len({mask.rle_counts for mask in image.masks}) for image in shard.images) / images
    return figures | (_traced(lambda: engine(shard), gpu) if has_trace else {})


def _traced(run: Callable[[], object], gpu: Gpu) -> Figures:
    """Return the waits of a call, and what torch's profiler sees of another one, which takes longer under it."""
    if gpu:
        before = len(gpu.waits)
        run()
    waits = len(gpu.waits) - before if gpu else _count_waits(run)
    activities = [ProfilerActivity.CPU, *([] if gpu else [ProfilerActivity.CUDA])]
    with profile(activities=activities) as profiled:
        run()
        wait_for(_GPU)
    # torch itself takes ten times as long to read its events.
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.json")
        profiled.export_chrome_trace(str(path))
        return {"waits": waits, **summary(json.loads(path.read_bytes())["traceEvents"])}


def _count_waits(work: Callable[[], object]) -> int:
    """Return how often the CPU waits for the GPU in a call, as far as torch tells."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(each.message) for each in caught)


def summary(events: Sequence[Mapping[str, Any]]) -> Figures:
    """Return the figures of a trace's events; those of kernels where it has some. Source: Kineto's Chrome traces."""
    of = {kind: [one for one in events if one.get("cat") == kind] for kind in ("cpu_op", "kernel", "gpu_memcpy")}
    figures: Figures = {"aten_calls": sum(one["name"].startswith("aten::") for one in of["cpu_op"])}
    calls = Counter(one["name"] for one in events if one.get("cat") in {"cuda_runtime", "cuda_driver"})
    # An operation and the kernels that it launches have one id.
    ops = {one["args"]["External id"]: one["name"] for one in of["cpu_op"]}
    if of["kernel"]:
        figures["kernels"], figures["kernel_s"] = len(of["kernel"]), sum(one["dur"] for one in of["kernel"]) / 1e6
        figures["launches"] = sum(count for name, count in calls.items() if "Launch" in name)
        figures["synchronisations"] = {name: count for name, count in calls.items() if "Synchronize" in name}
        figures["copies"] = dict(Counter(one["name"] for one in of["gpu_memcpy"]))
        figures["by_kernel"] = _tops((one["name"], one["dur"]) for one in of["kernel"])
        figures["by_op"] = _tops((ops.get(one["args"].get("External id"), "?"), one["dur"]) for one in of["kernel"])
    return figures


def _tops(spent: Iterable[tuple[str, float]]) -> list[tuple[str, float, int]]:
    """Return names, seconds and numbers of what took longest, of names with microseconds."""
    taken: dict[str, list[float]] = {}
    for name, microseconds in spent:
        taken.setdefault(name, []).append(microseconds / 1e6)
    longest = sorted(taken.items(), key=lambda item: -sum(item[1]))[:_NUM_TOPS]
    return [(name[:200], sum(seconds), len(seconds)) for name, seconds in longest]


def operators(gpu: Gpu) -> Figures:
    """Time what a step of ten masks asks for, and the device's peaks, in seconds a call."""
    prepare_device(_config("tiny").compute)
    rows, side, words = (64, 256, 512) if gpu else (2000, 8192, 49408)
    random = partial(torch.randn, device=_GPU, dtype=torch.bfloat16)
    query, past, hidden, square = random(8, rows, 1, 64), random(8, rows, 28, 64), random(256, 512), random(side, side)
    newest, caches = random(rows, 3, 8, 64), random(2, rows, 8, 28, 64)
    position, sources = torch.tensor([27], device=_GPU), torch.randint(rows, (rows, 28), device=_GPU).int()
    store, nodes = random(8, rows * 28, 128), torch.randint(rows * 28, (rows * 28,), device=_GPU)
    vocabulary, scores = Vocabulary(random(512, words), SpecialTokens(0, words - 1, 0)), random(256, words).float()
    works: dict[str, Callable[[], object]] = {
        f"attention, 8 heads, {rows} queries of 28 keys": lambda: cached_attention(query, past, past),
        f"the same by one kernel, through an index, {row_kernels.triton_version()}": lambda: row_kernels.attend_newest(
            newest, caches, position, sources
        ),
        f"index_select, 8 heads, {rows} rows of 28 nodes": lambda: store.index_select(1, nodes),
        f"vocabulary of {words}, 256 rows": lambda: vocabulary.top_logits(hidden, is_eos_allowed=True),
        f"topk of {words}, 256 rows": lambda: scores.topk(64, sorted=False),
        f"product, {side} a side": lambda: square @ square,
        f"copy of {store.nbytes} bytes": store.clone,
    }

    def many(work: Callable[[], object]) -> None:
        for _ in range(20):
            work()
        wait_for(_GPU)

    with torch.inference_mode():
        return {name: median_seconds(partial(many, work), repeats=3) / 20 for name, work in works.items()}


def bits(gpu: Gpu, preset: str, images: int = 3, masks: int = 10, **given: int) -> Figures:
    """Count the images whose captions are equal to the last bit: alone, beside 1, 2, … others, and in another order.

    Each number of images that share a batch fills it to another level.
    """
    caption, shard = engine_of("captions", _config(preset, **given)), _scenes(masks, images)
    alone = [_digests(caption(shard.with_images((image,))))[0] for image in shard.images]
    beside = {f"among_{n}": _digests(caption(shard.with_images(shard.images[:n]))) for n in range(2, images + 1)}
    beside["permuted"] = _digests(caption(shard.with_images(shard.images[::-1])))[::-1]
    # Of the first images, those that the batch held.
    equal = {f"equal_{name}": sum(map(str.__eq__, alone, found)) for name, found in beside.items()}
    return {"compared": images, **equal}


def _scenes(masks: int, images: int) -> Shard:
    """Return scenes with so many masks each; 0 stands for mixed numbers."""
    return scenes_with(masks or mixed_counts(images), images)


def _digests(shard: Shard) -> list[str]:
    return [digest_of([repr(each) for each in image.expressions]) for image in shard.images]


def authors(gpu: Gpu, preset: str, is_tree: int = 0, masks: int = 10, steps: int = 24) -> Figures:
    """Compare captions with those of the authors' loop in float64, then time one crop kind of both in bfloat16."""
    config = _config(preset, is_tree=is_tree)
    if figures := _differs(lambda: check_captions(config)):
        return figures
    sides = caption_sides(config, num_masks=masks, num_steps=steps, dtype=torch.bfloat16)
    return {"agrees": True, **_seconds_of(zip(("authors_s", "ours_s"), sides, strict=True))}


def meta(gpu: Gpu, preset: str, images: int = 1) -> Figures:
    """Compare masks with those of Meta's generator in float32, then time it, it under autocast, and ours."""
    sides = Sides(_config(preset), num_images=images, kept_share=0.4, is_remembering=False)
    if figures := _differs(sides.agree):
        return figures
    timed: dict[str, Side] = {"meta_s": "meta", "autocast_s": "meta, autocast", "ours_s": "ours, coarse"}
    works = ((name, partial(sides.run, side)) for name, side in timed.items())
    return {"agrees": True, "found": str(sides.compare("ours, coarse")), **_seconds_of(works)}


def embeddings(gpu: Gpu, preset: str) -> Figures:
    """Compare embeddings with those of open_clip, in float32 and in bfloat16."""
    return _differs(lambda: check_embeddings(_config(preset))) or {"agrees": True}


def _differs(check: Callable[[], object]) -> Figures:
    """Return what a check says where it fails."""
    try:
        check()
    except ValueError as error:
        return {"agrees": False, "differs": str(error)}
    return {}


def _seconds_of(works: Iterable[tuple[str, Callable[[], object]]]) -> Figures:
    def waited(work: Callable[[], object]) -> None:
        work()
        wait_for(_GPU)

    return {name: median_seconds(partial(waited, work), repeats=3, limit_s=_TIMED_S) for name, work in works}


def proof(gpu: Gpu, preset: str) -> Figures:
    """Time the proof of fixed shapes: short with what its kernels take to compile, whole, and short again."""
    config, figures, faults = _config(preset), Figures(), []
    for name, is_short in (("first_short_s", True), ("whole_s", False), ("short_s", True)):
        started = time.perf_counter()
        faults.append(fault_of_fixed_shapes(config.captions, config.compute, is_short=is_short))
        figures[name] = time.perf_counter() - started
    return {"agrees": not any(faults), "differs": max(faults), **figures}


def processes(gpu: Gpu, preset: str, count: int, images: int = 2, masks: int = 10) -> Figures:
    """Measure all stages in processes that share the GPU, and whether their results are equal to the last bit."""
    context = get_context("spawn")
    with context.Manager() as manager, context.Pool(count) as pool:
        given = (preset, images, masks, gpu is not None, manager.Barrier(count))
        rates, digests = zip(*pool.starmap(_stages_of_process, [given] * count, chunksize=1), strict=True)
    return {"images_per_s": sum(rates), "equal_processes": sum(one == digests[0] for one in digests)}


def _stages_of_process(
    preset: str, images: int, masks: int, is_pretended: bool, barrier: Any
) -> tuple[float, list[str]]:
    _die_with_parent()
    with pretended_gpu() if is_pretended else nullcontext():
        propose, caption, score = (engine_of(stage, _config(preset)) for stage in _STAGES)
        shard, num_done = scenes_with(masks, images), 0
        found = _digests(score(caption(shard)))
        propose(shard)
        # One that failed would be waited for until the item's time is over.
        barrier.wait(_PATIENCE_S)
        started = time.perf_counter()
        while not num_done or (not is_pretended and time.perf_counter() - started < _WINDOW_S):
            propose(shard)
            score(caption(shard))
            num_done += images
        return num_done / (time.perf_counter() - started), found


def _die_with_parent() -> None:
    """End with the process that started this one, however it ends; Linux."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)


def work(cases: Sequence[str], is_pretended: bool, sender: Any) -> None:
    """Run cases in their order, and send what each gives."""
    _die_with_parent()
    with pretended_gpu() if is_pretended else nullcontext() as gpu:
        for name, *words in map(str.split, cases):
            given = {key: int(text) if text.isdigit() else text for key, _, text in (x.partition("=") for x in words)}
            try:
                sender.send({"figures": globals()[name](gpu, **given)})
            except _REFUSALS as error:
                sender.send({"not_measured": f"{type(error).__name__}: {str(error)[:500]}"})
