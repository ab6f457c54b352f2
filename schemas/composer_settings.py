"""Settings of the composer, which turns the masks' captions into expressions with positions, relations and numbers.

If nothing is composed, the section is None.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from pseudoris.schemas.frozen import FrozenModel, NonNegative, UnitInterval

ComposedKind = Literal["attribute", "position", "relation", "group", "none"]
# How much a candidate counts as evidence: by how often it was drawn, or by its probability under the captioner.
Counted = Literal["draws", "probability"]

_Weight = Annotated[float, Field(allow_inf_nan=False)]


class PosteriorConfig(FrozenModel):
    """How likely an expression is right, given the captions of all masks of its image.

    `pseudoris.workers.composing.posterior` defines what each weight multiplies. The weights depend on the models and on
    how captions are drawn. The defaults were fitted on 200 development scenes of the synthetic world, for `counts:
    draws` (`python -m experiments.composing.posterior_fit`).
    """

    # `probability` reads `caption_score`: it needs `captions.listening`.
    counts: Counted = "draws"
    # P(noun), a softmax over the nouns drawn for a mask. Weights of the log of the noun's share, and of its
    # correctness.
    noun_share: NonNegative = 0.76
    noun_correctness: NonNegative = 19.99
    # Log-odds of P(word). Weights of log(the word's share / the share of the words that replace it), and of the log of
    # both together.
    word_bias: _Weight = 0.97
    word_against: NonNegative = 0.65
    word_share: NonNegative = 0.81
    # Log-odds of P(object): the mask is one object. Weights of SAM's two scores as log-odds, and of the mask's share
    # inside another mask.
    object_bias: _Weight = -0.2
    object_predicted_iou: _Weight = 2.77
    object_stability: _Weight = 0.59
    object_overlap: _Weight = -8.58
    # A bare noun may also mean an object without a mask or with a wrong noun: `unseen` weighs that risk.
    unseen: UnitInterval = 0.07
    # Least probability of a mask's likeliest expression, and of every further one (also of groups and no-target
    # expressions). Lower `min_first` to describe more objects, `min_further` for more expressions of each.
    min_first: UnitInterval = 0.63
    min_further: UnitInterval = 0.9
    # Expressions of one mask in one form: words alone, an end of a row, a side, a rank, a relation.
    max_per_form: int = Field(default=2, ge=1)

    @property
    def needs_listener(self) -> bool:
        """Whether it reads scores of the listener."""
        return self.counts == "probability"

    @model_validator(mode="after")
    def _needs_more_for_more(self) -> PosteriorConfig:
        if self.min_further < self.min_first:
            raise ValueError(
                f"min_further {self.min_further} is below min_first {self.min_first}: set it to at least min_first"
            )
        return self


class ComposingConfig(FrozenModel):
    """What is composed, and how sure the composer must be. The composer runs after the filter stage and loads no model.

    The defaults were chosen on development scenes (docs/composing.md).
    """

    # `group` refers to several masks, `none` to no mask: some trainers cannot read these. `attribute` is a phrase
    # without a position, where it suffices.
    kinds: tuple[ComposedKind, ...] = Field(default=("position", "relation"), min_length=1)
    # Expressions of one mask, positions and relations together; of one image, groups and no-target expressions each.
    max_per_mask: int = Field(default=2, ge=1)
    max_per_image: int = Field(default=2, ge=1)
    # Words in a phrase beside its noun. Each one excludes more other masks, and each one may be wrong.
    max_words: int = Field(default=2, ge=0)
    # How sure each expression must be; its weights depend on the models.
    posterior: PosteriorConfig = PosteriorConfig()

    @field_validator("kinds")
    @classmethod
    def _in_one_order(cls, kinds: tuple[ComposedKind, ...]) -> tuple[ComposedKind, ...]:
        # A set: the order in which it is written does not change the method.
        return tuple(sorted(set(kinds)))
