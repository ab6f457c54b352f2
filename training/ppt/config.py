"""What the paper leaves open, and what it gives, as one frozen tree; each default with its reason."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from schemas.frozen import FrozenModel, NonNegative, UnitInterval


class PointGeneratorConfig(FrozenModel):
    """The trainable part (paper section 3.1.1). The defaults are the paper's size: 20.7 M parameters."""

    # K. Several times the candidates of an expression (its noun phrases, two to four), so that contexts and referent
    # have queries of their own; each query costs a pass of SAM's mask decoder.
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
                f"width {self.width} is no multiple of 4 times num_heads {self.num_heads}: heads share the width, and "
                "a position has a sine and a cosine on each axis"
            )
        if not self.image_blocks or list(self.image_blocks) != sorted(set(self.image_blocks)):
            raise ValueError(f"image_blocks {self.image_blocks} must be one or more blocks in rising order")
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
