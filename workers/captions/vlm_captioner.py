"""The caption stage by a user's vision-language model (`AutoModelForImageTextToText`). Built by `stages.py`.

The engine, the samplers, the contrast and the listener are CoCa's. Three things differ: a crop goes to the model's own
processor with a prompt; openings and marks are cut from the answer; and s_ij comes from the CLIP of the run's filter.
A text longer than that CLIP reads must never become a candidate.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Self

import numpy as np
import torch
from numpy.typing import NDArray

from pseudoris.primitives.clip_tokenizer import num_clip_tokens
from pseudoris.primitives.run_lengths import decode_mask, decode_runs
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig, FilterConfig, RunConfig
from pseudoris.schemas.shard import CROP_MARKED, ExpressionRecord, Shard, ShardImage
from pseudoris.workers.captions.captioner import TreeCaptioner
from pseudoris.workers.captions.decoding_rules import GeneratedCaption, ImageCrops
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.captions.vlm_towers import Inputs, VlmTowers
from pseudoris.workers.captions.vocabulary_logits import score_dtype
from pseudoris.workers.checkpoints.openclip import read_model_config
from pseudoris.workers.crops.crops import CropFormat, make_crops, mask_crops, outlined
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder

# The filter's CLIP reads this many tokens if its architecture names no context length, as the original CLIPs do.
_CONTEXT_LENGTH = 77

# Openings that name the picture or answer the user, not the object. They are tried again after each cut, because of
# "Sure! Here is a short phrase: ...". Articles that follow stay.
_OPENINGS: Final = (
    r"(?:sure|certainly|of course|okay|ok)[,!.:]+",
    r"(?:here is|here's) (?:a|the|your|one)(?: \w+){0,3} ?(?:caption|description|phrase|answer)(?: of [^:]{1,40})?:",
    r"(?:a |the |short )*(?:caption|description|phrase|answer|output)[^:]{0,30}:",
    r"(?:in|on) (?:the|this) (?:image|picture|photo|photograph|crop)s?"
    r"(?:,? (?:there (?:is|are)|we (?:can )?see|you (?:can )?see|one (?:can )?sees?|is|are)|,)",
    r"(?:the|this|an?) (?:main |central |provided |given |cropped )*(?:image|picture|photo|photograph|crop) "
    r"(?:shows?|depicts?|features?|contains?|displays?|presents?|captures?|portrays?|is of|is a (?:photo|picture) of)",
    r"(?:the|this) (?:main |marked |outlined |highlighted |central |pictured )*(?:object|subject|item|thing)"
    r"(?: in the (?:image|picture|photo|crop))? (?:is|appears to be|seems to be|looks like)",
    r"(?:this|that|it|there|these|those) (?:is|are|appears to be|seems to be|looks like|shows)",
    r"(?:it's|that's|there's)",
    r"(?:i|we|you|one) (?:can )?sees?",
)
_OPENING: Final = re.compile(rf"(?:{'|'.join(_OPENINGS)})(?:\s+|$)", re.IGNORECASE)
# These signs are stripped from both ends of an answer: quotes, list marks, headings and emphasis.
_MARKS: Final = " \t\"'`*_#>-–—•:“”‘’«»"


def spoken_part(text: str) -> str:
    """Return the caption inside a model's answer: without openings such as "The image shows", quotes and markdown."""
    left = text.replace("**", "").strip(_MARKS)
    while (found := _OPENING.match(left)) is not None:
        left = left[found.end() :].strip(_MARKS)
    return left


def vlm_engine(vlm: Vlm, config: CaptionsConfig, *, seed: int) -> CachedEngine:
    """Return the engine of a model in eval mode, on its device and in its dtype; s_ij is 1 unless crops say another.

    Raises:
        ConfigError: The model cannot be decoded over a tree of prefixes.
    """
    size = vlm.options.crop_size
    sample = vlm.inputs(torch.zeros(3, size, size, dtype=torch.uint8))
    head = vlm.model.get_output_embeddings().weight.detach()

    def encode(crops: torch.Tensor) -> tuple[torch.Tensor, list[Inputs]]:
        pixels = (crops * 255).round().clamp(0, 255).to(torch.uint8)
        alike = torch.ones(len(crops), 1, device=crops.device, dtype=score_dtype(head.dtype))
        return alike, [vlm.inputs(crop) for crop in pixels]

    special, towers = vlm.special_tokens(sample), VlmTowers(vlm.model, sample)
    return CachedEngine(towers, encode, head.t(), special=special, config=config, seed=seed)


