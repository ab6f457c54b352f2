"""The second stage: masks in, candidate expressions out, by CoCa.

The engine encodes each distinct crop once, and decodes all rules, masks and kinds over one prefix tree. Several images
may share a tree, which changes the last bits of the results. So the shard alone must decide which images share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from open_clip.coca_model import CoCa
from open_clip.constants import OPENAI_DATASET_MEAN, OPENAI_DATASET_STD
from open_clip.tokenizer import SimpleTokenizer

from pseudoris.schemas.config import CaptionsConfig, ComputeConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.measures import BATCH_FILL, CACHE_BYTES, record
from pseudoris.schemas.run_lengths import decode_runs
from pseudoris.schemas.shard import CaptionSample, ExpressionRecord, MaskRecord, Shard, ShardImage, clean_text
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.decoding_rules import (
    DecodingRule,
    GeneratedCaption,
    ImageCrops,
    Ints,
    Towers,
    configured_rules,
)
from pseudoris.workers.captions.distinctive import Others, SamplerRows, choose_others, join_others
from pseudoris.workers.captions.prefix_tree_decoder import PrefixTreeDecoding, prefix_budget
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary, score_dtype
from pseudoris.workers.checkpoints.openclip import byte_pair_encoder, load_coca
from pseudoris.workers.counter_rng import draws
from pseudoris.workers.crops.crops import CropFormat, Decode, make_crops, prefetched_pixels
from pseudoris.workers.device import compute_dtype, prepare_device, to_device, to_host
from pseudoris.workers.faults.quarantine import apply_to_groups
from pseudoris.workers.forward_passes import compile_tower, padded
from pseudoris.workers.stages import STAGE_CAPTION, coca_digest

# Crops per forward pass of the image tower. Bounds the activations for images with many masks.
_CROPS_A_PASS = 64


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The image tower's output for one image's U unique crops.

    Attributes:
        embeddings: (U, E) float32 or float64 vectors, whose products are the similarities s_ij.
        tokens: U encodings, to which the towers attend (`Encode`).
        unique_crop_of: (K, N) the unique crop of each kind and mask.
    """

    embeddings: torch.Tensor
    tokens: Any
    unique_crop_of: Ints

    def embeddings_of(self, kind: int) -> torch.Tensor:
        """Return the embeddings (N, E) of the crops of a kind."""
        return self.embeddings[to_device(self.unique_crop_of[kind], self.embeddings.device)]


# The crops of one kind of one image, both given by number. All the others of a crop are in its set.
CropSet = tuple[int, int]
# Of crops (C, 3, S, S): their embeddings (C, E), and C encodings, which can be indexed and sliced.
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, Any]]


