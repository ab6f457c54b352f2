"""The settings of `train student`: masks, towers, layers, data. Used by this folder, `cli`, examples, experiments.

`decisive` has every setting that changes the weights: a resume with another value is refused.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

from pydantic import Field, model_validator

from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import load_config
from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval
from pseudoris.training.learning.trainer import TowersConfig, TrainingConfig, load_preset
from pseudoris.training.learning.training_data import DataConfig

logger = logging.getLogger(__name__)


class CandidatesConfig(FrozenModel):
    """Which masks there are to choose among, and which CLIP sees their crops: as a run of these settings has them."""

    # Masks and CLIP are those of a run with this preset and these assignments, which have the form of `--set`.
    preset: str = "tiny"
    assignments: tuple[str, ...] = ()
    # This folder keeps masks and features of images between trainings; None keeps them only in memory.
    cache: Path | None = None
    # Each process also keeps this many bytes of images in memory. 60 masks take 0.5 MB with a ViT-B.
    memory_bytes: int = Field(default=2 * 2**30, ge=0)

    def run_config(self) -> RunConfig:
        """Return the run's configuration, of which `masks`, `filtering` and `compute` count."""
        return load_config(self.preset, None, self.assignments).without_card()


class ModelConfig(FrozenModel):
    """The layers that are trained."""

    # Masks and words are vectors of this width.
    width: int = Field(default=128, ge=8)
    num_heads: int = Field(default=4, ge=1)
    # The model has this many layers. In each layer masks attend to the words, then to all other masks.
    num_layers: int = Field(default=3, ge=1)
    # The hidden layer of a perceptron is this many times as wide as its input.
    mlp_ratio: int = Field(default=2, ge=1)
    # Each token has a fixed random code of this many bits, in place of a learnt embedding.
    word_code_width: int = Field(default=128, ge=0)
    # If true, each mask reads where the other masks are, relative to it.
    has_relative_geometry: bool = True
    # If true, CLIP's cosines with the head noun are read, besides those with the whole sentence.
    has_head_noun: bool = True
    dropout: UnitInterval = 0.0

    @model_validator(mode="after")
    def _has_whole_heads(self) -> Self:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} is not a multiple of num_heads {self.num_heads}")
        return self


class TargetConfig(FrozenModel):
    """What an answer is compared with: a softmax of the candidates' IoU with the mask that was meant."""

    temperature: float = Field(default=0.1, gt=0)
    # A question is skipped if its best candidate has a lower IoU than this, because it teaches nothing.
    min_iou: NonNegative = 0.3


class ChooserConfig(FrozenModel):
    """All settings of a training of the chooser."""

    preset: str = "tiny"
    candidates: CandidatesConfig = CandidatesConfig()
    towers: TowersConfig
    model: ModelConfig = ModelConfig()
    target: TargetConfig = TargetConfig()
    data: DataConfig = DataConfig()
    # These words change places when an image is mirrored, such as "left" and "right". With None no image is mirrored.
    mirrored_words: dict[str, str] | None = None
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _redraws_no_outlines(cls, tree: Any) -> Any:
        # Version 0.6 had `refinement`, which redrew outlines. Where it is off, it is left out.
        if not isinstance(tree, dict) or "refinement" not in tree:
            return tree
        section = tree["refinement"]
        if section.get("is_on") if isinstance(section, dict) else section:
            raise ValueError("refinement redraws outlines, which left in version 0.7. Delete it, or use version 0.6")
        logger.warning("refinement: left out. This setting of version 0.6 no longer exists: delete it")
        return {key: value for key, value in tree.items() if key != "refinement"}

    @property
    def answers_none(self) -> bool:
        """Whether "none of these" is an answer beside the masks: where expressions of none are learnt from."""
        return self.data.none > 0

    def with_cache(self, cache: Path | None) -> ChooserConfig:
        """Return the settings with another `candidates.cache`."""
        return self.model_copy(update={"candidates": self.candidates.model_copy(update={"cache": cache})})

    def decisive(self) -> dict[str, Any]:
        """Return what decides the weights, as JSON."""
        tree = self.model_dump(mode="json", exclude={"training": True, "candidates": {"cache", "memory_bytes"}})
        return {**tree, "data": self.data.decisive(), "training": self.training.decisive()}


def load_chooser_config(preset: str, path: Path | None = None, assignments: Sequence[str] = ()) -> ChooserConfig:
    """Return the resolved settings, as `load_preset`."""
    return load_preset("pseudoris.training.chooser", ChooserConfig, preset, path, assignments)
