"""Settings of a PPT training (curriculum point prompting). Used by `training/ppt`, `cli`, examples and experiments.

Presets are in `presets/`; `paper` has the paper's equations and sizes. `decisive` has every setting that changes the
weights: a resume with another value is refused.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from pseudoris.interchange.dataset.map_dataset import DEFAULT_MAX_MEMORY_BYTES
from pseudoris.schemas.config import WeightsConfig
from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval
from pseudoris.training.learning.trainer import TrainingConfig, load_preset

Source = Literal["d_sem", "d_ref", "h_sem", "h_ref"]
SOURCES: Final[tuple[Source, ...]] = ("d_sem", "d_ref", "h_sem", "h_ref")


class PointGeneratorConfig(FrozenModel):
    """The trainable part (paper section 3.1.1). K, M, N and the width of the defaults are those of `paper`."""

    # K. Several times the pseudo-masks of an expression (one per noun phrase, two to four), so that contexts and
    # referent have queries of their own. Each query costs a pass of SAM's mask decoder.
    num_queries: int = Field(default=12, ge=1, le=256)
    # A query has M points, enough for both sides of an outline. SAM's training has at most nine. M was not searched.
    num_points: int = Field(default=8, ge=1, le=64)
    # Blocks of the image tower, from 0, whose output is a stage; their number is N. Early blocks encode shapes, late
    # ones meaning. Blocks of the first half hold little that words could attend to. Three is a compromise on cost: each
    # stage is a bridge and two readings by the queries, about a third of the parameters.
    image_blocks: tuple[Annotated[int, Field(ge=0)], ...] = (5, 8, 11)
    # A query has this many channels. With N and feed_forward_ratio, 384 gives about the paper's number of parameters.
    width: int = Field(default=384, ge=8)
    # Each head has 48 channels, a usual number. More heads cost no time. Other numbers of heads were not tried.
    num_heads: int = Field(default=8, ge=1)
    # A feed-forward layer is this many times as wide as a query, which gives about the paper's number of parameters.
    feed_forward_ratio: float = Field(default=2.5, gt=0)
    # regression: points and labels are regressed from the query, as equation 2 has it. patch_attention: they spread
    # around the peak of an attention to the patches, and the settings below say how.
    point_head: Literal["regression", "patch_attention"] = "patch_attention"
    # If true, patches receive CLIP's response to the expression beside their features. The paper does not do this.
    is_response_read: bool = True
    # Drop-out is off, because pairs differ in each epoch, and `tiny` sees each only a few times. It was not searched.
    dropout: float = Field(default=0.0, ge=0, lt=1)
    # How strongly queries attend to the patches that match the expression in CLIP: softmax score for each standard
    # deviation of CLIP's response. The query's own scores are added to it, and each query learns a temperature of the
    # sum. ScoreHead starts with the same weight for the response. Use 0 if patches were not trained to match texts: in
    # a CLIP trained with one token per image, the background matches as well as the objects.
    response_gain: float = Field(default=0.0, allow_inf_nan=False)
    # How strongly each query is held to its own peak of CLIP's response, as a softmax score. Above the range of the
    # response, the query stays there, and training decides which peak is the referent. 0 lets all queries attend to all
    # patches, as in the paper; use 0 if `response_gain` is 0.
    anchor_gain: float = Field(default=0.0, ge=0, allow_inf_nan=False)
    # A query's position is the mean over the patches at most this far from its peak. About half an object's size gives
    # the object's middle. A mean over several objects would be between them.
    peak_radius: int = Field(default=2, ge=0)
    # Bits of a fixed random code for each token, added to the tower's features; 0 for none. A CLIP trained on captions
    # of crops has not learnt "left", and gives all such words similar features.
    word_code_width: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.width % (4 * self.num_heads):
            raise ValueError(
                f"width {self.width} is not a multiple of 4 times num_heads {self.num_heads}. Heads share the width, "
                "and a position has a sine and a cosine per axis."
            )
        if not self.image_blocks or list(self.image_blocks) != sorted(set(self.image_blocks)):
            raise ValueError(f"image_blocks {self.image_blocks} must be one or more blocks in ascending order")
        if self.point_head == "regression" and (self.response_gain or self.anchor_gain):
            raise ValueError(
                f"point_head regression has no attention to patches, but response_gain is {self.response_gain} and "
                f"anchor_gain {self.anchor_gain}. Set both to 0, or point_head to patch_attention."
            )
        return self


class ObjectiveConfig(FrozenModel):
    """Weights of equation 4's terms. The loss and the matching cost share them, except that of confidence.

    In the loss each term is a mean over matched pairs, to which unmatched queries add their confidence, to be 0.
    """

    # The terms have these weights. The paper adds them without weights. The preset `tiny` has others, and says why.
    dice: NonNegative = 1.0
    mask_cross_entropy: NonNegative = 1.0
    point_l1: NonNegative = 1.0
    point_label: NonNegative = 1.0
    confidence: NonNegative = 1.0
    # Share of the confidence weight in the matching cost. At 1, as in the paper, a confident query may be matched to
    # the referent although another query has the right mask, and it learns to stay confident. At lower values masks
    # decide.
    confidence_in_matching: UnitInterval = 1.0
    # Weight of the distance between a matched query's attention and its pseudo-mask, which the paper does not have (0).
    # The L1 of points gives a direction, not a patch. This term shows the patch within a few hundred steps.
    look: NonNegative = 0.0
    # Predicted and drawn points are paired at least cost (assignment), or in the order of drawing (order).
    point_correspondence: Literal["assignment", "order"] = "assignment"


class ClipConfig(FrozenModel):
    """The frozen CLIP; any of open_clip's with a ViT. Its stages are `generator.image_blocks`."""

    architecture: str
    weights: WeightsConfig
    # Template of the text that CLIP reads, as `grounding.prompt` of the recipes: queries then begin where the
    # pseudo-masks were made. Measured with the scene CLIP on held-out scenes: without it the peak is on 57 % of the
    # targets; with it masks at the peak have an IoU above 0.3 with 65 %. `{}` is the expression as it stands.
    prompt: str = Field(default="a photo of a {}", pattern=r"\{\}")


