"""`pairs.parquet` and `images.parquet`: what is judged, and the pictures that it needs.

Scores and probabilities stand in the tables for the report. No page shows them to a rater: who knows the score of an
expression is not asked what it means.

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
from collections.abc import Iterable, Sequence
from typing import Final

import pyarrow as pa

from pseudoris.schemas.errors import ConfigError
from pseudoris.schemas.ids import mask_index, sha256_hex
from pseudoris.store.tables.parquet_files import open_parquet, parquet_bytes

PAIRS_NAME: Final = "pairs.parquet"
IMAGES_NAME: Final = "images.parquet"

DRAWN: Final = "drawn"
FOLLOW_UP: Final = "follow_up"

# Scores of the run, stored beside each pair; null where the run has none.
STORED_SCORES: Final = (
    *("confidence", "rank", "uniqueness", "correctness", "distinctiveness", "log_prob", "count"),
    *("caption_score", "listener", "truth"),
)
_TEXT_DIGITS: Final = 8


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _list(kind: pa.DataType) -> pa.DataType:
    return pa.list_(pa.field("element", kind, nullable=False))


MASK_TYPE: Final = pa.struct(
    [
        pa.field("mask_id", pa.string(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        # COCO compressed RLE in upright pixels, as in the run's table of masks.
        pa.field("counts", pa.string(), nullable=False),
    ]
)

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
        _field("mask_ids", _list(pa.string()), "The masks that the expression refers to: one, or several of a group."),
        _field("text", pa.string(), "The expression. Untrusted: escape it."),
        _field("kind", pa.string(), "`attribute`, `position`, `relation` or `group`."),
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


def pair_id(image: str, masks: Sequence[str], text: str) -> str:
    """Return the id of a pair, `<image id>-0007-9f3a1c07`; of a group `<image id>-0007+0009-9f3a1c07`.

    Args:
        image: The image's id.
        masks: Ids of the masks that the text refers to.
        text: The expression; the id ends with the first 32 bits of its sha256.
    """
    targets = "+".join(f"{index:04d}" for index in sorted(map(mask_index, masks)))
    return f"{image}-{targets}-{sha256_hex(text.encode())[:_TEXT_DIGITS]}"


def sample_bytes(table: pa.Table, name: str) -> bytes:
    """Return a table as the bytes of its file; equal content gives equal bytes."""
    return parquet_bytes([table.cast(SAMPLE_SCHEMAS[name])], SAMPLE_SCHEMAS[name])


def read_sample(data: bytes, name: str, *, shown: str, columns: Iterable[str] | None = None) -> pa.Table:
    """Return a table from the bytes of its file; errors show `shown`.

    Raises:
        ConfigError: It has other columns.
        TransientError: It cannot be read as Parquet.
    """
    parquet = open_parquet(io.BytesIO(data), shown)
    schema = SAMPLE_SCHEMAS[name]
    missing = [column for column in schema.names if column not in parquet.schema_arrow.names]
    if missing:
        raise ConfigError(f"{shown} has no column {missing[0]!r}: it is not the {name} of an audit")
    names = schema.names if columns is None else list(columns)
    return parquet.read(columns=names, use_threads=False)
