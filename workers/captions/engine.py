"""Encodes each crop once; decodes all rules, masks, kinds over one prefix tree. For captioners and `listener`.

Equal crops are one. Several images may share a tree, which changes the last bits of the results. So the shard alone
must decide which images share one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from pseudoris.schemas.config import CaptionsConfig
from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.measures import CACHE_BYTES, record
from pseudoris.workers.captions.decoding_rules import (
    Beam,
    DecodingRule,
    GeneratedCaption,
    ImageCrops,
    Ints,
    Towers,
    configured_rules,
)
from pseudoris.workers.captions.distinctive import Others, SamplerRows, choose_others, join_others
from pseudoris.workers.captions.prefix_tree_decoder import PrefixTreeDecoding, prefix_budget
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary
from pseudoris.workers.counter_rng import draws
from pseudoris.workers.device import to_device, to_host


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The image tower's output for one image's U unique crops.

    Attributes:
        embeddings: (U, E) float32 or float64 vectors, whose products are the similarities s_ij; (N, E) if they are the
            masks' own (`ImageCrops.embeddings`).
        tokens: U encodings, to which the towers attend (`Encode`).
        unique_crop_of: (K, N) the unique crop of each kind and mask.
        is_of_masks: Whether the embeddings are the masks' own.
    """

    embeddings: torch.Tensor
    tokens: Any
    unique_crop_of: Ints
    is_of_masks: bool = False

    def embeddings_of(self, kind: int) -> torch.Tensor:
        """Return the embeddings (N, E) of the crops of a kind."""
        if self.is_of_masks:
            return self.embeddings
        return self.embeddings[to_device(self.unique_crop_of[kind], self.embeddings.device)]


# A set is an image and a crop kind, by number. A crop is contrasted with the other crops of its set.
CropSet = tuple[int, int]
# Takes crops (C, 3, S, S). Returns embeddings (C, E), and C encodings that can be indexed and sliced.
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, Any]]


def find_unique_crops(crops: torch.Tensor) -> tuple[torch.Tensor, Ints]:
    """Return the first of each group of equal crops (C, 3, S, S), (U,) int64, and the group of each crop, (C,).

    Large masks have equal crops, because at every scale the context ends at the borders of the image.
    """
    flat = crops.flatten(1)
    # Equal crops have equal sums. Only crops of equal sum are compared bit for bit.
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


def gather_crops(images: Sequence[EncodedImage], crop_sets: Sequence[CropSet]) -> tuple[Ints, list[Any]]:
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


def check_length(config: CaptionsConfig, positions: int) -> None:
    """Refuse captions that need more positions than the model has, the start of text included."""
    if config.max_length - 1 > positions:
        raise ConfigError(
            f"captions.max_length={config.max_length} needs {config.max_length - 1} positions, but "
            f"{config.architecture or config.weights.uri} has {positions}: --set captions.max_length={positions + 1} "
            "or less"
        )