def encode_crops(model: CoCa, crops: torch.Tensor, *, is_compiled: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `EncodedImage.embeddings` and `tokens` of normalised crops (C, 3, S, S), in passes of a fixed size.

    With a compiled tower the last pass is padded to that size, because every new size would be compiled.
    """
    passes = torch.split(crops, _CROPS_A_PASS)
    for part in passes:
        record(BATCH_FILL, len(part) / _CROPS_A_PASS, of="caption crops")
    parts = [model(padded(part, _CROPS_A_PASS) if is_compiled else part) for part in passes]
    features = torch.cat([part["image_features"] for part in parts])[: len(crops)]
    embeddings = F.normalize(features.to(score_dtype(features.dtype)), dim=-1)
    return embeddings, torch.cat([part["image_embs"] for part in parts])[: len(crops)]


def find_unique_crops(crops: torch.Tensor) -> tuple[torch.Tensor, Ints]:
    """Return the first of each group of equal crops (C, 3, S, S), (U,) int64, and the group of each crop, (C,).

    Large masks have equal crops, because at every scale the context ends at the borders of the image.
    """
    flat = crops.flatten(1)
    # Equal crops have equal sums. Crops of equal sum are then compared with the first of them bit for bit.
    sums = flat.sum(dim=1, dtype=torch.float64)
    values, group = torch.unique(sums, return_inverse=True)
    numbers = torch.arange(len(flat), device=flat.device)
    first_of_group = torch.full_like(values, len(flat), dtype=torch.int64).scatter_reduce(0, group, numbers, "amin")
    first = first_of_group[group]
    first = torch.where((flat == flat[first]).all(dim=1), first, numbers)
    new, unique_crop_of = torch.unique(first, return_inverse=True)
    return new, to_host(unique_crop_of)[0]


def crop_batches(
    images: Sequence[EncodedImage], image_bytes: Callable[[Sequence[Any]], int], *, budget_bytes: int
) -> Iterator[list[CropSet]]:
    """Yield the crop sets that are decoded together, in order: as many as fit into the budget, at least one.

    Args:
        images: The images to decode.
        image_bytes: As of `Towers`.
        budget_bytes: Bound on the bytes of all crops together.
    """
    together: list[CropSet] = []
    filled, bytes_a_crop = 0, max(image_bytes([each]) for image in images for each in image.tokens)
    for number, image in enumerate(images):
        num_kinds, num_masks = image.unique_crop_of.shape
        for kind in range(num_kinds):
            if together and filled + num_masks * bytes_a_crop > budget_bytes:
                yield together
                together, filled = [], 0
            together.append((number, kind))
            filled += num_masks * bytes_a_crop
    if together:
        yield together


def gather(images: Sequence[EncodedImage], crop_sets: Sequence[CropSet]) -> tuple[Ints, list[Any]]:
    """Return the unique crop of each crop of the sets (C,), and the U encodings of the unique crops."""
    unique_crop_of: list[Ints] = []
    tokens: list[Any] = []
    first = 0
    for number, group in groupby(crop_sets, key=lambda crop_set: crop_set[0]):
        image = images[number]
        used, unique_crop = np.unique(image.unique_crop_of[[kind for _, kind in group]], return_inverse=True)
        unique_crop_of.append(first + unique_crop.reshape(-1))
        tokens += [image.tokens[crop] for crop in used]
        first += len(used)
    return np.concatenate(unique_crop_of), tokens


class CachedEngine:
    """Distinctive caption sampling and beam search that compute nothing twice (method page section 3)."""

    def __init__(
        self,
        towers: Towers,
        encode: Encode,
        projection: torch.Tensor,
        *,
        special: SpecialTokens,
        config: CaptionsConfig,
        seed: int,
    ) -> None:
        """Decode with the towers and the vocabulary's `projection` (D, V) what `encode` has encoded."""
        self._encode, self._config, self._seed = encode, config, seed
        # The listener uses the same towers, caches and vocabulary.
        self.towers, self.special = towers, special
        self._samplers = [rule for rule in configured_rules(config) if rule.name != "beam"]
        self.vocabulary = Vocabulary(
            projection, special.eos, further_eos=special.further_eos, forbidden=special.forbidden
        )
        positions = self.towers.max_prefix_length
        if config.max_length - 1 > positions:
            raise ConfigError(
                f"captions.max_length={config.max_length} needs {config.max_length - 1} positions, "
                f"but {config.architecture} has {positions}: --set captions.max_length={positions + 1} or less"
            )

    def generate(self, image: ImageCrops) -> list[GeneratedCaption]:
        """Return one caption per mask, crop kind and rule, in this order."""
        return self.generate_together([image])[0]

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageCrops]) -> list[EncodedImage]:
        """Return the encodings of the images' crops, every unique crop encoded once; at least one image."""
        firsts, unique_crops_of, pixels = [], [], []
        for image in images:
            flat = image.pixels.flatten(0, 1)
            first, unique_crop_of = find_unique_crops(flat)
            pixels.append(flat[first])
            firsts.append(len(first))
            unique_crops_of.append(unique_crop_of.reshape(len(image.kinds), len(image.mask_indices)))
        embeddings, tokens = self._encode(torch.cat(pixels))
        ends = np.cumsum(firsts).tolist()
        return [
            EncodedImage(embeddings[end - count : end], tokens[end - count : end], unique_crop_of)
            for count, end, unique_crop_of in zip(firsts, ends, unique_crops_of, strict=True)
        ]

    @torch.inference_mode()
    def generate_together(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage] | None = None
    ) -> list[list[GeneratedCaption]]:
        """Return the captions of several images, each in the order of `generate`; `encoded` as by `encode`.

        The images share prefix trees, so matrices are larger than for one image. So the last bits of a probability, and
        rarely a draw, depend on which images are decoded together.
        """
        encoded = self.encode(images) if encoded is None else encoded
        captions: list[list[GeneratedCaption]] = [[] for _ in images]
        for crop_sets in crop_batches(encoded, self.towers.image_bytes, budget_bytes=self._config.cache_bytes // 2):
            for (image, _), part in zip(crop_sets, self._decode(images, encoded, crop_sets), strict=True):
                captions[image] += part
        # Stable: the captions of a mask keep the order of crop kinds and rules.
        return [sorted(part, key=lambda caption: caption.mask_number) for part in captions]

    def _decode(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage], crop_sets: Sequence[CropSet]
    ) -> list[list[GeneratedCaption]]:
        unique_crop_of, tokens = gather(encoded, crop_sets)
        embeddings = [encoded[image].embeddings_of(kind) for image, kind in crop_sets]
        others = [choose_others(part @ part.t(), self._config.sampling) for part in embeddings]
        keys = [
            (self._seed, images[image].image_id, mask_index, images[image].kinds[kind], rule.label)
            for image, kind in crop_sets
            for mask_index in images[image].mask_indices
            for rule in self._samplers
        ]
        num_crops = len(unique_crop_of)
        rows = SamplerRows(
            target=np.repeat(np.arange(num_crops), len(self._samplers)),
            top_k=np.tile(np.array([rule.top_k or 0 for rule in self._samplers], dtype=np.int64), num_crops),
            top_p=np.tile(np.array([rule.top_p or 1.0 for rule in self._samplers], dtype=np.float64), num_crops),
            uniform=draws(keys, self._config.max_length),
        )
        image_bytes = self.towers.image_bytes(tokens)
        self.towers.attend_to(tokens)
        decoding = PrefixTreeDecoding(
            self.towers,
            self.vocabulary,
            others=join_others(others),
            rows=rows,
            config=self._config,
            special=self.special,
            budget_bytes=prefix_budget(self._config, image_bytes=image_bytes),
            unique_crop_of=unique_crop_of,
        )
        decoding.run()
        record(CACHE_BYTES, decoding.peak_cache_bytes + image_bytes)
        return self._collect(images, crop_sets, decoding, others)

    def _collect(
        self,
        images: Sequence[ImageCrops],
        crop_sets: Sequence[CropSet],
        decoding: PrefixTreeDecoding,
        others: Sequence[Others],
    ) -> list[list[GeneratedCaption]]:
        captions: list[list[GeneratedCaption]] = []
        crop = 0
        for (image_number, kind_number), chosen in zip(crop_sets, others, strict=True):
            image = images[image_number]
            kind, part = image.kinds[kind_number], []
            # The others are named where they were chosen among more.
            named = chosen.indices.tolist() if chosen.how == "nearest" else [[]] * len(image.mask_indices)
            for number, named_of in enumerate(named):
                other_masks = tuple(image.mask_indices[other] for other in named_of)
                if self._config.beam.num_beams:
                    best = decoding.searches[crop].result()
                    part.append(GeneratedCaption(number, kind, DecodingRule("beam"), best.tokens, best.log_prob))
                for row, rule in enumerate(self._samplers, start=crop * len(self._samplers)):
                    tokens, log_prob = decoding.sampled(row)
                    part.append(
                        GeneratedCaption(
                            number, kind, rule, tokens, log_prob, chosen.how, chosen.indices.shape[1], other_masks
                        )
                    )
                crop += 1
            captions.append(part)
        return captions


