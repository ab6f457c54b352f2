"""What an engine is asked and what it answers: the crops of one image in, token sequences out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

import torch

from schemas.config import CaptionsConfig

DecoderName = Literal["beam", "top_k", "top_p"]


@dataclass(frozen=True, slots=True)
class Decoder:
    """One way to caption a crop: beam search, or sampling from a top-k or a top-p set."""

    name: DecoderName
    top_k: int | None = None
    top_p: float | None = None

    @property
    def label(self) -> str:
        """Name with its parameter, as draws are keyed by it: `beam`, `top_k=5`, `top_p=0.4`."""
        parameter = self.top_k if self.top_k is not None else self.top_p
        return self.name if parameter is None else f"{self.name}={parameter}"


def configured_decoders(config: CaptionsConfig) -> tuple[Decoder, ...]:
    """Return the decoders in the order of the tables: beam, top-k ascending, top-p ascending."""
    sampling = config.sampling
    return (
        Decoder("beam"),
        *(Decoder("top_k", top_k=k) for k in sorted(sampling.top_k)),
        *(Decoder("top_p", top_p=p) for p in sorted(sampling.top_p)),
    )


@dataclass(frozen=True, slots=True)
class ImageCrops:
    """The crops of all masks of one image.

    Attributes:
        image_id: Keys the draws.
        kinds: Names of the K crop kinds, in the order of the tables.
        mask_indices: `MaskRecord.index` of the N masks, which key the draws; a reduction leaves gaps.
        pixels: (K, N, 3, S, S) float, normalised for the model, on its device and in its dtype.
    """

    image_id: str
    kinds: tuple[str, ...]
    mask_indices: tuple[int, ...]
    pixels: torch.Tensor

    @property
    def num_masks(self) -> int:
        """Number of masks N."""
        return len(self.mask_indices)


@dataclass(frozen=True, slots=True)
class Draft:
    """One decoder's caption of one crop, as tokens.

    Attributes:
        place: Of the mask among the image's masks, from 0.
        crop: Name of the crop kind.
        decoder: Which decoder made it.
        tokens: Token ids without SOT and EOS.
        log_prob: As `CaptionSample.log_prob`.
        others: As `CaptionSample.others`.
        num_others: As `CaptionSample.num_others`.
        other_masks: As `CaptionSample.other_masks`.
    """

    place: int
    crop: str
    decoder: Decoder
    tokens: tuple[int, ...]
    log_prob: float
    others: str = "none"
    num_others: int = 0
    other_masks: tuple[int, ...] = ()


class Engine(Protocol):
    """Captions the crops of an image; the cached engine and the plain definition are two."""

    def drafts(self, image: ImageCrops) -> list[Draft]:
        """Return one draft a mask, crop kind and decoder, in this order."""
