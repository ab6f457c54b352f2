"""Everything that a training of PPT is told; presets in `presets/`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from schemas.config import SamArchitecture, WeightsConfig
from schemas.frozen import FrozenModel
from training.dataset.mapped import DEFAULT_MAX_MEMORY_BYTES
from training.learning.config import TowersConfig, TrainingConfig
from training.learning.presets import load_preset, preset_names
from training.ppt.config import ObjectiveConfig, PointGeneratorConfig
from training.ppt.curriculum import CurriculumConfig

_PACKAGE = "training.ppt"


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
    # Contexts of a pair beyond it are left out, and beyond `generator.num_queries`: each label has a query of its own.
    # Of what has no referent yet candidates are left out likewise, with a warning: the referent may be among them.
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
                f"pairs_per_batch {self.pairs_per_batch} is no multiple of pairs_per_image {self.pairs_per_image}"
            )
        return self


class CurriculumTrainingConfig(TrainingConfig):
    """The settings of a training whose number of steps follows from its phases."""

    # None that anything could be too long for: what is told of a warm-up holds whatever the phases come to.
    num_steps: int = Field(default=2**53, ge=1)


class PptConfig(FrozenModel):
    """Everything that a training is told."""

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
                f"{self.data.pairs_per_image} cannot be split over training.num_devices {devices}: make it a multiple"
            )
        return self

    @model_validator(mode="after")
    def _lasts_as_its_curriculum(self) -> Self:
        if "num_steps" in self.training.model_fields_set:
            raise ValueError(
                f"training.num_steps={self.training.num_steps} would be ignored: how long PPT trains follows from the "
                "epochs of its phases; set curriculum.epochs_factor, which shortens or lengthens all of them"
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


def ppt_presets() -> list[str]:
    """Return the names of the presets, sorted."""
    return preset_names(_PACKAGE)


def load_ppt_config(preset: str, path: Path | None = None, assignments: Sequence[str] = ()) -> PptConfig:
    """Return the resolved settings: `key=value` words over the YAML at `path` over the preset.

    Raises:
        ConfigError: An unknown preset, file, key or value; the message holds the nearest known name.
    """
    return load_preset(_PACKAGE, PptConfig, preset, path, assignments)
