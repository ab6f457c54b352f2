"""Encodes the crops of several images, each distinct crop of an image once, and decides which are decoded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from open_clip.coca_model import CoCa

from pseudoris.workers.captions.cached_towers import EncodedCrops, encode_crops
from pseudoris.workers.captions.decoding_rules import ImageCrops
from pseudoris.workers.captions.prefix_tree import Ints
from pseudoris.workers.device import to_device, to_host


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
