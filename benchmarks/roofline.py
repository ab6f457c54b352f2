"""Compares each stage with the machine's limits: operations and bytes against measured peaks.

    python -m benchmarks.roofline [--preset tiny] [--images 16] [--masks 8] [--points N] [--steps 12] [--kept 0.4]
    [--repeats 5] [--set KEY=VALUE …] [--json FILE]

The peaks are the fastest matrix product and copy found here, on the same threads. Bytes are those of all tensors that
operations read and write, as if no cache held any; a share above 1 is what the caches saved. Presets other than `tiny`
run on random weights. Masks and captions of one scene, all crop kinds; the filter of a shard of `--images`. Mask
proposal is given whole and by part.
"""

from __future__ import annotations

import functools
import statistics
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Final
from unittest import mock

import torch
from segment_anything.modeling import ImageEncoderViT

from benchmarks.captioner import scenes_with
from benchmarks.mask_sides import Sides
from benchmarks.measurement import machine, median_seconds, options, random_weights, write_json
from benchmarks.operation_counts import counting
from benchmarks.process_watch import SideProcess
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.device import prepare_device
from pseudoris.workers.filtering import ClipScorer
from pseudoris.workers.forward_passes import linear
from pseudoris.workers.masks import generator, sam_model
from pseudoris.workers.masks.prompt_decoder import SamPromptDecoder, Upscaling
from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT

REST: Final = "the rest"
# A part that runs inside of another one does not count for that one.
PARTS: Final[tuple[tuple[str, Any, str], ...]] = (
    ("image encoder", ImageEncoderViT, "__call__"),
    ("prompts: transformer", SamPromptDecoder, "__call__"),
    ("prompts: upscaling", Upscaling, "__call__"),
    ("logits to the image's size", sam_model, "upsample"),
    ("stability, boxes, bits", generator, "measure"),
    ("RLE", generator, "encode_proposals"),
)

# What has been spent since some moment: seconds, or operations and bytes.
Meter = Callable[[], tuple[float, ...]]


