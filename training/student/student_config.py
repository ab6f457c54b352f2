"""The student's settings: its frozen towers, its own layers, its data and its training; presets in `presets/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval
from pseudoris.schemas.lone_masks import LoneMasks
from pseudoris.training.dataset import Draw, ExpressionFilter, SampleSpec
from pseudoris.training.learning.training_config import TowersConfig, TrainingConfig, load_preset

_PACKAGE = "pseudoris.training.student"


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


class DataConfig(FrozenModel):
    """Which expressions are trained on, and in what batches."""

    # A batch has `images_per_batch` images, each with up to `masks_per_image` of its masks. An epoch has every mask
    # once.
    images_per_batch: int = Field(default=16, ge=1)
    masks_per_image: int = Field(default=6, ge=1)
    num_workers: int = Field(default=0, ge=0)
    # Where images are now, by the SOURCE in their run; also for --val.
    moved: dict[str, str] = Field(default_factory=dict)
    # See `pseudoris.training.dataset.ExpressionFilter`. Human expressions pass all conditions on scores.
    tau: float | None = None
    is_kept_only: bool = True
    lone: LoneMasks | None = None
    decoders: tuple[str, ...] | None = None
    max_words: int | None = Field(default=None, ge=1)
    # See `pseudoris.training.dataset.SampleSpec`. None: as the Pseudo-RIS authors' loader (`pseudo_ris`), or by weight
    # where `weighting` says so. `distinct` never learns what the filter rejected, and measured worse: docs/quality.md.
    draw: Draw | None = None
    # What the column `weight` does (`filtering.pair_weight`; without it every weight is 1, and nothing changes). loss:
    # multiplies the loss of an expression. draw: draws expressions in proportion to it (`draw=weighted`), and takes a
    # mask into an epoch with the probability of its best expression. Set is_kept_only=false to learn from all
    # candidates.
    weighting: Literal["none", "loss", "draw", "both"] = "none"
    # How many expressions of each mask an epoch has; a mask with fewer repeats them.
    expressions_per_mask: int = Field(default=1, ge=1)
    # Whether expressions are said in other words that mean the same, others each epoch; a human's never are.
    rewording: bool = False
    # Images that are not trained on, human ones neither: what `--exclude` takes. See docs/exclusions.md.
    exclude: tuple[str, ...] = ()
    # If human annotation is given: the share of its masks that is used, and its share of an epoch's items (None: each
    # once).
    human_fraction: UnitInterval = 1.0
    human_share: float | None = Field(default=None, ge=0, lt=1)

    @model_validator(mode="after")
    def _has_one_draw(self) -> Self:
        if self.draws_by_weight and self.draw not in (None, "weighted"):
            raise ValueError(f"weighting={self.weighting} and draw={self.draw} exclude each other: each is a draw")
        return self

    @property
    def draws_by_weight(self) -> bool:
        """Whether weights decide how often masks and expressions come."""
        return self.weighting in ("draw", "both")

    @property
    def has_weighted_loss(self) -> bool:
        """Whether weights multiply losses."""
        return self.weighting in ("loss", "both")

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON; newer settings only if set, as in trainings of earlier versions."""
        tree = self.model_dump(mode="json", exclude={"num_workers", "moved"})
        tree["draw"] = self.spec(seed=0).draw
        # What the files say, wherever they lie.
        tree["exclude"] = self.spec(seed=0).as_json().get("exclude", ())
        for name in ("rewording", "weighting", "exclude"):
            if tree[name] == type(self).model_fields[name].default:
                del tree[name]
        return tree

    def spec(self, seed: int) -> SampleSpec:
        """Return the samples of a run for training: each mask, with one of its expressions an epoch."""
        where = ExpressionFilter(
            tau=self.tau,
            is_kept_only=self.is_kept_only,
            lone=self.lone,
            decoders=None if self.decoders is None else frozenset(self.decoders),
            words=(None, self.max_words),
        )
        return SampleSpec(
            parts=("mask", "text", "scores") if self.has_weighted_loss else ("mask", "text"),
            where=where,
            draw=self.draw or ("weighted" if self.draws_by_weight else "pseudo_ris"),
            expressions_per_mask=self.expressions_per_mask,
            rewording=self.rewording,
            exclude=self.exclude,
            seed=seed,
            source=self.moved,
        )


class StudentConfig(FrozenModel):
    """All settings of a training of the student."""

    preset: str = "tiny"
    towers: TowersConfig
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    data: DataConfig = DataConfig()
    training: TrainingConfig = TrainingConfig()

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON."""
        tree = self.model_dump(mode="json", exclude={"training": True, "towers": {"cache_bytes"}})
        tree["data"] = self.data.decisive()
        # As segmenters of earlier versions have it.
        tree["data"]["lone"] = self.data.spec(seed=0).lone_masks
        if tree["data"]["draw"] == "distinct":
            del tree["data"]["draw"]
        if self.data.expressions_per_mask == 1:
            del tree["data"]["expressions_per_mask"]
        return {**tree, "training": self.training.decisive()}


def load_student_config(preset: str, path: Path | None = None, assignments: Sequence[str] = ()) -> StudentConfig:
    """Return the resolved settings: `key=value` words over the YAML at `path` over the preset.

    Raises:
        ConfigError: An unknown preset, file, key or value; the message holds the nearest known name.
    """
    return load_preset(_PACKAGE, StudentConfig, preset, path, assignments)