class VlmCaptioner(TreeCaptioner):
    """Captions by a vision-language model."""

    weights_digest = staticmethod(vlm_folder_digest)

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig, filtering: FilterConfig | None = None) -> None:
        """Load the model; `filtering` is the run's, whose CLIP says how similar masks are. Without it s_ij is 1."""
        device, dtype = prepare_device(compute), compute_dtype(compute)
        self._options = VlmOptions.of(config)
        vlm = load_vlm(config.weights, self._options, device, dtype)
        tokenizer = vlm.processor.tokenizer
        engine = vlm_engine(vlm, config, seed=compute.seed)
        plain = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        super().__init__(
            engine,
            config,
            CropFormat(vlm.options.crop_size, *plain, config.has_antialiasing),
            device=device,
            # Crops stay pixels in float32, because the model's processor makes its input from pixels.
            dtype=torch.float32,
            text_of=lambda tokens: spoken_part(str(tokenizer.decode(tokens, skip_special_tokens=True))),
            encode=lambda text: [int(token) for token in tokenizer.encode(text, add_special_tokens=False)],
        )
        self._num_kinds += vlm.options.has_marked_crop
        self._context_length, self._clip = _CONTEXT_LENGTH, None
        if filtering is not None and filtering.engine == "clip":
            text = read_model_config(filtering.architecture)["text_cfg"]
            self._context_length = int(text.get("context_length", _CONTEXT_LENGTH))
            if vlm.options.similarity == "clip":
                self._clip, self._context_scale = ClipEmbedder(filtering, compute), filtering.context_scale
        self._num_long: dict[int, int] = {}

    @classmethod
    def of_run(cls, config: RunConfig) -> Self:
        """Load the model of a run, and the CLIP of its filter if the similarities are by it."""
        return cls(config.captions, config.compute, config.filtering)

    def __call__(self, shard: Shard) -> Shard:
        """As of `TreeCaptioner`; counts the draws that are too long for the run's filter, and are no candidates."""
        self._num_long.clear()
        done = super().__call__(shard)
        number = sum(self._num_long.get(image.position, 0) for image in done.images if not image.failure)
        return replace(done, long_texts=number)

    def candidates(self, image: ShardImage, captions: Sequence[GeneratedCaption]) -> tuple[ExpressionRecord, ...]:
        """Return the candidates of an image; CLIP would score only the start of a longer text."""
        found = super().candidates(image, captions)
        is_short = [num_clip_tokens(each.text) <= self._context_length for each in found]
        of_long = (each for each, short in zip(found, is_short, strict=True) if not short)
        self._num_long[image.position] = sum(len(each.samples) for each in of_long)
        return tuple(each for each, short in zip(found, is_short, strict=True) if short)

    def image_crops(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ImageCrops:
        """As of `TreeCaptioner`, with the marked crops and with embeddings of the masks, if they are asked for."""
        found = super().image_crops(image, pixels)
        if self._options.has_marked_crop:
            (height, width), crops = pixels.shape[:2], []
            for mask in image.masks:
                marked = outlined(pixels, decode_mask(mask.rle_counts, height, width))
                box, runs = [(0, 0, width, height)], [decode_runs(mask.rle_counts)]
                whole = make_crops(marked, box, runs=runs, scales=(1.0,), crop_format=self._format, device=self._device)
                crops.append(whole[0, 0])
            all_crops = torch.cat((found.pixels, torch.stack(crops)[None]))
            found = replace(found, kinds=(*found.kinds, CROP_MARKED), pixels=all_crops)
        if self._clip is not None:
            scales = (self._context_scale,)
            (context,) = mask_crops(pixels, image.masks, scales, self._clip.crop_format, self._device)
            found = replace(found, embeddings=self._clip.embed_crops([context]).to(self._device))
        return found
