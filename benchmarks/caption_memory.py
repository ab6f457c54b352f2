"""Whether captioning keeps to its byte budget on an image with many masks: measured, and planned for larger models.

    python -m benchmarks.caption_memory [--preset base] [--masks 60] [--budget-mib 1024] [--steps 8] [--json F]

The measured run is a process of its own, because a process's peak never falls. It needs no trained weights:
`--set captions.weights.uri=random:0`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from open_clip.coca_model import CoCa

from benchmarks.captioner import noise_crops, one_crop_kind, special_tokens
from benchmarks.measure import Row, peak_rss_bytes, report
from schemas.config import CaptionsConfig, RunConfig
from schemas.config_loading import load_config
from workers.captions.engine import CachedEngine
from workers.captions.pictures import encode_images
from workers.captions.towers import CachedDecoder
from workers.checkpoints.models import load_coca
from workers.checkpoints.openclip import build_from_config, read_model_config
from workers.device import prepare_device

_MIB = 2**20


def measure(config: RunConfig, *, num_masks: int, num_steps: int) -> Row:
    """Return the row of one image with `num_masks` masks and one crop kind, decoded for real."""
    prepare_device(config.compute)
    captions = one_crop_kind(config.captions, num_steps=num_steps)
    model = load_coca(captions.architecture, captions.weights).requires_grad_(False)
    image = noise_crops(num_masks, model.visual.image_size[0])
    with torch.inference_mode():
        # The image tower's own peak is not the budget's business.
        encode_images(model, [image])
    before = peak_rss_bytes()
    engine = CachedEngine(model, special_tokens(model), captions, seed=config.compute.seed)
    started = time.perf_counter()
    engine.drafts(image)
    seconds = time.perf_counter() - started
    note = (
        f"budget {captions.cache_bytes // _MIB} MiB: caches took {engine.counts.peak_cache_bytes / _MIB:.0f} MiB, the "
        f"process grew by {(peak_rss_bytes() - before) / _MIB:.0f} MiB with all temporaries"
    )
    case = f"memory, {config.preset}, {num_masks} masks, 1 crop kind, {num_steps} steps"
    return Row(case, None, seconds, peak_rss_bytes(), note)


def planned(captions: CaptionsConfig, *, num_masks: int, dtype: torch.dtype) -> str:
    """Return in one sentence what the budget of `captions` holds, from the architecture's sizes alone."""
    with torch.device("meta"):
        model = build_from_config(read_model_config(captions.architecture)).to(dtype)
    if not isinstance(model, CoCa):
        raise TypeError(f"{captions.architecture} builds {type(model).__name__}, not CoCa")
    decoder = CachedDecoder(model)
    tokens = int(model.visual.attn_pool.query.shape[0]) - 1
    image = decoder.image_bytes(num_masks, tokens)
    left = max(captions.cache_bytes - image, captions.cache_bytes // 2)
    return (
        f"{captions.architecture}, {num_masks} masks, {dtype}: image keys and values {image / _MIB:.0f} MiB a crop "
        f"kind, {decoder.pair_bytes / 1024:.0f} KiB a (prefix, crop); a budget of {captions.cache_bytes // _MIB} MiB "
        f"leaves {left // decoder.pair_bytes:,} of these at a time"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table and the plan, write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="base")
    parser.add_argument("--masks", type=int, default=60)
    parser.add_argument("--budget-mib", type=int, default=2048)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--set", dest="assignments", action="append", default=[])
    parser.add_argument("--json", type=Path)
    given = parser.parse_args(arguments)
    budget = f"captions.cache_bytes={given.budget_mib * _MIB}"
    config = load_config(given.preset, assignments=["compute.device=cpu", budget, *given.assignments])
    row = measure(config, num_masks=given.masks, num_steps=given.steps)
    report("captioner: memory against its budget", [row], given.json)
    paper = load_config("paper").captions
    print(planned(paper, num_masks=given.masks, dtype=torch.bfloat16))


if __name__ == "__main__":
    main()
