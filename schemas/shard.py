"""A shard in memory: the input and output of the stages.

A stage is a callable `Shard -> Shard`. It returns a new shard and never changes its input, so that a call can be
repeated after a crash. Stages, imports and `training/ppt` make these records; `shard_blocks` carries them through Ray
and `store/tables` writes them, so a new field needs a type or a column there. Used by most rooms.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Annotated, Final, Literal, NamedTuple, TypeAlias

from pydantic import Field, with_config

from pseudoris.primitives.run_lengths import Box as Box

# Plug-in engines make the records below, so `workers.faults.image_boundary` checks their types.
_checked = with_config(revalidate_instances="always", allow_inf_nan=False)
Share = Annotated[float, Field(ge=0, le=1)]

CROP_MASKED: Final = "masked"
CROP_MARKED: Final = "marked"
# Captions of the whole image have such crops: `whole_1`, `whole_2`.
CROP_WHOLE: Final = "whole"

# These sources say who wrote an expression: a model, a human, the composer, or a recipe.
SOURCE_MODEL: Final = "model"
SOURCE_HUMAN: Final = "human"
SOURCE_COMPOSER: Final = "composer"
# Recipes of `training/ppt` write pseudo-labels: expressions that no model drew or scored.
SOURCE_RECIPE: Final = "recipe"
SOURCES: Final = (SOURCE_MODEL, SOURCE_HUMAN, SOURCE_COMPOSER, SOURCE_RECIPE)

# Fonts draw these letters as empty space: Hangul fillers and the empty Braille pattern.
_FILLERS: Final = frozenset("\u115f\u1160\u3164\uffa0\u2800")

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f]")


def crop_context(scale: float) -> str:
    """Return the name of a context crop, `context_1.2`; a whole number keeps its decimal, `context_1.0`."""
    return f"context_{float(scale)}"


def clean_text(text: str) -> str:
    """Return `text` lower-cased, white space collapsed, without a trailing full stop; "" if it is no expression.

    Control characters count as white space.
    """
    cleaned = " ".join(_CONTROL.sub(" ", text.lower()).split()).rstrip(". ")
    return "" if is_blank(cleaned) else cleaned


def is_blank(text: str) -> bool:
    """Return whether a text is no expression: it holds no letter, digit or symbol that is drawn, such as an emoji.

    White space, control characters, lone marks and punctuation say nothing.
    """
    return all(letter in _FILLERS or unicodedata.category(letter)[0] in "CMZP" for letter in text)


class Proof(NamedTuple):
    """What is known of an image that was decoded to the end.

    Attributes:
        size: Upright (height, width) in pixels.
        note: What is wrong with its file, although it is read; None if nothing is.
        phash: Its perceptual hash, 16 hex digits; None where it was not asked for.
        levels: Grey samples of more than 8 bits that become 0 and 255; empty where nothing was chosen.
    """

    size: tuple[int, int]
    note: str | None = None
    phash: str | None = None
    levels: tuple[float, ...] = ()


@_checked
@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image is quarantined: the stage, a code from `tables.FAILURE_REASONS`, and a message of ours."""

    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class ShardFault:
    """Why a shard is set aside: it is not committed, and the run goes on with the others.

    Attributes:
        message: For the user, with the remedy.
        is_config: Whether the user must correct something; otherwise another try may succeed.
        is_proven: Whether what failed for this shard was seen to work for another one.
    """

    shard: int
    message: str
    is_config: bool
    is_proven: bool = False


@_checked
@dataclass(frozen=True, slots=True)
class MaskRecord:
    """One mask of an image, in the upright image's pixels. `tables.MASKS_SCHEMA` documents the fields that it has.

    Attributes:
        index: Position in the proposer's order, from 0.
        rle_size: (height, width) of the upright image.
        rle_counts: COCO compressed run-length encoding, ASCII.
        box_xyxy_px: (0, 0, 0, 0) never occurs.
        area_px: At least 1.
    """

    mask_id: str
    index: int
    rle_size: tuple[int, int]
    rle_counts: str
    box_xyxy_px: Box
    area_px: int
    predicted_iou: float | None = None
    stability_score: float | None = None
    prior: str = "none"
    is_cut: bool | None = None
    colours: tuple[float, ...] = ()


