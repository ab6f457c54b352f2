"""The settings of a PPT training as one frozen tree, with the reason for each default; presets are in `presets/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from pseudoris.schemas.config import SamArchitecture, WeightsConfig
from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval
from pseudoris.training.dataset.map_dataset import DEFAULT_MAX_MEMORY_BYTES
from pseudoris.training.learning.training_config import TowersConfig, TrainingConfig, load_preset
from pseudoris.training.ppt.curriculum import CurriculumConfig

_PACKAGE = "pseudoris.training.ppt"


class PointGeneratorConfig(FrozenModel):
    """The trainable part (paper section 3.1.1). The defaults are the paper's size: 20.7 M parameters."""

    # K. Several times the pseudo-masks of an expression (one per noun phrase, two to four), so that contexts and
    # referent have queries of their own. Each query costs a pass of SAM's mask decoder.
    num_queries: int = Field(default=12, ge=1, le=256)
    # M. Enough for points on both sides of an outline; SAM's own training stops at nine. Chosen, not searched.
    num_points: int = Field(default=8, ge=1, le=64)
    # Blocks of the image tower whose output is a stage, from 0; early ones know shapes, late ones meaning. Their number
    # is N; those of the first half still hold little that words could attend to. Three by cost: a stage is a bridge and
    # two readings of the queries, and about a third of the parameters.
    image_blocks: tuple[Annotated[int, Field(ge=0)], ...] = (5, 8, 11)
    # With N and feed_forward_ratio it comes to the paper's number of parameters, which grows with its square.
    width: int = Field(default=384, ge=8)
    # 48 channels each, of the usual order; they cost nothing beside the width. Not searched.
    num_heads: int = Field(default=8, ge=1)
    # Hidden width of a feed-forward layer, in widths: what the bridges' products leave of the paper's parameters.
    feed_forward_ratio: float = Field(default=2.5, gt=0)
    # Off, and not searched: points and flips are drawn anew each epoch, and `tiny` sees a pair a few times alone.
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # How far queries look where CLIP's patches answer the expression, in a softmax's scores a standard deviation of the
    # answers. What they find is added to it, and each query learns a temperature of both. ScoreHead begins to trust the
    # answers as much. 0 where patches were not trained to answer: those of a CLIP of one token an image answer beside
    # its objects as readily.
    response_gain: float = Field(default=0.0, allow_inf_nan=False)
    # How far each query keeps to a peak of its own of CLIP's answers, in a softmax's scores: above their range it stays
    # there, and learning decides which peak is meant. 0 leaves all queries to all patches, as the paper does; so should
    # whoever leaves `response_gain` 0.
    anchor_gain: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    # Patches on either side of where a query looks most, over which its place is a mean: about an object's half, for
    # its middle; a mean over more than one object lies between them.
    peak_radius: int = Field(default=2, ge=0)
    # A fixed random code of every token beside the tower's features, in bits; 0 for none. A CLIP that was trained on
    # captions of crops knows no "left", and maps what it does not know alike.
    word_code_width: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.width % (4 * self.num_heads):
            raise ValueError(
                f"width {self.width} is not a multiple of 4 times num_heads {self.num_heads}. Heads share the width, "
                "and a position has a sine and a cosine per axis."
            )
        if not self.image_blocks or list(self.image_blocks) != sorted(set(self.image_blocks)):
            raise ValueError(f"image_blocks {self.image_blocks} must be one or more blocks in ascending order")
        return self


class ObjectiveConfig(FrozenModel):
    """Weights of equation 4's terms, in the loss and, but for confidence, the same in the cost of the matching.

    In the loss each term is a mean over matched pairs, to which unmatched queries add their confidence, to be 0.
    """

    # The paper adds its terms as they are.
    dice: NonNegative = 1.0
    mask_cross_entropy: NonNegative = 1.0
    # L1 of coordinates in [0, 1] is a tenth of the other terms at the start, and the only one that moves far points.
    point_l1: NonNegative = 5.0
    # Below the paper's 1, so that a label follows where its point lies and hardly decides the matching; not searched.
    point_label: NonNegative = 0.5
    # The paper's 1; `tiny` says why it has more.
    confidence: NonNegative = 1.0
    # Confidence in the cost of the matching, a share of its weight. At 1, the paper's, a query that is sure may be
    # matched to the referent although another one's mask is the referent's, and learns to stay sure; below it, masks
    # decide.
    confidence_in_matching: UnitInterval = 1.0
    # Not of equation 4, nor of the matching: how far where a matched query looks is from its pseudo-mask. The L1 of a
    # point says further left, and not which patch; this says which, from a few hundred steps on. 0 leaves it out, as
    # the paper does.
    look: NonNegative = 0.0
    # assignment: the points of a matched pair correspond by a second assignment; order: as they were drawn.
    point_correspondence: Literal["assignment", "order"] = "assignment"


