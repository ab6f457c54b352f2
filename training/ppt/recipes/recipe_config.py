"""The settings of PPT's data recipes, with the reason for each default. For `cli`, `training`, experiments.

What decides a recipe's bytes is in its run's identity: another default makes another run.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Final, Literal, Self

from pydantic import Field, model_validator

from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.config import RunConfig
from pseudoris.schemas.config_layers import lay_over, load_config, validate_as
from pseudoris.schemas.frozen import FrozenModel, UnitInterval
from pseudoris.schemas.run_records import RunHeader

Share = Annotated[float, Field(gt=0, le=1)]
Layout = tuple[Annotated[int, Field(ge=1, le=3)], Annotated[int, Field(ge=1, le=3)]]


class GroundingConfig(FrozenModel):
    """From a text to a mask: CLIP's response, SAM's mask (section 3.2: "CLIP [32] followed by SAM")."""

    # The number of last blocks of the image tower with CLIP Surgery's second path (`learning.clip_features`).
    # Use 0 for a CLIP whose patches were trained to match texts.
    surgery_blocks: int = Field(default=0, ge=0)
    # CLIP Surgery's feature surgery: subtracts from a patch's response what says nothing about the text: the mean
    # response to all classes (objects) or nouns (pairs), each weighted by the image's likeness to it; without any, the
    # response to the empty prompt. A CLIP trained with one token per image needs it. If patches were trained to match
    # texts, it adds nothing (docs/records/appendix/ppt.md).
    is_feature_surgery: bool = False
    # peak: one point at the highest response, and a choice among SAM's three masks. points: positive points at the
    # highest and negative points at the lowest responses, and SAM's single mask. In records/appendix/ppt.md points are
    # worse on noisy maps, because one wrong negative point removes the object.
    prompts: Literal["peak", "points"] = "peak"
    # Which of the three masks: the one that agrees best with the response map, or the one with the highest predicted
    # IoU. Predicted IoU ignores the text and prefers parts with sharp edges.
    choice: Literal["agreement", "predicted_iou"] = "agreement"
    # With prompts=points, SAM gets this many positive points and this many negative points.
    num_points: int = Field(default=2, ge=1, le=32)
    # With prompts=points, positive points have at least share `high` of the response's range, negative at most `low`.
    high: UnitInterval = 0.8
    low: UnitInterval = 0.2
    # CLIP reads this text, in which {} is replaced by the phrase without its article.
    prompt: str = Field(default="a photo of a {}", pattern=r"\{\}")


class ComposeConfig(FrozenModel):
    """D_ref out of D_sem (section 3.2, augmented data)."""

    # This many composed images are made for each image of D_sem.
    images_per_source: float = Field(default=1.0, gt=0, le=100)
    # This share of the composed images are mosaics; the others are fusions.
    mosaic_share: UnitInterval = 0.5
    # A mosaic has one of these (rows, columns), drawn for each image.
    layouts: tuple[Layout, ...] = Field(default=((1, 2), (2, 1), (1, 3), (2, 2)), min_length=1)
    # A tile of a mosaic repeats a class with this probability, so that only the position distinguishes its objects.
    same_class_share: UnitInterval = 0.5
    # A composed image has sides of this many pixels, like the images at the end of the training.
    side_px: int = Field(default=192, ge=32, le=4096)
    # In a fusion, the longer side of the embedded image is a share of the other image's, drawn between these two.
    embedded_side: tuple[Share, Share] = (0.2, 0.4)
    # object: only the pixels of the pseudo-mask are pasted, so that one scene has two objects; image: the whole image
    # is pasted, as in the paper.
    embedded: Literal["object", "image"] = "object"
    # At least this share of an object stays visible when another one is embedded in its image.
    min_visible: Share = 0.6
    # One image gets this many texts, each about another target.
    texts_per_image: int = Field(default=2, ge=1, le=9)
    image_format: Literal["png", "jpeg"] = "png"
    seed: int = Field(default=0, ge=0, lt=2**63)

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.embedded_side[0] > self.embedded_side[1]:
            raise ValueError(f"embedded_side {self.embedded_side}: the smaller number must come first")
        if (1, 1) in self.layouts:
            raise ValueError("layouts: a mosaic of 1 x 1 has no positions. Give at least two tiles.")
        return self


class PairsConfig(FrozenModel):
    """H_sem and H_ref out of image-text pairs (section 3.3, pseudo label generation)."""

    # Masks of two phrases with at least this IoU become one pseudo-mask. The paper has no rule for this.
    merge_iou: Share = 0.7
    # The most pseudo-masks of one phrase, at positions with about equal response. The paper has 1, so its pseudo-masks
    # belong to different phrases. "The star on the left" has one phrase; if the image has two stars, CLIP's choice
    # between them is not a label.
    peaks_per_phrase: int = Field(default=1, ge=1, le=16)
    # Peaks after the highest one give a pseudo-mask if they have at least this share of the response's range.
    min_peak: Share = 0.85
    # At most this many texts of an image are taken, the first ones; None takes all.
    max_texts_per_image: int | None = Field(default=None, ge=1)
    # This many of the run's most frequent nouns count as redundant texts, if grounding.is_feature_surgery is true.
    num_redundant: int = Field(default=64, ge=0, le=1000)


class RecipeConfig(FrozenModel):
    """The settings of a recipe's run, and its own.

    A recipe reads its SAM from `run.masks.architecture` and `.weights`, its CLIP from `run.filtering.architecture` and
    `.weights`, and nothing else of these sections.
    """

    run: RunConfig
    # The commands `objects` and `pairs` read these settings.
    grounding: GroundingConfig = GroundingConfig()
    compose: ComposeConfig = ComposeConfig()
    pairs: PairsConfig = PairsConfig()

    def reading_as(self, header: RunHeader | None) -> Self:
        """Return the settings that read pixels as the run of `header` does; None changes nothing.

        ConfigError if it combines runs that read them differently: the run of a recipe has one way.
        """
        if header is None:
            return self
        first, *others = header.runs
        for other in others:
            if other.config.images.to_show() != first.config.images.to_show():
                raise ConfigError(
                    f"the combined runs {first.name} and {other.name} differ in images.bits or images.window, and the "
                    "run of a recipe reads all pictures alike: give one of them alone"
                )
        # Without hashes too, if that run has none: a recipe that 0.6.0 began goes on.
        as_there = {name: getattr(header.config.images, name) for name in ("bits", "window", "phash")}
        images = self.run.images.model_copy(update=as_there)
        return self.model_copy(update={"run": self.run.model_copy(update={"images": images})})


# Maps a preset to the run's preset, assignments that change it, and assignments of the recipe's own settings.
_PRESETS: Final[dict[str, tuple[str, tuple[str, ...], tuple[str, ...]]]] = {
    "tiny": (
        "tiny",
        (
            "filtering.architecture=builtin:tiny/scene_clip.json",
            "filtering.weights.uri=builtin:tiny/scene_clip.safetensors",
        ),
        # The value is 3, because synthetic scenes have several objects of a category, told apart only by position.
        ("pairs.peaks_per_phrase=3",),
    ),
    # The paper has SAM ViT-B, and CLIP ViT-B/16 with CLIP Surgery in its last six blocks.
    "paper": (
        "base",
        ("filtering.architecture=ViT-B-16-quickgelu", "filtering.weights.uri=open_clip:ViT-B-16-quickgelu/openai"),
        (
            "grounding.surgery_blocks=6",
            "grounding.is_feature_surgery=true",
            # A single text is compared with the empty prompt, because an expression has no list of classes.
            "pairs.num_redundant=0",
            # The paper pastes a whole image (section 3.2): "we embed one image within another".
            "compose.embedded=image",
            "compose.side_px=640",
            "compose.image_format=jpeg",
        ),
    ),
}
# A shard has this many images. A crash loses the shards in progress, and an image takes the models a second.
_SHARD_IMAGES: Final = 64


def load_recipe_config(preset: str, path: Path | None = None, assignments: Sequence[str] = ()) -> RecipeConfig:
    """Return the settings: `key=value` words over the YAML of a run at `path` over the preset."""
    if preset not in _PRESETS:
        raise ConfigError(f"PPT's recipes have no preset {preset!r}. The presets are {', '.join(_PRESETS)}.")
    name, of_run, of_recipes = _PRESETS[preset]
    sections = set(RecipeConfig.model_fields) - {"run"}
    own = [word for word in assignments if word.partition("=")[0].partition(".")[0].strip() in sections]
    others = [word for word in assignments if word not in own]
    words = [f"shards.max_images={_SHARD_IMAGES}", f"shards.max_bytes={2**28}", *of_run, *others]
    run = load_config(name, path, words).without_card().model_copy(update={"preset": "ppt"})
    return validate_as(RecipeConfig, {"run": run, **lay_over({}, assignments=[*of_recipes, *own])})
