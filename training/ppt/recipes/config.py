"""What the data recipes are told; each default with its reason."""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field

from schemas.config import FrozenModel, SamArchitecture, UnitInterval, WeightsConfig

GROUNDING_PRESETS: Final = ("tiny", "paper")


class GroundingConfig(FrozenModel):
    """From a text to a mask: CLIP's response, SAM's mask (section 3.2: "CLIP [32] followed by SAM")."""

    # Any CLIP of open_clip with a ViT; PPT itself reads the same one.
    clip_architecture: str
    clip_weights: WeightsConfig
    sam_architecture: SamArchitecture
    sam_weights: WeightsConfig
    # CLIP Surgery's second path in so many of the image tower's last blocks; 0 reads the patches as they are, for a CLIP
    # whose patches were trained to answer (`workers.surgery`).
    surgery_blocks: int = Field(default=0, ge=0)
    # points: of the highest and the lowest responses, positive and negative, SAM's single mask; peak: the highest alone,
    # SAM's three masks, of which one is chosen.
    prompts: Literal["points", "peak"] = "peak"
    # Of the three masks the one that predicts the highest IoU, or the one that agrees best with the response map.
    choice: Literal["predicted_iou", "agreement"] = "agreement"
    # Points of either label where prompts=points.
    num_points: int = Field(default=4, ge=1, le=32)
    # A response is divided by its image's range: below this share of the range it says "elsewhere".
    high: UnitInterval = 0.8
    low: UnitInterval = 0.2
    # What a text is put into before CLIP reads it, as CLIP's own prompts are; {} is the phrase without its article.
    prompt: str = Field(default="a photo of a {}", pattern=r"\{\}")