class ClipConfig(FrozenModel):
    """The frozen CLIP; any of open_clip's with a ViT. Its stages are `generator.image_blocks`."""

    architecture: str
    weights: WeightsConfig
    # What an expression is put into before patches answer it, as `grounding.prompt` of the recipes: queries begin where
    # the pseudo-masks come from. Of bare words the scene CLIP's peak lies on 57 % of the targets of held-out scenes;
    # masks at the peak of such a caption have an IoU above 0.3 with 65 %.
    prompt: str = Field(default="a photo of a {}", pattern=r"\{\}")


class SamConfig(FrozenModel):
    """The frozen SAM, as `masks.architecture` and `masks.weights` of a run."""

    architecture: SamArchitecture
    weights: WeightsConfig


class PairsDataConfig(FrozenModel):
    """How pairs are drawn."""

    # Pairs of image and expression, of all ranks together.
    pairs_per_batch: int = Field(default=64, ge=1)
    # Pairs of one image that come together: a batch then has fewer images, and where features are not kept, encodes
    # fewer.
    pairs_per_image: int = Field(default=1, ge=1)
    # Mirrored images are images of their own to the encoders, and count in the cache.
    is_flipping: bool = True
    # The most pseudo-masks of a pair, and at most `generator.num_queries`: each needs a query of its own. Further ones
    # are left out. If the referent is undecided it may be among them, so a warning counts such texts.
    max_candidates: int = Field(default=12, ge=1)
    # Of an image that is gone or is not the one that was annotated; skip: the next pair stands in for each of its own.
    on_bad_image: Literal["raise", "skip"] = "raise"
    # Where images lie now, by the SOURCE that their run names; of --val too.
    moved: dict[str, str] = Field(default_factory=dict)
    # Embedded images of a run lie in memory, those of SOURCE are read one by one: of more bytes a run is refused.
    max_memory_bytes: int = Field(default=DEFAULT_MAX_MEMORY_BYTES, ge=0)
    num_workers: int = Field(default=0, ge=0)
    # What the encoders made of images is kept in float16 up to so many bytes of each process, on the host; beyond it,
    # it is computed whenever it is needed. Processes share nothing: raise it with the host's memory divided by them.
    cache_bytes: int = Field(default=2 * 2**30, ge=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.pairs_per_batch % self.pairs_per_image:
            raise ValueError(
                f"pairs_per_batch {self.pairs_per_batch} is not a multiple of pairs_per_image {self.pairs_per_image}"
            )
        return self


class CurriculumTrainingConfig(TrainingConfig):
    """The settings of a training whose number of steps follows from its phases."""

    # None that anything could be too long for: what is told of a warm-up holds whatever the phases come to.
    num_steps: int = Field(default=2**53, ge=1)


class PptConfig(FrozenModel):
    """All settings of a training."""

    preset: str = "tiny"
    clip: ClipConfig
    sam: SamConfig
    generator: PointGeneratorConfig = PointGeneratorConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    data: PairsDataConfig = PairsDataConfig()
    curriculum: CurriculumConfig = CurriculumConfig()
    # `num_steps` follows from the curriculum.
    training: CurriculumTrainingConfig = CurriculumTrainingConfig(
        optimiser="adam", schedule="constant", num_warmup_steps=0, weight_decay=0
    )

    @model_validator(mode="after")
    def _splits_evenly(self) -> Self:
        units, devices = self.data.pairs_per_batch // self.data.pairs_per_image, self.training.num_devices
        if units % devices:
            raise ValueError(
                f"data.pairs_per_batch {self.data.pairs_per_batch} in groups of data.pairs_per_image "
                f"{self.data.pairs_per_image} cannot be split over training.num_devices {devices}. Make the number "
                "of groups a multiple of num_devices."
            )
        return self

    @model_validator(mode="after")
    def _lasts_as_its_curriculum(self) -> Self:
        if "num_steps" in self.training.model_fields_set:
            raise ValueError(
                f"training.num_steps={self.training.num_steps} would be ignored. PPT trains for the epochs of its "
                "phases. Set curriculum.epochs_factor to scale all of them."
            )
        return self

    def towers(self) -> TowersConfig:
        """Return the CLIP as towers; what it sees is kept elsewhere, beside SAM's."""
        return TowersConfig(
            architecture=self.clip.architecture,
            weights=self.clip.weights,
            layers=self.generator.image_blocks,
            cache_bytes=0,
        )

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON."""
        tree = self.model_dump(mode="json", exclude={"training"})
        # `on_bad_image` too: a training that a bad image stopped goes on without it.
        placement = {"num_workers", "cache_bytes", "max_memory_bytes", "moved", "on_bad_image"}
        tree["data"] = {name: value for name, value in tree["data"].items() if name not in placement}
        training = self.training.decisive()
        del training["num_steps"]
        return {**tree, "training": training}


def load_ppt_config(preset: str, path: Path | None = None, assignments: Sequence[str] = ()) -> PptConfig:
    """Return the resolved settings: `key=value` words over the YAML at `path` over the preset.

    Raises:
        ConfigError: An unknown preset, file, key or value; the message holds the nearest known name.
    """
    return load_preset(_PACKAGE, PptConfig, preset, path, assignments)
