"""Captions the masks of images: encodes each crop once, then decodes all rules, masks and crop kinds over one tree.

`captioner` and `vlm_captioner` build the engine, `static_engine` extends it, `listener` uses parts.
The images of one call share a tree, which changes the last bits, so the caller must choose them by the shard alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import torch

from pseudoris.primitives.counter_rng import draws
from pseudoris.primitives.errors import ConfigError
from pseudoris.primitives.measures import CACHE_BYTES, record
from pseudoris.schemas.config import CaptionsConfig
from pseudoris.schemas.shard import CaptionSample
from pseudoris.workers.captions.decoding_rules import (
    Beam,
    GeneratedCaption,
    ImageCrops,
    Ints,
    SampledCaption,
    Towers,
)
from pseudoris.workers.captions.distinctive import Others, SamplerRows, choose_others, join_others
from pseudoris.workers.captions.prefix_tree_decoder import PrefixTreeDecoding, prefix_budget
from pseudoris.workers.captions.vocabulary_logits import SpecialTokens, Vocabulary
from pseudoris.workers.device import to_device, to_host


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The image tower's output for one image's U unique crops."""

    embeddings: torch.Tensor  # (K, N, E) float32 or float64, by kind and mask, whose products are the similarities s_ij
    tokens: Any  # U encodings, to which the towers attend (`Encode`)
    unique_crop_of: Ints  # (K, N) the unique crop of each kind and mask


# A crop set is named by its image and its crop kind. A crop is contrasted only with other crops of its set.
CropSet = tuple[int, int]
# The function maps crops (C, 3, S, S) to embeddings (C, E) and to C encodings, which can be indexed and sliced.
Encode = Callable[[torch.Tensor], tuple[torch.Tensor, Any]]


def find_unique_crops(crops: torch.Tensor) -> tuple[torch.Tensor, Ints]:
    """Return the first of each group of equal crops (C, 3, S, S), (U,) int64, and the group of each crop, (C,).

    Large masks have equal crops, because at every scale the context ends at the borders of the image.
    """
    flat = crops.flatten(1)
    # Equal crops have equal sums, so only crops of equal sum are compared bit for bit.
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

    `image_bytes` is that of `Towers`; the budget bounds the bytes of all crops of a batch.
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

    Attributes:
        is_static: Whether it decodes in fixed shapes, in which no neighbour changes a bit (`StaticEngine`).
        crops_together: Crops of successive images that this engine wants together, whatever the configuration says.
        num_decisions: Decisions of rows and searches so far; counted in fixed shapes alone.
        num_wide: Of these, over the whole vocabulary, because the top logits could not decide.
    """

    is_static = False
    crops_together = 1
    num_decisions = num_wide = 0

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
        # The towers, the special tokens and the vocabulary are public, because the listener uses them too.
        self.towers, self.special = towers, special
        self._samplers = [rule for rule in config.decoding_rules() if rule.name != "beam"]
        self.vocabulary = Vocabulary(projection, special)
        check_length(config, towers.max_prefix_length)

    def generate(self, image: ImageCrops) -> list[GeneratedCaption]:
        """Return one caption per mask, crop kind and rule, in this order."""
        return self.generate_together([image])[0]

    @torch.inference_mode()
    def encode(self, images: Sequence[ImageCrops]) -> list[EncodedImage]:
        """Return the encodings of the images' crops, every unique crop encoded once; at least one image."""
        unique_crops, unique_crops_of = [], []
        for image in images:
            crops = image.pixels.flatten(0, 1)
            unique_crop_of: Ints = np.arange(len(crops))
            # On a GPU, where a static engine works, a search for equal crops would make the host wait twice per image.
            if not self.is_static:
                first, unique_crop_of = find_unique_crops(crops)
                crops = crops[first]
            unique_crops.append(crops)
            unique_crops_of.append(unique_crop_of.reshape(len(image.kinds), len(image.mask_indices)))
        embeddings, tokens = self._encode(torch.cat(unique_crops))
        encoded, end = [], 0
        for image, crops, unique_crop_of in zip(images, unique_crops, unique_crops_of, strict=True):
            begin, end = end, end + len(crops)
            found = embeddings[begin:end]
            if len(crops) < unique_crop_of.size:
                found = found[to_device(unique_crop_of.reshape(-1), found.device)]
            of_kinds = found.view(*unique_crop_of.shape, -1)
            if image.embeddings is not None:
                of_kinds = image.embeddings.expand(len(image.kinds), -1, -1)
            encoded.append(EncodedImage(of_kinds, tokens[begin:end], unique_crop_of))
        return encoded

    @torch.inference_mode()
    def generate_together(
        self, images: Sequence[ImageCrops], encoded: Sequence[EncodedImage] | None = None
    ) -> list[list[GeneratedCaption]]:
        """Return the captions of several images, each in the order of `generate`; `encoded` as by `encode`.

        Unless the engine is static, the images share prefix trees, so matrices are larger than for one image. Then the
        last bits of a probability, and rarely a draw, depend on which images are decoded together.
        """
        encoded = self.encode(images) if encoded is None else encoded
        captions: list[list[GeneratedCaption]] = [[] for _ in images]
        for crop_sets in crop_batches(encoded, self.towers.image_bytes, budget_bytes=self._config.cache_bytes // 2):
            embeddings = (encoded[image].embeddings[kind] for image, kind in crop_sets)
            others = [choose_others(part @ part.t(), self._config.sampling) for part in embeddings]
            rows = self._sampler_rows(images, crop_sets)
            searched = range(sum(len(part.indices) for part in others) if self._config.beam.num_beams else 0)
            caption_of, beam_of = self._decode(encoded, crop_sets, others, rows, searched)
            # Other masks are recorded by index only for `nearest`. Otherwise all are used, or none. A GPU is read once.
            nearest = [each.indices for each in others if each.how == "nearest"]
            indices, crop = iter(to_host(*nearest) if nearest else ()), 0
            for (image_number, kind_number), chosen in zip(crop_sets, others, strict=True):
                image = images[image_number]
                kind, found = image.kinds[kind_number], captions[image_number]
                named = next(indices).tolist() if chosen.how == "nearest" else [[]] * len(image.mask_indices)
                for number, named_of in enumerate(named):
                    how = chosen.how, chosen.indices.shape[1], tuple(image.mask_indices[other] for other in named_of)
                    if searched:
                        beam = beam_of(crop)
                        sample = CaptionSample(kind, "beam", None, None, beam.log_prob)
                        found.append(GeneratedCaption(number, beam.tokens, sample))
                    for row, rule in enumerate(self._samplers, start=crop * len(self._samplers)):
                        tokens, log_prob = caption_of(row)
                        sample = CaptionSample(kind, rule.name, rule.top_k, rule.top_p, log_prob, *how)
                        found.append(GeneratedCaption(number, tokens, sample))
                    crop += 1
        # The sort is stable, so the captions of a mask keep the order of crop kinds and rules.
        return [sorted(part, key=lambda caption: caption.mask_number) for part in captions]

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

    def _decode(
        self,
        encoded: Sequence[EncodedImage],
        crop_sets: Sequence[CropSet],
        others: Sequence[Others],
        rows: SamplerRows,
        searched: Sequence[int],
    ) -> tuple[Callable[[int], SampledCaption], Callable[[int], Beam]]:
        """Return functions that give the caption of a row, and the best beam of a crop in `searched`, from one tree."""
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
        return decoding.sampled, decoding.searched
