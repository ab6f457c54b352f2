"""The caption stage by a user's vision-language model (`AutoModelForImageTextToText`). Built by `stages.py`.

The engine, the samplers, the contrast and the listener are CoCa's. Three things differ: a crop goes to the model's own
processor with a prompt; openings and marks are cut from the answer; and s_ij comes from the CLIP of the run's filter.
A text longer than that CLIP reads must never become a candidate.

A model that the prefix tree cannot decode, or whose captions would change from day to day, must be refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Self

import numpy as np
import torch
from huggingface_hub.errors import StrictDataclassError
from numpy.typing import NDArray
from pydantic import Field, JsonValue

from pseudoris.primitives.clip_tokenizer import num_clip_tokens
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.run_lengths import decode_mask, decode_runs
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig, FilterConfig, RunConfig, WeightsConfig
from pseudoris.schemas.config_layers import validate_as
from pseudoris.schemas.frozen import FrozenModel
from pseudoris.schemas.shard import CROP_MARKED, ExpressionRecord, Shard, ShardImage
from pseudoris.workers.captions.captioner import TreeCaptioner
from pseudoris.workers.captions.decoding_rules import GeneratedCaption, ImageCrops
from pseudoris.workers.captions.engine import CachedEngine, check_length
from pseudoris.workers.captions.vlm_towers import FULL, SLIDING, Inputs, VlmTowers, layer_kinds, longest_prefix
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, score_dtype
from pseudoris.workers.checkpoints import weight_files
from pseudoris.workers.checkpoints.hf_models import check_vocabulary, load_model, load_processor, model_skeleton
from pseudoris.workers.checkpoints.model_folder import ModelFolder
from pseudoris.workers.checkpoints.openclip import read_model_config
from pseudoris.workers.crops.crops import CropFormat, make_crops, mask_crops, outlined
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.filtering.clip_embedder import ClipEmbedder

_CLASS: Final = "AutoModelForImageTextToText"
# These settings change logits after the head's product. Each is refused unless it has the value that switches it off.
_OF_LOGITS: Final = {"final_logit_softcapping": None, "logits_scaling": 1.0, "logit_scale": 1.0}


class VlmOptions(FrozenModel):
    """`captions.options` of the engine `vlm`."""

    # The model gets this question about each crop. It should ask for one phrase, because lists come out too long.
    prompt: str = Field(default="Describe the object in a few words, as one phrase without a verb.", min_length=1)
    # A crop has this side in pixels. The model's own processor makes the model's input from the crop.
    crop_size: int = Field(default=448, ge=16, le=4096)
    # The model's processor gets these options, such as {do_image_splitting: false}: a split crop takes more tokens.
    processor: dict[str, JsonValue] = Field(default_factory=dict)
    # If true, each mask is also captioned on the whole image with its outline drawn: one more crop kind, `marked`.
    has_marked_crop: bool = False
    # How similar two masks are, which weighs the contrast. clip: the cosine of their context crops under the run's
    # filter. one: all alike.
    similarity: Literal["clip", "one"] = "clip"


def vlm_options(options: Mapping[str, Any]) -> VlmOptions:
    """Return the options of the engine `vlm`; a ConfigError names a key that is wrong."""
    try:
        return validate_as(VlmOptions, options)
    except ConfigError as error:
        raise ConfigError(f"captions.options of the engine vlm: {error}") from None


def vlm_folder_digest(config: CaptionsConfig) -> str:
    """Check the model folder that `config` names, and return its sha256; a `ConfigError` says what does not fit."""
    options = vlm_options(config.options)
    digest = weight_files.folder_digest(config.weights)
    folder = ModelFolder.open(config.weights.uri)
    model, processor = model_skeleton(folder, _CLASS), load_processor(folder)
    check_vocabulary(folder, model, processor)
    check_vlm(model, processor)
    blank = torch.zeros(3, options.crop_size, options.crop_size, dtype=torch.uint8)
    check_length(config, longest_prefix(model, Vlm(model, processor, options).inputs(blank)))
    return digest


def load_vlm(weights: WeightsConfig, options: VlmOptions, device: torch.device, dtype: torch.dtype) -> Vlm:
    """Return the model of a folder, in eval mode on `device`; errors as of `vlm_folder_digest`."""
    folder = ModelFolder.open(weights.uri)
    model, processor = load_model(folder, _CLASS, device=device, dtype=dtype), load_processor(folder)
    check_vlm(model, processor)
    return Vlm(model, processor, options)


def check_vlm(model: Any, processor: Any) -> None:
    """Refuse a model or skeleton that cannot be captioned with.

    Raises:
        ConfigError: It names the class and the reason.
    """
    text, head = model.config.get_text_config(), model.get_output_embeddings()
    kinds = [kind for kind in layer_kinds(model) if kind not in (FULL, SLIDING)]
    own = [name for name, unset in _OF_LOGITS.items() if getattr(text, name, None) not in (None, unset)]
    wrong = ""
    if model.config.is_encoder_decoder:
        wrong = "is an encoder-decoder, whose prompt is no prefix of the caption"
    elif kinds or model._is_stateful:
        wrong = (
            f"has layers of kind {', '.join(kinds) or 'running state'}, and a tree of prefixes needs full or sliding "
            "attention, which keeps every token"
        )
    elif "image" not in model.input_modalities:
        wrong = "takes no image"
    elif not getattr(processor, "chat_template", None):
        wrong = "has no chat template, so how to ask it is not known"
    elif "strftime_now" in str(processor.chat_template):
        wrong = (
            "has a chat template that says the day's date, so that captions change overnight (write one into a copy)"
        )
    elif head is None:
        wrong = "gives no logits of tokens"
    elif own or getattr(head, "bias", None) is not None:
        wrong = f"has {own[0] if own else 'a bias in its head'}, so that its logits are not linear in hidden states"
    if wrong:
        raise ConfigError(
            f"captions: {type(model).__name__} {wrong}: choose a decoder with attention over text and image, such as "
            "LLaVA, SmolVLM, Qwen3-VL, Gemma 3 or InternVL (docs/guides/vlm.md)"
        )


@dataclass(frozen=True)
class Vlm:
    """A model, or its skeleton, with its processor."""

    model: Any
    processor: Any
    options: VlmOptions

    def inputs(self, crop: torch.Tensor) -> Inputs:
        """Return the prompt about a crop (3, S, S) uint8, RGB: a batch of one, on the CPU.

        Raises:
            ConfigError: The processor does not take the prompt or an option.
        """
        from PIL import Image

        # `declared` are the options of a processor and of its parts. Source: ProcessorMixin of transformers 5.24.
        kinds = self.processor.valid_processor_kwargs.__annotations__
        parts = (getattr(self.processor, name, None) for name in ("tokenizer", "image_processor", "video_processor"))
        of_parts = (*kinds.values(), *(getattr(part, "valid_kwargs", None) for part in parts))
        declared = {*kinds, *(name for each in of_parts for name in getattr(each, "__annotations__", ()))}
        if unknown := self.options.processor.keys() - declared:
            raise ConfigError(
                f"captions.options.processor has {', '.join(sorted(unknown))}, which {type(self.processor).__name__} "
                "would ignore: correct its name, or leave it out"
            )
        image = Image.fromarray(crop.permute(1, 2, 0).cpu().numpy())
        content = [{"type": "image", "image": image}, {"type": "text", "text": self.options.prompt}]
        try:
            found: Mapping[str, Any] = self.processor.apply_chat_template(
                [[{"role": "user", "content": content}]],
                add_generation_prompt=True,
                tokenize=True,
                return_dict=True,
                return_tensors="pt",
                processor_kwargs=dict(self.options.processor),
            )
        except (ValueError, TypeError, LookupError, AttributeError, ImportError, StrictDataclassError) as error:
            raise ConfigError(
                f"captions: {type(self.processor).__name__} cannot make a prompt "
                f"({type(error).__name__}: {str(error).partition(chr(10))[0]}): "
                "correct captions.options.processor, or choose another model"
            ) from error
        if self.processor.tokenizer.decode(found["input_ids"][0]).rstrip().endswith("<think>"):
            raise ConfigError(
                f"captions: the chat template of {type(self.model).__name__} opens a thought, which would be the "
                "caption: choose the model's version that answers at once"
            )
        return {name: part for name, part in found.items() if isinstance(part, torch.Tensor)}

    def special_tokens(self, sample: Inputs) -> SpecialTokens:
        """Return the token ids: the root is the last of the prompt `sample`, and any line's end ends a caption."""
        tokenizer, config = self.processor.tokenizer, self.model.config
        named = getattr(getattr(self.model, "generation_config", None), "eos_token_id", None)
        vocabulary, size = tokenizer.get_vocab(), self.model.get_output_embeddings().weight.shape[0]
        ends = [*(named if isinstance(named, list | tuple) else [named]), tokenizer.eos_token_id]
        ends = [int(token) for token in ends if token is not None and token < size]
        if not ends:
            raise ConfigError(f"captions: {type(self.model).__name__} names no token of its own that ends a text")
        # A line break ends a caption too. Its token has "Ċ" (byte-level tokenizers) or "\n", or is the byte <0x0A>.
        lines = [number for token, number in vocabulary.items() if "Ċ" in token or "\n" in token or token == "<0x0A>"]
        ends += sorted(number for number in lines if "\n" in tokenizer.decode([number]))
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        special |= set(tokenizer.all_special_ids)
        of_config = (getattr(config, name, None) for name in ("image_token_id", "video_token_id", "audio_token_id"))
        special |= {number for number in of_config if number is not None}
        # The head's size is rounded up: its last ids have no token, so they are forbidden.
        special |= set(range(size)) - set(vocabulary.values())
        ends = list(dict.fromkeys(ends))
        return SpecialTokens(
            sot=int(sample["input_ids"][0, -1]),
            eos=ends[0],
            pad=-1,
            further_eos=tuple(ends[1:]),
            forbidden=tuple(sorted(number for number in special - set(ends) if number < size)),
        )


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
        self._options = vlm_options(config.options)
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
