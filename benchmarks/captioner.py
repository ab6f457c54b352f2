"""Captions of one image: the cached engine, all decoders, against the authors' loop, sampling alone.

    python -m benchmarks.captioner [--preset tiny] [--masks 4] [--max-length 30] [--repeats 5] [--json F]

Without trained weights at hand `base` runs on random ones (`--set captions.weights.uri=random:0`).
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from open_clip.coca_model import CoCa
from open_clip.tokenizer import SimpleTokenizer

from benchmarks.authors_loop import AuthorsLoop
from benchmarks.measure import Row, median_seconds, peak_rss_bytes, report
from schemas.config import CaptionsConfig, RunConfig
from schemas.config_loading import load_config
from workers.captions.drafts import ImageCrops
from workers.captions.engine import CachedEngine
from workers.captions.vocabulary import SpecialTokens
from workers.checkpoints.models import load_coca
from workers.device import prepare_device


def measure(config: RunConfig, *, num_masks: int, repeats: int) -> list[Row]:
    """Return one row: one crop kind of one image with `num_masks` masks, both sides on the same crops."""
    captions = one_crop_kind(config.captions)
    prepare_device(config.compute)
    model = load_coca(captions.architecture, captions.weights).requires_grad_(False)
    special = special_tokens(model)
    image = noise_crops(num_masks, model.visual.image_size[0])
    authors = AuthorsLoop(model, special, captions, seed=config.compute.seed)
    engine = CachedEngine(model, special, captions, seed=config.compute.seed)
    theirs = authors.sample(image, 0)
    ours = [draft.tokens for draft in engine.drafts(image) if draft.decoder.name != "beam"]
    num_equal = sum(one == other for one, other in zip(theirs, ours, strict=True))
    baseline_s = median_seconds(lambda: authors.sample(image, 0), repeats=min(repeats, 3), warm_ups=0)
    ours_s = median_seconds(lambda: engine.drafts(image), repeats=repeats)
    note = (
        f"{num_equal} of {len(theirs)} captions equal token for token (float32); "
        f"{11 * num_masks / ours_s:.0f} captions/s; ours also does the beams"
    )
    case = f"captioner, {config.preset}, {num_masks} masks, 1 crop kind"
    return [Row(case, baseline_s, ours_s, peak_rss_bytes(), note)]


def one_crop_kind(captions: CaptionsConfig) -> CaptionsConfig:
    """Return the configuration with the 1.0 context crop alone: the ratio does not depend on how many there are."""
    return captions.model_copy(update={"has_masked_crop": False, "context_scales": (1.0,)})


def special_tokens(model: CoCa) -> SpecialTokens:
    """Return the start, end and padding tokens of open_clip's tokenizer for `model`."""
    tokenizer = SimpleTokenizer()
    return SpecialTokens(tokenizer.sot_token_id, tokenizer.eot_token_id, int(model.text.pad_id))


def noise_crops(num_masks: int, size: int) -> ImageCrops:
    """Return smooth noise as the crops of one image: content does not matter to either side's cost."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(num_masks, 3, 8, 8, generator=generator)
    pixels = torch.nn.functional.interpolate(coarse, size=(size, size), mode="bilinear")
    return ImageCrops("0" * 16, ("context_1.0",), tuple(range(num_masks)), pixels[None])


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--preset", default="tiny")
    parser.add_argument("--masks", type=int, nargs="+", default=[4, 8])
    parser.add_argument("--max-length", type=int, default=30)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    assignments = [f"captions.max_length={given.max_length}", "compute.device=cpu", *given.assignments]
    config = load_config(given.preset, assignments=assignments)
    rows = [row for masks in given.masks for row in measure(config, num_masks=masks, repeats=given.repeats)]
    report("captioner: the authors' loop against the cached prefix tree", rows, given.json)


if __name__ == "__main__":
    main()
