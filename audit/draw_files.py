"""The format of a draw's files. `draw` writes them once; `audit_folder` and all that judges or computes reads them.

`draw.json` says from which run the sample was drawn, by which design, with which strata. Its `sha256` is the digest of
the draw: it covers both tables by their sha256, and every verdict file names it, so that verdicts on another sample are
found. `pairs.parquet` and `images.parquet` hold what is judged, and the pictures that it needs.

What to ask, in which order:

1. The rows of `pairs` whose role is `drawn`, by `position`. Any first part of that order is a fair sample: a rater may
   stop at any time, and a second rater may judge a first part again.
2. A `follow_up` is asked right after the pair that it `follows`, and only if that verdict is `several`, `untrue` or
   `cannot_say`. Follow-ups of one pair are asked by `position` until one is `right`; the rest are then not asked. They
   tell whether the mask has any right expression; leave them out, and the report says less, but nothing wrong.
3. The rows of `images` with `is_asked_missed`: the rater sees all masks and clicks each object that none of them has.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Final, Literal, Self

import pyarrow as pa
from pydantic import Field, model_validator

from pseudoris.files.parquet_files import open_parquet
from pseudoris.primitives.errors import ConfigError
from pseudoris.schemas.frozen import FrozenModel, Sha256
from pseudoris.schemas.ids import mask_index, sha256_hex
from pseudoris.schemas.keep_rule import KeepCondition, KeepRule
from pseudoris.schemas.run_records import PartRecord, RunHeader, SealedRecord
from pseudoris.schemas.shard import SOURCE_COMPOSER, SOURCE_MODEL
from pseudoris.schemas.stage_settings import ImagesConfig

DRAW_NAME: Final = "draw.json"
PAIRS_NAME: Final = "pairs.parquet"
IMAGES_NAME: Final = "images.parquet"

DRAWN: Final = "drawn"
FOLLOW_UP: Final = "follow_up"
# Strata of pairs that have no score have this name. No keep rule decides about these pairs.
WITHOUT_SCORE: Final = "without a score"

# Each pair is stored with these scores of the run, null where the run has no such score.
STORED_SCORES: Final = (
    *("confidence", "rank", "uniqueness", "correctness", "distinctiveness", "log_prob", "count"),
    *("caption_score", "listener", "truth"),
)
_TEXT_DIGITS: Final = 8


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


# `counts` is the mask as COCO's compressed RLE, in upright pixels, as in the run's table of masks.
_MASK: Final = {"mask_id": pa.string(), "height": pa.int32(), "width": pa.int32(), "counts": pa.string()}
MASK_TYPE: Final = pa.struct([pa.field(name, kind, nullable=False) for name, kind in _MASK.items()])

PAIRS_SCHEMA: Final = pa.schema(
    [
        _field("pair_id", pa.string(), "`pair_id(...)`: the same in every run with this image, mask and text. Unique."),
        _field("role", pa.string(), "`drawn` or `follow_up`."),
        _field(
            "position",
            pa.int32(),
            "Order of the questions, from 0. Follow-ups come last; it is their order below a pair.",
        ),
        _field("follows", pa.string(), "Of a follow-up: the pair that it is asked after; else null.", nullable=True),
        _field("image_id", pa.string(), "Row of `images` that holds the picture and the masks."),
        _field(
            "mask_ids",
            _list(pa.string()),
            "The masks that the expression refers to: one, several of a group, none of an absence.",
        ),
        _field("text", pa.string(), "The expression. Untrusted: escape it."),
        _field("kind", pa.string(), "`attribute`, `position`, `relation`, `group` or `none`."),
        _field("source", pa.string(), "What wrote it: `model`, `composer`, `human` or `recipe`."),
        _field("is_kept", pa.bool_(), "Whether the run keeps it."),
        _field("num_kept_of_mask", pa.int32(), "Kept expressions of its mask alone; 0 for a group."),
        _field("stratum", pa.int32(), "Number of its stratum in `draw.json`; null unless drawn.", nullable=True),
        _field("first_stage", pa.float64(), "Probability that its image is drawn in this stratum.", nullable=True),
        _field("second_stage", pa.float64(), "Probability that it is drawn if its image is.", nullable=True),
        _field("inclusion", pa.float64(), "Probability that it is drawn: the product of both.", nullable=True),
        _field("score", pa.float64(), "What the strata were made by; null if it has none.", nullable=True),
        *(_field(name, pa.float64(), "As in the run's expressions.", nullable=True) for name in STORED_SCORES),
    ]
)

IMAGES_SCHEMA: Final = pa.schema(
    [
        _field("image_id", pa.string(), "Unique. Ordered by shard, then by the plan."),
        _field("shard", pa.int64(), "Its shard in the run."),
        _field("key", pa.string(), "Percent-encoded key relative to SOURCE. Untrusted: escape it."),
        _field("height", pa.int32(), "Upright height in pixels."),
        _field("width", pa.int32(), "Upright width in pixels."),
        _field("sha256", pa.string(), "sha256 of the encoded bytes."),
        _field("bytes", pa.large_binary(), "The encoded image as it was annotated, not yet upright.", nullable=True),
        _field("masks", _list(MASK_TYPE), "All masks of the image, in the proposer's order."),
        _field("is_asked_missed", pa.bool_(), "Whether the image is asked for objects that no mask has."),
        _field("stratum", pa.int32(), "Number of its stratum of images; null unless asked.", nullable=True),
        _field("inclusion", pa.float64(), "Probability that it is asked; null unless asked.", nullable=True),
    ]
)

SAMPLE_SCHEMAS: Final = {PAIRS_NAME: PAIRS_SCHEMA, IMAGES_NAME: IMAGES_SCHEMA}


def draw_kind(source: str, kind: str) -> str:
    """Return the kind by which pairs are told apart: `drawn`, that of a composed expression, `human` or `recipe`."""
    return {SOURCE_MODEL: DRAWN, SOURCE_COMPOSER: kind}.get(source, source)


def pair_id(image: str, masks: Sequence[str], text: str) -> str:
    """Return the id of a pair, `<image id>-0007-9f3a1c07`; of a group `<image id>-0007+0009-9f3a1c07`.

    That of an absence is `<image id>--9f3a1c07`. It has the numbers of the masks that the text refers to, and ends with
    the first 32 bits of the text's sha256.
    """
    targets = "+".join(f"{index:04d}" for index in sorted(map(mask_index, masks)))
    return f"{image}-{targets}-{sha256_hex(text.encode())[:_TEXT_DIGITS]}"


def read_sample(path: Path, data: bytes, columns: Sequence[str] | None = None) -> pa.Table:
    """Return a table from the bytes of its file; a `ConfigError` shows `path` if it has other columns."""
    parquet, names = open_parquet(io.BytesIO(data), str(path)), SAMPLE_SCHEMAS[path.name].names
    missing = [column for column in names if column not in parquet.schema_arrow.names]
    if missing:
        raise ConfigError(f"{path} has no column {missing[0]!r}: it is not the {path.name} of an audit")
    return parquet.read(columns=columns or names, use_threads=False)


class DrawnPixels(FrozenModel):
    """How deep samples became 8 bits in the next `num_shards` shards: `bits` and `window` of the settings `images`."""

    num_shards: int = Field(ge=0)
    bits: str | int = Field(default="stored", exclude_if=lambda bits: bits == "stored")
    window: tuple[float, float] | None = Field(default=None, exclude_if=lambda window: window is None)


class DrawnRun(FrozenModel):
    """The run that was drawn from.

    Attributes:
        location: Absolute path or url of its folder at that time.
        root_sha256: Its root digest over the committed shards; see `pseudoris.store.runs.receipts`.
        rule: What it keeps, in words; None if no rule decides.
        pixels: Of the shards of each run that was combined, or of all, in their order; empty where all are `stored`.
    """

    location: str
    created_utc: str
    header_sha256: Sha256
    root_sha256: Sha256
    source: str
    origin: str
    is_complete: bool
    rule: str | None
    pixels: tuple[DrawnPixels, ...] = Field(default=(), exclude_if=lambda pixels: not pixels)

    def settings_of(self, shard: int, plugins: Sequence[str] = ()) -> ImagesConfig:
        """Return the settings that a shard's images are decoded by, and `plugins`."""
        ends = accumulate(each.num_shards for each in self.pixels)
        known = (
            each.model_dump(exclude={"num_shards"}) for each, end in zip(self.pixels, ends, strict=True) if shard < end
        )
        return ImagesConfig.model_validate({**next(known, {}), "decoder_plugins": plugins})


