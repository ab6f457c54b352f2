"""Encodes the crops of images, each distinct one once, and decodes all rules, masks and kinds over one prefix tree.

Several images may share a tree, which changes the last bits of the results. So the shard alone must decide which images
share one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
import torch.nn.functional as F
from open_clip.coca_model import CoCa

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.measures import BATCH_FILL, CACHE_BYTES, record
from pseudoris.workers.captions.cached_towers import CachedCocaTowers
from pseudoris.workers.captions.decoding_rules import DecodingRule, GeneratedCaption, ImageCrops, configured_rules
from pseudoris.workers.captions.distinctive import Others, SamplerRows, choose_others, join_others
from pseudoris.workers.captions.prefix_tree import Ints
from pseudoris.workers.captions.prefix_tree_decoder import DecodingCounts, PrefixTreeDecoding, prefix_budget
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary, score_dtype
from pseudoris.workers.counter_rng import DrawKey, draws
from pseudoris.workers.device import to_device, to_host
from pseudoris.workers.forward_passes import compile_tower, padded

# Crops per forward pass of the image tower. Bounds the activations for images with many masks.
_CROPS_A_PASS = 64


@dataclass(frozen=True, slots=True)
class EncodedCrops:
    """The image tower's output for C crops.

    Attributes:
        embeddings: (C, E) float32 or float64 vectors, whose products are the similarities s_ij.
        tokens: (C, T, D) in the model's dtype; the decoder attends to them.
    """

    embeddings: torch.Tensor
    tokens: torch.Tensor


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The encodings of one image's U unique crops.

    Attributes:
        crops: The U encodings.
        unique_crop_of: (K, N) the unique crop of each kind and mask.
    """

    crops: EncodedCrops
    unique_crop_of: Ints

    def embeddings(self, kind: int) -> torch.Tensor:
        """Return the embeddings (N, E) of the crops of a kind."""
        return self.crops.embeddings[to_device(self.unique_crop_of[kind], self.crops.embeddings.device)]


@dataclass(frozen=True, slots=True)
class CropSet:
    """The crops of one kind of one image, both given by number. All the others of a crop are in its set."""

    image: int
    kind: int


def encode_crops(model: CoCa, crops: torch.Tensor, *, is_compiled: bool = False) -> EncodedCrops:
    """Return embeddings and tokens of normalised crops (C, 3, S, S), in passes of a fixed size.

    With a compiled tower the last pass is padded to that size, because every new size would be compiled.
    """
    passes = torch.split(crops, _CROPS_A_PASS)
    for part in passes:
        record(BATCH_FILL, len(part) / _CROPS_A_PASS, of="caption crops")
    parts = [model(padded(part, _CROPS_A_PASS) if is_compiled else part) for part in passes]
    features = torch.cat([part["image_features"] for part in parts])[: len(crops)]
    embeddings = F.normalize(features.to(score_dtype(features.dtype)), dim=-1)
    return EncodedCrops(embeddings, torch.cat([part["image_embs"] for part in parts])[: len(crops)])


def encode_images(model: CoCa, images: Sequence[ImageCrops], *, is_compiled: bool = False) -> list[EncodedImage]:
    """Return the encodings of the images' crops, every unique crop encoded once; `is_compiled` as in `encode_crops`."""
    firsts, unique_crops_of, pixels = [], [], []
    for image in images:
        flat = image.pixels.flatten(0, 1)
        first, unique_crop_of = find_unique_crops(flat)
        pixels.append(flat[first])
        firsts.append(len(first))
        unique_crops_of.append(unique_crop_of.reshape(len(image.kinds), image.num_masks))
    encoded = encode_crops(model, torch.cat(pixels), is_compiled=is_compiled)
    embeddings, tokens = torch.split(encoded.embeddings, firsts), torch.split(encoded.tokens, firsts)
    return [
        EncodedImage(EncodedCrops(*parts), of) for *parts, of in zip(embeddings, tokens, unique_crops_of, strict=True)
    ]


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


def crop_batches(images: Sequence[EncodedImage], *, bytes_a_crop: int, budget_bytes: int) -> Iterator[list[CropSet]]:
    """Yield the crop sets that are decoded together, in order: as many as fit into the budget, at least one.

    Args:
        images: The images to decode.
        bytes_a_crop: Bytes of the cross-attention keys and values of one crop.
        budget_bytes: Bound on the bytes of all crops together.
    """
    together: list[CropSet] = []
    filled = 0
    for number, image in enumerate(images):
        num_kinds, num_masks = image.unique_crop_of.shape
        for kind in range(num_kinds):
            if together and filled + num_masks * bytes_a_crop > budget_bytes:
                yield together
                together, filled = [], 0
            together.append(CropSet(number, kind))
            filled += num_masks * bytes_a_crop
    if together:
        yield together


def gather(images: Sequence[EncodedImage], crop_sets: Sequence[CropSet]) -> tuple[Ints, torch.Tensor]:
    """Return the unique crop of each crop of the sets (C,), and the image tokens of the unique crops (U, T, D)."""
    unique_crop_of: list[Ints] = []
    tokens: list[torch.Tensor] = []
    first = 0
    for number, group in groupby(crop_sets, key=lambda crop_set: crop_set.image):
        image = images[number]
        used, unique_crop = np.unique(image.unique_crop_of[[crop_set.kind for crop_set in group]], return_inverse=True)
        unique_crop_of.append(first + unique_crop.reshape(-1))
        tokens.append(image.crops.tokens[to_device(used, image.crops.tokens.device)])
        first += len(used)
    return np.concatenate(unique_crop_of), torch.cat(tokens)


