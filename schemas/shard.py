"""A shard in memory: what the stages receive and return, and its one Arrow block on the wire.

A stage is a callable `Shard -> Shard`. It never changes its input: it returns a new shard, so that a
call may be repeated after a crash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any

import pyarrow as pa

Box = tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an image is quarantined: the stage, a code of `tables.FAILURE_REASONS`, and our own message."""

    stage: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class MaskRecord:
    """One mask of an image, in the upright image's pixels.

    Attributes:
        mask_id: `<image id>-<index>`.
        index: Position in the proposer's order, from 0.
        rle_size: (height, width) of the upright image.
        rle_counts: COCO compressed run-length encoding, ASCII.
        box_xyxy_px: Tight box (x0, y0, x1, y1), x1 and y1 exclusive; (0, 0, 0, 0) never occurs.
        area_px: Number of pixels in the mask, at least 1.
        predicted_iou: The proposer's own estimate of the mask's IoU; None where it has none.
        stability_score: IoU of the mask under a shifted logit threshold, in [0, 1]; None where unknown.
        prior: Where the mask came from: `none`, or the instance prior's name and row (`table:17`).
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


@dataclass(frozen=True, slots=True)
class CaptionSample:
    """One draw of the captioner: which decoder, on which crop, and how probable the caption was.

    Attributes:
        crop: `masked`, or `context_<scale>` (`context_1.2`).
        decoder: `beam`, `top_k` or `top_p`.
        top_k: The k of a `top_k` draw, else None.
        top_p: The p of a `top_p` draw, else None.
        log_prob: Sum of the natural log-probabilities of the tokens under the distribution drawn from
            (for a beam: under the full softmax of its own crop).
        others: How the other masks counted in the draw: `none` (not distinctive), `all`, `nearest`, `own`.
        num_others: How many other masks were averaged, 0 where none.
        other_masks: Under `nearest` the `MaskRecord.index` of each of them, ascending; else empty.
    """

    crop: str
    decoder: str
    top_k: int | None
    top_p: float | None
    log_prob: float
    others: str = "none"
    num_others: int = 0
    other_masks: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class ExpressionRecord:
    """A candidate expression of a mask; equal captions of one mask are one record with several samples.

    Attributes:
        target_mask_ids: The masks it refers to: one today; several for groups, none for no-target.
        text: Lower-cased, stripped, without a trailing full stop; never empty.
        kind: `attribute`, `position`, `relation`, `group` or `none`.
        samples: Every draw that gave this text, in the order crop, decoder; at least one.
        head_noun: Head of the expression's first noun phrase; None where the rules found none.
        uniqueness: Method page section 4; None for a mask alone in its image.
        correctness: CLIP cosine of the masked crop with "a photo of a {head noun}".
        distinctiveness: Method page section 4; None for a mask alone in its image.
        rival_mask_id: The other mask that scores highest under c·m; None for a mask alone in its image.
        kept: Whether distinctiveness > tau (for a lone mask: always; correctness alone ranks it).
        weight: Weight of the pair for a trainer, 1.0 today.
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
    kept: bool = False
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class ShardImage:
    """One planned input image on its way through the stages.

    Attributes:
        position: Position in the shard's plan, from 0.
        image_id: 16 hex digits.
        key: Percent-encoded key relative to SOURCE.
        data: Encoded bytes as read; b"" once quarantined.
        sha256: Hex digest of the bytes as read; None where they could not be read.
        height: Upright height in pixels (after EXIF orientation); None until proven.
        width: Upright width in pixels; None until proven.
        failure: Set once the image is quarantined; later stages pass such an image through.
        masks: Masks in the proposer's order.
        expressions: Candidates, ordered by mask, then first sample.
    """

    position: int
    image_id: str
    key: str
    data: bytes = b""
    sha256: str | None = None
    height: int | None = None
    width: int | None = None
    failure: Failure | None = None
    masks: tuple[MaskRecord, ...] = ()
    expressions: tuple[ExpressionRecord, ...] = ()

    def quarantined(self, failure: Failure) -> ShardImage:
        """Return the image as a quarantined one: its reason set, its bytes, masks and expressions dropped."""
        return replace(self, failure=failure, data=b"", masks=(), expressions=())


@dataclass(frozen=True, slots=True)
class Shard:
    """The unit of everything: one block, one batch, one set of parts, one commit.

    Attributes:
        shard: Number in the plan, from 0.
        generation: 0, or higher after `--retry-failed`.
        images: In plan order; all of the shard's images, quarantined ones included.
        seconds: Wall seconds by stage name so far, for the receipt.
        nodes: Ray node ids that worked on the shard, in order, for the receipt.
    """

    shard: int
    generation: int
    images: tuple[ShardImage, ...]
    seconds: Mapping[str, float] = field(default_factory=dict)
    nodes: tuple[str, ...] = ()

    def with_images(self, images: tuple[ShardImage, ...]) -> Shard:
        """Return the shard with other images, the rest unchanged."""
        return replace(self, images=images)

    def with_seconds(self, stage: str, seconds: float) -> Shard:
        """Return the shard with `seconds` added to what `stage` has used."""
        return replace(self, seconds={**self.seconds, stage: self.seconds.get(stage, 0.0) + seconds})