def coca_engine(
    model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int, is_compiled: bool = False
) -> CachedEngine:
    """Return the engine of a CoCa in eval mode, on its device, in its dtype; `is_compiled` as in the configuration."""
    if is_compiled:
        compile_tower(model.visual)
    towers = CachedCocaTowers(model, is_compiled=is_compiled)
    encode = partial(encode_crops, model, is_compiled=is_compiled)
    projection = model.text_decoder.text_projection.detach()
    return CachedEngine(towers, encode, projection, special=special, config=config, seed=seed)


def to_expressions(
    captions: Iterable[GeneratedCaption], masks: Sequence[MaskRecord], tokenizer: SimpleTokenizer
) -> tuple[ExpressionRecord, ...]:
    """Return an image's candidates: cleaned captions, with equal texts of one mask merged and empty texts left out.

    Args:
        captions: In the order mask, crop kind, rule. Candidates are ordered by their first caption.
        masks: Of the image.
        tokenizer: Of the captions.
    """
    samples: dict[tuple[int, str], list[CaptionSample]] = {}
    for caption in captions:
        # A SOT token inside a caption would appear as text.
        tokens = [token for token in caption.tokens if token != tokenizer.sot_token_id]
        text = clean_text(str(tokenizer.decode(tokens)))
        if text:
            rule = caption.rule
            sample = CaptionSample(
                crop=caption.crop,
                decoder=rule.name,
                top_k=rule.top_k,
                top_p=rule.top_p,
                log_prob=caption.log_prob,
                others=caption.others,
                num_others=caption.num_others,
                other_masks=caption.other_masks,
            )
            samples.setdefault((caption.mask_number, text), []).append(sample)
    return tuple(
        ExpressionRecord(target_mask_ids=(masks[number].mask_id,), text=text, samples=tuple(found))
        for (number, text), found in samples.items()
    )


