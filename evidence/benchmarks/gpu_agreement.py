"""What must hold on a device before its times count: each engine gives what its reference gives."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any
from unittest import mock

import open_clip
import torch
from open_clip.coca_model import CoCa
from torch import nn

from evidence.benchmarks.captioner import AuthorsLoop, noise_crops, one_crop_kind, special_tokens
from pseudoris.schemas.config import RunConfig, WeightsConfig
from pseudoris.workers.captions import CocaCaptioner, captioner
from pseudoris.workers.captions.decoder_choice import chosen_decoder
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens
from pseudoris.workers.checkpoints.openclip import load_clip, load_coca
from pseudoris.workers.checkpoints.weight_cache import random_seed
from pseudoris.workers.device import prepare_device
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder

# Tokens and masks for which captions are compared in float64, where no rounding can flip a draw.
CHECKED_STEPS, CHECKED_MASKS = 6, 3
_CHECKED_CROPS = 9
# Factor on random logits. With 8, `base` leaves half of the pairs (prefix, crop) of four masks to compute; trained tiny
# models leave a fifth to a third.
_SURER = 8
_CHECKED_TEXTS = ["a dog", "a photo of a dog", "a photo of the brown dog on the left", "two"]
# Of a vector's length: room for the order of sums, and for the steps of a half precision through a whole tower.
_MAX_DIFFERENCE = {"float32": 1e-4, "bfloat16": 0.1, "float16": 0.02}


def load_sure_coca(
    architecture: str | None, weights: WeightsConfig, *, sureness: float = _SURER, live: int = 0
) -> CoCa:
    """Return a CoCa whose random weights are as sure of the next token as trained ones; trained ones stay.

    Else all 49,408 tokens are nearly alike likely: every nucleus is wider than the likeliest 64, and each prefix of its
    own. With `live` it can say only the first tokens of the vocabulary, so many.
    """
    model = load_coca(architecture, weights).requires_grad_(False)
    if random_seed(weights) is not None:
        projection = model.text_decoder.text_projection
        projection.mul_(sureness)
        if live:
            model.text_decoder.text_projection = nn.Parameter(projection[:, :live].clone(), requires_grad=False)
    return model


def sure_captioner(config: RunConfig, **sure: Any) -> CocaCaptioner:
    """Return the caption stage over `load_sure_coca`, which takes `sure`."""
    live = sure.get("live")

    def special_tokens(sot: int, eos: int, pad: int) -> SpecialTokens:
        # As in the whole vocabulary, these two are the last.
        return SpecialTokens(live - 2, live - 1, pad) if live else SpecialTokens(sot, eos, pad)

    with (
        mock.patch.object(captioner, "load_coca", partial(load_sure_coca, **sure)),
        mock.patch.object(captioner, "SpecialTokens", special_tokens),
    ):
        return CocaCaptioner(config.captions, config.compute)


def caption_sides(
    config: RunConfig, *, num_masks: int, num_steps: int, dtype: torch.dtype
) -> tuple[Callable[[], list[tuple[int, ...]]], Callable[[], list[tuple[int, ...]]]]:
    """Return what samples captions of the same noise with the same draws: the authors' loop, and the engine."""
    device = prepare_device(config.compute)
    captions, seed = one_crop_kind(config.captions, num_steps=num_steps), config.compute.seed
    model = load_sure_coca(captions.architecture, captions.weights).to(device, dtype)
    # The engine compiles parts of its model.
    plain = copy.deepcopy(model) if config.compute.is_compiled else model
    noise = noise_crops(num_masks, model.visual.image_size[0])
    image = replace(noise, pixels=noise.pixels.to(device, dtype))
    special = special_tokens(model)
    authors = AuthorsLoop(plain, special, captions, seed=seed)
    engine = captioner.coca_engine(
        model,
        special,
        captions,
        seed=seed,
        is_compiled=config.compute.is_compiled,
        is_static=chosen_decoder(captions, config.compute)[0] == "static",
    )

    def ours() -> list[tuple[int, ...]]:
        return [caption.tokens for caption in engine.generate(image) if caption.sample.decoder != "beam"]

    return partial(authors.sample, image, 0), ours


def check_captions(config: RunConfig) -> None:
    """Accept engines that draw the same captions as the authors' loop in float64; ValueError names the first other."""
    sides = caption_sides(config, num_masks=CHECKED_MASKS, num_steps=CHECKED_STEPS, dtype=torch.float64)
    theirs, ours = (sample() for sample in sides)
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
            if not difference <= (limit := _MAX_DIFFERENCE[precision]):
                raise ValueError(
                    f"embeddings of {name}, {precision}, are {difference:g} of their length away from open_clip's in "
                    f"float32, at most {limit:g} is allowed: compare no times before this is mended"
                )
