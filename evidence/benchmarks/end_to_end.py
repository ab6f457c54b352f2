"""Measures images from pixels to scored expressions: what the authors' scripts do, against our three stages.

    python -m evidence.benchmarks.end_to_end [--preset tiny] [--images 1 16] [--repeats 5 …] [--masks 8] [--steps N]
    [--timed-images 4] [--timed-masks N] [--kept 0.4] [--one-at-a-time] [--set KEY=VALUE …] [--json FILE]

Same images, weights and random draws on both sides, models loaded before the clock; each side is a process of its own.
A row a step and for the whole chain, CLIP as the authors' script calls it (a caption and a mask a call) and batched;
once with glibc's own memory settings on the authors' side, as people run it, and once with freed memory kept on both.
No figure is printed unless both sides agree: masks, captions draw by draw, and scores.

The authors' side is slow: it is timed once, on `--timed-images` of a shard; the rest is counted
(`AuthorsChain.counted`), and the rows say so. Presets other than `tiny` run on random weights. These find no objects,
so `--masks` of each scene's true masks are captioned; with `--timed-masks M` the authors' side is timed on one crop
kind of M masks of one image.
Seconds are the clock's; beside their ratio stands that of the CPU's seconds, which a shared machine disturbs less.
`--images` are of a shard, a case each, with one number of repeats or one each. `--steps` bounds the sampled tokens,
`--kept` is the share that passes predicted IoU, of random weights, and `--one-at-a-time` is for where two models do not
fit into memory.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from evidence.benchmarks.captioner import scenes_with
from evidence.benchmarks.chain_sides import AuthorsChain, Chained, OurChain, Spent
from evidence.benchmarks.filter import MAX_SCORE_DIFFERENCE, largest_difference
from evidence.benchmarks.mask_sides import MIN_IOU, best_ious
from evidence.benchmarks.measurement import machine, options, random_weights, write_json
from evidence.benchmarks.process_watch import SideProcess
from evidence.recipes.scene_shards import scene_image, scene_shard
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.checkpoints.weight_cache import random_seed
from pseudoris.workers.device import prepare_device
from pseudoris.workers.process_memory import MEMORY_ENVIRONMENT

# A draw between two sums of float32 flips now and then, and the caption goes on otherwise.
_MIN_EQUAL_CAPTIONS: Final = 0.9
_MEMORY: Final[dict[str, Mapping[str, str]]] = {"as people run it": {}, "memory kept on both sides": MEMORY_ENVIRONMENT}
_CLOCKS: Final = ("wall_s", "cpu_s")
_CAPTIONS: Final = ("sampling", "beams")
# For each row its name, the steps of the authors, and those of ours.
_STEPS: Final = {
    "whole chain, CLIP a call a pair": (("masks", *_CAPTIONS, "filter, pairwise"), ("masks", "captions", "filter")),
    "whole chain, CLIP batched": (("masks", *_CAPTIONS, "filter, batched"), ("masks", "captions", "filter")),
    "masks": (("masks",), ("masks",)),
    "captions": (_CAPTIONS, ("captions",)),
    "filter, a call a pair": (("filter, pairwise",), ("filter",)),
    "filter, batched": (("filter, batched",), ("filter",)),
}


@dataclass(frozen=True, slots=True)
class Settings:
    """How many masks an image are captioned, and on how much the authors' side is timed.

    Attributes:
        max_masks: An image.
        timed_images: Of a shard.
        timed_masks: Of one image, with one crop kind; None for all masks and kinds.
        kept_share: Of the mask candidates of random weights.
        is_one_at_a_time: Whether ours ends before the authors' side begins: for models of which two do not fit into
            memory. Else ours runs between the two references, so that a machine that slows down favours neither.
    """

    max_masks: int
    timed_images: int
    timed_masks: int | None
    kept_share: float
    is_one_at_a_time: bool = False

    def chain(self) -> dict[str, Any]:
        """Return what both sides are built with, beside the configuration."""
        return {"max_masks": self.max_masks, "kept_share": self.kept_share}

    def timed_part(self, shard: Shard) -> tuple[Shard, int | None]:
        """Return what of a shard the authors' side is timed on, and how many crop kinds; None for all."""
        if self.timed_masks is None:
            return shard.with_images(shard.images[: self.timed_images]), None
        first = shard.images[0]
        return shard.with_images((replace(first, masks=first.masks[: self.timed_masks]),)), 1

    def is_counted(self, shard: Shard) -> bool:
        """Return whether that is not all of it."""
        return self.timed_masks is not None or self.timed_images < len(shard.images)


@dataclass(frozen=True, slots=True)
class Timed:
    """One side of a case: what each step takes, the process's peak, and what the last run made."""

    spent: Mapping[str, Spent]
    peak_pss_bytes: int
    done: Chained


