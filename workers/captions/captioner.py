"""The caption stage: `TreeCaptioner` turns masks into candidates, `CocaCaptioner` by CoCa.

`stages` builds `CocaCaptioner`; `vlm_captioner` extends `TreeCaptioner`. Several images may share a pass. That changes
last bits on a CPU, so groups must follow from the shard alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.coca_model import CoCa
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD

from pseudoris.primitives.clip_tokenizer import byte_pair_encoder
from pseudoris.primitives.errors import ImageError
from pseudoris.primitives.measures import BATCH_FILL, record
from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.schemas.shard import (
    CROP_WHOLE,
    CaptionSample,
    ExpressionRecord,
    MaskRecord,
    Shard,
    ShardImage,
    clean_text,
)
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.decoder_choice import check_named_decoder, chosen_decoder, settings_of
from pseudoris.workers.captions.decoding_rules import GeneratedCaption, ImageCrops
from pseudoris.workers.captions.engine import CachedEngine
from pseudoris.workers.captions.recorded_step import RecordedStep, launch_from_now_on, launched
from pseudoris.workers.captions.static_engine import StaticEngine
from pseudoris.workers.captions.vocabulary_logits import NOT_FINITE, SpecialTokens, score_dtype
from pseudoris.workers.checkpoints.openclip import load_coca
from pseudoris.workers.crops.crops import CropFormat, make_crops, mask_crops
from pseudoris.workers.crops.shard_pixels import Decode, prefetched_pixels
from pseudoris.workers.device import compute_dtype, prepare_device
from pseudoris.workers.faults.quarantine import apply_to_groups, together_or_fewer
from pseudoris.workers.filtering.caption_texts import announce
from pseudoris.workers.forward_passes import compile_tower, padded
from pseudoris.workers.pass_sizes import CROPS_A_FIXED_PASS, CROPS_A_PASS
from pseudoris.workers.stages import STAGE_CAPTION, coca_digest


def encode_crops(
    model: CoCa, crops: torch.Tensor, *, is_padded: bool = False, crops_a_pass: int = CROPS_A_PASS
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `EncodedImage.embeddings` and `tokens` of normalised crops (C, 3, S, S), in passes of a fixed size.

    With `is_padded` the last pass has that size too: a compiler makes a program for each size, and bits depend on it.
    """
    passes = torch.split(crops, crops_a_pass)
    for part in passes:
        record(BATCH_FILL, len(part) / crops_a_pass, of="caption crops")
    parts = [model(padded(part, crops_a_pass) if is_padded else part) for part in passes]
    features = torch.cat([part["image_features"] for part in parts])[: len(crops)]
    embeddings = F.normalize(features.to(score_dtype(features.dtype)), dim=-1)
    return embeddings, torch.cat([part["image_embs"] for part in parts])[: len(crops)]


def coca_engine(
    model: CoCa,
    special: SpecialTokens,
    config: CaptionsConfig,
    *,
    seed: int,
    is_compiled: bool = False,
    is_static: bool = False,
) -> CachedEngine:
    """Return the engine of a CoCa in eval mode, on its device, in its dtype; `is_compiled` as in the configuration.

    `is_static` asks for fixed shapes in place of a prefix tree.
    """
    if is_compiled:
        compile_tower(model.visual)
    towers = CachedCocaTowers(model)
    projection = model.text_decoder.text_projection.detach()
    size = CROPS_A_FIXED_PASS if is_static else CROPS_A_PASS
    encode = partial(encode_crops, model, is_padded=is_compiled or is_static, crops_a_pass=size)
    kind = StaticEngine if is_static else CachedEngine
    return kind(towers, encode, projection, special=special, config=config, seed=seed)


def coca_text(tokens: Sequence[int]) -> str:
    """Return what tokens of CoCa say, not cleaned."""
    tokenizer = byte_pair_encoder()
    # A SOT token within a caption is left out, because it would be decoded as text.
    return str(tokenizer.decode([token for token in tokens if token != tokenizer.sot_token_id]))


