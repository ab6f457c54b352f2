"""How much goes through a model at once. Called by the engines of `workers`, and by `stages.py` for a run's identity.

These numbers are constants, not settings: another batch size changes the rounding, and so the output bytes. Every
constant enters `pass_sizes_digest`, by which a resumed run sees a changed number. `{"cpu": …, "cuda": …}` is by kind
of device.
"""

from __future__ import annotations

import json

from pseudoris.schemas.ids import sha256_hex

# A captioning step has temporary tensors of about this many bytes. This sets how many rows are computed at once.
CAPTION_STEP_BYTES = {"cpu": 64 * 2**20, "cuda": 2 * 2**30}
LEAST_CAPTION_ROWS = 64
# At most this many rows are computed at once: CUDA's attention kernels take 65,535, the limit of a grid's second axis.
MOST_CAPTION_ROWS = 2**15
# This many hidden states are projected at once: their 49,408 float32 logits take 50 MB, and the softmax as much.
PROJECTED_ROWS = 256
# A listener in fixed shapes projects this many hidden states at a time.
LISTENER_ROWS = 512
# SAM encodes as many crops at once as have attention maps of at most this many bytes, but at least one. In the mask
# stage a GPU encodes one.
SAM_ENCODER_BYTES = {"cpu": 2 * 2**30, "cuda": 16 * 2**30}
# SAM decodes as many prompts in a pass as fit into these bytes. On a CPU about a last-level cache, because a pass reads
# the same image tokens ten times. An estimate, not tuned by measurement.
PROMPT_BYTES = {"cpu": 24 * 2**20, "cuda": 8 * 2**30}
# A GPU decodes `points_per_batch` times this many prompts of a crop at once.
PROMPTS_A_POINT = 16
# Nothing reads these. They stay, because the digest of runs that began with 0.6.0 has them.
POINTS_A_CROP, PROMPT_TILE = 16, 64
# SAM upscales features of this many bytes at a time, on a CPU about the cache of one core. Estimated, not measured.
UPSCALED_BYTES = {"cpu": 2 * 2**20, "cuda": 2**30}
# A CPU computes this many crops of CLIP at once: their feature maps stay in its cache from one layer to the next, and a
# last tile is padded less. Measured on two threads of an AMD EPYC with AVX-512, in place of 64: RN50 2.0 s in place of
# 2.6, ViT-B/32 2.9 in place of 3.1, ViT-B/16 11.1 in place of 13.4.
CLIP_CROPS_ON_CPU = 8

# The length of each text prefix is rounded up to a multiple of this, so that it does not depend on other prefixes.
TEXT_LENGTH_STEP = 4
# A tile of texts has room for `batch_size` texts with this many tokens that no other text shares.
TOKENS_A_TEXT = 16
# CoCa's image tower computes this many crops in a pass, in a tree and in fixed shapes. This bounds the memory.
CROPS_A_PASS, CROPS_A_FIXED_PASS = 64, 128
# A vision-language model reads this many prompts in a pass: at 8B and 300 tokens each, 0.5 GB in half precision.
PROMPTS_A_PASS = 16
# Layers with fewer inputs are not packed by `linear`: they spend more time on calls than on arithmetic.
LEAST_PACKED_INPUTS = 256


def pass_sizes_digest() -> str:
    """Return the start of a sha256 over all constants above, 12 hex digits."""
    sizes = {name: value for name, value in globals().items() if name.isupper()}
    return sha256_hex(json.dumps(sizes, sort_keys=True).encode())[:12]
