"""What must hold on a device before its times count: each engine gives what its reference gives."""

from __future__ import annotations

import copy
from dataclasses import replace
from unittest import mock

import open_clip
import torch
from open_clip.coca_model import CoCa

from benchmarks.captioner import AuthorsLoop, noise_crops, one_crop_kind, special_tokens
from benchmarks.mask_sides import scene_pixels
from pseudoris.schemas.config import RunConfig, WeightsConfig
from pseudoris.workers.captions import CocaCaptioner
from pseudoris.workers.captions import captioner as captioner_module
from pseudoris.workers.captions.captioner import coca_engine
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.checkpoints.openclip import load_clip, load_coca
from pseudoris.workers.checkpoints.weight_files import random_seed
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder
from pseudoris.workers.forward_passes import compile_tower
from pseudoris.workers.masks.sam_model import encode_crops, load_sam

# Tokens and masks for which captions are compared in float64, where no rounding can flip a draw.
CHECKED_STEPS, CHECKED_MASKS = 6, 3
_CHECKED_CROPS = 9
# Factor on random logits. With 8, `base` leaves half of the pairs (prefix, crop) of four masks to compute; trained tiny
# models leave a fifth to a third.
_SURER = 8
_CHECKED_TEXTS = ["a dog", "a photo of a dog", "a photo of the brown dog on the left", "two"]
# Of a vector's length: room for the order of sums, and for the steps of a half precision through a whole tower.
_MAX_DIFFERENCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}


def load_sure_coca(architecture: str | None, weights: WeightsConfig) -> CoCa:
    """Return a CoCa whose random weights are as sure of the next token as trained ones; trained ones stay.

    Else all 49,408 tokens are nearly alike likely: every nucleus is wider than the likeliest 64, and each prefix of its
    own.
    """
    model = load_coca(architecture, weights).requires_grad_(False)
    if random_seed(weights) is not None:
        model.text_decoder.text_projection.mul_(_SURER)
    return model


def sure_captioner(config: RunConfig) -> CocaCaptioner:
    """Return the caption stage over `load_sure_coca`."""
    with mock.patch.object(captioner_module, "load_coca", load_sure_coca):
        return CocaCaptioner(config.captions, config.compute)


def check_captions(config: RunConfig) -> None:
    """Accept engines that draw the same captions as the authors' loop in float64; ValueError names the first other."""
    device = prepare_device(config.compute)
    captions = one_crop_kind(config.captions, num_steps=CHECKED_STEPS)
    model = load_coca(captions.architecture, captions.weights).requires_grad_(False).to(device, torch.float64)
    # The engine compiles parts of its model.
    plain = copy.deepcopy(model) if config.compute.is_compiled else model
    image = on_device(noise_crops(CHECKED_MASKS, model.visual.image_size[0]), device, torch.float64)
    special, seed = special_tokens(model), config.compute.seed
    theirs = AuthorsLoop(plain, special, captions, seed=seed).sample(image, 0)
    engine = coca_engine(model, special, captions, seed=seed, is_compiled=config.compute.is_compiled)
    ours = [caption.tokens for caption in engine.generate(image) if caption.rule.name != "beam"]
    differing = [number for number, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1]]
    if differing:
        raise ValueError(
            f"caption {differing[0]} differs in float64: {ours[differing[0]]} from the engine, "
            f"{theirs[differing[0]]} from the authors' loop; compare no times before this is mended"
        )


def check_embeddings(config: RunConfig) -> None:
    """Accept a filter that embeds crops and texts as open_clip does in float32; ValueError gives the difference.

    It is asked in float32 and in the config's precision. Scores are not compared: under random weights cosines are
    next to 0, and their ratios magnify rounding.
    """
    device = prepare_device(config.compute)
    plain = load_clip(config.filtering.architecture, config.filtering.weights).requires_grad_(False).to(device)
    tokenise = open_clip.SimpleTokenizer(context_length=int(plain.context_length))
    size = plain.visual.image_size
    crops = torch.rand(_CHECKED_CROPS, 3, *(size if isinstance(size, tuple) else (size, size)))
    with torch.inference_mode():
        expected = {
            "crops": plain.encode_image(crops.to(device), normalize=True),
            "texts": plain.encode_text(tokenise(_CHECKED_TEXTS).to(device), normalize=True),
        }
    for precision in dict.fromkeys(("float32", config.compute.precision)):
        embedder = ClipEmbedder(config.filtering, config.compute.model_copy(update={"precision": precision}))
        found = {"crops": embedder.embed_crops([crops]), "texts": embedder.embed_texts(_CHECKED_TEXTS)}
        for name, rows in found.items():
            difference = float((rows - expected[name].cpu()).norm(dim=1).max())
            _accept(f"embeddings of {name}, {precision},", difference, _MAX_DIFFERENCE[precision])


def check_compiled(config: RunConfig) -> None:
    """Accept engines that, compiled as `config` says, give what references give; ValueError names the first other."""
    check_compiled_encoder(config)
    check_captions(config)
    check_embeddings(config)


def check_compiled_encoder(config: RunConfig) -> None:
    """Accept a compiled image encoder of SAM that encodes a scene as the plain one does in float32.

    It is asked in float32 and in the config's precision; ValueError gives the difference.
    """
    device = prepare_device(config.compute)
    sam = load_sam(config.masks.architecture, config.masks.weights).requires_grad_(False).to(device)
    pixels = scene_pixels(1)
    with torch.inference_mode():
        (expected,) = encode_crops(sam, pixels, torch.float32)
        compile_tower(sam.image_encoder)
        for precision in dict.fromkeys(("float32", config.compute.precision)):
            dtype = compute_dtype(config.compute.model_copy(update={"precision": precision}))
            (found,) = encode_crops(sam, pixels, dtype)
            difference = float((found.embedding - expected.embedding).norm() / expected.embedding.norm())
            _accept(f"the image encoding, compiled, {precision},", difference, _MAX_DIFFERENCE[precision])


def _accept(what: str, difference: float, limit: float) -> None:
    if not difference <= limit:
        raise ValueError(
            f"{what} is {difference:g} of its length away from open_clip's or Meta's in float32, at most {limit:g} is "
            "allowed: compare no times before this is mended"
        )


def on_device(image: ImageCrops, device: torch.device, dtype: torch.dtype) -> ImageCrops:
    """Return the crops of an image on a device, of a dtype."""
    return replace(image, pixels=image.pixels.to(device, dtype))
