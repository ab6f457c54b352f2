"""Arrow schemas of the four tables and the plan, with text per column; reason codes of failures. For most rooms.

The texts are stored in every table: another text gives other bytes. All four tables of a shard are always written, even
without rows, so that a glob over a folder always matches. Boxes and masks refer to the *upright* image: EXIF
orientation is applied before anything is measured.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

TABLES_VERSION: Final = 6
# Earlier tables that are read: version 6 added null columns and changed two texts.
READ_VERSIONS: Final = frozenset({5, TABLES_VERSION})
# The plan is as it was, so a run that an earlier version planned goes on with equal bytes.
PLAN_VERSION: Final = 5

IMAGES: Final = "images"
MASKS: Final = "masks"
EXPRESSIONS: Final = "expressions"
FAILURES: Final = "failures"

# `combine --hold-out` draws these; an import may have others.
SPLITS: Final = ("train", "val", "test", "testA", "testB")

STATUS_ANNOTATED: Final = "annotated"
STATUS_EMPTY: Final = "empty"
STATUS_QUARANTINED: Final = "quarantined"

FAILURE_REASONS: Final[dict[str, str]] = {
    "missing": "The image was planned but is not there (tried twice).",
    "changed": "The image is another one than was planned: its etag, or size and time, differ.",
    "unreadable": "The path cannot be followed: a link leads to itself, or a name is too long.",
    "archived": "The object is in an archive class, such as GLACIER, and was not restored. Restore it, then retry.",
    "denied": "Access was refused, and again a minute later, while another image of the same store could be read.",
    "empty_file": "The file has no bytes.",
    "too_many_bytes": "The file is larger than images.max_bytes.",
    "too_many_pixels": "The image has more pixels than images.max_pixels.",
    "too_small": "A side of the image is below images.min_side.",
    "refused_uri": "The table's uri leaves its root, carries credentials, or names a place that is not allowed.",
    "not_an_image": "No decoder recognises the bytes.",
    "corrupt": "A decoder recognises the format but cannot decode the whole file.",
    "unsupported_pixels": "The samples have a layout that is not read; the message names it (layouts.md).",
    "decoder_killed": "Decoding crashed its process twice.",
    "decoder_timeout": "Decoding took longer than images.decoder_timeout_s twice.",
    "prior_mismatch": "The masks of the instance prior have another size than the upright image.",
    "not_finite": "A model's scores exceed the range of compute.precision.",
    "stage_error": "A stage raised an exception on this image, in the stage and again in a fresh process.",
    "bad_output": "A stage returned for this image what the tables cannot hold, there and in a fresh process; see the "
    "message.",
    "process_killed": "This image alone crashed a stage's process twice.",
    "annotation_missing": "masks.options.folder holds no masks for this image.",
    "annotation_mismatch": "The imported annotation or the ready masks have another size than the image.",
    "annotation_damaged": "A mask of the imported annotation or of the ready masks cannot be decoded.",
    "excluded": "The image is one that `--exclude` lists by its content; it is never tried again.",
}
# A retry cannot change failures with these reasons.
FINAL_REASONS: Final = frozenset({"excluded"})


def _field(name: str, kind: pa.DataType, doc: str, *, nullable: bool = False) -> pa.Field:
    return pa.field(name, kind, nullable=nullable, metadata={"doc": doc})


def _null(name: str, kind: pa.DataType, doc: str) -> pa.Field:
    return _field(name, kind, doc, nullable=True)


def _schema(table: str, fields: list[pa.Field], doc: str, version: int = TABLES_VERSION) -> pa.Schema:
    metadata = {"pseudoris.table": table, "pseudoris.version": str(version), "doc": doc}
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
        pa.field("log_prob", pa.float64()),
        pa.field("others", pa.string(), nullable=False),
        pa.field("num_others", pa.int32(), nullable=False),
        pa.field("other_masks", _list(pa.int32()), nullable=False),
    ]
)

# Columns of a second opinion (`grounding_check`): a model chooses the mask of an image that a text refers to. They were
# "reserved" before a stage filled them. The word stays, because texts are part of the tables' bytes.
GROUNDING_COLUMNS: Final[dict[str, tuple[pa.DataType, str]]] = {
    "grounding_choice": (pa.float64(), "1 if a second model chooses the target for the text, 0 if another mask."),
    "grounding_share": (pa.float64(), "The second model's probability of the target among the masks."),
    "grounding_rival": (pa.string(), "The other mask that the second model finds most likely."),
}
_RESERVED: Final = "Reserved: null without a second model."

IMAGES_SCHEMA: Final = _schema(
    IMAGES,
    [
        _field("image_id", pa.string(), "The first 64 bits of the sha256 of the key, as 16 hex digits."),
        _field(
            "key", pa.string(), "The image's name below SOURCE, percent-encoded: `a/b.jpg`, `tar!member` or `file#row`."
        ),
        _null("height", pa.int32(), "Height of the upright image in pixels. Null if it was not decoded."),
        _null("width", pa.int32(), "Width of the upright image in pixels. Null if it was not decoded."),
        _field(
            "status", pa.string(), "`annotated`, `empty` (no mask was kept) or `quarantined` (see the failures table)."
        ),
        _null("sha256", pa.string(), "The sha256 of the encoded bytes. Null if they could not be read."),
        _null("note", pa.string(), "A fault of the file that does not prevent decoding. Null if there is none."),
        _null("bytes", pa.large_binary(), "The encoded image if `shards.embed_images` is set, else null."),
        _null("split", pa.string(), "Split of the image: `train`, `val`, `test`, `testA` or `testB`. Null without."),
        _null("phash", pa.string(), "Perceptual hash of the upright image: 64 bits as 16 hex digits."),
        _null("picture", pa.string(), "Name of the picture that the image is a tile of. Null if it is no tile."),
        _null("picture_size", _list(pa.int32()), "[height, width] of that picture, upright, in pixels."),
        _null(
            "tile_xyxy_px",
            _list(pa.int32()),
            "Box of the tile [x0, y0, x1, y1] in pixels of that picture; x1 and y1 are exclusive.",
        ),
        _null("picture_sha256", pa.string(), "The sha256 of the encoded bytes of that picture."),
        _null("picture_phash", pa.string(), "Perceptual hash of that picture, as `phash`."),
        _null("num_too_small", pa.int32(), "How many masks were dropped because they are below `masks.min_area`."),
        _null("whole_picture", _list(pa.string()), "Captions drawn of the whole image. Null without."),
    ],
    "One row per input image, in plan order.",
)

MASKS_SCHEMA: Final = _schema(
    MASKS,
    [
        _field("image_id", pa.string(), "The image that holds the mask."),
        _field(
            "mask_id", pa.string(), "The image id and the mask's number in the proposer's order: `<image id>-0007`."
        ),
        _field("segmentation", _SEGMENTATION, "COCO compressed RLE; `size` is [height, width] of the upright image."),
        _field(
            "box_xyxy_px",
            _list(pa.int32()),
            "Tight box [x0, y0, x1, y1] in pixels of the upright image; x1 and y1 are exclusive.",
        ),
        _field("area_px", pa.int64(), "Number of pixels of the mask."),
        _null("predicted_iou", pa.float64(), "The proposer's estimate of the mask's IoU."),
        _null("stability_score", pa.float64(), "IoU of the masks at a raised and at a lowered logit threshold."),
        _field(
            "prior",
            pa.string(),
            "Why the mask was chosen: `none` (no prior), a row of the instance prior (`table:17`), a human annotation "
            "(`human:431`), or a recipe of PPT (`recipe:objects`).",
        ),
        _null("is_cut", pa.bool_(), "True if an inner edge of the tile cuts the mask. Null if the image is no tile."),
        _null(
            "colours",
            _list(pa.float64()),
            "Shares of the mask's pixels that may be called black, white, grey, red, orange, yellow, green, blue, "
            "purple, pink and brown, in this order. A pixel may have several. Null if they were not measured.",
        ),
    ],
    "One row per mask, ordered by image in plan order, then by mask id.",
)

EXPRESSIONS_SCHEMA: Final = _schema(
    EXPRESSIONS,
    [
        _field("image_id", pa.string(), "The image that the text describes."),
        _field(
            "target_mask_ids",
            _list(pa.string()),
            "The masks that the text refers to: one; several if `kind` is `group`; empty if it is `none`.",
        ),
        _field("text", pa.string(), "The expression: lower case, stripped, no trailing full stop, never empty."),
        _field("kind", pa.string(), "`attribute`, or, if composed, also `position`, `relation`, `group` or `none`."),
        _null("head_noun", pa.string(), "Head noun of the first noun phrase. Null if there is none."),
        _field(
            "source",
            pa.string(),
            "What wrote the text: `model` (the captioner), `human` (imported), `composer` or `recipe` (PPT).",
        ),
        _null(
            "decoder",
            pa.string(),
            "Decoding rule of the first draw of this text: `beam`, `top_k` or `top_p`. Null if it was not drawn.",
        ),
        _null("top_k", pa.int32(), "The k of the first draw if its rule is `top_k`, else null."),
        _null("top_p", pa.float64(), "The p of the first draw if its rule is `top_p`, else null."),
        _null("crop", pa.string(), "Crop of the first draw: `masked` or `context_<scale>`."),
        _field("count", pa.int32(), "How many draws of this mask gave this text. 0 if it was not drawn."),
        _null(
            "log_prob",
            pa.float64(),
            "Sum of the natural log-probabilities of the first draw's tokens under the distribution that it was drawn "
            "from. Null if it was not drawn, or if the captioner gives no probabilities.",
        ),
        _field("samples", _list(_SAMPLE), "All draws that gave this text, the first one included."),
        _null(
            "uniqueness",
            pa.float64(),
            "c(i, t) / the largest c(k, t) of the other masks k. Null if the image has one mask.",
        ),
        _null("correctness", pa.float64(), "Cosine of the masked crop and the text `a photo of a {head noun}`."),
        _null(
            "distinctiveness", pa.float64(), "c·m / the largest c·m of the other masks. Null if the image has one mask."
        ),
        _null(
            "rival_mask_id",
            pa.string(),
            "The other mask with the largest c·m. Null if the image has one mask. For a composed `none`: the mask that "
            "the text describes but for one word (near absence), or null if nothing in the image is similar (easy).",
        ),
        _null(
            "caption_score",
            pa.float64(),
            "log p(t | crop i), teacher-forced under the full softmax. Null if `captions.listening` is not set.",
        ),
        _null(
            "listener",
            pa.float64(),
            "Softmax over the masks k of log p(t | crop k), at the target. 0 if `truth` was too low to score.",
        ),
        _null("truth", pa.float64(), "`caption_score` divided by the number of tokens, the end token included."),
        _null(
            "confidence",
            pa.float64(),
            "Estimated probability that the text is right, by the fitted `confidence` or, if composed, the fitted "
            "`posterior`. Null without fitted values.",
        ),
        _null("rank", pa.int32(), "Rank by confidence among the drawn texts of the mask, from 1. Null without one."),
        *(_null(name, kind, f"{doc} {_RESERVED}") for name, (kind, doc) in GROUNDING_COLUMNS.items()),
        _field(
            "kept",
            pa.bool_(),
            "True if the expression is kept. DATACARD.md says by which rule. Always true for `human`. For `recipe`: "
            "true if the mask is the referent.",
        ),
        _field("weight", pa.float64(), "Weight of this pair of mask and text in training."),
        _null("split", pa.string(), "Split of the text, imported or of its image, such as `testA`. Null without."),
    ],
    "One row per expression, kept or not, ordered by image, mask, then first draw; composed ones last.",
)

FAILURES_SCHEMA: Final = _schema(
    FAILURES,
    [
        _field("image_id", pa.string(), "The quarantined image."),
        _field(
            "stage", pa.string(), "The stage that failed: `read`, `propose`, `caption`, `filter`, `import` or `recipe`."
        ),
        _field("reason", pa.string(), "Reason code. Codes do not change between versions."),
        _field(
            "message", pa.string(), "One sentence that explains the failure. The same image gives the same sentence."
        ),
    ],
    "One row per quarantined image.",
)

SCHEMAS: Final[dict[str, pa.Schema]] = {
    IMAGES: IMAGES_SCHEMA,
    MASKS: MASKS_SCHEMA,
    EXPRESSIONS: EXPRESSIONS_SCHEMA,
    FAILURES: FAILURES_SCHEMA,
}

_KEPT_IN_5: Final = (
    "True if distinctiveness > tau and all of `filtering.keep` hold; a null score passes. Always true for `human` and "
    "`composer`. For `recipe`: true if the mask is the referent."
)
_TEXTS_OF_5: Final = {"kept": _KEPT_IN_5, "split": "Split of an imported text, such as `testA`, else null."}
# Columns of version 6 follow these.
_LAST_OF_5: Final = {IMAGES: "bytes", MASKS: "prior"}


def _of_version_5(table: str, schema: pa.Schema) -> pa.Schema:
    num_fields = schema.get_field_index(_LAST_OF_5[table]) + 1 if table in _LAST_OF_5 else len(schema)
    fields = [
        field.with_metadata({"doc": _TEXTS_OF_5.get(field.name, field.metadata[b"doc"])})
        for field in list(schema)[:num_fields]
    ]
    return pa.schema(fields, metadata={**schema.metadata, b"pseudoris.version": b"5"})


# What versions 0.5 and 0.6 wrote.
SCHEMAS_OF_5: Final[dict[str, pa.Schema]] = {name: _of_version_5(name, schema) for name, schema in SCHEMAS.items()}

PLAN_SCHEMA: Final = _schema(
    "plan",
    [
        _field("shard", pa.int64(), "Number of the shard, from 0."),
        _field("position", pa.int32(), "Position in the shard, from 0."),
        _field("image_id", pa.string(), "The first 64 bits of the sha256 of the key, as 16 hex digits."),
        _field("key", pa.string(), "The image's name below SOURCE, percent-encoded."),
        _null("size_bytes", pa.int64(), "Size of the encoded image as listed. Null if it was not listed."),
        _null("etag", pa.string(), "ETag of the object as listed. Null for files on disk."),
        _null("mtime_ns", pa.int64(), "Modification time of the file in nanoseconds. Null on S3."),
        _null("offset_bytes", pa.int64(), "Byte offset of the member's data in its tar. Null if it is in no tar."),
        _null("row_group", pa.int32(), "Row group in its Parquet file. Null if it is in none."),
        _null("row", pa.int64(), "Row in its Parquet file. Null if it is in none."),
    ],
    "The plan of the run: one row per input image, ordered by shard, then position.",
    PLAN_VERSION,
)
