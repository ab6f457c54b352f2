"""What the captioner's engine takes and gives: the crops of one image, and one caption per crop and decoding rule."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from pseudoris.schemas.config import CaptionsConfig

if TYPE_CHECKING:
    # Exports read the order of the rules, without a model.
    import torch

RuleName = Literal["beam", "top_k", "top_p"]


@dataclass(frozen=True, slots=True)
class DecodingRule:
    """One way to caption a crop: beam search, or sampling from a top-k or top-p set."""

    name: RuleName
    top_k: int | None = None
    top_p: float | None = None

    @property
    def label(self) -> str:
        """Name with its parameter, part of the key of random draws: `beam`, `top_k=5`, `top_p=0.4`."""
        parameter = self.top_k if self.top_k is not None else self.top_p
        return self.name if parameter is None else f"{self.name}={parameter}"


def configured_rules(config: CaptionsConfig) -> tuple[DecodingRule, ...]:
    """Return the rules in the order of the tables: beam, top-k ascending, top-p ascending."""
    sampling = config.sampling
    return (
        DecodingRule("beam"),
        *(DecodingRule("top_k", top_k=k) for k in sorted(sampling.top_k)),
        *(DecodingRule("top_p", top_p=p) for p in sorted(sampling.top_p)),
    )


@dataclass(frozen=True, slots=True)
class ImageCrops:
    """The crops of all masks of one image.

    Attributes:
        image_id: Part of the key of random draws.
        kinds: Names of the K crop kinds, in the order of the tables.
        mask_indices: `MaskRecord.index` of the N masks, part of the key of random draws; the reduction leaves gaps.
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
class GeneratedCaption:
    """The caption of one crop by one rule, as tokens.

    Attributes:
        mask_number: Number of the mask among the image's masks, from 0.
        crop: Name of the crop kind.
        rule: The rule that made it.
        tokens: Token ids without SOT and EOS.
        log_prob: As `CaptionSample.log_prob`.
        others: As `CaptionSample.others`.
        num_others: As `CaptionSample.num_others`.
        other_masks: As `CaptionSample.other_masks`.
    """

    mask_number: int
    crop: str
    rule: DecodingRule
    tokens: tuple[int, ...]
    log_prob: float
    others: str = "none"
    num_others: int = 0
    other_masks: tuple[int, ...] = ()