def spent_by_part(propose: Callable[[], object], meter: Meter) -> dict[str, tuple[float, ...]]:
    """Run `propose` once, and return by part what `meter` counted in it; `REST` is what no part spent."""
    spent: dict[str, tuple[float, ...]] = {}
    open_parts = [REST]
    last = meter()

    def close_account() -> None:
        nonlocal last
        now, part = meter(), open_parts[-1]
        before = spent.get(part, (0.0,) * len(now))
        spent[part] = tuple(total + new - old for total, new, old in zip(before, now, last, strict=True))
        last = now

    def accounted(part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            close_account()
            open_parts.append(part)
            try:
                return function(*arguments, **options)
            finally:
                close_account()
                open_parts.pop()

        return call

    with ExitStack() as patches:
        for part, owner, attribute in PARTS:
            patches.enter_context(mock.patch.object(owner, attribute, accounted(part, getattr(owner, attribute))))
        propose()
        close_account()
    return spent


_SIDE = 2048
_COPIED_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class Peaks:
    """The machine's best: operations and bytes a second."""

    operations: float
    bytes: float


@dataclass(frozen=True, slots=True)
class Point:
    """One stage, or a part of one, on the roofline.

    Attributes:
        case: What ran.
        seconds: Median of the repeats.
        operations: Floating-point operations of one run.
        bytes: Read and written by operations, caches left out of account.
        share_of_operations: Of the peak.
        share_of_bytes: Of the peak.
    """

    case: str
    seconds: float
    operations: int
    bytes: int
    share_of_operations: float
    share_of_bytes: float


def measure_peaks() -> Peaks:
    """Return the best of several matrix products and copies, in float32."""
    weight, x = torch.randn(_SIDE, _SIDE), torch.randn(_SIDE, _SIDE)
    layer = linear(weight, None)
    product = min(_least(lambda: x @ weight), _least(lambda: layer(x)))
    # Ones: memory that nobody has written is one page of zeros, and lies in a cache.
    source = torch.ones(_COPIED_BYTES // 4)
    target = torch.ones_like(source)
    copy = _least(lambda: target.copy_(source))
    return Peaks(2 * _SIDE**3 / product, 2 * _COPIED_BYTES / copy)


def _least(work: Callable[[], object]) -> float:
    return min(median_seconds(work, repeats=1, warm_ups=1) for _ in range(5))


def measure(
    config: RunConfig, *, num_images: int, num_masks: int, kept_share: float, repeats: int
) -> tuple[Peaks, list[Point]]:
    """Return the peaks and a point a stage."""
    prepare_device(config.compute)
    peaks = measure_peaks()
    works = stages(config, num_images=num_images, num_masks=num_masks, kept_share=kept_share)
    points = []
    for case, work in works.items():
        # Of the other stages nothing is a part: they are one point.
        with counting() as counted:
            counts = spent_by_part(work, counted)
        runs = [spent_by_part(work, lambda: (time.perf_counter(),)) for _ in range(repeats)]
        seconds = {part: statistics.median(run[part][0] for run in runs) for part in counts}
        whole = statistics.median(sum(spent for (spent,) in run.values()) for run in runs)
        points.append(_point(case, whole, [sum(each) for each in zip(*counts.values(), strict=True)], peaks))
        if len(counts) > 1:
            points += [_point(f"  {part}", seconds[part], counts[part], peaks) for part in counts]
    return peaks, points


def _point(case: str, seconds: float, counts: Sequence[float], peaks: Peaks) -> Point:
    operations, num_bytes = counts
    return Point(
        case=case,
        seconds=seconds,
        operations=int(operations),
        bytes=int(num_bytes),
        share_of_operations=operations / seconds / peaks.operations,
        share_of_bytes=num_bytes / seconds / peaks.bytes,
    )


def stages(config: RunConfig, *, num_images: int, num_masks: int, kept_share: float) -> dict[str, Callable[[], object]]:
    """Return what to run for each point, by its name."""
    sides = Sides(config, num_images=1, kept_share=kept_share, is_remembering=False)
    agreement = sides.agree()
    caption, score = CocaCaptioner(config.captions, config.compute), ClipScorer(config.filtering, config.compute)
    shard, one = scenes_with(num_masks, num_images), scenes_with(num_masks, 1)
    captioned = caption(shard)
    grid, num_kinds = config.masks.points_per_side, len(config.captions.crop_kinds())
    steps = f"{config.captions.max_length - 2} steps"
    return {
        f"propose, {config.preset}, {grid}² points, {agreement.share_kept:.0%} kept": lambda: sides.run("ours"),
        f"caption, {config.preset}, {num_masks} masks, {num_kinds} crop kinds, {steps}": lambda: caption(one),
        f"filter, {config.preset}, {num_images} images of {num_masks} masks": lambda: score(captioned),
    }


def report(peaks: Peaks, points: Sequence[Point], json_path: Path | None) -> None:
    """Print the points as a table, and write them as a JSON list where a path is given."""
    print(f"{machine()}; peaks {peaks.operations / 1e9:.0f} GFLOP/s, {peaks.bytes / 1e9:.1f} GB/s")
    print(f"{'case':<60} {'s':>8} {'GFLOP':>9} {'GB':>8} {'of peak FLOP/s':>15} {'of peak GB/s':>13}")
    for point in points:
        print(
            f"{point.case:<60} {point.seconds:>8.3f} {point.operations / 1e9:>9.1f} {point.bytes / 1e9:>8.2f} "
            f"{point.share_of_operations:>15.0%} {point.share_of_bytes:>13.0%}"
        )
    write_json([asdict(point) for point in points], json_path)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    random = random_weights(given.preset, ("masks", "captions", "filtering"))
    assignments = ["compute.device=cpu", f"captions.max_length={given.steps + 2}", *given.assignments, *random]
    if given.points is not None:
        assignments.append(f"masks.points_per_side={given.points}")
    config = load_config(given.preset, assignments=assignments)
    # This module, in a process with an actor's memory settings.
    actor = SideProcess(MEMORY_ENVIRONMENT, import_module, "benchmarks.roofline")
    sizes = {"num_images": given.images, "num_masks": given.masks, "kept_share": given.kept, "repeats": given.repeats}
    try:
        peaks, points = actor.call("measure", config, **sizes)
    finally:
        actor.close()
    report(peaks, points, given.json)


if __name__ == "__main__":
    main()