class SamConfig(FrozenModel):
    """The frozen SAM, as `masks.architecture` and `masks.weights` of a run."""

    architecture: str
    weights: WeightsConfig


class PairsDataConfig(FrozenModel):
    """How pairs are drawn."""

    # A batch has this many pairs of image and expression, over all ranks together.
    pairs_per_batch: int = Field(default=64, ge=1)
    # Each image of a batch has this many pairs. More pairs mean fewer images to encode, unless features are cached.
    pairs_per_image: int = Field(default=1, ge=1)
    # If true, mirrored images are trained on too. Encoders and cache treat a mirrored image as another image.
    is_flipping: bool = True
    # The most pseudo-masks of a pair, and at most `generator.num_queries`: each needs a query of its own. Further ones
    # are left out. If the referent is undecided it may be among them, so a warning counts such texts.
    max_candidates: int = Field(default=12, ge=1)
    # A missing or changed image ends the training (raise), or the next pair replaces each of the image's pairs (skip).
    on_bad_image: Literal["raise", "skip"] = "raise"
    # Maps the SOURCE that a run's header names to where its images are now. `--val` uses it too.
    moved: dict[str, str] = Field(default_factory=dict)
    # A run with more bytes of embedded images is refused: memory holds them all. Images of SOURCE are read one by one.
    max_memory_bytes: int = Field(default=DEFAULT_MAX_MEMORY_BYTES, ge=0)
    num_workers: int = Field(default=0, ge=0)
    # Each process caches features of images in float16 in host memory, up to this size. The rest is computed when it is
    # needed. Processes share nothing: divide the host's memory by their number.
    cache_bytes: int = Field(default=2 * 2**30, ge=0)

    @model_validator(mode="after")
    def _divides(self) -> Self:
        if self.pairs_per_batch % self.pairs_per_image:
            raise ValueError(
                f"pairs_per_batch {self.pairs_per_batch} is not a multiple of pairs_per_image {self.pairs_per_image}"
            )
        return self


class PhaseConfig(FrozenModel):
    """One phase, or one step of a phase."""

    name: str = Field(pattern=r"^[a-z][a-z0-9_-]*$")
    # A phase joins these data sets (equations 5 to 7), each pair once per epoch. Sets that are not given are left out.
    sources: tuple[Source, ...] = Field(min_length=1)
    epochs: float = Field(gt=0, le=100_000)
    # If true, the model picks a mask for each ambiguous text (the paper's Select on H_ref) before each round.
    is_selecting: bool = False
    # The epochs are split into this many rounds (equation 7). With more rounds the referents follow the model sooner,
    # but each round runs the model on all of H_ref.
    num_rounds: int = Field(default=1, ge=1, le=1000)

    @model_validator(mode="after")
    def _selects_what_it_reads(self) -> Self:
        if len(set(self.sources)) < len(self.sources):
            raise ValueError(f"Phase {self.name} names a source twice: {list(self.sources)}")
        if self.is_selecting and "h_ref" not in self.sources:
            raise ValueError(
                f"Phase {self.name} selects referents of h_ref but does not train on it. Add h_ref to its sources."
            )
        if self.num_rounds > 1 and not self.is_selecting:
            raise ValueError(
                f"Phase {self.name} has {self.num_rounds} rounds but selects nothing between them. Use 1 round."
            )
        return self