_SAMPLE = pa.struct(
    [
        ("crop", pa.string()),
        ("decoder", pa.string()),
        ("top_k", pa.int32()),
        ("top_p", pa.float64()),
        ("log_prob", pa.float64()),
        ("others", pa.string()),
        ("num_others", pa.int32()),
    ]
)
_MASK = pa.struct(
    [
        ("mask_id", pa.string()),
        ("index", pa.int32()),
        ("rle_size", pa.list_(pa.int32())),
        ("rle_counts", pa.large_string()),
        ("box_xyxy_px", pa.list_(pa.int32())),
        ("area_px", pa.int64()),
        ("predicted_iou", pa.float64()),
        ("stability_score", pa.float64()),
        ("prior", pa.string()),
    ]
)
_EXPRESSION = pa.struct(
    [
        ("target_mask_ids", pa.list_(pa.string())),
        ("text", pa.string()),
        ("samples", pa.list_(_SAMPLE)),
        ("kind", pa.string()),
        ("head_noun", pa.string()),
        ("uniqueness", pa.float64()),
        ("correctness", pa.float64()),
        ("distinctiveness", pa.float64()),
        ("rival_mask_id", pa.string()),
        ("kept", pa.bool_()),
        ("weight", pa.float64()),
    ]
)
# `large_*` types: a `binary` column overflows at 2 GiB a block (measured on Ray Data 2.60).
BLOCK_SCHEMA = pa.schema(
    [
        ("shard", pa.int64()),
        ("generation", pa.int32()),
        ("seconds", pa.map_(pa.string(), pa.float64())),
        ("nodes", pa.list_(pa.string())),
        ("position", pa.int32()),
        ("image_id", pa.string()),
        ("key", pa.string()),
        ("data", pa.large_binary()),
        ("sha256", pa.string()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        (
            "failure",
            pa.struct([("stage", pa.string()), ("reason", pa.string()), ("message", pa.string())]),
        ),
        ("masks", pa.large_list(_MASK)),
        ("expressions", pa.large_list(_EXPRESSION)),
    ]
)


def shard_to_block(shard: Shard) -> pa.Table:
    """Return the shard as one Arrow table of `BLOCK_SCHEMA`, a row an image, in plan order."""
    common = {
        "shard": shard.shard,
        "generation": shard.generation,
        "seconds": list(shard.seconds.items()),
        "nodes": list(shard.nodes),
    }
    rows = [{**common, **_image_to_row(image)} for image in shard.images]
    return pa.Table.from_pylist(rows, schema=BLOCK_SCHEMA)


def block_to_shard(block: pa.Table) -> Shard:
    """Return the shard that `shard_to_block` wrote; images come back in plan order.

    Raises:
        ValueError: The block is empty or holds rows of more than one shard: Ray cut or merged it.
    """
    rows = block.to_pylist()
    numbers = {(row["shard"], row["generation"]) for row in rows}
    if len(numbers) != 1:
        raise ValueError(f"a block holds exactly one shard's generation, got {sorted(numbers)}")
    rows.sort(key=lambda row: row["position"])
    first = rows[0]
    return Shard(
        shard=first["shard"],
        generation=first["generation"],
        images=tuple(_row_to_image(row) for row in rows),
        seconds=dict(first["seconds"]),
        nodes=tuple(first["nodes"]),
    )


def _image_to_row(image: ShardImage) -> dict[str, Any]:
    # asdict would deep-copy the encoded bytes; a shallow walk keeps one reference.
    row = {f.name: getattr(image, f.name) for f in fields(image)}
    row["failure"] = asdict(image.failure) if image.failure else None
    row["masks"] = [asdict(mask) for mask in image.masks]
    row["expressions"] = [asdict(expression) for expression in image.expressions]
    return row


def _row_to_image(row: Mapping[str, Any]) -> ShardImage:
    values = {f.name: row[f.name] for f in fields(ShardImage)}
    values["failure"] = Failure(**row["failure"]) if row["failure"] else None
    values["masks"] = tuple(_to_mask(mask) for mask in row["masks"])
    values["expressions"] = tuple(_to_expression(expression) for expression in row["expressions"])
    return ShardImage(**values)


def _to_mask(row: Mapping[str, Any]) -> MaskRecord:
    return MaskRecord(**{**row, "rle_size": tuple(row["rle_size"]), "box_xyxy_px": tuple(row["box_xyxy_px"])})


def _to_expression(row: Mapping[str, Any]) -> ExpressionRecord:
    samples = tuple(CaptionSample(**sample) for sample in row["samples"])
    return ExpressionRecord(**{**row, "target_mask_ids": tuple(row["target_mask_ids"]), "samples": samples})
