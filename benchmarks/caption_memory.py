"""Measures whether captioning keeps to its byte budget on an image with many masks; computes larger models.

    python -m benchmarks.caption_memory [--preset base] [--masks 60] [--kinds 2] [--budget-mib 2048] [--steps 8]
    [--set KEY=VALUE …] [--json FILE]

Without trained weights at hand: `--set captions.weights.uri=random:0`. Linux only: there a peak can be reset.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import torch
from open_clip.coca_model import CoCa

from benchmarks.captioner import noise_crops, one_crop_kind, special_tokens
from benchmarks.measurement import Row, options, peak_rss_bytes, report, reset_peak
from pseudoris.primitives.measures import CACHE_BYTES, collecting
from pseudoris.schemas.config import CaptionsConfig, RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.captions.prefix_tree_decoder import prefix_budget
from pseudoris.workers.checkpoints.openclip import build_from_config, load_coca, read_model_config
from pseudoris.workers.device import prepare_device

_MIB = 2**20


def measure(config: RunConfig, *, num_masks: int, num_kinds: int, num_steps: int) -> Row:
    """Return the row of one image with `num_masks` masks, decoded for real; two crop kinds may be two passes.

    Raises:
        ValueError: Decoding took more than its budget.
    """
    prepare_device(config.compute)
    captions = one_crop_kind(config.captions, num_steps=num_steps)
    captions = captions.model_copy(update={"context_scales": tuple(1.0 + 0.1 * kind for kind in range(num_kinds))})
    model = load_coca(captions.architecture, captions.weights).requires_grad_(False)
    crops = [noise_crops(num_masks, model.visual.image_size[0], seed=kind) for kind in range(num_kinds)]
    image = replace(crops[0], kinds=tuple(captions.crop_kinds()), pixels=torch.cat([one.pixels for one in crops]))
    engine = coca_engine(model, special_tokens(model), captions, seed=config.compute.seed)
    before: list[int] = []

    def begin_again(*_: object) -> None:
        # The image tower's own peak is not the budget's business.
        before[:] = [reset_peak()]

    model.visual.register_forward_hook(begin_again)
    started = time.perf_counter()
    with collecting() as measures:
        engine.generate(image)
    seconds = time.perf_counter() - started
    # Pages that were freed before are used again, so a small growth can read below 0.
    grown, budget = max(0, peak_rss_bytes() - before[0]), captions.cache_bytes
    peak_cache_bytes = max(measures[CACHE_BYTES, ""])
    taken = (
        f"budget {budget // _MIB} MiB: keys and values took {peak_cache_bytes / _MIB:.0f} MiB, "
        f"the process grew by {grown / _MIB:.0f} MiB at most"
    )
    if max(grown, peak_cache_bytes) > budget:
        raise ValueError(f"decoding went over its budget: {taken}")
    case = f"memory, {config.preset}, {num_masks} masks, {num_kinds} crop kind(s), {num_steps} steps"
    return Row(case, None, seconds, peak_rss_bytes(), taken)


def planned(captions: CaptionsConfig, *, num_masks: int, dtype: torch.dtype) -> str:
    """Return in one sentence what the budget of `captions` holds, from the architecture's sizes alone."""
    with torch.device("meta"):
        model = build_from_config(read_model_config(captions.architecture)).to(dtype)
    if not isinstance(model, CoCa):
        raise TypeError(f"{captions.architecture} builds {type(model).__name__}, not CoCa")
    towers = CachedCocaTowers(model)
    tokens = int(model.visual.attn_pool.query.shape[0]) - 1
    image = towers.image_bytes([torch.empty(tokens, device="meta")] * num_masks)
    left = prefix_budget(captions, image_bytes=image)
    return (
        f"{captions.architecture}, {num_masks} masks, {dtype}: image keys and values {image / _MIB:.0f} MiB a crop "
        f"kind, {towers.pair_bytes / 1024:.0f} KiB a (prefix, crop); a budget of {captions.cache_bytes // _MIB} MiB "
        f"leaves {left // towers.pair_bytes:,} of these at a time"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure what the command line asks for, print the table and the plan, write the JSON."""
    given = options(__doc__, arguments)
    budget = f"captions.cache_bytes={given.budget_mib * _MIB}"
    config = load_config(given.preset, assignments=["compute.device=cpu", budget, *given.assignments])
    row = measure(config, num_masks=given.masks, num_kinds=given.kinds, num_steps=given.steps)
    plan = planned(load_config("paper").captions, num_masks=given.masks, dtype=torch.bfloat16)
    row = replace(row, note=f"{row.note}. On paper: {plan}")
    report("captioner: memory against its budget", [row], given.json)


if __name__ == "__main__":
    main()