# Maps a rule that drops proposed masks to its words, and to the one setting that keeps more of them.
MASK_RULES: Final[dict[str, tuple[str, str]]] = {
    "predicted_iou": ("the predicted IoU", "lower masks.pred_iou_thresh"),
    "stability": ("stability", "lower masks.stability_score_thresh"),
    "box_doubles": ("doubles by box", "raise masks.box_nms_thresh"),
    "min_area": ("the least area", "lower masks.reduction.min_area"),
    "max_area": ("the largest area", "raise masks.reduction.max_area"),
    "doubles": ("doubles", "raise masks.reduction.mask_nms_iou"),
    "parts": ("parts of other masks", "raise masks.reduction.min_inside"),
    "prior": ("the prior", "lower masks.prior.min_score, or correct masks.prior.path"),
    # Such masks stay, as rivals, and are the target of no expression.
    "cut_edges": ("inner edges of tiles", "cut tiles that overlap more: raise --overlap of `pseudoris tile`"),
}
# How many proposed masks of an image are left after each of `MASK_RULES` that applies, in their order. Before them
# `PROPOSED` may stand, the number before the first rule.
MasksLeft: TypeAlias = dict[str, int]
PROPOSED: Final = "proposed"


def emptied_by(left: MasksLeft) -> str | None:
    """Return the rule that took the last mask; None if a mask is left, or none was proposed."""
    first = next((name for name, number in left.items() if not number), PROPOSED)
    return None if first == PROPOSED else first


@dataclass(frozen=True, slots=True)
class DecodingRule:
    """One way to caption a crop: beam search, or sampling from a top-k or top-p set."""

    name: Literal["beam", "top_k", "top_p"]
    top_k: int | None = None
    top_p: float | None = None

    @property
    def label(self) -> str:
        """Name with its parameter, part of the key of random draws: `beam`, `top_k=5`, `top_p=0.4`."""
        parameter = self.top_k if self.top_k is not None else self.top_p
        return self.name if parameter is None else f"{self.name}={parameter}"


@_checked
@dataclass(frozen=True, slots=True)
class CaptionSample:
    """One draw of the captioner: the decoder, the crop, and the probability of the caption.

    Attributes:
        crop: `masked`, `context_<scale>` (`context_1.2`), or `marked`: the whole image with the mask outlined.
        decoder: `beam`, `top_k` or `top_p`.
        top_k: The k of a `top_k` draw, else None.
        top_p: The p of a `top_p` draw, else None.
        log_prob: Sum of the natural log-probabilities of the tokens under the distribution drawn from
            (for a beam: under the full softmax of its own crop). None if the captioner gives no probabilities.
        others: Which other masks the draw was contrasted with: `none` (not distinctive), `all`, `nearest`,
            `no_contrast` (a mask alone, or too many masks). Up to version 0.2 the last was called `own`.
        num_others: How many other masks were averaged; 0 if none.
        other_masks: With `nearest`, the `MaskRecord.index` of each of them, ascending; else empty.
    """

    crop: str
    decoder: str
    top_k: int | None
    top_p: float | None
    log_prob: float | None
    others: str = "none"
    num_others: int = 0
    other_masks: tuple[int, ...] = ()


@_checked
@dataclass(frozen=True, slots=True)
class ExpressionRecord:
    """An expression, kept or not; equal captions of one mask are one record with several samples.

    `tables.EXPRESSIONS_SCHEMA` documents the fields, which are columns; null is None.

    Attributes:
        samples: In the order crop, decoder; at least one if drawn, else none.
        uniqueness: Method page section 4, as distinctiveness.
        weight: By a fitted line the probability that it is right, else 1.0.
        source: A composer's expressions are kept and have no score but a confidence; a recipe's are kept or not.
    """

    target_mask_ids: tuple[str, ...]
    text: str
    samples: tuple[CaptionSample, ...]
    kind: str = "attribute"
    head_noun: str | None = None
    uniqueness: float | None = None
    correctness: float | None = None
    distinctiveness: float | None = None
    rival_mask_id: str | None = None
    caption_score: float | None = None
    listener: Share | None = None
    truth: float | None = None
    confidence: Share | None = None
    rank: int | None = None
    grounding_choice: Share | None = None
    grounding_share: Share | None = None
    grounding_rival: str | None = None
    kept: bool = False
    weight: float = 1.0
    source: str = SOURCE_MODEL
    split: str | None = None