def shard_of(config: RunConfig, num_images: int, num_masks: int) -> Shard:
    """Return scenes as a shard, under random weights with `num_masks` of their true masks."""
    if random_seed(config.masks.weights) is not None:
        return scenes_with(num_masks, num_images)
    return scene_shard([scene_image(make_scene(Split.DEMO, position)) for position in range(num_images)])


def measure(config: RunConfig, cases: Mapping[int, int], settings: Settings) -> list[dict[str, Any]]:
    """Return the rows of shards of so many images, each with the number of our repeats; ValueError if sides differ."""
    shards = {num_images: shard_of(config, num_images, settings.max_masks) for num_images in cases}
    ours = SideProcess(MEMORY_ENVIRONMENT, OurChain, config, **settings.chain())
    parts = {num: ours.call("run", settings.timed_part(shard)[0]) for num, shard in shards.items()}
    _say("ours ran what the authors' side is timed on")
    rows: dict[int, list[dict[str, Any]]] = {num_images: [] for num_images in cases}
    own = _own(ours, shards, cases) if settings.is_one_at_a_time else {}
    for memory, environment in _MEMORY.items():
        authors = SideProcess(environment, AuthorsChain, config, **settings.chain())
        theirs = _references(authors, shards, settings)
        _say(f"the authors' side ran, {memory}")
        own = own or _own(ours, shards, cases)
        for num_images, timed in theirs.items():
            said = agreement(timed.done, parts[num_images])
            whole = shards[num_images]
            if settings.is_counted(whole):
                timed = _counted(authors, timed, settings, own[num_images].done.shard)
            note = f"{_amounts(config, own[num_images], cases[num_images])}; {said}; {_how(settings, whole)}"
            case = f"{config.preset}, {num_images} image{'s' * (num_images > 1)}, {memory}"
            rows[num_images] += rows_of(case, timed, own[num_images], note)
        authors.close()
    return [row for listed in rows.values() for row in listed]


def _own(process: SideProcess, shards: Mapping[int, Shard], cases: Mapping[int, int]) -> dict[int, Timed]:
    own = {num_images: run_ours(process, shard, cases[num_images]) for num_images, shard in shards.items()}
    process.close()
    _say("ours ran the whole")
    return own


