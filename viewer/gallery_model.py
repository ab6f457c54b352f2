"""What a gallery shows, as plain values: without tables, files or models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from pseudoris.schemas.keep_rule import KeepRule
from pseudoris.schemas.shard import SOURCE_MODEL


@dataclass(frozen=True, slots=True)
class GalleryDraw:
    """One draw of the captioner that gave an expression; see `pseudoris.schemas.shard.CaptionSample`.

    Attributes:
        other_masks: Indices of the masks that counted, where not all of them did.
    """

    crop: str
    decoder: str
    top_k: int | None
    top_p: float | None
    log_prob: float
    others: str
    num_others: int
    other_masks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class GalleryExpression:
    """One candidate expression with its scores; `tables.EXPRESSIONS_SCHEMA` explains each.

    Attributes:
        targets: Indices of the masks that it refers to.
        rival_index: Index of the mask that competes with the target; None for a mask alone in its image.
        draws: Every draw that gave this text; none for what was not drawn.
        unmet: Positions among the conditions of the run's rule that it does not meet.
    """

    text: str
    targets: tuple[int, ...]
    head_noun: str | None
    count: int
    uniqueness: float | None
    correctness: float | None
    distinctiveness: float | None
    rival_index: int | None
    kept: bool
    weight: float = 1.0
    source: str = SOURCE_MODEL
    draws: tuple[GalleryDraw, ...] = ()
    unmet: tuple[int, ...] = ()
    caption_score: float | None = None
    listener: float | None = None
    truth: float | None = None
    confidence: float | None = None
    rank: int | None = None

    @property
    def is_judged(self) -> bool:
        """Whether scores decide on it; see `pseudoris.store.tables.keep_rule.judged`."""
        return len(self.targets) == 1 and self.source == SOURCE_MODEL


@dataclass(frozen=True, slots=True)
class GalleryMask:
    """One mask.

    Attributes:
        index: Position in the proposer's order, the digits that end the mask id.
        rle_size: (height, width) of the upright image.
        rle_counts: COCO compressed run-length encoding.
        area_px: Number of pixels.
        predicted_iou: The proposer's own estimate; None where it has none.
        stability_score: Under a shifted threshold; None where unknown.
        prior: `none`, or the instance prior and row that chose it.
    """

    index: int
    rle_size: tuple[int, int]
    rle_counts: str
    area_px: int
    predicted_iou: float | None = None
    stability_score: float | None = None
    prior: str = "none"


@dataclass(frozen=True, slots=True)
class GalleryImage:
    """One image that was annotated, or in which no mask survived.

    Attributes:
        image_id: 16 hex digits: it names the picture's file.
        key: Percent-encoded key relative to SOURCE.
        height: Upright height in pixels.
        width: Upright width in pixels.
        data: The encoded image; None if it can no longer be read; the page then says so.
        masks: In the proposer's order.
        expressions: In the tables' order.
    """

    image_id: str
    key: str
    height: int
    width: int
    data: bytes | None = None
    masks: tuple[GalleryMask, ...] = ()
    expressions: tuple[GalleryExpression, ...] = ()


@dataclass(frozen=True, slots=True)
class QuarantinedImage:
    """One quarantined image with its reason; `reason` is a code of `tables.FAILURE_REASONS`."""

    key: str
    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class GallerySummary:
    """The run in numbers; counts cover the whole run, even if the pages show a part.

    Attributes:
        source: SOURCE as given.
        tau: The configured tau, where the slider begins.
        preset: That it was annotated with; None if no models were.
        parent: The run that this one was made from; None if there is none.
        warning: What stands above all figures: the models do not know such images; None if they do.
        rule: What is kept; without a tau where a scorer of another package decided, None if humans wrote all
            expressions.
        images: Committed; annotated + empty + quarantined.
        candidates: Expression rows, kept or not.
        kept_lone: Of those kept, captions of masks alone in their image; None where an older version did not count.
        seconds: Wall seconds by stage, summed over shards.
        images_per_s: Over the time in which the run worked; None before the first commit.
        is_complete: Whether every planned shard is committed.
        pairs_digest: Of what made the pairs: runs that share it have the same pair under the same id. A refilter has
            its parent's.
    """

    source: str
    tau: float
    images: int
    annotated: int
    empty: int
    quarantined: int
    masks: int
    candidates: int
    kept: int
    seconds: Mapping[str, float] = field(default_factory=dict)
    images_per_s: float | None = None
    is_complete: bool = True
    kept_lone: int | None = None
    pairs_digest: str = ""
    preset: str | None = None
    parent: str | None = None
    warning: str | None = None
    rule: KeepRule | None = field(kw_only=True)

    @property
    def rule_sentence(self) -> str:
        """The rule as a sentence for a person."""
        if self.rule is None:
            return "People wrote the expressions of this run, and all of them are kept."
        besides = " and ".join(map(str, self.rule.conditions))
        if self.rule.tau is None:
            also = f" Each also meets {besides}." if besides else ""
            return f"A plug-in scorer decided what is kept. Its bound may differ from τ.{also}"
        bound = f"An expression is kept if its distinctiveness is above τ\u00a0=\u00a0{self.rule.tau:g}"
        return f"{bound} and {besides}. A missing score passes." if besides else f"{bound}."


@dataclass(frozen=True, slots=True)
class Gallery:
    """What the gallery page holds.

    Attributes:
        images: Read once, one after another; only the file of its small picture and its record are kept.
        num_images: How many `images` holds.
        quarantined: Read once.
        verdicts: People's verdicts by rater, by pair: `<image id>-0007-9f3a1c07`, as an audit names it.
    """

    summary: GallerySummary
    images: Iterable[GalleryImage]
    num_images: int
    quarantined: Iterable[QuarantinedImage] = ()
    verdicts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