class CachedEngine:
    """Distinctive caption sampling and beam search that compute nothing twice (method page section 3)."""

    def __init__(
        self, model: CoCa, special: SpecialTokens, config: CaptionsConfig, *, seed: int, is_compiled: bool = False
    ) -> None:
        """Wrap a model in eval mode, on its device and in its dtype; `is_compiled` as in the configuration.

        Raises:
            ConfigError: The architecture cannot be decoded, or has too few positions.
        """
        self._model, self._config, self._seed = model, config, seed
        # The listener uses the same towers, caches and vocabulary.
        self.special = special
        self._is_compiled = is_compiled
        if is_compiled:
            compile_tower(model.visual)
        self.towers = CachedCocaTowers(model, is_compiled=is_compiled)
        # Counts over all images so far. For benchmarks.
        self.counts = DecodingCounts()
        self._samplers = [rule for rule in configured_rules(config) if rule.name != "beam"]
        self.vocabulary = Vocabulary(model.text_decoder.text_projection.detach(), special.eos)
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
        """Return the encodings of the images' crops, at least one image."""
        return encode_images(self._model, images, is_compiled=self._is_compiled)

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
        bytes_a_crop = self.towers.image_bytes(1, encoded[0].crops.tokens.shape[1])
        for crop_sets in crop_batches(encoded, bytes_a_crop=bytes_a_crop, budget_bytes=self._config.cache_bytes // 2):
            for crop_set, part in zip(crop_sets, self._decode(images, encoded, crop_sets), strict=True):
                captions[crop_set.image] += part
        # Stable: the captions of a mask keep the order of crop kinds and rules.
        return [sorted(part, key=lambda caption: caption.mask_number) for part in captions]

    def _decode(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage], crop_sets: Sequence[CropSet]
    ) -> list[list[GeneratedCaption]]:
        unique_crop_of, tokens = gather(encoded, crop_sets)
        embeddings = [encoded[crop_set.image].embeddings(crop_set.kind) for crop_set in crop_sets]
        others = [choose_others(part @ part.t(), self._config.sampling) for part in embeddings]
        image_bytes = self.towers.image_bytes(*tokens.shape[:2])
        self.towers.set_image_tokens(tokens)
        decoding = PrefixTreeDecoding(
            self.towers,
            self.vocabulary,
            others=join_others(others),
            rows=self._rows(images, crop_sets),
            config=self._config,
            special=self.special,
            budget_bytes=prefix_budget(self._config, image_bytes=image_bytes),
            unique_crop_of=unique_crop_of,
        )
        decoding.run()
        self.counts.include(decoding.counts, image_bytes=image_bytes)
        record(CACHE_BYTES, decoding.counts.peak_cache_bytes + image_bytes)
        return self._collect(images, crop_sets, decoding, others)

    def _rows(self, images: Sequence[ImageCrops], crop_sets: Sequence[CropSet]) -> SamplerRows:
        sets = [(images[crop_set.image], crop_set.kind) for crop_set in crop_sets]
        keys = [
            DrawKey(self._seed, image.image_id, mask_index, image.kinds[kind], rule.label)
            for image, kind in sets
            for mask_index in image.mask_indices
            for rule in self._samplers
        ]
        num_crops = sum(image.num_masks for image, _ in sets)
        top_k = np.array([rule.top_k or 0 for rule in self._samplers], dtype=np.int64)
        top_p = np.array([rule.top_p or 1.0 for rule in self._samplers], dtype=np.float64)
        return SamplerRows(
            target=np.repeat(np.arange(num_crops), len(self._samplers)),
            top_k=np.tile(top_k, num_crops),
            top_p=np.tile(top_p, num_crops),
            uniform=draws(keys, self._config.max_length),
        )

    def _collect(
        self,
        images: Sequence[ImageCrops],
        crop_sets: Sequence[CropSet],
        decoding: PrefixTreeDecoding,
        others: Sequence[Others],
    ) -> list[list[GeneratedCaption]]:
        captions: list[list[GeneratedCaption]] = []
        crop = 0
        for crop_set, chosen in zip(crop_sets, others, strict=True):
            image = images[crop_set.image]
            kind, part = image.kinds[crop_set.kind], []
            # The others are named where they were chosen among more.
            named = chosen.indices.tolist() if chosen.how == "nearest" else [[]] * image.num_masks
            for number, named_of in enumerate(named):
                other_masks = tuple(image.mask_indices[other] for other in named_of)
                best = decoding.searches[crop].result()
                part.append(GeneratedCaption(number, kind, DecodingRule("beam"), best.tokens, best.log_prob))
                for row, rule in enumerate(self._samplers, start=crop * len(self._samplers)):
                    tokens, log_prob = decoding.sampled(row)
                    part.append(
                        GeneratedCaption(
                            number, kind, rule, tokens, log_prob, chosen.how, chosen.num_others, other_masks
                        )
                    )
                crop += 1
            captions.append(part)
        return captions