def _say(done: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {done}", file=sys.stderr, flush=True)


def run_ours(process: SideProcess, shard: Shard, repeats: int) -> Timed:
    """Return medians of `repeats` runs; they were warmed up by what was compared."""
    runs = [process.watched("run", shard) for _ in range(repeats)]
    spent = {
        step: Spent(*(statistics.median(getattr(done.spent[step], of) for done, _ in runs) for of in _CLOCKS))
        for step in runs[0][0].spent
    }
    return Timed(spent, max(peak for _, peak in runs), runs[-1][0])


def _references(process: SideProcess, shards: Mapping[int, Shard], settings: Settings) -> dict[int, Timed]:
    """Run the authors' side; once where shards have the same timed part."""
    known: dict[int, Timed] = {}
    found: dict[int, Timed] = {}
    for num_images, shard in shards.items():
        part, num_kinds = settings.timed_part(shard)
        # All parts are the beginning of one list of images.
        if len(part.images) not in known:
            done, peak = process.watched("run", part, num_kinds)
            known[len(part.images)] = Timed(done.spent, peak, done)
        found[num_images] = known[len(part.images)]
    return found


def _counted(process: SideProcess, timed: Timed, settings: Settings, whole: Shard) -> Timed:
    num_kinds = None if settings.timed_masks is None else 1
    return replace(timed, spent=process.call("counted", timed.done, num_kinds, whole))


def agreement(theirs: Chained, ours: Chained) -> str:
    """Return how far both sides agree on what both made.

    Raises:
        ValueError: By less than rounding explains.
    """
    pairs = list(zip(theirs.proposals, ours.proposals, strict=True))
    sizes = [(image.height or 0, image.width or 0) for image in ours.shard.images]
    best = [best_ious(mine, other, size) for (other, mine), size in zip(pairs, sizes, strict=True) if other]
    mean_iou = float(np.concatenate(best).mean()) if best else 1.0
    num_codes, num_same = sum(len(other) for other, _ in pairs), sum(len(set(a) & set(b)) for a, b in pairs)
    draws, mine = _draws(theirs.shard), _draws(ours.shard)
    num_equal = sum(mine.get(draw) == text for draw, text in draws.items())
    difference = largest_difference(_common(theirs.shard, ours.shard), _common(ours.shard, theirs.shard))
    said = (
        f"{num_same} of {num_codes} masks equal, matched IoU {mean_iou:.4f}; {num_equal} of {len(draws)} captions "
        f"equal; scores of equal ones within {difference:.0e}"
    )
    if mean_iou < MIN_IOU or num_equal < _MIN_EQUAL_CAPTIONS * len(draws) or difference > MAX_SCORE_DIFFERENCE:
        raise ValueError(f"the two sides differ ({said}): compare no times before this is mended")
    return said


def _draws(shard: Shard) -> dict[tuple[object, ...], str]:
    return {
        (*expression.target_mask_ids, sample.crop, sample.decoder, sample.top_k, sample.top_p): expression.text
        for image in shard.images
        for expression in image.expressions
        for sample in expression.samples
    }


def _common(shard: Shard, other: Shard) -> Shard:
    """Return the shard with those expressions alone that the other has too, in the order of mask and text."""
    images = []
    for image, beside in zip(shard.images, other.images, strict=True):
        known = {(each.target_mask_ids, each.text) for each in beside.expressions}
        common = [each for each in image.expressions if (each.target_mask_ids, each.text) in known]
        common.sort(key=lambda each: (each.target_mask_ids, each.text))
        images.append(replace(image, expressions=tuple(common)))
    return shard.with_images(tuple(images))


def _amounts(config: RunConfig, ours: Timed, repeats: int) -> str:
    images, captions, masks = ours.done.shard.images, config.captions, config.masks
    num_masks, num_texts = (
        sum(map(len, each)) for each in zip(*((i.masks, i.expressions) for i in images), strict=True)
    )
    how = f"median of {repeats}" if repeats > 1 else "once"
    return (
        f"N = {num_masks / len(images):.1f} masks an image, {len(captions.crop_kinds())} crop kinds, at most "
        f"{captions.max_length - 2} steps, {num_texts} candidates; masks of {masks.points_per_side}² points and "
        f"{masks.crop_n_layers} layers of crops; ours {how}"
    )


def _how(settings: Settings, shard: Shard) -> str:
    if not settings.is_counted(shard):
        return "baseline timed once"
    if settings.timed_masks is None:
        return f"baseline COUNTED from {settings.timed_images} of the images, timed once"
    return f"baseline COUNTED from one image, one crop kind, {settings.timed_masks} masks, timed once"


def rows_of(case: str, theirs: Timed, ours: Timed, note: str) -> list[dict[str, Any]]:
    """Return the rows of one case: the whole chain twice, then its steps."""
    rows = []
    for name, (their_steps, our_steps) in _STEPS.items():
        baseline = sum((theirs.spent.get(step, Spent()) for step in their_steps), Spent())
        own = sum((ours.spent[step] for step in our_steps), Spent())
        rows.append(
            {
                "case": f"{case}: {name}",
                "baseline_s": baseline.wall_s,
                "ours_s": own.wall_s,
                "ratio": baseline.wall_s / own.wall_s,
                "baseline_cpu_s": baseline.cpu_s,
                "ours_cpu_s": own.cpu_s,
                "cpu_ratio": baseline.cpu_s / own.cpu_s,
                "baseline_peak_pss_bytes": theirs.peak_pss_bytes,
                "peak_pss_bytes": ours.peak_pss_bytes,
                "note": note,
            }
        )
    return rows


def report(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print the rows as a table, a note once."""
    print(f"images to scored expressions: the authors' scripts against ours ({machine()})")
    print(f"{'case':<80} {'baseline s':>11} {'ours s':>9} {'ratio':>6} {'of CPU':>6} {'PSS MiB':>8} {'ours':>6}")
    for row in rows:
        theirs, ours = (row[name] / 2**20 for name in ("baseline_peak_pss_bytes", "peak_pss_bytes"))
        print(
            f"{row['case']:<80} {row['baseline_s']:>11.2f} {row['ours_s']:>9.3f} {row['ratio']:>6.1f} "
            f"{row['cpu_ratio']:>6.1f} {theirs:>8.0f} {ours:>6.0f}"
        )
    for note in dict.fromkeys(row["note"] for row in rows):
        print(note)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    assignments = ["compute.device=cpu", *random_weights(given.preset, ("masks", "captions", "filtering"))]
    if given.steps is not None:
        assignments.append(f"captions.max_length={given.steps + 2}")
    config = load_config(given.preset, assignments=[*assignments, *given.assignments])
    if given.timed_masks is not None and random_seed(config.masks.weights) is None:
        sys.exit("--timed-masks is for presets on random weights: trained ones find their own masks")
    repeats = given.repeats * len(given.images) if len(given.repeats) == 1 else given.repeats
    settings = Settings(given.masks, given.timed_images, given.timed_masks, given.kept, given.one_at_a_time)
    prepare_device(config.compute)
    rows = measure(config, dict(zip(given.images, repeats, strict=True)), settings)
    report(rows)
    write_json(rows, given.json)


if __name__ == "__main__":
    main()
