"""Settings of the composer: expressions with places, relations, numbers, made of what the captioner said of the masks.

The section is absent where nothing is composed; a run without it has the identity that it had before it existed.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from schemas.frozen import FrozenModel, NonNegative, UnitInterval, without_none

ComposedKind = Literal["attribute", "position", "relation", "group", "none"]
# What a candidate counts as evidence: how often it was drawn, or how probable the captioner finds it for its mask.
Counted = Literal["draws", "probability"]

_Weight = Annotated[float, Field(allow_inf_nan=False)]
_BOUNDS_ON_SHARES: Final = ("min_noun", "min_anchor_noun", "max_noun", "min_word", "max_word")


class PosteriorConfig(FrozenModel):
    """How likely it is that an expression is right, from what was drawn for all masks of its image.

    `workers.composing.posterior` says what each weight is multiplied with. They belong to the models and to how
    captions are drawn; the defaults were fitted on 200 development scenes of the synthetic world, for `counts: draws`
    (`python -m benchmarks.composing.fitting`).
    """

    # `probability` reads `caption_score`: it needs `captions.listening`.
    counts: Counted = "draws"
    # P(noun): a softmax over the nouns drawn for a mask, of the log of the share that names one, and its correctness.
    noun_share: NonNegative = 0.76
    noun_correctness: NonNegative = 19.99
    # P(word), log-odds: the log of its share over that of the words that replace it, and the log of both together.
    word_bias: _Weight = 0.97
    word_against: NonNegative = 0.65
    word_share: NonNegative = 0.81
    # P(object), that a mask is one, log-odds: SAM's two scores as log-odds, and the share of it inside another mask.
    object_bias: _Weight = -0.2
    object_predicted_iou: _Weight = 2.77
    object_stability: _Weight = 0.59
    object_overlap: _Weight = -8.58
    # P of what nobody drew for a mask: a noun; a word that another one replaces; one of whose kind nothing was said.
    unsaid_noun: UnitInterval = 0.006
    unsaid_word: UnitInterval = 0.01
    silent_word: UnitInterval = 0.1
    # An object that has no mask, or another name than its own, is what a bare noun means too; of each further word of
    # the phrase so much of that is left.
    unseen: UnitInterval = 0.07
    unseen_word: UnitInterval = 0.3
    # The surest expression of a mask lies above the first; every further one, of a group and of nothing above the
    # second. The first is lowered for objects spoken of, the second for expressions of those that are sure.
    min_first: UnitInterval = 0.63
    min_further: UnitInterval = 0.9
    # Of one mask, of one form (words alone, an end of a row, a side, a rank, a relation).
    max_per_form: int = Field(default=2, ge=1)

    @property
    def needs_listener(self) -> bool:
        """Whether it reads what only a listener knows."""
        return self.counts == "probability"

    @model_validator(mode="after")
    def _needs_more_for_more(self) -> PosteriorConfig:
        if self.min_further < self.min_first:
            raise ValueError(
                f"min_further {self.min_further} is below min_first {self.min_first}: a further one would be the first"
            )
        return self


class ComposingConfig(FrozenModel):
    """What is composed, and how sure the composer must be. It runs after the filter stage and loads no model.

    The defaults were chosen on development scenes (docs/composing.md). They bound shares of a mask's draws, and so
    depend on how many and how free these are, not on the scale of a model's scores.
    """

    # `group` and `none` refer to several masks and to none: not every trainer reads these. `attribute` is said by words
    # alone, where `posterior` finds that they suffice.
    kinds: tuple[ComposedKind, ...] = Field(default=("position", "relation"), min_length=1)
    # Word lists and templates: `workers.composing.english`.
    language: Literal["english"] = "english"
    # Of one mask, positions and relations together; of one image, groups and no-target expressions each.
    max_per_mask: int = Field(default=2, ge=1)
    max_per_image: int = Field(default=2, ge=1)
    # Qualities in a phrase beside its noun: each may be untrue, and each parts the target from more masks.
    max_words: int = Field(default=2, ge=0)
    # A mask is what at least this share of its draws name. Lowered, more masks are spoken of, and more of it is wrong.
    min_noun: UnitInterval = 0.8
    # Other masks are told by an anchor that at least this share of its own draws name: its errors add to the target's.
    min_anchor_noun: UnitInterval = 0.98
    # It surely is not what at most this share names. Lowered, fewer rivals are overlooked, and fewer rows are clear.
    max_noun: UnitInterval = 0.02
    # The same of what its draws state beside the noun; what is true is often left out, so the bounds are lower.
    min_word: UnitInterval = 0.35
    max_word: UnitInterval = 0.03
    # Centres are apart by this share of the picture's side, or nobody can say which one is further left.
    min_gap: UnitInterval = 0.08
    # A step to a side leads at most so far across, in steps: 1 would be half a right angle.
    max_slant: NonNegative = 0.8
    # None: shares decide, by the bounds above. Set, one probability does: more is spoken of and less of it is wrong,
    # by weights that belong to the models. Of the bounds on shares none is read then.
    posterior: PosteriorConfig | None = None

    @field_validator("kinds")
    @classmethod
    def _in_one_order(cls, kinds: tuple[ComposedKind, ...]) -> tuple[ComposedKind, ...]:
        # A set: the same one written in another order is the same method.
        return tuple(sorted(set(kinds)))

    @model_validator(mode="after")
    def _decides(self) -> ComposingConfig:
        for name in ("noun", "word"):
            least, most = getattr(self, f"min_{name}"), getattr(self, f"max_{name}")
            if most >= least:
                raise ValueError(f"max_{name} {most} is not below min_{name} {least}: a share would say yes and no")
        # By their values: a header holds all settings.
        idle = [name for name in _BOUNDS_ON_SHARES if getattr(self, name) != type(self).model_fields[name].default]
        if self.posterior is not None and idle:
            raise ValueError(
                f"composing.{idle[0]} bounds a share, and composing.posterior decides by probability: leave one out"
            )
        if self.posterior is None and "attribute" in self.kinds:
            raise ValueError(
                "composing.kinds has attribute, which composing.posterior alone composes: set it, or drop one"
            )
        return self

    @model_serializer(mode="wrap")
    def _without_posterior(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        # Runs from before there was one have the identity of those that use none.
        return without_none(handler(self), "posterior")