class Population(FrozenModel):
    """What the audit speaks about: the pairs of all images that are not quarantined.

    Attributes:
        masks_with_kept: Masks with at least one kept expression of their own.
        without_target: Absences that a draw of version 0.5.0 left out; 0 where they are pairs.
    """

    images: int = Field(ge=0)
    masks: int = Field(ge=0)
    masks_with_kept: int = Field(ge=0)
    pairs: int = Field(ge=0)
    kept: int = Field(ge=0)
    without_target: int = Field(default=0, ge=0)


class Stratum(FrozenModel):
    """A stratum of pairs, or of images.

    Attributes:
        number: From 0; the column `stratum` of the table.
        is_kept: Whether the run keeps its pairs; None for a stratum of images.
        num_units: Pairs or images of the run that it holds; `num_images` hold them.
    """

    number: int = Field(ge=0)
    name: str
    is_kept: bool | None = None
    num_units: int = Field(ge=1)
    num_images: int = Field(ge=1)
    num_drawn: int = Field(ge=0)

    @model_validator(mode="after")
    def _draws_no_more_than_it_has(self) -> Self:
        if self.num_drawn > self.num_units:
            raise ValueError(f"{self.num_drawn} units are drawn of {self.num_units}")
        return self


class DrawRecord(SealedRecord):
    """The draw: the content of `draw.json`; `image_strata` are those of images that are asked for missed objects.

    Strata are made by `score`: the run's `confidence`, or `label_free`, computed from its other scores.
    """

    created_utc: str
    run: DrawnRun
    population: Population
    seed: int = Field(ge=0)
    score: Literal["confidence", "label_free"]
    strata: tuple[Stratum, ...]
    image_strata: tuple[Stratum, ...]
    parts: tuple[PartRecord, ...]


