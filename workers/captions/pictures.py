"""The crops of several images, encoded: equal crops of an image once, and which crops are decoded together."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from open_clip.coca_model import CoCa

from workers.captions.drafts import ImageCrops
from workers.captions.towers import EncodedCrops, encode_crops
from workers.captions.tree import Ints
from workers.device import to_device


@dataclass(frozen=True, slots=True)
class EncodedImage:
    """The encodings of one image's U different crops.

    Attributes:
        crops: Of the U crops.
        picture_of: (K, N) which of them is the crop of a kind and mask.
    """

    crops: EncodedCrops
    picture_of: Ints

    def embeddings(self, kind: int) -> torch.Tensor:
        """Return the embeddings (N, E) of the crops of a kind."""
        return self.crops.embeddings[to_device(self.picture_of[kind], self.crops.embeddings.device)]


@dataclass(frozen=True, slots=True)
class Unit:
    """The crops of one kind of one image, by their places: each has its others among them alone."""

    image: int
    kind: int


def encode_images(model: CoCa, images: Sequence[ImageCrops], *, is_compiled: bool = False) -> list[EncodedImage]:
    """Return the encodings of the images' crops, every picture encoded once; `is_compiled` as in `encode_crops`."""
    firsts, pictures_of, pixels = [], [], []
    for image in images:
        flat = image.pixels.flatten(0, 1)
        first, picture_of = different_crops(flat)
        pixels.append(flat[first])
        firsts.append(len(first))
        pictures_of.append(picture_of.reshape(len(image.kinds), image.num_masks))
    encoded = encode_crops(model, torch.cat(pixels), is_compiled=is_compiled)
    embeddings, tokens = torch.split(encoded.embeddings, firsts), torch.split(encoded.tokens, firsts)
    return [EncodedImage(EncodedCrops(*parts), of) for *parts, of in zip(embeddings, tokens, pictures_of, strict=True)]


def different_crops(crops: torch.Tensor) -> tuple[torch.Tensor, Ints]:
    """Return which crops (C, 3, S, S) show something new, (U,) int64, and which of these each crop equals, (C,).

    Large masks give such crops: at every scale the context is cut off at the borders of the image.
    """
    flat = crops.flatten(1)
    # Equal crops have equal sums; of those with equal sums, only the ones that equal the first bit for bit count.
    sums = flat.sum(dim=1, dtype=torch.float64)
    values, group = torch.unique(sums, return_inverse=True)
    numbers = torch.arange(len(flat), device=flat.device)
    first_of_group = torch.full_like(values, len(flat), dtype=torch.int64).scatter_reduce(0, group, numbers, "amin")
    first = first_of_group[group]
    first = torch.where((flat == flat[first]).all(dim=1), first, numbers)
    new, picture_of = torch.unique(first, return_inverse=True)
    return new, picture_of.cpu().numpy()


def passes(images: Sequence[EncodedImage], *, bytes_a_crop: int, budget_bytes: int) -> Iterator[list[Unit]]:
    """Yield the units that are decoded together, in order: as many as the budget holds, one at least.

    Args:
        images: Whose crops are decoded.
        bytes_a_crop: What the cross-attention keys and values of one crop take.
        budget_bytes: What they may take together.
    """
    together: list[Unit] = []
    filled = 0
    for place, image in enumerate(images):
        num_kinds, num_masks = image.picture_of.shape
        for kind in range(num_kinds):
            if together and filled + num_masks * bytes_a_crop > budget_bytes:
                yield together
                together, filled = [], 0
            together.append(Unit(place, kind))
            filled += num_masks * bytes_a_crop
    if together:
        yield together


def gather(images: Sequence[EncodedImage], units: Sequence[Unit]) -> tuple[Ints, torch.Tensor]:
    """Return the picture of each crop of the units (C,), and the pictures' image tokens (U, T, D)."""
    picture_of: list[Ints] = []
    tokens: list[torch.Tensor] = []
    first = 0
    for place, group in groupby(units, key=lambda unit: unit.image):
        image = images[place]
        used, picture = np.unique(image.picture_of[[unit.kind for unit in group]], return_inverse=True)
        picture_of.append(first + picture.reshape(-1))
        tokens.append(image.crops.tokens[to_device(used, image.crops.tokens.device)])
        first += len(used)
    return np.concatenate(picture_of), torch.cat(tokens)