class CurriculumConfig(FrozenModel):
    """The phases, in order."""

    # The paper gives three stages of 10 + 30 + 10 epochs and the mixes. Ours are how the 30 of its RIS learning stage
    # are split over its two steps, and the number of rounds. The 30 are halved: Select is only as good as the model it
    # runs, so its choices are trained on no longer than the model took to learn to choose. The last 10 are five rounds:
    # of two epochs each, an epoch to follow the new referents and one to settle. The phases end with the paper's
    # θ_sem, θ_refD, θ_ref and θ^(i).
    phases: tuple[PhaseConfig, ...] = (
        PhaseConfig(name="semantic", sources=("h_sem", "d_sem"), epochs=10),
        PhaseConfig(name="ris_augmented", sources=("h_sem", "d_sem", "d_ref"), epochs=15),
        PhaseConfig(name="ris_joint", sources=SOURCES, epochs=15, is_selecting=True),
        PhaseConfig(name="refinement", sources=("h_sem", "h_ref"), epochs=10, is_selecting=True, num_rounds=5),
    )
    # The epochs of all phases are multiplied by this.
    epochs_factor: float = Field(default=1.0, gt=0, le=1000)
    # Ours: the paper's Select has no threshold and no undecided pair. Below this IoU with the prediction no pseudo-mask
    # is the referent. 0.5 is also what counts as found in the evaluation. At 0 every pair has a referent, right or not.
    min_iou: UnitInterval = 0.5

    @model_validator(mode="after")
    def _begins_without_a_model(self) -> Self:
        if not self.phases:
            raise ValueError("phases is empty. Name at least one.")
        twice = [name for name, count in Counter(phase.name for phase in self.phases).items() if count > 1]
        if twice:
            raise ValueError(f"Two phases have the name {twice[0]}. Names must differ.")
        if self.phases[0].is_selecting:
            raise ValueError(f"Phase {self.phases[0].name} is the first, so no model is trained yet that could select.")
        return self


class CurriculumTrainingConfig(TrainingConfig):
    """The settings of a training whose number of steps follows from its phases."""

    # This is more than any curriculum's steps, so that the check of the warm-up always passes.
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
    # `num_steps` follows from the curriculum, so it is not set here.
    training: CurriculumTrainingConfig = CurriculumTrainingConfig(
        optimiser="adam", schedule="constant", num_warmup_steps=0, weight_decay=0
    )

    @model_validator(mode="after")
    def _agrees(self) -> Self:
        units, devices = self.data.pairs_per_batch // self.data.pairs_per_image, self.training.num_devices
        if units % devices:
            raise ValueError(
                f"data.pairs_per_batch {self.data.pairs_per_batch} in groups of data.pairs_per_image "
                f"{self.data.pairs_per_image} cannot be split over training.num_devices {devices}. Make the number "
                "of groups a multiple of num_devices."
            )
        if self.objective.look and self.generator.point_head == "regression":
            raise ValueError(
                f"objective.look {self.objective.look} compares the attention to patches with pseudo-masks, but "
                "generator.point_head regression has none. Set objective.look to 0, or generator.point_head to "
                "patch_attention."
            )
        if "num_steps" in self.training.model_fields_set:
            raise ValueError(
                f"training.num_steps={self.training.num_steps} would be ignored. PPT trains for the epochs of its "
                "phases. Set curriculum.epochs_factor to scale all of them."
            )
        return self

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON."""
        # These settings may change on a resume: with another `on_bad_image`, a training can go on after a bad image.
        placement = {"num_workers", "cache_bytes", "max_memory_bytes", "moved", "on_bad_image"}
        tree = self.model_dump(mode="json", exclude={"training": True, "data": placement})
        training = self.training.decisive()
        del training["num_steps"]
        return {**tree, "training": training}


def load_ppt_config(preset: str, path: Path | None = None, assignments: Sequence[str] = ()) -> PptConfig:
    """Return the resolved settings: `key=value` words over the YAML at `path` over the preset."""
    return load_preset("pseudoris.training.ppt", PptConfig, preset, path, assignments)
