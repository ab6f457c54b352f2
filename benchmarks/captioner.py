"""Compares the cached captioner with the authors' loop: the captions of one image, all decoding rules, sampling alone.

    python -m benchmarks.captioner [--preset tiny] [--masks 4 8] [--steps 12 24] [--timed-masks 8] [--repeats 5]
    [--set KEY=VALUE …] [--json FILE]

Without trained weights at hand `base` runs on random ones (`--set captions.weights.uri=random:0`). The authors' loop is
slow: it is timed once, and with `--timed-masks M` only up to M masks; the rows beyond are counted in operations and
say so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer

from benchmarks.authors_loop import AuthorsLoop
from benchmarks.measurement import Row, median_seconds, options, peak_rss_bytes, report
from benchmarks.operation_counts import sampling_operations
from pseudoris.schemas.config import CaptionsConfig, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.uris import BUILTIN_PREFIX
from pseudoris.synthworld.scenes import Split, make_scene
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.captions.captioner import CachedEngine
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens
from pseudoris.workers.checkpoints.openclip import load_coca
from pseudoris.workers.crops.crops import decode_image
from pseudoris.workers.device import prepare_device
from recipes.scene_shards import scene_image, scene_shard

# More masks than any of these scenes has objects are noise.
SCENES_LOOKED_AT = 200


@dataclass(frozen=True, slots=True)
class Timed:
    """What a timed run of the authors' loop says of one that is only counted."""

    seconds: float
    operations: float

    def scaled(self, operations: float) -> float:
        """Return the seconds that so many operations take at the same speed."""
        return self.seconds * operations / self.operations


def measure(
    config: RunConfig, *, masks: Sequence[int], steps: Sequence[int], timed_masks: int, repeats: int
) -> list[Row]:
    """Return a row for each number of masks and of steps: one crop kind of one image, the same crops on both sides."""
    prepare_device(config.compute)
    model = load_coca(config.captions.architecture, config.captions.weights).requires_grad_(False)
    rows, timed = [], None
    for num_steps in steps:
        for num_masks in masks:
            captions = one_crop_kind(config.captions, num_steps=num_steps)
            row, last = _measure(
                model,
                config.model_copy(update={"captions": captions}),
                num_masks,
                timed=timed if num_masks > timed_masks else None,
                repeats=repeats,
            )
            rows.append(row)
            timed = last or timed
    return rows


def _measure(
    model: CoCa, config: RunConfig, num_masks: int, *, timed: Timed | None, repeats: int
) -> tuple[Row, Timed | None]:
    captions, special = config.captions, special_tokens(model)
    image = crops_for(config, num_masks, model.visual.image_size[0])
    engine = CachedEngine(model, special, captions, seed=config.compute.seed)
    ours = [caption.tokens for caption in engine.generate(image) if caption.rule.name != "beam"]
    share = engine.counts.num_computed / engine.counts.num_asked
    ours_s = median_seconds(lambda: engine.generate(image), repeats=repeats, warm_ups=0)
    operations = sampling_operations(model, [len(tokens) for tokens in ours], captions, num_masks=num_masks)
    note = f"{11 * num_masks / ours_s:.1f} captions/s, beams too; the tree leaves {share:.0%} of the pairs"
    if timed is None:
        authors = AuthorsLoop(model, special, captions, seed=config.compute.seed)
        theirs, seconds = _once(lambda: authors.sample(image, 0))
        num_equal = sum(one == other for one, other in zip(theirs, ours, strict=True))
        note += f"; {num_equal} of {len(ours)} captions equal token for token"
        last = Timed(seconds, operations)
    else:
        seconds, last = timed.scaled(operations), None
        note += "; baseline COUNTED in operations, not timed"
    case = f"captioner, {config.preset}, {num_masks} masks, 1 crop kind, {captions.max_length - 2} steps"
    return Row(case, seconds, ours_s, peak_rss_bytes(), note), last


def _once(work: Callable[[], list[tuple[int, ...]]]) -> tuple[list[tuple[int, ...]], float]:
    found: list[list[tuple[int, ...]]] = []
    seconds = median_seconds(lambda: found.append(work()), repeats=1, warm_ups=0)
    return found[0], seconds


def one_crop_kind(captions: CaptionsConfig, *, num_steps: int | None = None) -> CaptionsConfig:
    """Return the configuration with the 1.0 context crop alone: the ratio does not depend on how many there are.

    `num_steps` are sampled tokens: SOT stands before them, and a last EOS costs nothing.
    """
    changes: dict[str, object] = {"has_masked_crop": False, "context_scales": (1.0,)}
    if num_steps is not None:
        changes |= {"max_length": num_steps + 2, "min_length": min(captions.min_length, num_steps)}
    return captions.model_copy(update=changes)


def special_tokens(model: CoCa) -> SpecialTokens:
    """Return the start, end and padding tokens of open_clip's tokenizer for `model`."""
    tokenizer = SimpleTokenizer()
    return SpecialTokens(tokenizer.sot_token_id, tokenizer.eot_token_id, int(model.text.pad_id))


def crops_for(config: RunConfig, num_masks: int, size: int) -> ImageCrops:
    """Return the 1.0 context crops of one image: of a scene under trained tiny weights, else of smooth noise.

    Under random weights the content does not matter to either side's cost; under trained ones captions, and with them
    the prefixes that coincide, come from it.
    """
    if not config.captions.weights.uri.startswith(BUILTIN_PREFIX):
        return noise_crops(num_masks, size)
    scenes = (make_scene(Split.DEMO, position) for position in range(SCENES_LOOKED_AT))
    scene = next((scene for scene in scenes if len(scene.objects) >= num_masks), None)
    if scene is None:
        return noise_crops(num_masks, size)
    shard = scene_shard([scene_image(scene)], with_true_masks=True)
    image = replace(shard.images[0], masks=shard.images[0].masks[:num_masks])
    captioner = CocaCaptioner(one_crop_kind(config.captions), config.compute)
    return captioner.image_crops(image, decode_image(image))


def noise_crops(num_masks: int, size: int, *, seed: int = 0) -> ImageCrops:
    """Return smooth noise as the crops of one image."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(num_masks, 3, 8, 8, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return ImageCrops("0" * 16, ("context_1.0",), tuple(range(num_masks)), pixels[None])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    given = options(__doc__, arguments)
    config = load_config(given.preset, assignments=["compute.device=cpu", *given.assignments])
    rows = measure(config, masks=given.masks, steps=given.steps, timed_masks=given.timed_masks, repeats=given.repeats)
    report("captioner: the authors' loop against the cached prefix tree", rows, given.json)


if __name__ == "__main__":
    main()
