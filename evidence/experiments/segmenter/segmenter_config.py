"""The segmenter's settings: its frozen towers, its own layers, its data and its training; presets in `presets/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval
from pseudoris.training.learning.trainer import TowersConfig, TrainingConfig, load_preset
from pseudoris.training.learning.training_data import DataConfig

_PACKAGE = "evidence.experiments.segmenter"


class CachedTowersConfig(TowersConfig):
    """The frozen CLIP, and how much of what it sees is kept."""

    # Features of images that each process keeps, in float16. Others are computed again when they are needed.
    cache_bytes: int = Field(default=2 * 2**30, ge=0)


class ModelConfig(FrozenModel):
    """The layers that are trained."""

    # Width of patches and words in the fusion. The cost grows with its square.
    width: int = Field(default=64, ge=8)
    num_heads: int = Field(default=4, ge=1)
    # Hidden width of the perceptrons, in widths.
    mlp_ratio: int = Field(default=2, ge=1)
    # Layers of self-attention over the patches of an image, after its last stage.
    num_patch_layers: int = Field(default=1, ge=0)
    # How often patches read the words of an expression; in between words read the patches. This is computed for every
    # expression, and takes most of the time.
    num_rounds: int = Field(default=1, ge=1)
    # Side of the predicted mask in pixels; a divisor of the image's side, and a multiple of twice the patch grid's.
    mask_size: int = Field(default=96, ge=8)
    # Channels of the convolutions on the pixels, at `mask_size`; doubled at half of it.
    stem_width: int = Field(default=16, ge=4)
    # Length of the dynamic kernels, with which a patch describes its pixels.
    kernel_width: int = Field(default=8, ge=1)
    # Bits of a fixed random code for each token, added to the tower's features; 0 for none. A CLIP trained on captions
    # of crops has not learnt "left", and gives all such words similar features.
    word_code_width: int = Field(default=64, ge=0)
    dropout: UnitInterval = 0.1

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        if self.width % self.num_heads or self.width % 4:
            raise ValueError(f"width {self.width} is not a multiple of 4 and of num_heads {self.num_heads}")
        return self


class LossConfig(FrozenModel):
    """Weights of the parts of the loss."""

    bce: NonNegative = 1.0
    dice: NonNegative = 1.0
    # Weight of pointing: in each round the model predicts the patches of the target. It learns the position before the
    # outline.
    pointing: NonNegative = 0.5


class SegmenterConfig(FrozenModel):
    """All settings of a training of the segmenter."""

    preset: str = "tiny"
    towers: CachedTowersConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON."""
        tree = self.model_dump(mode="json", exclude={"training": True, "towers": {"cache_bytes"}})
        return {**tree, "data": self.data.decisive(), "training": self.training.decisive()}


def load_segmenter_config(preset: str, path: Path | None = None, assignments: Sequence[str] = ()) -> SegmenterConfig:
    """Return the resolved settings: `key=value` words over the YAML at `path` over the preset."""
    return load_preset(_PACKAGE, SegmenterConfig, preset, path, assignments)
