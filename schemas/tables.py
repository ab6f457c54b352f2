"""Arrow schemas of the four tables and the plan, with a doc string a column, and the reason codes of failures.

All four tables of a shard are always written, even without rows, so that a glob over a folder always matches. Boxes and
masks refer to the *upright* image: EXIF orientation is applied before anything is measured.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

TABLES_VERSION: Final = 4

IMAGES: Final = "images"
MASKS: Final = "masks"
EXPRESSIONS: Final = "expressions"
FAILURES: Final = "failures"

STATUS_ANNOTATED: Final = "annotated"
STATUS_EMPTY: Final = "empty"
STATUS_QUARANTINED: Final = "quarantined"

# Reason codes of the failures table, and what each tells the user.
FAILURE_REASONS: Final[dict[str, str]] = {
    "missing": "The image was planned but is not there (tried twice).",
    "changed": "The image is another one than was planned: its etag, or size and time, differ.",
    "unreadable": "The path cannot be followed: a link leads to itself, or a name is too long.",
    "archived": "The object is in an archive class, such as GLACIER, and was not restored. Restore it, then retry.",
    "denied": "Access was refused, and again a minute later, while another image of the same store could be read.",
    "empty_file": "The file has no bytes.",
    "too_many_bytes": "The file is larger than images.max_bytes.",
    "too_many_pixels": "The image has more pixels than images.max_pixels.",
    "refused_uri": "The table's uri leaves its root, carries a secret, or names a place that is not allowed.",
    "not_an_image": "No decoder recognises the bytes.",
    "corrupt": "A decoder recognises the format but cannot decode the whole file.",
    "unsupported_pixels": "The samples have a layout that is not read; the message names it (docs/layouts.md).",
    "decoder_killed": "Decoding crashed its process twice.",
    "decoder_timeout": "Decoding took longer than images.decoder_timeout_s twice.",
    "prior_mismatch": "The masks of the instance prior have another size than the upright image.",
    "not_finite": "A model's scores exceed the range of compute.precision.",
    "stage_error": "A stage raised an exception on this image, in the stage and again in a fresh process.",
    "process_killed": "This image alone crashed a stage's process twice.",
    "annotation_missing": "masks.options.path holds no masks for this image.",
    "annotation_mismatch": "The imported annotation or the ready masks have another size than the image.",
    "annotation_damaged": "A mask of the imported annotation or of the ready masks cannot be decoded.",
    "excluded": "The image is one that `--exclude` lists by its content; it is never tried again.",
}
# Not retried: another try would give the same.
FINAL_REASONS: Final = frozenset({"excluded"})


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _null(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return _field(name, kind, doc, nullable=True)


def _schema(table: str, fields: list[pa.Field], doc: str) -> pa.Schema:
    metadata = {"pseudoris.table": table, "pseudoris.version": str(TABLES_VERSION), "doc": doc}
    return pa.schema(fields, metadata=metadata)


def _list(kind: pa.DataType) -> pa.DataType:
    # Parquet's name for list items (Arrow's own is `item`), so that a table read back has the same schema and, written
    # again, the same bytes.
    return pa.list_(pa.field("element", kind))


_SEGMENTATION = pa.struct(
    [pa.field("size", _list(pa.int32()), nullable=False), pa.field("counts", pa.string(), nullable=False)]
)
_SAMPLE = pa.struct(
    [
        pa.field("crop", pa.string(), nullable=False),
        pa.field("decoder", pa.string(), nullable=False),
        pa.field("top_k", pa.int32()),
        pa.field("top_p", pa.float64()),
        pa.field("log_prob", pa.float64(), nullable=False),
        pa.field("others", pa.string(), nullable=False),
        pa.field("num_others", pa.int32(), nullable=False),
        pa.field("other_masks", _list(pa.int32()), nullable=False),
    ]
)

IMAGES_SCHEMA: Final = _schema(
    IMAGES,
    [
        _field("image_id", pa.string(), "First 64 bits of the key's sha256, 16 hex digits."),
        _field("key", pa.string(), "Percent-encoded key relative to SOURCE (`a/b.jpg`, `tar!member`, `file#row`)."),
        _null("height", pa.int32(), "Upright height in pixels; null if quarantined before decoding."),
        _null("width", pa.int32(), "Upright width in pixels; null if quarantined before decoding."),
        _field("status", pa.string(), "`annotated`, `empty` (no mask survived) or `quarantined` (see failures)."),
        _null("sha256", pa.string(), "sha256 of the encoded bytes; null if they could not be read."),
        _null("note", pa.string(), "What is wrong with the file of an image that is read nevertheless."),
        _null("bytes", pa.large_binary(), "The encoded image if shards.embed_images is set, else null."),
    ],
    "One row per input image, in plan order.",
)

MASKS_SCHEMA: Final = _schema(
    MASKS,
    [
        _field("image_id", pa.string(), "The image that holds the mask."),
        _field("mask_id", pa.string(), "Image id and index in the proposer's order, `<image id>-0007`."),
        _field("segmentation", _SEGMENTATION, "COCO compressed RLE, size = [upright height, upright width]."),
        _field("box_xyxy_px", _list(pa.int32()), "Tight box [x0, y0, x1, y1] in upright pixels, x1, y1 exclusive."),
        _field("area_px", pa.int64(), "Number of pixels."),
        _null("predicted_iou", pa.float64(), "The proposer's estimate of the mask's IoU."),
        _null("stability_score", pa.float64(), "IoU between the mask at logit thresholds ± offset."),
        _field(
            "prior",
            pa.string(),
            "`none`, the instance prior and row that chose it (`table:17`), a human's annotation (`human:431`), or "
            "the recipe of PPT that made it (`recipe:objects`).",
        ),
    ],
    "One row per mask, ordered by image in plan order, then by mask id.",
)

EXPRESSIONS_SCHEMA: Final = _schema(
    EXPRESSIONS,
    [
        _field("image_id", pa.string(), "The image that the expression is about."),
        _field(
            "target_mask_ids",
            _list(pa.string()),
            "The masks that it refers to: one; several if `group`, none if `none`.",
        ),
        _field("text", pa.string(), "The expression: lower case, stripped, no trailing full stop, never empty."),
        _field("kind", pa.string(), "`attribute`; composed: `position`, `relation`, `group`, `none`."),
        _null("head_noun", pa.string(), "Head of the first noun phrase; null if none was found."),
        _field(
            "source",
            pa.string(),
            "`model`, `human` (imported), `composer` or `recipe` (PPT); null in tables of version 1 means `model`.",
        ),
        _null(
            "decoder",
            pa.string(),
            "Decoding rule of the first draw of this text: `beam`, `top_k` or `top_p`; null without draws.",
        ),
        _null("top_k", pa.int32(), "The k of that draw, if `top_k`."),
        _null("top_p", pa.float64(), "The p of that draw, if `top_p`."),
        _null("crop", pa.string(), "Crop kind of that draw: `masked` or `context_<scale>`."),
        _field("count", pa.int32(), "Number of draws of this mask that gave this text; 0 if it was not drawn."),
        _null(
            "log_prob",
            pa.float64(),
            "Sum of the natural log-probabilities of that draw's tokens under the sampling distribution.",
        ),
        _field("samples", _list(_SAMPLE), "Every draw that gave this text, including the first."),
        _null("uniqueness", pa.float64(), "c(i,t) / max c(k,t) over other masks; null if it is alone."),
        _null("correctness", pa.float64(), "Cosine of masked crop and `a photo of a {head noun}`."),
        _null("distinctiveness", pa.float64(), "c·m over the highest c·m of other masks; null if it is alone."),
        _null("rival_mask_id", pa.string(), "Other mask with the highest c·m; null if it is alone."),
        _null(
            "caption_score",
            pa.float64(),
            "log p(t | crop i), teacher-forced under the full softmax; null without `captions.listening`.",
        ),
        _null(
            "listener",
            pa.float64(),
            "Softmax at the target of log p(t | crop k) over the masks k; 0 if truth was too low to score.",
        ),
        _null("truth", pa.float64(), "caption_score per token, the end token included."),
        _null(
            "confidence",
            pa.float64(),
            "Probability that it is right, by `filtering.confidence` or `composing.posterior`; else null.",
        ),
        _null("rank", pa.int32(), "Rank by confidence among the drawn texts of its mask, from 1; or null."),
        _field(
            "kept",
            pa.bool_(),
            "True if distinctiveness > tau and `filtering.keep` holds; null scores pass. Always true if not drawn, "
            "except a recipe's: true for the referent (c = 1), else false (c = 0).",
        ),
        _field("weight", pa.float64(), "Weight of the pair for a trainer."),
        _null("split", pa.string(), "Split of an imported expression, such as `testA`; else null."),
    ],
    "One row per candidate expression, kept or not, ordered by image, mask, first draw.",
)

FAILURES_SCHEMA: Final = _schema(
    FAILURES,
    [
        _field("image_id", pa.string(), "The quarantined image."),
        _field("stage", pa.string(), "Where it failed: `read`, `propose`, `caption`, `filter`, `import` or `recipe`."),
        _field("reason", pa.string(), "Reason code, stable across versions."),
        _field("message", pa.string(), "One sentence that explains the failure; equal for equal images."),
    ],
    "One row per quarantined image.",
)

SCHEMAS: Final[dict[str, pa.Schema]] = {
    IMAGES: IMAGES_SCHEMA,
    MASKS: MASKS_SCHEMA,
    EXPRESSIONS: EXPRESSIONS_SCHEMA,
    FAILURES: FAILURES_SCHEMA,
}

PLAN_SCHEMA: Final = _schema(
    "plan",
    [
        _field("shard", pa.int64(), "Number of the shard, from 0."),
        _field("position", pa.int32(), "Position in the shard, from 0."),
        _field("image_id", pa.string(), "First 64 bits of the key's sha256, 16 hex digits."),
        _field("key", pa.string(), "Percent-encoded key relative to SOURCE."),
        _null("size_bytes", pa.int64(), "Listed size of the encoded image; null if not listed."),
        _null("etag", pa.string(), "Listed etag of its object; null on disk."),
        _null("mtime_ns", pa.int64(), "Modification time of its file; null on S3."),
        _null("offset_bytes", pa.int64(), "Where the member's data starts in its tar; null otherwise."),
        _null("row_group", pa.int32(), "Row group of its Parquet file; null otherwise."),
        _null("row", pa.int64(), "Row of its Parquet file; null otherwise."),
    ],
    "The frozen listing: one row per input image, ordered by shard, then position.",
)
