"""Measures the engines on one accelerator, without Ray: captions and masks against the baselines, images a second.

    python -m benchmarks.gpu [--device cuda|cpu] [--presets base paper] [--precision bfloat16|float32|float16]
    [--masks 10] [--steps 24] [--images 4] [--kept 0.4] [--repeats 5] [--minutes 10.0] [--sweep FOLDER]
    [--sweep-images 16] [--tiny] [--set KEY=VALUE …] [--json FILE]

Needs torch, torchvision, open_clip and segment-anything, of smaller things numpy, scipy, Pillow, PyYAML, pydantic and
pycocotools, and no weights: presets other than `tiny` run on random ones. For timing, CoCa's are made as sure of the
next token as trained ones. Before anything is timed the two sides of a comparison must agree: captions token for token
in float64, masks as `benchmarks.masks` asks for, embeddings with open_clip's. In the table the baseline of captions is
the authors' loop, that of masks Meta's generator in float32; beside it stands Meta's under autocast. Images a second
are those of the stages, whose images are all of one shape. Work is timed less often than
`--repeats` where `--minutes` would not be enough. `--sweep` then tries other settings (`benchmarks.gpu_sweep`), which
takes longer, and writes those that are fastest as FOLDER/<preset>.yaml, which `pseudoris annotate --config` reads.
`--tiny` is the tiny preset alone, in little: whether it runs. `--kept` is the share that passes predicted IoU, of
random weights.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import cache, partial

import torch

from benchmarks.captioner import SCENES_LOOKED_AT, AuthorsLoop, noise_crops, one_crop_kind, special_tokens
from benchmarks.gpu_agreement import (
    CHECKED_MASKS,
    CHECKED_STEPS,
    check_captions,
    check_embeddings,
    load_sure_coca,
    on_device,
    sure_captioner,
)
from benchmarks.gpu_report import Bench, GpuRow, Report
from benchmarks.gpu_sweep import CANDIDATES, LITTLE, Sweep
from benchmarks.mask_sides import Sides
from benchmarks.measurement import options, random_weights
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.shard import Shard
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.filtering import ClipScorer
from recipes.scene_shards import scene_image, scene_shard

# What is timed of a preset: about equal shares of the time that is allowed.
_WORKS_A_PRESET = 11


def measure_captions(config: RunConfig, bench: Bench, *, num_masks: int, num_steps: int) -> Iterator[GpuRow]:
    """Yield the captioner's rows: one crop kind against the authors' loop, then all kinds of one image.

    Raises:
        ValueError: The two sides draw other captions in float64.
    """
    captions, seed = config.captions, config.compute.seed
    device, dtype = prepare_device(config.compute), compute_dtype(config.compute)
    check_captions(config)
    model = load_sure_coca(captions.architecture, captions.weights).to(device, dtype)
    one_kind = one_crop_kind(captions, num_steps=num_steps)
    image = on_device(noise_crops(num_masks, model.visual.image_size[0]), device, dtype)
    special = special_tokens(model)
    # A model of its own: the engine may compile parts of its.
    plain = load_sure_coca(captions.architecture, captions.weights).to(device, dtype)
    authors = AuthorsLoop(plain, special, one_kind, seed=seed)
    engine = coca_engine(model, special, one_kind, seed=seed, is_compiled=config.compute.is_compiled)
    theirs = authors.sample(image, 0)
    ours = [caption.tokens for caption in engine.generate(image) if caption.rule.name != "beam"]
    num_equal = sum(one == other for one, other in zip(theirs, ours, strict=True))
    # Minutes on a CPU: there its warm-up and one run are enough.
    baseline_s = bench.seconds(partial(authors.sample, image, 0), repeats=None if device.type == "cuda" else 1)
    case = f"captions, {config.preset}, {num_masks} masks, 1 crop kind, {num_steps} steps, {config.compute.precision}"
    checked = f"{CHECKED_MASKS} masks, {CHECKED_STEPS} steps"
    note = f"captions/s, beams too; {num_equal} of {len(ours)} captions equal, in float64 all of {checked}"
    yield bench.row(case, partial(engine.generate, image), done=len(ours), baseline_s=baseline_s, note=note)
    # Its caches would count as the next row's.
    del engine, authors, plain
    whole = coca_engine(model, special, captions, seed=seed, is_compiled=config.compute.is_compiled)
    kinds = tuple(captions.crop_kinds())
    full = replace(image, kinds=kinds, pixels=image.pixels.expand(len(kinds), -1, -1, -1, -1).clone())
    # Crops of one mask differ by kind, as those of small masks do.
    full.pixels.mul_(torch.linspace(1, 0.7, len(kinds), device=device, dtype=dtype)[:, None, None, None, None])
    num_captions = len(whole.generate(full))
    case = f"captions, {config.preset}, {num_masks} masks, {len(kinds)} crop kinds, {config.compute.precision}"
    yield bench.row(case, partial(whole.generate, full), done=num_captions, baseline_s=None, note="captions/s")


def measure_masks(sides: Sides, config: RunConfig, bench: Bench) -> Iterator[GpuRow]:
    """Yield the rows of the whole generator, image encoder included: ours in float32 and in the config's precision.

    Raises:
        ValueError: The two sides find other masks.
    """
    num_images, agreement = sides.num_images, sides.agree()
    meta_s = bench.seconds(lambda: sides.run("meta"))
    case = f"masks, {config.preset}, {num_images} scenes, {config.masks.points_per_side}² points"
    note = f"images/s; {agreement}"
    work = partial(sides.run, "ours")
    yield bench.row(f"{case}, float32", work, done=num_images, baseline_s=meta_s, note=note)
    if compute_dtype(config.compute) == torch.float32:
        return
    autocast_s = bench.seconds(lambda: sides.run("meta, autocast"))
    note = f"images/s; Meta's under autocast takes {autocast_s:.3f} s; {sides.compare('ours, coarse')}"
    work = partial(sides.run, "ours, coarse")
    yield bench.row(f"{case}, {config.compute.precision}", work, done=num_images, baseline_s=meta_s, note=note)


def measure_stages(sides: Sides, config: RunConfig, bench: Bench, *, num_masks: int) -> GpuRow:
    """Return the row of the three stages one after another, on scenes with `num_masks` of their true masks.

    Masks are generated under the thresholds of `sides`: random weights let none pass those of the preset.

    Raises:
        ValueError: The filter gives other embeddings than open_clip.
    """
    check_embeddings(config)
    caption = sure_captioner(config)
    score = ClipScorer(config.filtering, config.compute)
    shard = scenes_with(num_masks, sides.num_images)
    captioned = caption(shard)
    parts = {
        "masks": bench.seconds(lambda: sides.run("ours, coarse")),
        "captions": bench.seconds(lambda: caption(shard)),
        "filter": bench.seconds(lambda: score(captioned)),
    }
    taken = ", ".join(f"{name} {seconds / sides.num_images:.3f} s an image" for name, seconds in parts.items())

    def work() -> None:
        sides.run("ours, coarse")
        score(caption(shard))

    different = sum(len({mask.rle_counts for mask in image.masks}) for image in shard.images) / sides.num_images
    taken += f"; {different:.1f} masks an image differ"
    case = f"all stages, {config.preset}, {sides.num_images} scenes with {num_masks} masks, {config.compute.precision}"
    return bench.row(case, work, done=sides.num_images, baseline_s=None, note=f"images/s; {taken}")


def scenes_with(num_masks: int, num_images: int) -> Shard:
    """Return scenes as a shard, their first true masks repeated up to `num_masks` where they have fewer objects."""
    positions = range(SCENES_LOOKED_AT)
    richest = sorted(positions, key=lambda at: -len(make_scene(Split.DEMO, at).objects))[:num_images]
    shard = scene_shard([scene_image(make_scene(Split.DEMO, at)) for at in richest], with_true_masks=True)
    images = []
    for image in shard.images:
        repeats = -(-num_masks // len(image.masks))
        masks = [
            replace(mask, index=number, mask_id=f"{mask.mask_id[:-2]}{number:02d}")
            for number, mask in enumerate((image.masks * repeats)[:num_masks])
        ]
        images.append(replace(image, masks=tuple(masks)))
    return shard.with_images(tuple(images))


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    little = {"presets": ["tiny"], "masks": 3, "steps": 6, "images": 1, "sweep_images": 2} if given.tiny else {}
    for name, value in little.items():
        setattr(given, name, value)
    report = Report(given.json)
    for preset in given.presets:
        words = [*_assignments(preset, given.device, given.precision), *given.assignments]
        config = load_config(preset, assignments=words)
        limit_s = 60 * given.minutes / (len(given.presets) * _WORKS_A_PRESET)
        bench = Bench(prepare_device(config.compute), repeats=given.repeats, limit_s=limit_s)
        _measure_preset(config, given, bench, report)
        if given.sweep:
            _sweep(preset, words, given, bench, report)
    if report.failures:
        sys.exit("not measured: " + "; ".join(report.failures))


def _measure_preset(config: RunConfig, given: argparse.Namespace, bench: Bench, report: Report) -> None:
    """Add the rows of one preset; what fails is noted and costs no other part its rows."""
    report.take(
        f"captions, {config.preset}",
        lambda: measure_captions(config, bench, num_masks=given.masks, num_steps=given.steps),
    )

    @cache
    def sides() -> Sides:
        # Built where a failure is noted: it loads SAM.
        return Sides(config, num_images=given.images, kept_share=given.kept, is_remembering=False)

    report.take(f"masks, {config.preset}", lambda: measure_masks(sides(), config, bench))
    report.take(f"stages, {config.preset}", lambda: [measure_stages(sides(), config, bench, num_masks=given.masks)])


def _sweep(preset: str, words: Sequence[str], given: argparse.Namespace, bench: Bench, report: Report) -> None:
    shard = scenes_with(given.masks, given.sweep_images)
    sweep = Sweep(preset, words, bench, report, shard=shard, kept_share=given.kept)
    found = sweep.run(LITTLE if given.tiny else CANDIDATES, has_compilation=not given.tiny)
    given.sweep.mkdir(parents=True, exist_ok=True)
    path = given.sweep / f"{preset}.yaml"
    path.write_text(found, encoding="utf-8")
    print(f"{path}:\n{found}", flush=True)


def _assignments(preset: str, device: str, precision: str) -> list[str]:
    of_compute = [f"compute.device={device}", f"compute.precision={precision}"]
    if device == "cuda":
        of_compute.append("placement.fused.num_gpus=1")
    return [*of_compute, *random_weights(preset, ("masks", "captions", "filtering"))]


if __name__ == "__main__":
    main()