class CocaCaptioner:
    """Captions every mask by beam search and distinctive sampling (paper section 3.2; method page section 3)."""

    def __init__(self, config: CaptionsConfig, compute: ComputeConfig) -> None:
        """Load CoCa and its tokenizer."""
        device, dtype = prepare_device(compute), compute_dtype(compute)
        model = load_coca(config.architecture, config.weights).requires_grad_(False).to(device, dtype)
        self._tokenizer = byte_pair_encoder()
        special = SpecialTokens(self._tokenizer.sot_token_id, self._tokenizer.eot_token_id, model.text.pad_id)
        self._engine = coca_engine(model, special, config, seed=compute.seed, is_compiled=compute.is_compiled)
        self._listener = None
        if config.listening:
            # Imported here: most runs do not listen.
            from pseudoris.workers.captions.listener import Listener

            self._listener = Listener(self._engine, config, config.listening, self._tokenizer.encode)
        size, antialiasing = model.visual.image_size[0], config.has_antialiasing
        self._format = CropFormat(size, OPENAI_DATASET_MEAN, OPENAI_DATASET_STD, antialiasing)
        self._scales = config.crop_kinds()
        self._crops_together = config.crops_together
        self._device, self._dtype = device, dtype

    @property
    def num_pairs(self) -> int:
        """Number of (prefix, crop) pairs computed so far, including the listener's. For benchmarks."""
        return self._engine.towers.num_pairs

    @classmethod
    def weights_digest(cls, config: CaptionsConfig) -> str:
        """Return the sha256 of the weights that `config` names, without loading the model."""
        return coca_digest(config)

    def __call__(self, shard: Shard) -> Shard:
        """Return the shard with `expressions` set, unscored, on every image that is not quarantined."""
        most_masks = self._crops_together // len(self._scales)
        with_masks = [image for image in shard.images if image.masks and not image.failure]
        with prefetched_pixels(with_masks, self._device) as decode:
            return apply_to_groups(
                shard,
                STAGE_CAPTION,
                partial(self._caption, decode=decode),
                fits=lambda images: sum(len(image.masks) for image in images) <= most_masks,
            )

    def _caption(self, images: Sequence[ShardImage], decode: Decode) -> list[ShardImage]:
        with_masks = [image for image in images if image.masks]
        crops = [self.image_crops(image, decode(image)) for image in with_masks]
        encoded = self._engine.encode(crops) if crops else []
        captions = self._engine.generate_together(crops, encoded) if crops else []
        expressions = {}
        for image, image_crops, image_encoded, found in zip(with_masks, crops, encoded, captions, strict=True):
            candidates = to_expressions(found, image.masks, self._tokenizer)
            if self._listener:
                candidates = self._listener.listen(image_crops, image_encoded, image.masks, candidates)
            expressions[image.position] = candidates
        return [replace(image, expressions=expressions.get(image.position, ())) for image in images]

    def image_crops(self, image: ShardImage, pixels: NDArray[np.uint8]) -> ImageCrops:
        """Return the crops of an image's masks (at least one mask) for the engine; `pixels` (H, W, 3) are RGB."""
        crops = make_crops(
            pixels,
            [mask.box_xyxy_px for mask in image.masks],
            runs=[decode_runs(mask.rle_counts) for mask in image.masks],
            scales=tuple(self._scales.values()),
            crop_format=self._format,
            device=self._device,
        )
        indices = tuple(mask.index for mask in image.masks)
        return ImageCrops(image.image_id, tuple(self._scales), indices, crops.to(self._dtype))