def to_expressions(
    captions: Iterable[GeneratedCaption], masks: Sequence[MaskRecord], text_of: Callable[[Sequence[int]], str]
) -> tuple[ExpressionRecord, ...]:
    """Return an image's candidates: cleaned captions, with equal texts of one mask merged and empty texts left out.

    Args:
        captions: In the order mask, crop kind, rule. Candidates are ordered by their first caption.
        masks: Of the image.
        text_of: Returns what the tokens of a caption say.
    """
    samples: dict[tuple[int, str], list[CaptionSample]] = {}
    for caption in captions:
        text = clean_text(text_of(caption.tokens))
        if text:
            samples.setdefault((caption.mask_number, text), []).append(caption.sample)
    return tuple(
        ExpressionRecord(target_mask_ids=(masks[number].mask_id,), text=text, samples=tuple(found))
        for (number, text), found in samples.items()
    )


class TreeCaptioner:
    """Captions every mask by beam search and distinctive sampling (paper section 3.2; method page section 3).

    A subclass loads a model, and says what its tokens mean.
    """

    HAS_WHOLE_PICTURE = True

    def __init__(
        self,
        engine: CachedEngine,
        config: CaptionsConfig,
        crop_format: CropFormat,
        *,
        device: torch.device,
        dtype: torch.dtype,
        text_of: Callable[[Sequence[int]], str],
        encode: Callable[[str], list[int]],
    ) -> None:
        """Caption with an engine; `text_of` is as of `to_expressions`, and `encode` its inverse, for a listener."""
        self._engine, self._format, self._text_of = engine, crop_format, text_of
        self._listener = None
        if config.listening:
            # The listener is imported here, because most runs have none.
            from pseudoris.workers.captions.listener import Listener

            self._listener = Listener(engine, config, config.listening, encode)
        self._scales = config.crop_kinds()
        self._num_kinds = len(self._scales)
        self._num_whole = config.whole_picture
        # Each of these crops of the whole image is captioned once by each sampling rule.
        num_rules = len(config.sampling.top_k) + len(config.sampling.top_p)
        self._whole_kinds = tuple(
            f"{CROP_WHOLE}_{1 + each}" for each in range(-(-self._num_whole // max(num_rules, 1)))
        )
        self._crops_together = max(config.crops_together, engine.crops_together)
        self._cache_bytes = config.cache_bytes
        self._device, self._dtype = device, dtype

    @property
    def num_pairs(self) -> int:
        """Number of (prefix, crop) pairs computed so far, including the listener's. For benchmarks."""
        return self._engine.towers.num_pairs

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `expressions` set, unscored, on every image that is not quarantined."""
        with_masks = [image for image in shard.images if image.masks and not image.failure]
        decisions, wide = self._engine.num_decisions, self._engine.num_wide
        with prefetched_pixels(with_masks, self._device) as decode:
            done = apply_to_groups(
                shard,
                STAGE_CAPTION,
                partial(self._caption_or_fewer if self._engine.is_static else self._caption, decode=decode),
                fits=lambda images: self._num_crops(images) <= self._crops_together,
            )
        decisions, wide = self._engine.num_decisions - decisions, self._engine.num_wide - wide
        return replace(done, decisions=decisions, wide_decisions=wide)

    def _num_crops(self, images: Sequence[ShardImage]) -> int:
        return sum(self._num_kinds * len(each.masks) + len(self._whole_kinds) for each in images if each.masks)

    def _caption_or_fewer(self, images: Sequence[ShardImage], decode: Decode) -> list[ShardImage]:
        """As `_caption`; fewer images together where memory runs out, which in fixed shapes changes no bit."""

        def remember(num_images: int) -> None:
            self._crops_together = max(
                1, min(self._crops_together, self._num_crops(images) * num_images // len(images))
            )
            # By it the engine sizes its caches.
            self._engine.crops_together = self._crops_together

        lower = f"captions.cache_bytes (now {self._cache_bytes}) when the run goes on"
        work = partial(self._caption_or_launched, decode=decode)
        return together_or_fewer(images, work, remember=remember, lower=lower)

    def _caption_or_launched(self, images: Sequence[ShardImage], decode: Decode) -> list[ShardImage]:
        """As `_caption`; scores that are not finite are an image's fault only if launched steps give them too."""
        try:
            return self._caption(images, decode)
        except ImageError as error:
            if error.reason != NOT_FINITE or not RecordedStep.are_recorded:
                raise
        with launched():
            done = self._caption(images, decode)
        launch_from_now_on("a recorded step gave scores that are not finite, and a launched one did not")
        return done

    def _caption(self, images: Sequence[ShardImage], decode: Decode) -> list[ShardImage]:
        with_masks = [image for image in images if image.masks]
        crops, whole = list[ImageCrops](), list[ImageCrops]()
        for image in with_masks:
            pixels = decode(image)
            crops.append(self.image_crops(image, pixels))
            whole += [self.whole_crops(image, pixels)] if self._num_whole else []
        encoded = self._engine.encode(crops) if crops else []
        captions = self._engine.generate_together(crops, encoded) if crops else []
        # They are decoded apart, so that they change no caption of a mask.
        drawn = self._engine.generate_together(whole) if whole else []
        pictures = {image.position: self._texts(found) for image, found in zip(with_masks, drawn, strict=bool(whole))}
        expressions = {}
        for image, image_crops, image_encoded, found in zip(with_masks, crops, encoded, captions, strict=True):
            candidates = self.candidates(image, found)
            announce([each.text for each in candidates])
            if self._listener:
                candidates = self._listener.listen(image_crops, image_encoded, image.masks, candidates)
            expressions[image.position] = candidates
        return [
            replace(
                image,
                expressions=expressions.get(image.position, ()),
                whole_picture=pictures.get(image.position, ()),
            )
            for image in images
        ]

    def _texts(self, captions: Sequence[GeneratedCaption]) -> tuple[str, ...]:
        """Return what the draws of a whole image say, as many as are asked for, without blank ones."""
        drawn = [each for each in captions if each.sample.decoder != "beam"][: self._num_whole]
        return tuple(filter(None, (clean_text(self._text_of(each.tokens)) for each in drawn)))

    def candidates(self, image: ShardImage, captions: Sequence[GeneratedCaption]) -> tuple[ExpressionRecord, ...]:
        """Return the candidates of an image, from its captions."""
        return to_expressions(captions, image.masks, self._text_of)

    def image_crops(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ImageCrops:
        """Return the crops of an image's masks (at least one mask) for the engine; `pixels` (H, W, 3) are RGB."""
        crops = mask_crops(pixels, image.masks, tuple(self._scales.values()), self._format, self._device)
        indices = tuple(mask.index for mask in image.masks)
        return ImageCrops(image.image_id, tuple(self._scales), indices, crops.to(self._dtype))

    def whole_crops(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ImageCrops:
        """Return crops of the whole image as those of one mask, for the engine; `pixels` as of `image_crops`."""
        (height, width), kinds = pixels.shape[:2], self._whole_kinds
        box, runs = [(0, 0, width, height)], [np.array([0, height * width])]
        crop = make_crops(pixels, box, runs=runs, scales=(1.0,), crop_format=self._format, device=self._device)
        return ImageCrops(image.image_id, kinds, (0,), crop.to(self._dtype).expand(len(kinds), -1, -1, -1, -1))


class CocaCaptioner(TreeCaptioner):
    """Captions by CoCa."""

    weights_digest = staticmethod(coca_digest)

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        """Load CoCa and its tokenizer.

        Raises:
            ConfigError: `captions.decoder=static` on a card that fails the short proof.
        """
        check_named_decoder(config, compute, is_short=True)
        device, dtype = prepare_device(compute), compute_dtype(compute)
        decoder = chosen_decoder(config, compute, is_short=True)[0]
        config = settings_of(decoder, config, compute)
        model = load_coca(config.architecture, config.weights).requires_grad_(False).to(device, dtype)
        tokenizer = byte_pair_encoder()
        special = SpecialTokens(tokenizer.sot_token_id, tokenizer.eot_token_id, model.text.pad_id)
        engine = coca_engine(
            model,
            special,
            config,
            seed=compute.seed,
            is_compiled=compute.is_compiled,
            is_static=decoder == "static",
        )
        size, antialiasing = model.visual.image_size[0], config.has_antialiasing
        crop_format = CropFormat(size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, antialiasing)
        super().__init__(
            engine, config, crop_format, device=device, dtype=dtype, text_of=coca_text, encode=tokenizer.encode
        )