@dataclass(frozen=True, slots=True)
class ShardImage:
    """One planned input image on its way through the stages. `tables.IMAGES_SCHEMA` documents the fields that it has.

    Attributes:
        position: Position in the shard's plan, from 0.
        data: Encoded bytes as read; b"" once quarantined.
        height: Upright, in pixels (after EXIF orientation), as the width; None until the image is proven to decode.
        failure: Set when the image is quarantined; later stages pass it through unchanged.
        levels: What `images.decode_proven` maps its deep samples by, as of `Proof`.
        masks: In the proposer's order.
        masks_left: Of how many that were proposed, for the receipt; None if the proposer does not tell.
        expressions: Candidates, ordered by mask, then first sample.
    """

    position: int
    image_id: str
    key: str
    data: bytes = b""
    sha256: str | None = None
    height: int | None = None
    width: int | None = None
    note: str | None = None
    failure: Failure | None = None
    masks: tuple[MaskRecord, ...] = ()
    expressions: tuple[ExpressionRecord, ...] = ()
    split: str | None = None
    phash: str | None = None
    picture: str | None = None
    picture_size: tuple[int, ...] = ()
    tile_xyxy_px: tuple[int, ...] = ()
    picture_sha256: str | None = None
    picture_phash: str | None = None
    num_too_small: int | None = None
    whole_picture: tuple[str, ...] = ()
    masks_left: MasksLeft | None = None
    levels: tuple[float, ...] = ()

    def quarantined(self, failure: Failure) -> ShardImage:
        """Return the image quarantined: with the reason, without its bytes, masks and expressions."""
        return replace(self, failure=failure, data=b"", masks=(), expressions=(), masks_left=None)


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of work: one Ray block, one batch, one set of parts, one commit.

    Attributes:
        shard: Number in the plan, from 0.
        generation: 0, or higher after `--retry-failed`.
        images: In plan order; all of the shard's images, quarantined ones included.
        seconds: Wall seconds by stage name so far, for the receipt.
        nodes: Ids of the Ray nodes that worked on the shard, in order, for the receipt.
        degraded: Settings that were lowered or replaced for it, for the receipt; empty without
            `placement.allow_degraded`.
        mixed: With `placement.allow_mixed`, how the processes that worked on it differ from the run's identity, a line
            for each field, for the receipt.
        long_texts: Draws that are no candidates, because their texts are longer than the filter reads, for the receipt.
        decisions: What the captioner decided in fixed shapes, tokens of rows and steps of searches, for the receipt.
        wide_decisions: Of these, over the whole vocabulary, because the top logits could not decide.
        is_committed: Whether its receipt existed before any work. The shard then has no images and passes every stage.
        planned_ids: All image ids of the shard in the plan, in order; the commit checks `images` against them. In a
            retry `images` has only some of them. Empty in a committed shard, and if there is no plan.
        fault: Why it is set aside. The shard then has no images and passes every stage and the commit.
        notice: What the user must know of it, shown when its commit lands. No table and no receipt holds it.
    """

    shard: int
    generation: int
    images: tuple[ShardImage, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()
    degraded: Mapping[str, int | str] = field(default_factory=dict)
    mixed: tuple[str, ...] = ()
    long_texts: int = 0
    decisions: int = 0
    wide_decisions: int = 0
    is_committed: bool = False
    planned_ids: tuple[str, ...] = ()
    fault: ShardFault | None = None
    notice: str | None = None

    def with_images(self, images: tuple[ShardImage, ...]) -> Shard:
        """Return the shard with other images, the rest unchanged."""
        return replace(self, images=images)

    def with_mixed(self, differences: tuple[str, ...]) -> Shard:
        """Return the shard with `differences` added to `mixed`, each once."""
        return replace(self, mixed=tuple(dict.fromkeys((*self.mixed, *differences))))

    def with_seconds(self, stage: str, seconds: float) -> Shard:
        """Return the shard with `seconds` added to the time of `stage`."""
        return replace(self, seconds={**self.seconds, stage: self.seconds.get(stage, 0.0) + seconds})
