"""Presets fit as shipped into the cards that docs name for them, with a tenth to spare, by counts and sizes.

Weights and passes of SAM, SAM 2 and CoCa are counted over their own code (`tests.oracles.counted_memory`); the rest is
added up from the sizes of the models. No card has measured it.
"""

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import Qwen3VLConfig, Qwen3VLForConditionalGeneration, Sam2Config, Sam2Model, Sam2VisionConfig
from transformers.models.sam2.configuration_sam2 import Sam2HieraDetConfig

from pseudoris.schemas.card_settings import choices_of_card, decoder_choices
from pseudoris.schemas.config_layers import load_config
from pseudoris.workers import pass_sizes
from pseudoris.workers.captions.captioner import encode_crops
from pseudoris.workers.checkpoints.openclip import build_from_config, read_model_config
from pseudoris.workers.checkpoints.sam_architectures import sam_architecture
from pseudoris.workers.device import compute_dtype
from pseudoris.workers.masks.generator import MaskGenerator
from pseudoris.workers.masks.sam2_model import PromptableSam2
from pseudoris.workers.masks.sam_model import PromptableSam, build_sam, layer_grids
from tests.oracles.counted_memory import counted_gpu, peak_bytes

GIB = 2**30
DOCS = Path(__file__).parents[2] / "docs"
# What `mem_get_info` reports of a 3060, a T4, an L4, an A40, an H100 and an H200; and of a 4090, a 5090 and an A100.
CARDS = [11.6, 14.6, 21.9, 44, 79.1, 139.7, 23.5, 31.4, 39.4]
# The smallest of the first six that docs name for a preset.
LEAST = {"base": 11.6, "paper": 14.6, "open": 21.9}
# A context and the workspaces of libraries.
CONTEXT = GIB
# The logits of a mask, before they are upsampled, have sides of this length.
LOW_SIDE = 256
IMAGE = np.zeros((1024, 1024, 3), np.uint8)
# Published numbers of Hiera-B+ of SAM 2.1 and of Qwen3-VL-2B, whose prompt about a crop of 448 pixels has 196 tokens of
# the image and at most 40 of text.
STAGES = [112, 224, 448, 896]
HIERA = Sam2HieraDetConfig(
    hidden_size=112,
    num_attention_heads=2,
    blocks_per_stage=[2, 3, 16, 3],
    embed_dim_per_stage=STAGES,
    num_attention_heads_per_stage=[2, 4, 8, 16],
    window_size_per_stage=[8, 4, 14, 7],
    global_attention_blocks=[12, 16, 20],
    window_positional_embedding_background_size=[14, 14],
)
QWEN = Qwen3VLConfig(
    text_config={
        "hidden_size": 2048,
        "intermediate_size": 6144,
        "num_attention_heads": 16,
        "num_hidden_layers": 28,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151_936,
    },
    vision_config={
        "depth": 24,
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_heads": 16,
        "out_hidden_size": 2048,
        "deepstack_visual_indexes": [5, 11, 17],
    },
    tie_word_embeddings=True,
)
PROMPT_TOKENS, CROP_BYTES = 236, 4 * 3 * 448**2


@dataclass(frozen=True)
class Needs:
    """What a stage takes: its weights, and the most beside them while it works."""

    weights: int
    passes: int


def num_bytes(*models):
    return sum(each.nbytes for model in models for each in model.parameters())


@cache
def sam_needs(architecture, points, dtype):
    """Return what SAM takes with the images together that its generator asks for."""
    config = load_config("base").masks.model_copy(update={"points_per_batch": points})
    with counted_gpu():
        with torch.device("cuda"):
            sam = build_sam(sam_architecture(architecture))
            sam.pixel_mean, sam.pixel_std = torch.empty(3, 1, 1), torch.empty(3, 1, 1)
        model, grids = PromptableSam(sam, dtype=dtype), layer_grids(config)
        held = min(8 * GIB, points * 128 * 2**20)
        together = MaskGenerator(model, config).images_together
        encoded, answers = [], []
        of_encoder = peak_bytes(lambda: encoded.extend(model.encode([IMAGE])))
        asked = model.ask(encoded[0], grids[0], points)
        of_pass = peak_bytes(lambda: answers.append(next(asked)))
        every = np.ones((len(answers[0].predicted_iou), 3), dtype=np.bool_)
        of_masks = peak_bytes(lambda: list(model.masks(answers[0], every)))
    # Then masks are upsampled, at SAM's size and at the image's, and compared with two thresholds.
    upsampled, low = 3 * min(2 * GIB, points * 2**25), together * len(grids[0]) * 3 * 4 * LOW_SIDE**2
    return Needs(num_bytes(sam), max(of_encoder, low + held + max(of_pass, of_masks), low + upsampled))


@cache
def sam2_needs(points, dtype):
    vision = Sam2VisionConfig(backbone_config=HIERA, backbone_channel_list=STAGES[::-1])
    with counted_gpu():
        with torch.device("cuda"):
            sam = Sam2Model(Sam2Config(vision_config=vision)).eval()
        model, crops = PromptableSam2(sam, dtype=dtype), []
        encoded = peak_bytes(lambda: crops.extend(model.encode([IMAGE])))
        with torch.inference_mode():
            shared, xy = model.share(crops[0]), torch.zeros(points, 2, dtype=torch.float64, device="cuda")
        decoded = peak_bytes(lambda: model.decode(shared, xy, min_predicted_iou=0.0))
    # A GiB of logits is upsampled, and compared with two thresholds, beside what an image keeps: a bit a pixel.
    kept = 3 * load_config("open").masks.points_per_side ** 2 * 1024**2 // 8
    return Needs(num_bytes(sam), max(encoded, decoded + kept, 2 * GIB + kept))


