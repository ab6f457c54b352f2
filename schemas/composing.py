"""Settings of the composer: expressions with places, relations, numbers, made of what the captioner said of the masks.

The section is absent where nothing is composed; a run without it has the identity that it had before it existed.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from schemas.frozen import FrozenModel, NonNegative, UnitInterval

ComposedKind = Literal["position", "relation", "group", "none"]


class ComposingConfig(FrozenModel):
    """What is composed, and how sure the composer must be. It runs after the filter stage and loads no model.

    The defaults were chosen on development scenes (docs/composing.md). They bound shares of a mask's draws, and so
    depend on how many and how free these are, not on the scale of a model's scores.
    """

    # `group` and `none` refer to several masks and to none: not every trainer reads these.
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
        return self
