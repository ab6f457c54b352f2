"""What must hold on a device before its times count: each engine gives what its reference gives."""

from __future__ import annotations

from dataclasses import replace

import torch

from benchmarks.authors_loop import AuthorsLoop
from benchmarks.captioner import noise_crops, one_crop_kind, special_tokens
from benchmarks.filter import MAX_SCORE_DIFFERENCE, PlainFilter, largest_difference
from benchmarks.mask_sides import scene_pixels
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.shard import Shard
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.checkpoints.models import load_coca, load_sam
from pseudoris.workers.compilation import compile_tower
from pseudoris.workers.device import prepare_device
from pseudoris.workers.filtering import ClipScorer

# Tokens and masks for which captions are compared in float64, where no rounding can flip a draw.
CHECKED_STEPS, CHECKED_MASKS = 6, 3
_MAX_ENCODER_DIFFERENCE = 1e-3


def check_captions(config: RunConfig) -> None:
    """Accept engines that draw the same captions as the authors' loop in float64; ValueError names the first other."""
    device = prepare_device(config.compute)
    captions = one_crop_kind(config.captions, num_steps=CHECKED_STEPS)
    model = load_coca(captions.architecture, captions.weights).requires_grad_(False).to(device, torch.float64)
    # A model of its own: the engine may compile parts of its.
    plain = load_coca(captions.architecture, captions.weights).requires_grad_(False).to(device, torch.float64)
    image = on_device(noise_crops(CHECKED_MASKS, model.visual.image_size[0]), device, torch.float64)
    special, seed = special_tokens(model), config.compute.seed
    theirs = AuthorsLoop(plain, special, captions, seed=seed).sample(image, 0)
    engine = CachedEngine(model, special, captions, seed=seed, is_compiled=config.compute.is_compiled)
    ours = [caption.tokens for caption in engine.generate(image) if caption.rule.name != "beam"]
    differing = [number for number, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]]
    if differing:
        raise ValueError(
            f"caption {differing[0]} differs in float64: {ours[differing[0]]} from the engine, "
            f"{theirs[differing[0]]} from the authors' loop; compare no times before this is mended"
        )


def check_filter(config: RunConfig, captioned: Shard) -> None:
    """Accept a filter that scores a shard in float32 as open_clip does on a CPU; ValueError gives the difference."""
    score = ClipScorer(config.filtering, config.compute.model_copy(update={"precision": "float32"}))
    difference = largest_difference(score(captioned), PlainFilter(config)(captioned))
    if not difference <= MAX_SCORE_DIFFERENCE:
        raise ValueError(
            f"scores differ by {difference:g} in float32, at most {MAX_SCORE_DIFFERENCE:g} is allowed: compare no "
            "times before this is mended"
        )


def check_compiled(config: RunConfig, captioned: Shard) -> None:
    """Accept engines that, compiled as `config` says, give what references give; ValueError names the first other."""
    check_compiled_encoder(config)
    check_captions(config)
    check_filter(config, captioned)


def check_compiled_encoder(config: RunConfig) -> None:
    """Accept a compiled image encoder of SAM that encodes a scene in float32 as the plain one does."""
    device = prepare_device(config.compute)
    sam = load_sam(config.masks.architecture, config.masks.weights).requires_grad_(False).to(device)
    pixels = torch.from_numpy(scene_pixels(1)[0]).to(device).permute(2, 0, 1).float()
    pixels = sam.preprocess(torch.nn.functional.interpolate(pixels[None], (sam.image_encoder.img_size,) * 2))
    with torch.inference_mode():
        plain = sam.image_encoder(pixels)
        compile_tower(sam.image_encoder)
        difference = float((sam.image_encoder(pixels) - plain).abs().max() / plain.abs().max())
    if not difference <= _MAX_ENCODER_DIFFERENCE:
        raise ValueError(
            f"the compiled image encoder differs by {difference:g} of the largest value in float32, at most "
            f"{_MAX_ENCODER_DIFFERENCE:g} is allowed: compare no times before this is mended"
        )


def on_device(image: ImageCrops, device: torch.device, dtype: torch.dtype) -> ImageCrops:
    """Return the crops of an image on a device, of a dtype."""
    return replace(image, pixels=image.pixels.to(device, dtype))