def undrawn_strata(draw: DrawRecord) -> tuple[Stratum, ...]:
    """Return the strata that hold pairs, none of which was drawn."""
    return tuple(stratum for stratum in draw.strata if not stratum.num_drawn)


def num_unseen(draw: DrawRecord, *, keeps_no_others: bool) -> int:
    """Return how many pairs a run or a rule keeps, or may keep, of strata without a draw.

    What the drawn run does not keep, and has no score, no other rule keeps: human expressions, drawn groups.
    With `keeps_no_others` it keeps nothing that the drawn run does not keep; see the function of that name.
    """
    return sum(
        stratum.num_units
        for stratum in undrawn_strata(draw)
        if stratum.is_kept or not (keeps_no_others or stratum.name.endswith(WITHOUT_SCORE))
    )


def keeps_no_others(header: RunHeader, rule: KeepRule | None, drawn: DrawnRun) -> bool:
    """Return whether a rule, None if no score decides, is known to keep nothing that the drawn run does not keep.

    `header` is of the run whose scores it bounds: the drawn one, or a refilter or `combine` of it alone, which has the
    same scores.
    """
    is_drawn = header.created_utc == drawn.created_utc
    has_scores_above = header.origin in ("combine", "refilter")
    has_its_scores = is_drawn or (
        has_scores_above and {each.created_utc for each in header.above} == {drawn.created_utc}
    )
    if rule is None or drawn.rule is None:
        return is_drawn
    return has_its_scores and _is_as_strict(str(rule), drawn.rule)


def _is_as_strict(rule: str, other: str) -> bool:
    """Return whether each bound of the other rule has one as strict in this rule; both are in the words of a draw."""
    words, _, lone = rule.partition(";")
    others, _, other_lone = other.partition(";")
    if words == others and lone == other_lone:
        return True
    try:
        mine, theirs = (
            [KeepCondition.model_validate(word) for word in each.split(" and ")] for each in (words, others)
        )
    except ValueError:
        # Another package's scorer may state a rule that cannot be parsed, so its bounds cannot be compared.
        return False

    def implies(mine: KeepCondition, bound: KeepCondition) -> bool:
        is_same_kind = (mine.column, mine.comparison) == (bound.column, bound.comparison)
        is_upper = bound.comparison.startswith("<")
        return is_same_kind and (mine.bound <= bound.bound if is_upper else mine.bound >= bound.bound)

    is_lone_as_strict = lone == other_lone or not other_lone or lone.endswith(" drop")
    return is_lone_as_strict and all(any(implies(each, bound) for each in mine) for bound in theirs)