@cache
def coca_needs(architecture, dtype, together):
    """Return what CoCa takes beside its caches: all crops of the images together, and a step's temporaries."""
    with counted_gpu():
        with torch.device("cuda"):
            coca = build_from_config(read_model_config(architecture)).to(dtype).eval()

        def encoded():
            side = coca.visual.image_size[0]
            crops = torch.empty(together, 3, side, side, dtype=dtype, device="cuda")
            return crops, encode_crops(coca, crops, is_padded=True, crops_a_pass=pass_sizes.CROPS_A_FIXED_PASS)

        of_crops, projection = peak_bytes(encoded), coca.text_decoder.text_projection
    # The vocabulary is kept in float32 too.
    copies = projection.numel() * 4 + (projection.nbytes if dtype != torch.float32 else 0)
    return Needs(num_bytes(coca) + copies, of_crops + pass_sizes.CAPTION_STEP_BYTES["cuda"])


@cache
def qwen_needs(dtype, cache_bytes):
    """Return what Qwen3-VL takes with its cache: prompts are copied into it, and a layer is copied for each step."""
    with torch.device("meta"):
        model = Qwen3VLForConditionalGeneration(QWEN).to(dtype)
    text, head = QWEN.text_config, model.get_output_embeddings().weight
    copies = head.numel() * 4 + (head.nbytes if dtype != torch.float32 else 0)
    column = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * dtype.itemsize
    a_pass = pass_sizes.PROMPTS_A_PASS * PROMPT_TOKENS * column
    crops = cache_bytes // 2 // (PROMPT_TOKENS * column)
    # For each layer: its old keys and values, the new ones, and those repeated for all heads.
    of_step = cache_bytes * 4 // text.num_hidden_layers
    logits = 4 * 4 * pass_sizes.PROJECTED_ROWS * text.vocab_size
    passes = max(a_pass, of_step + logits + 2 * GIB) + 2 * crops * CROP_BYTES
    return Needs(num_bytes(model) + copies, passes)


def clip_bytes(config, dtype):
    with torch.device("meta"):
        return num_bytes(build_from_config(read_model_config(config.filtering.architecture)).to(dtype))


def needed(preset, gib, *, has_bfloat16):
    """Return the bytes that a preset needs on a card, as shipped: caches of captions stand while masks are made."""
    config = load_config(preset)
    config = config.with_chosen(choices_of_card(gib * GIB, has_bfloat16=has_bfloat16))
    config = config.with_chosen(decoder_choices("static"))
    dtype, points, cache_bytes = (
        compute_dtype(config.compute),
        config.masks.points_per_batch,
        config.captions.cache_bytes,
    )
    clip = clip_bytes(config, dtype)
    if preset == "open":
        # The captioner has a CLIP of its own, for how similar masks are.
        masks, captions, clip = sam2_needs(points, dtype), qwen_needs(dtype, cache_bytes), 2 * clip
    else:
        masks = sam_needs(config.masks.architecture, points, dtype)
        captions = coca_needs(config.captions.architecture, dtype, config.captions.crops_together)
    weights = masks.weights + captions.weights + clip
    return CONTEXT + weights + cache_bytes + max(masks.passes, captions.passes)


@pytest.mark.parametrize("has_bfloat16", [True, False], ids=["from sm_80", "before sm_80"])
@pytest.mark.parametrize(
    ("preset", "gib"),
    [
        pytest.param(name, gib, marks=[pytest.mark.long] * (gib > LEAST[name]))
        for name in LEAST
        for gib in CARDS
        if gib >= LEAST[name]
    ],
)
def test_a_preset_fits_as_shipped_with_a_tenth_to_spare(preset, gib, has_bfloat16):
    assert needed(preset, gib, has_bfloat16=has_bfloat16) <= 0.9 * gib * GIB


@pytest.mark.parametrize(("preset", "gib"), [("paper", 11.6), ("open", 11.6)])
def test_into_a_smaller_card_than_docs_name_it_does_not_fit(preset, gib):
    assert needed(preset, gib, has_bfloat16=True) > 0.9 * gib * GIB


def test_docs_have_the_values_of_each_card_and_the_smallest_card_of_each_preset():
    table = (DOCS / "records" / "performance.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (below|from) ([\d.]+) \(.* GB\) \| (\d+) \| (\d+) \|$", table, re.M)
    assert len(rows) == 5
    for word, bound, points, cache_gib in rows:
        chosen = choices_of_card(float(bound) * GIB - (word == "below"), has_bfloat16=True)
        found = chosen["masks"]["points_per_batch"], chosen["captions"]["cache_bytes"] // GIB
        assert found == (int(points), int(cache_gib))
    table = (DOCS / "guides" / "annotate.md").read_text(encoding="utf-8")
    sold = {11.6: 12, 14.6: 16, 21.9: 24}
    for preset, gib in LEAST.items():
        assert re.search(rf"^\| `{preset}` \|.*\| one GPU, {sold[gib]} GB or more \(modelled\)", table, re.M)