class CachedEngine:
    """Distinctive caption sampling and beam search that compute nothing twice (method page section 3).

    `StaticEngine` overrides how crops are embedded, batched and decoded.

    Attributes:
        crops_together: Crops of successive images that this engine wants together, whatever the configuration says.
    """

    crops_together = 1

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
        check_length(config, towers.max_prefix_length)

    def generate(self, image: ImageCrops) -> list[GeneratedCaption]:
        """Return one caption per mask, crop kind and rule, in this order."""
        return self.generate_together([image])[0]

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageCrops]) -> list[EncodedImage]:
        """Return the encodings of the images' crops, every unique crop encoded once; at least one image."""
        firsts, unique_crops_of, pixels = [], [], []
        for image in images:
            unique, unique_crop_of = self._unique_crops(image.pixels.flatten(0, 1))
            pixels.append(unique)
            firsts.append(len(unique))
            unique_crops_of.append(unique_crop_of.reshape(len(image.kinds), len(image.mask_indices)))
        embeddings, tokens = self._encode(torch.cat(pixels))
        ends = np.cumsum(firsts).tolist()
        return [
            EncodedImage(
                embeddings[end - count : end] if image.embeddings is None else image.embeddings,
                tokens[end - count : end],
                unique_crop_of,
                is_of_masks=image.embeddings is not None,
            )
            for image, count, end, unique_crop_of in zip(images, firsts, ends, unique_crops_of, strict=True)
        ]

    def _unique_crops(self, crops: torch.Tensor) -> tuple[torch.Tensor, Ints]:
        first, unique_crop_of = find_unique_crops(crops)
        return crops[first], unique_crop_of

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
        for crop_sets in self._batches(encoded):
            for (image, _), part in zip(crop_sets, self._decode(images, encoded, crop_sets), strict=True):
                captions[image] += part
        # The sort is stable, so the captions of a mask keep the order of crop kinds and rules.
        return [sorted(part, key=lambda caption: caption.mask_number) for part in captions]

    def _batches(self, encoded: Sequence[EncodedImage]) -> Iterator[list[CropSet]]:
        return crop_batches(encoded, self.towers.image_bytes, budget_bytes=self._config.cache_bytes // 2)

    def _decode(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage], crop_sets: Sequence[CropSet]
    ) -> list[list[GeneratedCaption]]:
        others, rows = self._others(encoded, crop_sets), self._sampler_rows(images, crop_sets)
        decoding = self._in_tree(encoded, crop_sets, others, rows)
        return self._collect(images, crop_sets, others, decoding.sampled, lambda crop: decoding.searches[crop].result())

    def _others(self, encoded: Sequence[EncodedImage], crop_sets: Sequence[CropSet]) -> list[Others]:
        embeddings = [self._embeddings(encoded[image], kind) for image, kind in crop_sets]
        return [choose_others(part @ part.t(), self._config.sampling) for part in embeddings]

    def _embeddings(self, image: EncodedImage, kind: int) -> torch.Tensor:
        return image.embeddings_of(kind)

    def _sampler_rows(self, images: Sequence[ImageCrops], crop_sets: Sequence[CropSet]) -> SamplerRows:
        """Return the sampling rows of all crops of the sets, by crop, then rule."""
        keys = [
            (self._seed, images[image].image_id, mask_index, images[image].kinds[kind], rule.label)
            for image, kind in crop_sets
            for mask_index in images[image].mask_indices
            for rule in self._samplers
        ]
        num_crops = sum(len(images[image].mask_indices) for image, _ in crop_sets)
        return SamplerRows(
            target=np.repeat(np.arange(num_crops), len(self._samplers)),
            top_k=np.tile(np.array([rule.top_k or 0 for rule in self._samplers], dtype=np.int64), num_crops),
            top_p=np.tile(np.array([rule.top_p or 1.0 for rule in self._samplers], dtype=np.float64), num_crops),
            uniform=draws(keys, self._config.max_length),
        )

    def _in_tree(
        self,
        encoded: Sequence[EncodedImage],
        crop_sets: Sequence[CropSet],
        others: Sequence[Others],
        rows: SamplerRows,
        searched: Sequence[int] | None = None,
    ) -> PrefixTreeDecoding:
        """Return the decoding of rows, and of the beams of the crops `searched` (default: all), over one tree."""
        unique_crop_of, tokens = gather_crops(encoded, crop_sets)
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
        decoding.run(searched)
        record(CACHE_BYTES, decoding.peak_cache_bytes + image_bytes)
        return decoding

    def _collect(
        self,
        images: Sequence[ImageCrops],
        crop_sets: Sequence[CropSet],
        others: Sequence[Others],
        sampled: Callable[[int], tuple[tuple[int, ...], float]],
        searched: Callable[[int], Beam],
    ) -> list[list[GeneratedCaption]]:
        captions: list[list[GeneratedCaption]] = []
        crop = 0
        for (image_number, kind_number), chosen in zip(crop_sets, others, strict=True):
            image = images[image_number]
            kind, part = image.kinds[kind_number], []
            # Other masks are named in the record only if they were chosen from more.
            named = chosen.indices.tolist() if chosen.how == "nearest" else [[]] * len(image.mask_indices)
            for number, named_of in enumerate(named):
                other_masks = tuple(image.mask_indices[other] for other in named_of)
                if self._config.beam.num_beams:
                    best = searched(crop)
                    part.append(GeneratedCaption(number, kind, DecodingRule("beam"), best.tokens, best.log_prob))
                for row, rule in enumerate(self._samplers, start=crop * len(self._samplers)):
                    tokens, log_prob = sampled(row)
                    part.append(
                        GeneratedCaption(
                            number, kind, rule, tokens, log_prob, chosen.how, chosen.indices.shape[1], other_masks
                        )
                    )
                crop += 1
            captions.append(part)
        return captions
