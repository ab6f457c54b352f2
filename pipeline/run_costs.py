"""Tells what a run would take, without running a model: bytes of its tables, and settings that fit a GPU's memory.

Called by `annotation` for a dry run, and by `cli` for `doctor` and `estimate`. What a sample measures is in
`sample_estimate`. It imports neither Ray nor numpy, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import Final

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import RunConfig
from pseudoris.store.runs.plan import PlanTally
from pseudoris.store.runs.receipts import RunTotals

# Bytes of a shard's footers and column docs, and compressed bytes of each row. Source: measured, all four tables, on
# the demonstration run (69 images, 321 masks, 14,124 draws, `tiny`).
BYTES_PER_SHARD: Final = 16_000
BYTES_PER_IMAGE: Final = 100
BYTES_PER_MASK: Final = 150
BYTES_PER_DRAW: Final = 30
# The estimate assumes this many masks per image, because no model has run yet. The demonstration's scenes have 4.6.
ASSUMED_MASKS_PER_IMAGE: Final = 5

# By models and GiB of a card: `masks.points_per_batch`, and GiB of `captions.cache_bytes`. `12: (32, 4)`: a card of 12
# GiB takes 32 points per batch and a cache of 4 GiB. A cache holds a part of an image of ten masks, or 1, 2, 4, 8 or
# 16 images. Source: tests/pipeline/test_run_costs.py adds up weights, caches and passes.
_CARDS: Final = {
    ("vit_b", "coca_ViT-B-32"): {12: (32, 4), 16: (32, 8), 24: (64, 8), 48: (64, 16), 80: (64, 31), 141: (64, 61)},
    ("vit_h", "coca_ViT-L-14"): {12: (32, 1), 16: (32, 5), 24: (32, 12), 48: (64, 23), 80: (64, 45), 141: (64, 89)},
}
_MODELLED: Final = "modelled, not measured on such a card"


def card_config(config: RunConfig, card_bytes: float) -> str:
    """Return YAML for `--config` over the preset of `config`; ConfigError if models do not fit, or are others."""
    masks, captions, gib = config.masks, config.captions, card_bytes / 2**30
    models = (masks.engine, masks.architecture, captions.engine, captions.architecture, config.filtering.engine)
    cards = _CARDS.get((masks.architecture or "", captions.architecture or ""))
    if cards is None or (masks.engine, captions.engine, config.filtering.engine) != ("sam", "coca", "clip"):
        raise ConfigError(
            "settings for a card are known for the engines and models of base and paper, not for "
            f"{', '.join(each or 'no architecture' for each in models)}: give --preset base or paper, or keep "
            "the settings of the preset"
        )
    # A card offers a little less memory than its nominal size, so 95 % of that size is enough.
    fitting = [size for size in cards if 0.95 * size <= gib]
    if not fitting:
        raise ConfigError(
            f"a GPU of {gib:.3g} GiB is smaller than the smallest for which settings of {config.preset} are known, "
            f"{min(cards)} GiB ({_MODELLED}): take a larger one, or a CPU (--set compute.device=cpu --set "
            "placement.fused.num_gpus=0)"
        )
    points, cache = cards[fitting[-1]]
    return f"""\
# For a GPU of {gib:.4g} GiB. Choose before a run: all but placement is part of its identity.
preset: {config.preset}
compute: {{device: cuda, precision: bfloat16}}  # {_MODELLED}. GPUs since 2020 compute in it; masks and captions change
masks: {{points_per_batch: {points}}}  # {_MODELLED}. SAM answers 16 times as many points in a pass
captions:
  cache_bytes: {cache * 2**30}  # {_MODELLED}. {cache} GiB
  crops_together: {640 if fitting[-1] < 141 else 1280}  # {_MODELLED}. 40 an image of ten masks; at least 640
filtering: {{batch_size: 256}}  # {_MODELLED}. On an H200, before 0.6, more gained nothing
placement: {{fused: {{num_gpus: 1}}}}  # {_MODELLED}. One actor a GPU: no GPU has shown that several help
"""


def output_size(tally: PlanTally, committed: RunTotals, config: RunConfig) -> tuple[int, str]:
    """Return the estimated bytes of a plan's tables, and what that stands on: committed images, if there are any."""
    if committed.images:
        each = committed.output_bytes // committed.images
        basis = f"from the {committed.images} images committed so far, {each} bytes each"
        return committed.output_bytes * tally.num_images // committed.images, basis
    captions = config.captions
    # A mask gets this many captions per crop: one by beam search, and one for each sampling setting.
    draws = bool(captions.beam.num_beams) + len(captions.sampling.top_k) + len(captions.sampling.top_p)
    draws *= len(captions.context_scales) + captions.has_masked_crop
    per_mask = BYTES_PER_MASK + draws * BYTES_PER_DRAW
    tables = tally.num_shards * BYTES_PER_SHARD
    tables += tally.num_images * (BYTES_PER_IMAGE + ASSUMED_MASKS_PER_IMAGE * per_mask)
    basis = f"assuming {ASSUMED_MASKS_PER_IMAGE} masks per image, {per_mask:,} bytes per mask as on the bundled scenes"
    if config.shards.embed_images:
        return tables + tally.size_bytes, f"{basis}, plus the embedded images"
    return tables, basis
