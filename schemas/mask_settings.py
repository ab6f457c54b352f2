"""Settings of the mask stage: SAM, the reduction of its proposals, and the instance prior."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, JsonValue, model_validator

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel, UnitInterval
from pseudoris.schemas.source_settings import WeightsConfig


class SamArchitecture(FrozenModel):
    """The numbers that `segment_anything`'s modules are built from; `image_size` is in pixels, widths are in units.

    Source: segment-anything 1.0, build_sam.py, for ViT-B, L and H.
    """

    image_size: int = Field(default=1024, ge=32)
    patch_size: int = Field(default=16, ge=4)
    encoder_width: int = Field(ge=8)
    encoder_depth: int = Field(ge=1)
    encoder_heads: int = Field(ge=1)
    # Blocks that attend to the whole image; all others attend within `window_size` patches.
    encoder_global_blocks: tuple[int, ...]
    window_size: int = Field(default=14, ge=0)
    prompt_width: int = Field(default=256, ge=8)
    decoder_depth: int = Field(default=2, ge=1)
    decoder_heads: int = Field(default=8, ge=1)
    decoder_mlp_width: int = Field(default=2048, ge=8)
    iou_head_depth: int = Field(default=3, ge=1)
    iou_head_width: int = Field(default=256, ge=8)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} is not a multiple of patch_size {self.patch_size}")
        if self.encoder_width % self.encoder_heads:
            raise ValueError(f"encoder_width {self.encoder_width} is not a multiple of heads {self.encoder_heads}")
        out = [b for b in self.encoder_global_blocks if not 0 <= b < self.encoder_depth]
        if out:
            raise ValueError(f"encoder_global_blocks {out} lie outside 0..{self.encoder_depth - 1}")
        return self


class ReductionConfig(FrozenModel):
    """How over-segmented proposals become objects if there is no instance prior (method page, section 1)."""

    # A mask is a double if its IoU with a better one is above this.
    mask_nms_iou: UnitInterval = 0.7
    # Shares of the image's area. A mask below `min_area` is speckle, above `max_area` background.
    min_area: UnitInterval = 0.001
    max_area: UnitInterval = 0.8
    # A mask is a part of another when at least this share of it lies inside ...
    min_inside: UnitInterval = 0.9
    # ... and its area is at most this share of the other's. 1.0 drops every mask that lies inside another.
    max_part_area: UnitInterval = 0.5


class PriorConfig(FrozenModel):
    """An instance detector's opinion of what the objects are (the paper: CutLER, score > 0.5)."""

    # unset: not decided yet. A run is refused before it starts, with both ways to decide (`docs/priors.md`).
    kind: Literal["none", "table", "torchvision", "unset"] = "none"
    # table: Parquet, or COCO JSON; torchvision: a local checkpoint.
    path: str | None = None
    min_score: UnitInterval = 0.5
    # intersection: the SAM mask that covers most of the instance (the paper). iou: the one with the highest IoU (ours).
    match: Literal["intersection", "iou"] = "intersection"
    # A mask that several instances choose. merge: it is kept once (ours). keep: once for each instance, as in the
    # authors' scripts; such twins compete with each other, so their expressions have a distinctiveness of at most 1.
    duplicates: Literal["merge", "keep"] = "merge"
    # An instance that touches no mask. drop: it has no mask (ours). first_mask: it takes the generator's first mask, as
    # in the authors' scripts, where the maximum of equal overlaps is the first.
    untouched: Literal["drop", "first_mask"] = "drop"

    @model_validator(mode="after")
    def _has_path(self) -> Self:
        if self.kind in ("table", "torchvision") and not self.path:
            raise ValueError(f"prior.kind={self.kind} needs prior.path: the table or checkpoint to read")
        return self

    def check_is_set(self) -> None:
        """Accept every kind except `unset`.

        Raises:
            ConfigError: The kind is `unset`; the message says how to make a prior, and how to go without one.
        """
        if self.kind == "unset":
            raise ConfigError(
                "masks.prior.kind is unset: say what the objects are. Make a table of instances with a detector (the "
                "paper: CutLER; docs/priors.md has the recipe) and give it by --set masks.prior.kind=table --set "
                "masks.prior.path=FILE, or reduce SAM's masks by rules: --set masks.prior.kind=none"
            )


class MasksConfig(FrozenModel):
    """Mask proposal. Names and defaults are SAM's own, except `pred_iou_thresh` (the paper: 0.5)."""

    engine: str = "sam"
    architecture: SamArchitecture
    weights: WeightsConfig
    points_per_side: int = Field(default=32, ge=1)
    # Prompts in a forward pass of the mask decoder. Part of the identity, because rounding depends on the batch's
    # shape.
    points_per_batch: int = Field(default=64, ge=1)
    pred_iou_thresh: float = 0.5
    stability_score_thresh: float = 0.95
    stability_score_offset: float = Field(default=1.0, ge=0)
    box_nms_thresh: UnitInterval = 0.7
    # 0: the whole image only. Each layer l adds 4^l crops and their cost.
    crop_n_layers: int = Field(default=0, ge=0, le=4)
    crop_nms_thresh: UnitInterval = 0.7
    crop_overlap_ratio: UnitInterval = 512 / 1500
    crop_n_points_downscale_factor: int = Field(default=1, ge=1)
    # Holes and islands up to this many pixels are removed; 0 leaves masks as they are.
    min_mask_region_area: int = Field(default=0, ge=0)
    reduction: ReductionConfig = ReductionConfig()
    prior: PriorConfig = PriorConfig()
    options: dict[str, JsonValue] = Field(default_factory=dict, description="Settings of a plug-in engine.")
