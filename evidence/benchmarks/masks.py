"""Compares automatic mask generation with Meta's generator, without the image encoder.

    python -m evidence.benchmarks.masks [--preset tiny] [--images 4] [--points N] [--kept 0.4] [--repeats 5]
    [--set KEY=VALUE …] [--json FILE]

Two comparisons: Meta's generator as people run it against ours as the pipeline runs it, whose processes tell glibc to
keep freed memory; and both with that setting, which glibc reads when a process starts. So two processes are driven
in turn. Where no weights are at hand `base` runs on random ones, its predicted IoU and stability thresholds set so
that a share of the mask candidates survive.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from evidence.benchmarks.mask_sides import Sides, Timing
from evidence.benchmarks.measurement import Row, options, report
from evidence.benchmarks.process_watch import SideProcess
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT


def measure(config: RunConfig, *, num_images: int, kept_share: float, repeats: int) -> list[Row]:
    """Return a row a comparison; both sides agree on all masks before anything is timed."""
    default, kept = (
        SideProcess(environment, Sides, config, num_images=num_images, kept_share=kept_share)
        for environment in ({}, MEMORY_ENVIRONMENT)
    )
    agreement = [process.call("agree") for process in (default, kept)][-1]
    timings: dict[str, list[Timing]] = {"meta": [], "ours": [], "meta, kept": [], "ours, kept": []}
    for _ in range(repeats):
        timings["meta"].append(default.call("run", "meta"))
        timings["ours, kept"].append(kept.call("run", "ours"))
        timings["meta, kept"].append(kept.call("run", "meta"))
        timings["ours"].append(default.call("run", "ours"))
    default.close()
    kept.close()
    medians = {name: statistics.median(timing.rest_s for timing in listed) for name, listed in timings.items()}
    peaks = {name: listed[-1].peak_rss_bytes for name, listed in timings.items()}
    case = f"masks, {config.preset}, {num_images} scenes, {config.masks.points_per_side}² points"
    compared = {
        "Meta as people run it, ours as the pipeline runs it": ("meta", "ours, kept"),
        "memory kept on both sides": ("meta, kept", "ours, kept"),
        "memory kept on neither side": ("meta", "ours"),
    }
    encoder = _encoder_note(timings)
    return [
        Row(f"{case}: {name}", medians[theirs], medians[ours], peaks[ours], f"{agreement}; {encoder}")
        for name, (theirs, ours) in compared.items()
    ]


def _encoder_note(timings: dict[str, list[Timing]]) -> str:
    theirs, ours = (
        statistics.median(timing.encoder_s for timing in timings[name]) for name in ("meta, kept", "ours, kept")
    )
    return f"beside it the image encoder: Meta {theirs:.3f} s, ours {ours:.3f} s"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    assignments = ["compute.device=cpu", *given.assignments]
    if given.points is not None:
        assignments.append(f"masks.points_per_side={given.points}")
    config = load_config(given.preset, assignments=assignments)
    rows = measure(config, num_images=given.images, kept_share=given.kept, repeats=given.repeats)
    report("masks, everything but the image encoder: Meta's generator against ours", rows, given.json)


if __name__ == "__main__":
    main()
